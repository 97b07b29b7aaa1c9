"""From class name and keyword arguments, as published checkpoints record them, to a network of ours."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from scorefield.errors import UserError, suggest
from scorefield.networks import edm2_layers, edm2_unet, edm_precond, stylegan2, stylegan2_discriminator
from scorefield.networks.dhariwal_unet import DhariwalUNet
from scorefield.networks.song_unet import SongUNet
from scorefield.networks.stylegan2_mapping import MappingNetwork
from scorefield.registry import Registry

ADA, STYLEGAN3 = DIALECTS = ("stylegan2-ada", "stylegan3")

# Keywords that only choose memory layout or a kernel: read, and without effect here.
LAYOUT_ONLY = {"fp16_channels_last", "channels_last", "fused_modconv_default"}


@dataclass(frozen=True)
class Entry:
    """How one class is made: constructor, its keywords in order, and the keywords that it passes on."""

    make: Callable[..., nn.Module]
    keywords: Callable[[Mapping[str, Any]], list[str]]


NETWORKS: Registry[Entry] = Registry("network class")


def signature(kind: type, without: Iterable[str] = ()) -> list[str]:
    """Named parameters of a constructor, in order."""
    found = inspect.signature(kind.__init__).parameters.values()
    skipped = {"self", *without}
    return [p.name for p in found if p.name not in skipped and p.kind is not p.VAR_KEYWORD]


def refuse_unknown(given: Iterable[str], known: Sequence[str], owner: str) -> None:
    """UserError for the first keyword that is not known."""
    for keyword in given:
        if keyword not in known:
            raise UserError(f'{owner} has no keyword "{keyword}": {suggest(str(keyword), known)}')


# ---------------------------------------------------------------------- EDM and EDM2


def _model_keywords(kind: type) -> Callable[[Mapping[str, Any]], list[str]]:
    def keywords(given: Mapping[str, Any]) -> list[str]:
        default = inspect.signature(kind.__init__).parameters["model_type"].default
        model_type = given.get("model_type", default)
        if model_type not in edm_precond.MODELS:
            raise UserError(f'unknown model_type "{model_type}": {suggest(str(model_type), edm_precond.MODELS)}')
        own = signature(kind)
        return own + signature(edm_precond.MODELS[model_type], {*own, "in_channels", "out_channels"})

    return keywords


for _kind in (edm_precond.EDMPrecond, edm_precond.VPPrecond, edm_precond.VEPrecond, edm_precond.iDDPMPrecond):
    NETWORKS.register(_kind.__name__)(Entry(_kind, _model_keywords(_kind)))
for _kind in (SongUNet, DhariwalUNet):
    NETWORKS.register(_kind.__name__)(Entry(_kind, lambda given, kind=_kind: signature(kind)))


def _edm2_unet_keywords(given: Mapping[str, Any]) -> list[str]:
    placed = {"in_channels", "out_channels", "emb_channels", "flavor", "resample_mode", "attention"}
    return signature(edm2_unet.UNet) + signature(edm2_layers.Block, placed)


def _edm2_keywords(given: Mapping[str, Any]) -> list[str]:
    own = signature(edm2_unet.Precond)
    return own + [name for name in _edm2_unet_keywords(given) if name not in own]


NETWORKS.register("Precond")(Entry(edm2_unet.Precond, _edm2_keywords))
NETWORKS.register("UNet")(Entry(edm2_unet.UNet, _edm2_unet_keywords))


# ---------------------------------------------------------------------- StyleGAN2


def _synthesis_keywords() -> list[str]:
    placed = {"in_channels", "out_channels", "w_dim", "resolution", "img_channels", "is_last", "use_fp16"}
    options = signature(stylegan2.SynthesisNetwork, {"w_dim", "img_resolution", "img_channels"})
    options += signature(stylegan2.SynthesisBlock, placed)
    options += signature(stylegan2.SynthesisLayer, {*placed, *options, "up"})
    return [*options, *sorted(LAYOUT_ONLY)]


def _mapping_keywords() -> list[str]:
    return signature(MappingNetwork, {"z_dim", "c_dim", "w_dim", "num_ws"})


def _generator_keywords(given: Mapping[str, Any]) -> list[str]:
    return signature(stylegan2.Generator, {"follow_w_avg"}) + _synthesis_keywords()


def dialect_of(kwargs: Mapping[str, Any]) -> str:
    """The dialect that a generator's keyword arguments speak: nested synthesis options or flat ones.

    Arguments without any synthesis option are read as stylegan2-ada's.
    """
    flat = [name for name in _synthesis_keywords() if name in kwargs]
    return STYLEGAN3 if flat and "synthesis_kwargs" not in kwargs else ADA


def _generator(dialect: str | None = None, **kwargs: Any) -> nn.Module:
    dialect = dialect or dialect_of(kwargs)
    flat = {name: kwargs.pop(name) for name in _synthesis_keywords() if name in kwargs}
    nested = kwargs.pop("synthesis_kwargs", None) or {}
    if flat and dialect == ADA:
        raise UserError(f'keyword "{next(iter(flat))}" belongs inside synthesis_kwargs in the {ADA} dialect')
    mapping = dict(kwargs.pop("mapping_kwargs", None) or {})
    refuse_unknown(nested, _synthesis_keywords(), "synthesis_kwargs")
    refuse_unknown(mapping, _mapping_keywords(), "mapping_kwargs")
    synthesis = {**nested, **flat}
    if dialect == STYLEGAN3:
        synthesis = {"num_fp16_res": 4, "conv_clamp": 256, **synthesis}
        mapping = {"w_avg_beta": 0.998, **mapping}
    synthesis = {name: value for name, value in synthesis.items() if name not in LAYOUT_ONLY}
    return stylegan2.Generator(
        **kwargs, mapping_kwargs=mapping, synthesis_kwargs=synthesis, follow_w_avg=dialect == ADA
    )


def _discriminator(dialect: str | None = None, **kwargs: Any) -> nn.Module:
    placed = {"in_channels", "tmp_channels", "out_channels", "resolution", "img_channels", "first_layer_idx"}
    placed |= {"architecture", "conv_clamp", "use_fp16", "cmap_dim"}
    known = {
        "block_kwargs": [*signature(stylegan2_discriminator.DiscriminatorBlock, placed), *LAYOUT_ONLY],
        "epilogue_kwargs": signature(stylegan2_discriminator.DiscriminatorEpilogue, placed),
        "mapping_kwargs": _mapping_keywords(),
    }
    for section, names in known.items():
        given = kwargs.get(section) or {}
        refuse_unknown(given, names, section)
        kwargs[section] = {name: value for name, value in given.items() if name not in LAYOUT_ONLY}
    if dialect == STYLEGAN3:
        kwargs = {"num_fp16_res": 4, "conv_clamp": 256, **kwargs}
    return stylegan2_discriminator.Discriminator(**kwargs)


NETWORKS.register("Generator")(Entry(_generator, _generator_keywords))
NETWORKS.register("Discriminator")(
    Entry(_discriminator, lambda given: signature(stylegan2_discriminator.Discriminator))
)


# ---------------------------------------------------------------------- the one entry


def build(
    class_name: str, kwargs: Mapping[str, Any], args: Sequence[Any] = (), dialect: str | None = None
) -> nn.Module:
    """A freshly initialised network.

    Args:
        class_name: as in the checkpoints: EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond, SongUNet, DhariwalUNet,
            Precond and UNet (EDM2), Generator and Discriminator (StyleGAN2).
        kwargs, args: of that class's constructor.
        dialect: "stylegan2-ada" or "stylegan3", whose defaults differ; None reads it off a generator's keywords
            and takes stylegan2-ada's for a discriminator.

    The result remembers what it was made from as ``recipe``, for ``save``.

    Raises:
        UserError: unknown class, keyword (with the nearest), dialect, or a missing or impossible value.
    """
    entry = NETWORKS.get(class_name)
    if dialect is not None and dialect not in DIALECTS:
        raise UserError(f'unknown dialect "{dialect}": {suggest(str(dialect), DIALECTS)}')
    known = entry.keywords(kwargs)
    if len(args) > len(known) or any(name in kwargs for name in known[: len(args)]):
        raise UserError(f"{class_name} takes each of its arguments once, in the order {', '.join(known)}")
    given = {**dict(zip(known, args, strict=False)), **kwargs}
    refuse_unknown(given, known, class_name)
    adversarial = class_name in ("Generator", "Discriminator")
    if class_name == "Generator" and dialect is None:
        dialect = dialect_of(given)
    try:
        network = entry.make(**given, **({"dialect": dialect} if adversarial else {}))
    except UserError:
        raise
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(f"{class_name} cannot be built from {given}: {error}") from error
    network.recipe = {"class_name": class_name, "kwargs": given, "dialect": dialect if adversarial else None}
    return network
