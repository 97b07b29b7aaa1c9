"""Who holds how much memory: every tensor storage that lives is booked under the role that it plays.

Operations are counted too: torch's own FlopCounterMode follows modules as well, and what it hooks onto them for that
keeps activations alive.
"""

import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ACTIVATIONS = "activations"


class Ledger(TorchDispatchMode):
    """Within ``with ledger:`` every storage that an operation makes on ``device`` is counted until it is freed.

    Works on real tensors and on the meta device, where nothing is allocated. What a kernel needs for itself while it
    runs is not seen.

    Attributes:
        live: bytes by role now. peak: the largest sum since ``reset``. at_peak: bytes by role at that moment.
        flops: floating-point operations of matrix products, convolutions and attention since ``reset``.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.live: Counter[str] = Counter()
        self.total = 0
        self._role: dict[int, str] = {}
        self.reset()

    def reset(self) -> None:
        """Start looking for the peak from what lives now."""
        self.peak, self.at_peak, self.flops = self.total, Counter(self.live), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **kwargs, out_val=made)
        self.book(ACTIVATIONS, (value for value in tree_leaves(made) if isinstance(value, Tensor)), move=False)
        return made

    def book(self, role: str, tensors: Iterable[Tensor], move: bool = True) -> None:
        """Count the storages of ``tensors`` under ``role``; with ``move`` also those that are counted elsewhere."""
        for tensor in tensors:
            if tensor.device.type != self.device.type:
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            before = self._role.get(key)
            if before is None:
                weakref.finalize(storage, self._free, key, size)
                self.total += size
            elif move and before != role:
                self.live[before] -= size
            else:
                continue
            self._role[key] = role
            self.live[role] += size
            if self.total > self.peak:
                self.peak, self.at_peak = self.total, Counter(self.live)

    def book_module(self, role: str, module: nn.Module) -> None:
        """Count what is not yet counted of a module's parameters and buffers: shared weights are the first one's."""
        self.book(role, [*module.parameters(), *module.buffers()], move=False)

    def _free(self, key: int, size: int) -> None:
        self.live[self._role.pop(key)] -= size
        self.total -= size
