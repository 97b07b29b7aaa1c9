"""Which network of a file is meant, of which family it is, and what of it cannot be used."""

from typing import Any

from scorefield.errors import suggest
from scorefield.importer.errors import ImportRefused, shown
from scorefield.importer.nodes import Persistent
from scorefield.importer.structure import Module

ROLES = {
    "Generator": "generator",
    "Discriminator": "discriminator",
    "EDMPrecond": "denoiser",
    "VPPrecond": "denoiser",
    "VEPrecond": "denoiser",
    "iDDPMPrecond": "denoiser",
    "Precond": "denoiser",
}
"""Classes that are whole networks, as the official repositories call them."""

UNETS = {"model": {"SongUNet", "DhariwalUNet"}, "unet": {"UNet"}}
"""The network inside a denoiser: child's name -> its classes (EDM's, EDM2's)."""

PREFERRED = ("G_ema", "ema", "G")
GENERATING = {"G", "G_ema", "ema", "Sg"}
SYNTHESIS_OPTIONS = {
    "channel_base",
    "channel_max",
    "num_fp16_res",
    "conv_clamp",
    "fused_modconv_default",
    "architecture",
    "resample_filter",
    "use_noise",
    "activation",
}


def available(top: Any) -> dict[str, str]:
    """Networks of a file: key -> class name; raises ImportRefused when the file is no dictionary of objects."""
    if type(top) is Persistent:
        raise ImportRefused(
            f"it is a single {top.class_name} and not a dictionary of networks; files of feature networks for "
            "metrics are of this kind and are not read"
        )
    if type(top) is not dict:
        raise ImportRefused(f"it holds a {type(top).__name__} and not a dictionary of networks")
    return {k: v.class_name for k, v in top.items() if type(v) is Persistent and v.class_name in ROLES}


def choose(top: Any, asked: str | None) -> tuple[str, Persistent]:
    """The network meant by ``asked`` (None: the first of G_ema, ema, G that is there).

    Raises:
        ImportRefused: it is not there (the text lists those that are), or a discriminator or another object stands
            where a generator or denoiser is asked for.
    """
    found = available(top)
    listing = ", ".join(f"{shown(key)} ({name})" for key, name in found.items()) or "no network that is known here"
    key = asked if asked is not None else next((k for k in PREFERRED if k in top), None)
    if key is None:
        raise ImportRefused(f"it has none of {', '.join(PREFERRED)}; it holds {listing}: ask for one by name")
    if key not in top:
        near = suggest(key, [shown(name) for name in found])
        raise ImportRefused(f'it has no network "{key}"; it holds {listing}; {near}')
    node = top[key]
    if type(node) is not Persistent:
        raise ImportRefused(f'"{key}" is no network but a {type(node).__name__}; the file holds {listing}')
    if node.class_name not in ROLES:
        raise ImportRefused(
            f'"{key}" is of class {node.class_name}, which is none of {", ".join(ROLES)}; the file holds {listing}'
        )
    role = ROLES[node.class_name]
    if role == "discriminator" and key in GENERATING:
        raise ImportRefused(f'"{key}" holds a Discriminator where a generator is asked for; the file holds {listing}')
    if role != "discriminator" and key == "D":
        raise ImportRefused(f'"D" holds a {node.class_name} where a Discriminator is asked for')
    return key, node


def dialect(top: dict, modules: dict[str, Module]) -> str:
    """The repository whose conventions the network follows, or ImportRefused where it follows none known here.

    One of "stylegan2-ada-pytorch", "stylegan3" (its StyleGAN2), "edm", "edm2". The two StyleGAN2s share class and
    parameter names but not defaults: recorded attributes decide, then the form of the arguments, then the file's.
    """
    root = modules[""]
    classes = {module.class_name for module in modules.values()}
    if ROLES[root.class_name] == "denoiser":
        child = "unet" if root.class_name == "Precond" else "model"
        inner = modules.get(child)
        if inner is None or inner.class_name not in UNETS[child]:
            has = f"a {inner.class_name}" if inner else "nothing"
            known = " or ".join(sorted(UNETS[child]))
            raise ImportRefused(f'the {root.class_name} has {has} as "{child}", where {known} should be')
        return "edm2" if child == "unet" else "edm"
    if "SynthesisInput" in classes:
        raise ImportRefused(
            "it is a StyleGAN3 generator (alias-free synthesis), which is not supported; use a StyleGAN2 file, for "
            "example one of the stylegan2-*.pkl offered beside it"
        )
    expected = "SynthesisBlock" if root.class_name == "Generator" else "DiscriminatorBlock"
    if expected not in classes:
        raise ImportRefused(f"the {root.class_name} has no {expected}: it is not StyleGAN2's")
    return _stylegan2_dialect(top, modules)


def _stylegan2_dialect(top: dict, modules: dict[str, Module]) -> str:
    blocks = [module.attributes for module in modules.values() if module.class_name == "SynthesisBlock"]
    kwargs = modules[""].kwargs or {}
    if any("fused_modconv_default" in attributes for attributes in blocks):
        return "stylegan3"
    if "synthesis_kwargs" in kwargs:
        return "stylegan2-ada-pytorch"
    if blocks and SYNTHESIS_OPTIONS & set(kwargs):
        return "stylegan3"
    # a discriminator, or a generator made with defaults alone: the two repositories write their keys in another order
    return "stylegan3" if next(iter(top)) in ("G", "D") else "stylegan2-ada-pytorch"
