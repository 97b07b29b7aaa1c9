"""What the batches of a run are told: conditions of prompts drawn by seed, iteration and place in the batch.

Embeddings stay on the device where they fit, are read from shards ahead of time where not, or are encoded ahead of
time where there are too many prompts to keep. In all three a batch is told the same, up to the type kept in.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.prompts.shards import Shards, kept, unpack
from scorefield.random import Draws
from scorefield.teachers.base import Teacher

AHEAD = 2  # iterations whose conditions are made beforehand


class Conditions:
    """Conditions of ``count`` prompts (or captioned pictures), drawn from ``stream``; both scores are told the same."""

    def __init__(self, count: int, stream: str = "prompt"):
        self.count, self.stream = count, stream

    def __call__(self, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict) -> "Conditions":
        return self  # copies of a generator draw from one source

    def close(self) -> None:
        """Make nothing more ahead of time; what is asked for is still made."""


class Resident(Conditions):
    """Embeddings that lie on the device, padded where they are drawn.

    Args:
        tensors: as ``Shards.load`` gives them.
    """

    def __init__(self, tensors: Condition, device: str, stream: str = "prompt"):
        whole = {key: value.to(device) for key, value in tensors.items()}
        super().__init__(len(next(iter(whole.values()))), stream)
        self.states, self.lengths = whole.pop("states", None), whole.pop("lengths", None)
        self.whole = whole
        if self.lengths is not None:
            self.count = len(self.lengths)
            self.starts = self.lengths.cumsum(0) - self.lengths
            # batches are padded to one length, so that no iteration asks the device for its longest prompt
            self.longest = int(self.lengths.max())

    def rows(self, indices: Tensor) -> dict[str, Tensor]:
        """Condition of some prompts: {text [B, L, C], text_mask [B, L], …}, L = the longest of all."""
        found = {key: value[indices] for key, value in self.whole.items()}
        found = {key: value.float() if value.is_floating_point() else value for key, value in found.items()}
        if self.states is None or self.lengths is None:
            return found
        place = torch.arange(self.longest, device=self.states.device)
        valid = place[None] < self.lengths[indices, None]
        flat = (self.starts[indices, None] + place[None]).clamp_max(len(self.states) - 1)
        return {"text": self.states[flat].float() * valid[..., None], "text_mask": valid.long(), **found}

    def __call__(self, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        condition = self.rows(draws.integers(self.stream, self.count))
        return condition, condition


class Ahead(Conditions):
    """Conditions made by a thread of their own, some iterations before they are asked for.

    What an iteration asked for is taken to be asked for again in the next ones, whose draws are known from seed and
    iteration alone; a wrong guess (after a roll-back) only costs the wait. All is made on that one thread, so that no
    setting of the caller (autocast, gradients) reaches it.

    Args:
        read: condition of the prompts at some places, on any device; called on the thread.
        iterations: of the run; nothing is made beyond.
        thread: a pool of one thread, shared by what must not run at the same time; left out: one of its own.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[list[int]], dict[str, Tensor]],
        device: str,
        iterations: int,
        stream: str = "prompt",
        thread: ThreadPoolExecutor | None = None,
    ):
        super().__init__(count, stream)
        self.read, self.device, self.iterations = read, torch.device(device), iterations
        self.queue = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._thread = thread or ThreadPoolExecutor(1, stream)
        self._coming: dict[Any, Future] = {}
        self._open = True

    def __call__(self, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        seed, now, salt, places = draws.seed, draws.iteration, draws.salt, draws.host_indices()
        named = tuple(places.tolist())
        last = min(now + AHEAD, self.iterations - 1) if self._open else now
        for iteration in range(now, max(last, now) + 1):
            key = (seed, iteration, salt, named)
            if key not in self._coming:
                rows = Draws(seed, iteration, places, salt).integers(self.stream, self.count).tolist()
                self._coming[key] = self._thread.submit(self._make, rows)
        made, done = self._coming.pop((seed, now, salt, named)).result()
        for key in [key for key in self._coming if not now <= key[1] <= now + AHEAD]:
            self._coming.pop(key).cancel()
        if done is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for value in made.values():
                value.record_stream(current)
        return made, made

    @torch.no_grad()
    def _make(self, rows: list[int]) -> tuple[dict[str, Tensor], Any]:
        if self.queue is None:
            return {key: value.to(self.device) for key, value in self.read(rows).items()}, None
        with torch.cuda.stream(self.queue):
            made = {}
            for key, value in self.read(rows).items():
                value = value if value.is_cuda else value.pin_memory()
                made[key] = value.to(self.device, non_blocking=True)
            return made, self.queue.record_event()

    def close(self) -> None:
        self._open = False
        for waiting in self._coming.values():
            waiting.cancel()
        for waiting in self._coming.values():
            if not waiting.cancelled():
                waiting.exception()  # waits: the caller may be about to use the text encoder itself
        self._coming.clear()


def from_shards(
    shards: Shards, device: str, iterations: int, resident_bytes: float, stream: str = "prompt"
) -> Conditions:
    """On the device where all shards take at most ``resident_bytes``, else read ahead of time."""
    if shards.size <= resident_bytes:
        return Resident(shards.load(), device, stream)
    longest = 0 if shards.lengths is None else int(shards.lengths.max())
    return Ahead(len(shards.items), lambda rows: unpack(shards.rows(rows), longest), device, iterations, stream)


def streamed(
    teacher: Teacher,
    prompts: Sequence[str],
    dtype: torch.dtype,
    device: str,
    iterations: int,
    thread: ThreadPoolExecutor | None = None,
) -> Conditions:
    """Encoded ahead of time; the text encoder stays in memory, nothing is written. Rounded to ``dtype``, as shards."""
    longest = most_tokens(teacher, prompts[0])

    def read(rows: list[int]) -> dict[str, Tensor]:
        return rounded(teacher.encode([prompts[row] for row in rows]), dtype, longest)

    return Ahead(len(prompts), read, device, iterations, thread=thread)


def most_tokens(teacher: Teacher, prompt: str) -> int:
    """Tokens of the longest text that ``teacher`` sees, to which batches are padded; 0 where it sees no text.

    ``prompt`` is any that it takes.
    """
    if "text" not in teacher.encode([prompt]):
        return 0
    return teacher.encode(["a " * teacher.max_tokens])["text"].shape[1]


def rounded(condition: Condition, dtype: torch.dtype, longest: int) -> dict[str, Tensor]:
    """``condition`` as it is after being kept in ``dtype``, with zeros for padding up to ``longest`` tokens."""
    found = {key: kept(key, value, dtype) for key, value in condition.items()}
    found = {key: value.float() if value.is_floating_point() else value for key, value in found.items()}
    if "text" in found:
        text, mask = found["text"], found["text_mask"].long()
        more = max(0, longest - text.shape[1])
        text = torch.nn.functional.pad(text * mask[..., None], (0, 0, 0, more))
        found |= {"text": text, "text_mask": torch.nn.functional.pad(mask, (0, more))}
    return found
