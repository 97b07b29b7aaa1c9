"""Lag of the online score: the generator moves and the online score does not follow."""

import torch

from scorefield.monitors.base import MONITORS, Monitor, Probe
from scorefield.random import Draws

LEVELS = (0.3, 1.0, 3.0)  # noise levels that the online score is asked at, in units of x0's deviation


@MONITORS.register("lag")
class Lag(Monitor):
    """Movement of the generator since the last look over that of the online score, both in x0.

    The online score is asked for the same noisy samples each time (those of the first look), so that a change is its
    own. A score that learns moves about as much as the generator; one that is frozen, or trained with far too small a
    learning rate, gives a large figure. Healthy Toybox runs: 1.4 to 3.2. It does not
    see an online score that learns the wrong thing.
    """

    name = "lag"
    line = 20.0
    seen = "the online score hardly moves while the generator does"
    advice = "raise training.online.learning_rate or training.online_updates"

    @torch.no_grad()
    def figure(self, probe: Probe) -> float | None:
        if probe.online is None:
            return None
        x0 = probe.x0.flatten(0, 1).float()
        start = self.memory.setdefault("x0", x0.cpu().clone()).to(x0)
        answers = []
        draws = Draws(0, -3, torch.arange(len(x0), device=x0.device))
        for level in LEVELS:
            sigma = torch.full((len(x0),), level, device=x0.device) * start.std()
            noise = sigma.view(-1, *[1] * (x0.ndim - 1)) * draws.normal(f"eps-{level}", *x0.shape[1:])
            answers.append(probe.online(start + noise, sigma, probe.condition).float())
        answer = torch.stack(answers)
        before = self.memory.get("before")
        self.memory["before"] = {"x0": x0.cpu().clone(), "answer": answer.cpu().clone()}
        if before is None:
            return None
        moved = float((x0.cpu() - before["x0"]).square().mean().sqrt())
        followed = float((answer.cpu() - before["answer"]).square().mean().sqrt())
        scale = float(start.std())
        if moved < 1e-3 * scale:
            return 0.0  # nothing to follow
        return min(moved / max(followed, 1e-6 * scale), 1e4)
