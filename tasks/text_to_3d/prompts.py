"""The prompt in words for each view and background, encoded once; and what the teacher cannot see of it."""

import re

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.data.toybox.models import FRONTLESS
from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.processes import announce
from scorefield.teachers.base import Teacher
from scorefield.teachers.perp_neg import view_condition
from scorefield.three_d.camera_law import VIEWS

from .settings import TextTo3DConfig, WordsConfig

SMALL_WORDS = {
    "a",
    "an",
    "the",
    "on",
    "of",
    "one",
    "with",
    "background",
    "view",
    "picture",
    "from",
    "seen",
    "in",
    "and",
}


def read_prompt(config: TextTo3DConfig) -> str:
    """The prompt without surrounding blanks; raises UserError when there is none."""
    prompt = " ".join((config.prompt or "").split())
    if not prompt:
        raise UserError('no prompt: give prompt="a red chair"')
    return prompt


def unseen_words(prompt: str) -> list[str]:
    """Words of a prompt that no Toybox caption holds."""
    known = {*toybox.OBJECTS, *toybox.COLORS, *toybox.VIEWS, *toybox.BACKGROUNDS, *SMALL_WORDS}
    words = re.findall(r"[^\W_]+", prompt.lower())
    return [word for word in words if word not in known and toybox.parse(f"red {word}") is None and not _is_color(word)]


def _is_color(word: str) -> bool:
    return toybox.parse(f"{word} chair") is not None


def warn_of_unseen(prompt: str, teacher_path: str | None, say=announce) -> bool:
    """Say what the embedded teacher knows nothing about; returns whether anything was said."""
    if teacher_path != "toybox":
        return False
    if words := unseen_words(prompt):
        say(
            f'warning: the embedded teacher has never seen "{", ".join(words)}"; it knows {", ".join(toybox.OBJECTS)} '
            f"in {', '.join(toybox.COLORS)}"
        )
        return True
    if toybox.parse(prompt) is None:
        say(f'warning: "{prompt}" names no object and colour of the embedded teacher, for example "a red chair"')
        return True
    return False


def warn_of_unread(prompt: str, teacher: Teacher, say=announce) -> bool:
    """Say what of the prompt the teacher's tokenizer does not know or cuts off; returns whether anything was said."""
    words, cut = teacher.unread(prompt), teacher.cut(prompt)
    if words:
        say(f'warning: "{", ".join(words)}" is outside of the teacher\'s vocabulary: it sees an unknown token there')
    if cut:
        say(f'warning: the prompt is longer than the teacher reads, this is not seen: "{cut}"')
    return bool(words or cut)


def directional(config: TextTo3DConfig, prompt: str) -> bool:
    """Whether the teacher is told the view: a Toybox object that looks alike from all sides has no view words."""
    if config.words.directional != "auto":
        return config.words.directional == "yes"
    found = toybox.parse(prompt) if config.teacher.path == "toybox" else None
    return found is None or toybox.OBJECTS[found.object] not in FRONTLESS


def worded(words: WordsConfig, prompt: str, view: str | None, ground: str | None) -> str:
    """The prompt for a view (None: plain) and a background (None: without a name)."""
    form = {
        (True, True): words.viewed_on,
        (True, False): words.viewed,
        (False, True): words.plain_on,
        (False, False): words.plain,
    }[view is not None, ground is not None]
    article = "an" if (ground or " ")[0] in "aeiou" else "a"
    try:
        return form.format(prompt=prompt, view=view, ground=ground, a=article)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f'the wording "{form}" is broken: fill in {{prompt}}, {{view}}, {{ground}}, {{a}}') from error


class PromptViews:
    """Text conditions of every view word and background, as ``scorefield.generators.nerf.ViewConditions``.

    Attributes:
        texts: the teacher's, in the order view by view, in each the backgrounds and last the one without a name.
        plain: the online score's, one a background. directional: whether the views differ in words.
        negative: the negative prompt, one text for all views and backgrounds (threestudio's has no view words either);
            empty where there is none.
        perp_neg: whether the teacher's conditions mix the words by angle and hold what the view is not, for
            ``scorefield.teachers.perp_neg.PerpNeg``.
    """

    def __init__(self, config: TextTo3DConfig, prompt: str, teacher: Teacher):
        self.grounds: list[str | None] = [*config.background.named, None]
        self.directional = directional(config, prompt)
        self.perp_neg, self.overhead = config.words.perp_neg and self.directional, config.cameras.overhead
        views = VIEWS if self.directional else (None,) * len(VIEWS)
        self.texts = [worded(config.words, prompt, view, ground) for view in views for ground in self.grounds]
        self.plain = [worded(config.words, prompt, None, ground) for ground in self.grounds]
        self.negative = [config.negative_prompt.strip()] if config.negative_prompt.strip() else []
        self.encoded = teacher.encode([*self.texts, *self.plain, *self.negative])

    def rows(self, places: Tensor) -> Condition:
        """Conditions of some of ``texts`` followed by ``plain`` and ``negative``, int64 [B]."""
        return {key: value[places] for key, value in self.encoded.items()}

    def place(self, view: Tensor, ground: Tensor) -> Tensor:
        """Position in ``texts`` of view words and background numbers (-1: without a name)."""
        count = len(self.grounds)
        return view * count + torch.where(ground < 0, count - 1, ground)

    def __call__(self, view: Tensor, ground: Tensor, pose: Tensor) -> tuple[Condition, Condition, Condition]:
        plain = self.rows(len(self.texts) + self.place(torch.zeros_like(ground), ground))
        last = torch.full_like(ground, len(self.texts) + len(self.plain))
        negative = self.rows(last) if self.negative else {}
        teacher = self.angled(ground, pose) if self.perp_neg else self.rows(self.place(view, ground))
        return teacher, plain, negative

    def angled(self, ground: Tensor, pose: Tensor) -> Condition:
        """The teacher's conditions by the cameras' angles, with their negatives."""
        back = pose[:, :3, 2]  # the camera looks along its own -z
        azimuth, elevation = torch.atan2(back[:, 0], -back[:, 1]), back[:, 2].clamp(-1, 1).asin()
        words, order, parts = torch.arange(len(VIEWS), device=ground.device), [], []
        for number in ground.unique():
            chosen = (ground == number).nonzero()[:, 0]
            rows = self.rows(self.place(words, number.expand(len(VIEWS))))
            parts.append(view_condition(azimuth[chosen], elevation[chosen], rows, overhead=self.overhead))
            order.append(chosen)
        back_to = torch.cat(order).argsort()
        return {key: torch.cat([part[key] for part in parts])[back_to] for key in parts[0]}
