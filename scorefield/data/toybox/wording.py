"""Captions of Toybox scenes, and the way back from free text to attributes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scorefield.data.toybox.scene import (
    BACKGROUND_NAMES,
    COLOR_NAMES,
    OBJECT_NAMES,
    VIEW_NAMES,
    Scenes,
    as_indices,
    sample_scenes,
)
from scorefield.random import Draws

_VIEWED = (
    "{a} {color} {object}, {view} view, on {b} {ground} background",
    "{a} {color} {object}, {view} view, {ground} background",
    "{view} view of {a} {color} {object} on {ground}",
    "{color} {object} seen from the {view}, {ground} background",
    "{a} {color} {object}, {view} view",
    "the {view} of {a} {color} {object} on {ground}",
)
_PLAIN = (
    "{a} {color} {object} on {b} {ground} background",
    "{a} {color} {object}, {ground} background",
    "picture of {a} {color} {object} on {ground}",
    "{color} {object}, {ground} background",
    "{a} {color} {object}",
    "one {color} {object} on {ground}",
)
# Everyday other words for the names; captions use the first of each now and then, prompts may use them all.
_OTHER_WORDS = {
    "aeroplane": ("airplane", "plane", "aircraft", "jet"),
    "bear": ("teddy", "teddybear"),
    "boat": ("ship", "tugboat"),
    "car": ("automobile", "auto"),
    "chair": ("armchair",),
    "house": ("home", "cottage", "hut"),
    "mug": ("cup",),
    "mushroom": ("toadstool",),
    "robot": ("android", "bot"),
    "snowman": ("snowmen",),
    "table": ("desk",),
    "tree": ("fir", "pine", "spruce"),
    "cyan": ("turquoise", "aqua"),
    "purple": ("violet",),
    "red": ("crimson", "scarlet"),
    "grey": ("gray",),
    "front": ("ahead", "frontal"),
    "side": ("profile", "sideways"),
    "back": ("rear", "behind", "backside"),
}
_CAPTIONED = ("aeroplane", "purple", "grey", "back")
_MEANING = {other: name for name, others in _OTHER_WORDS.items() for other in others}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(scenes: Scenes, indices: Sequence[int] | range, seed: int) -> list[str]:
    """One caption a scene, at most 56 bytes of lower-case ASCII; the wording depends on (seed, index).

    Object and colour are always named, the view whenever the object has one, the background mostly.
    """
    draws = Draws(seed, -8, as_indices(indices))
    rows = zip(
        draws.integers("wording", len(_VIEWED)).tolist(),
        draws.integers("other-words", 6).tolist(),
        scenes.object.tolist(),
        scenes.color.tolist(),
        scenes.view.tolist(),
        scenes.background.tolist(),
        strict=True,
    )
    texts = []
    for form, other, what, color, view, ground in rows:
        words = {
            "color": COLOR_NAMES[color],
            "object": OBJECT_NAMES[what],
            "ground": BACKGROUND_NAMES[ground],
            "view": VIEW_NAMES[view],
        }
        if other == 0:  # one caption in six
            words = {key: _OTHER_WORDS[word][0] if word in _CAPTIONED else word for key, word in words.items()}
        words |= {"a": _article(words["color"]), "b": _article(words["ground"])}
        text = _PLAIN[form] if view < 0 else _VIEWED[form]
        texts.append(text.format(**words))
    return texts


@dataclass(frozen=True)
class Attributes:
    """What a prompt asks for, as positions in the name lists; -1 where it does not say."""

    object: int
    color: int
    view: int = -1
    background: int = -1


def parse(prompt: str) -> Attributes | None:
    """Find object, colour, view and background in free text; None if object or colour is not named.

    The first colour word is the object's: background colours have names of their own. Plurals and everyday
    other words (airplane, gray, rear, …) count as the names.
    """
    words = [_name(word) for word in re.findall(r"[a-z]+", prompt.lower())]

    def first(names: Sequence[str]) -> int:
        return next((names.index(word) for word in words if word in names), -1)

    what, color = first(OBJECT_NAMES), first(COLOR_NAMES)
    if what < 0 or color < 0:
        return None
    return Attributes(what, color, first(VIEW_NAMES), first(BACKGROUND_NAMES))


def _name(word: str) -> str:
    """The Toybox name that a word of a prompt means, or the word itself."""
    for form in (word, word.removesuffix("s")):
        form = _MEANING.get(form, form)
        if form in (*OBJECT_NAMES, *COLOR_NAMES, *VIEW_NAMES, *BACKGROUND_NAMES):
            return form
    return word


def prompts(count: int, seed: int, start: int = 0) -> list[str]:
    """Captions of ``count`` scenes without rendering them."""
    indices = range(start, start + count)
    return caption(sample_scenes(indices, seed), indices, seed)


def prompt_stream(seed: int, start: int = 0, chunk: int = 1024) -> Iterator[str]:
    """Captions without end."""
    while True:
        yield from prompts(chunk, seed, start)
        start += chunk
