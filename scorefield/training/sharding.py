"""Roles spread over the processes of a run, by torch's FSDP2: weights, gradients, optimizer states and averages.

accelerate's own FSDP2 takes one model a process ("Only one model is supported"), and here are three, so that
``fully_shard`` is called directly; launching, devices and reductions stay accelerate's. Each block of a network is
gathered for its own passes and let go afterwards; a process otherwise holds one share of each tensor.
"""

from collections.abc import Iterable

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Generator

REFUSED = "training.sharding=fsdp2 shards networks of their own, which {}: use training.sharding=none"


class Sharding:
    """Shards the roles of a run among all its processes; one process alone keeps them whole.

    Attributes:
        together: whether a pass through a role takes all processes, each with the same number of passes.
    """

    def __init__(self, accelerator: Accelerator):
        self.together = accelerator.num_processes > 1
        self.mesh: DeviceMesh | None = None
        if self.together:
            self.mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))

    def shard(self, teacher: Denoiser, online: Denoiser, generator: Generator) -> None:
        """Shard all three in place: their parameters become DTensors of which each process holds a share.

        Raises UserError for roles that share weights and for generators that are no network.
        """
        refuse(teacher, online, generator)
        if self.mesh is None:
            return
        for role in (teacher, online, generator):
            root = innermost(role)
            if not any(True for _ in root.parameters()):
                continue
            # after every pass, the root's too: what stayed gathered would miss the averaged weights swapped in
            for module in (*blocks(root), root):
                fully_shard(module, mesh=self.mesh, reshard_after_forward=True)


def refuse(teacher: Denoiser, online: Denoiser, generator: Generator) -> None:
    """Raise UserError for roles that cannot be sharded."""
    from scorefield.teachers.shared import AdapterView

    roles = {"teacher": teacher, "online score": online, "generator": generator}
    owners: dict[int, str] = {}
    for name, role in roles.items():
        if any(isinstance(module, AdapterView) for module in role.modules()):
            raise UserError(REFUSED.format(f"LoRA roles on the teacher's weights (here the {name}) are not"))
        for parameter in role.parameters():
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
