"""Roles spread over the processes of a run, by torch's FSDP2: weights, gradients, optimizer states and averages.

accelerate's own FSDP2 takes one model a process ("Only one model is supported"), and here are three, so that
``fully_shard`` is called directly; launching, devices and reductions stay accelerate's. Each block of a network is
gathered for its own passes and let go afterwards; a process otherwise holds one share of each tensor. LoRA roles lie
in one network with the teacher, frozen weights and adapters alike, which is sharded once.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Generator
from scorefield.teachers.shared import views_of

REFUSED = "training.sharding=fsdp2 shards networks of their own, which {}: use training.sharding=none"


class Sharding:
    """Shards the roles of a run among all its processes; one process alone keeps them whole.

    Attributes:
        together: whether a pass through a role takes all processes, each with the same number of passes.
        late: sharded networks whose gradients wait, whole, for the last accumulation step: those of adapters are small.
    """

    def __init__(self, accelerator: Accelerator):
        self.together, self.device = accelerator.num_processes > 1, accelerator.device
        self.mesh: DeviceMesh | None = None
        self.late: list[FSDPModule] = []
        if self.together:
            self.mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))

    def shard(self, teacher: Denoiser, online: Denoiser, generator: Generator) -> None:
        """Shard all three in place: their parameters become DTensors of which each process holds a share.

        Raises UserError for roles that share weights without being adapters, and for generators that are no network.
        """
        refuse(teacher, online, generator)
        views = [view for role in (teacher, online, generator) for view in views_of(role)]
        roots = {id(root): root for root in map(owner, (teacher, online, generator))}
        for root in roots.values():
            if self.mesh is None or not any(True for _ in root.parameters()):
                continue
            # after every pass, the root's too: what stayed gathered would miss the averaged weights swapped in
            for module in (*blocks(root), root):
                fully_shard(module, mesh=self.mesh, reshard_after_forward=True)
        for view in views:
            view.follow()
            view.base.to(self.device)  # no submodule of a role: what is no parameter is moved by nobody else
        shared = {id(owner(view)) for view in views} if self.mesh is not None else set()
        self.late = [root for key, root in roots.items() if key in shared and isinstance(root, FSDPModule)]

    @contextmanager
    def exchanging(self, last: bool) -> Iterator[None]:
        """Within, gradients of adapters are exchanged if this is the last micro-batch of an update."""
        for root in self.late:
            root.set_requires_gradient_sync(last)
        yield


def owner(role: nn.Module) -> nn.Module:
    """The network that holds a role's weights and is called in its passes: of an adapter, the shared one."""
    views = views_of(role)
    return innermost(views[0].base if views else role)


def refuse(teacher: Denoiser, online: Denoiser, generator: Generator) -> None:
    """Raise UserError for roles that cannot be sharded."""
    roles = {"teacher": teacher, "online score": online, "generator": generator}
    owners: dict[int, str] = {}
    for name, role in roles.items():
        shared = {id(p) for view in views_of(role) for p in view.base.parameters()}
        for parameter in role.parameters():
            if shared and id(parameter) not in shared:
                raise UserError(REFUSED.format(f"LoRA roles with weights beside the adapter (here the {name}) are not"))
            if owners.setdefault(id(parameter), name) != name:
                raise UserError(REFUSED.format(f"{owners[id(parameter)]} and {name} are not: they share weights"))
    if not isinstance(getattr(generator, "denoiser", None), Denoiser):
        raise UserError(REFUSED.format(f"a {type(generator).__name__} is not"))


def innermost(role: nn.Module) -> nn.Module:
    """The module that every pass of a role goes through by being called: the network that holds all its parameters."""
    count = sum(1 for _ in role.parameters())
    for name in ("denoiser", "network"):
        inner = getattr(role, name, None)
        if isinstance(inner, nn.Module) and sum(1 for _ in inner.parameters()) == count:
            return innermost(inner)
    return role


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one at a time: the classes that diffusers never splits, else what stands in lists."""
    names = set(getattr(network, "_no_split_modules", None) or ())
    found: list[nn.Module] = []

    def walk(module: nn.Module, listed: bool) -> None:
        for child in module.children():
            wanted = type(child).__name__ in names if names else listed
            if wanted and any(True for _ in child.parameters()) and type(child).forward is not nn.Module.forward:
                found.append(child)
            else:
                walk(child, isinstance(child, nn.ModuleList | nn.ModuleDict))

    walk(network, isinstance(network, nn.ModuleList | nn.ModuleDict))
    return found


def whole(value: Tensor) -> Tensor:
    """The value of a sharded scalar as a plain tensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's shares, views of the same memory; plain tensors as they are."""
    return [value.to_local() if isinstance(value, DTensor) else value for value in tensors]


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that this process holds of some tensors."""
    return sum(value.numel() * value.element_size() for value in local(tensors))
