"""A pull to the pictures that the untrained generator makes of the same latents."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation.features import judge_folder, safe_state
from scorefield.evaluation.judge import Judge
from scorefield.generators.base import Batch, Generator
from scorefield.generators.terms.settings import AnchorConfig
from scorefield.generators.terms.wrapper import Term

Distance = Callable[[Tensor, Tensor], Tensor]  # pictures [B, 3, H, W] twice to [B]


class AnchorTerm(Term):
    """weight times the mean distance between x0 and what a frozen copy of ``generator`` makes of the same latents."""

    name = "anchor"

    def __init__(self, weight: float, generator: Generator, distance: Distance):
        self.weight, self.distance = weight, distance
        self.start = copy.deepcopy(generator).eval().requires_grad_(False)

    def generator(self, x0: Tensor, batch: Batch, iteration: int) -> Tensor:
        with torch.no_grad():
            before = self.start(batch)
        return self.weight * self.distance(x0, before).mean()


def squared(a: Tensor, b: Tensor) -> Tensor:
    """[B]: mean squared difference."""
    return (a - b).square().flatten(1).mean(1)


def build_distance(settings: AnchorConfig, device: str) -> Distance:
    """The configured distance; UserError for a missing judge, weights or package."""
    if settings.distance == "pixels":
        return squared
    if settings.distance == "judge":
        folder = judge_folder(settings.judge)
        if folder is None:
            raise UserError(f'terms.anchor.judge "{settings.judge}" is neither a folder nor an asset with a judge')
        judge = Judge.load(folder, device)
        return lambda a, b: squared(judge.features(a), judge.features(b))
    return perceptual(settings.trunk, settings.net, device)


def need_lpips():
    """The package; UserError, naming the extra, where it is not installed."""
    try:
        import lpips
    except ImportError as error:
        raise UserError('LPIPS needs the package lpips: pip install "scorefield[eval]"') from error
    return lpips


def perceptual(trunk: str, net: str, device: str) -> Distance:
    """LPIPS (Zhang et al. 2018) with its published linear layers over a trunk from a local file ("random": none)."""
    lpips = need_lpips()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a random trunk is the same in every run
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    if trunk != "random":
        state = safe_state(Path(trunk))
        # lpips cuts torchvision's features into slices and keeps their numbers: slice2.3 is features.3
        names = {key: f"features.{key.partition('.')[2]}" for key in network.net.state_dict()}
        if missing := sorted(set(names.values()) - set(state)):
            raise UserError(f"{trunk} holds no torchvision {net} weights: {missing[0]} is missing")
        try:
            network.net.load_state_dict({key: state[name] for key, name in names.items()})
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{trunk} does not fit lpips's {net}: {reason}") from error
    network = network.to(device).eval().requires_grad_(False)
    return lambda a, b: network(a, b).flatten()
