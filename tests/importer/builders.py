"""Networks of every official dialect as trees of modules with official names, with random weights."""

import numpy as np
import torch
from torch import nn

from .writers import EasyDict, module, plain_object

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])


def fir():
    return torch.outer(FIR, FIR) / 64


def dense(name, out, inside, bias=True, **public):
    parameters = {"weight": (out, inside)} | ({"bias": (out,)} if bias else {})
    return module(name, (inside, out), {"bias": bias}, parameters, weight_gain=1 / np.sqrt(inside), **public)


# ---------------------------------------------------------------------- StyleGAN2


def synthesis_layer(out, inside, w_dim, resolution, up):
    return module(
        "SynthesisLayer",
        (inside, out),
        {"w_dim": w_dim, "resolution": resolution, "up": up},
        parameters={"weight": (out, inside, 3, 3), "noise_strength": (), "bias": (out,)},
        buffers={"resample_filter": fir(), "noise_const": (resolution, resolution)},
        children={"affine": dense("FullyConnectedLayer", inside, w_dim)},
        up=up,
        conv_clamp=256,
        act_gain=np.sqrt(2),
    )


def synthesis_block(resolution, out, inside, w_dim, last, extra):
    children = {"conv0": synthesis_layer(out, inside, w_dim, resolution, 2)} if inside else {}
    children["conv1"] = synthesis_layer(out, out, w_dim, resolution, 1)
    children["torgb"] = module(
        "ToRGBLayer",
        (out, 3),
        {"w_dim": w_dim},
        parameters={"weight": (3, out, 1, 1), "bias": (3,)},
        children={"affine": dense("FullyConnectedLayer", out, w_dim)},
        conv_clamp=256,
        weight_gain=1 / np.sqrt(out),
    )
    return module(
        "SynthesisBlock",
        (inside, out),
        {"w_dim": w_dim, "resolution": resolution, "is_last": last},
        parameters={} if inside else {"const": (out, resolution, resolution)},
        buffers={"resample_filter": fir()},
        children=children,
        use_fp16=resolution >= 8,
        architecture="skip",
        is_last=last,
        **extra,
    )


def generator(dialect="stylegan2-ada-pytorch", resolution=16, channels=8, w_dim=8, c_dim=0, defaults=False):
    """A StyleGAN2 generator as either repository records it; ``defaults`` leaves all options to the repository."""
    ada = dialect == "stylegan2-ada-pytorch"
    extra = {} if ada else {"fused_modconv_default": True}
    blocks, before = {}, 0
    sides = [4 << k for k in range(resolution.bit_length() - 2)]
    for side in sides:
        blocks[f"b{side}"] = synthesis_block(side, channels, before, w_dim, side == resolution, extra)
        before = channels
    options = {} if defaults else {"channel_base": channels * resolution, "channel_max": channels}
    synthesis = module(
        "SynthesisNetwork",
        (),
        {"w_dim": w_dim, "img_resolution": resolution, "img_channels": 3} | options,
        children=blocks,
        block_resolutions=sides,
    )
    embed = {"embed": dense("FullyConnectedLayer", w_dim, c_dim)} if c_dim else {}
    fc = {f"fc{k}": dense("FullyConnectedLayer", w_dim, w_dim * (1 + (c_dim > 0 and k == 0))) for k in range(2)}
    mapping = module(
        "MappingNetwork",
        (),
        {"z_dim": w_dim, "c_dim": c_dim, "w_dim": w_dim, "num_layers": 2},
        buffers={"w_avg": (w_dim,)},
        children=embed | fc,
        w_avg_beta=0.995 if ada else 0.998,
        num_layers=2,
    )
    kwargs = {"z_dim": w_dim, "c_dim": c_dim, "w_dim": w_dim, "img_resolution": resolution, "img_channels": 3}
    kwargs["mapping_kwargs"] = EasyDict(num_layers=2)
    kwargs |= {"synthesis_kwargs": EasyDict(options)} if ada and not defaults else options
    return module("Generator", (), EasyDict(kwargs), children={"synthesis": synthesis, "mapping": mapping}, z_dim=w_dim)


def discriminator(resolution=16, channels=8):
    blocks = {
        f"b{resolution}": module(
            "DiscriminatorBlock",
            (3, channels, channels),
            {"resolution": resolution},
            buffers={"resample_filter": fir()},
            children={"fromrgb": dense("Conv2dLayer", channels, 3)},
        )
    }
    return module("Discriminator", (), EasyDict(img_resolution=resolution, img_channels=3), children=blocks)


def gan_file(dialect="stylegan2-ada-pytorch", **options):
    """The dictionary that the training loop saves."""
    networks = {"G": generator(dialect, **options), "D": discriminator(), "G_ema": generator(dialect, **options)}
    passing = {"training_set_kwargs": EasyDict(path="data.zip", use_labels=False)}
    pipe = {"augment_pipe": module("AugmentPipe", (), {"xflip": 1}, buffers={"p": ()})}
    return passing | networks | pipe if dialect == "stylegan2-ada-pytorch" else networks | pipe | passing


def alias_free_generator():
    """StyleGAN3's own generator."""
    start = module("SynthesisInput", (), {"size": [36, 36]}, {"weight": (8, 8)}, {"freqs": (8, 2), "phases": (8,)})
    layer = module("SynthesisLayer", (), {}, {"weight": (8, 8, 3, 3)}, {"up_filter": (12,)})
    synthesis = module("SynthesisNetwork", (), {}, children={"input": start, "L0_36_8": layer})
    return module("Generator", (), {"z_dim": 8}, children={"synthesis": synthesis})


# ---------------------------------------------------------------------- EDM


def conv(inside, out, kernel=3, resample=False):
    parameters = {"weight": (out, inside, kernel, kernel), "bias": (out,)} if kernel else {}
    buffers = {"resample_filter": torch.full((1, 1, 2, 2), 0.25)} if resample else {}
    kwargs = {"in_channels": inside, "out_channels": out, "kernel": kernel}
    return module("Conv2d", (), kwargs, parameters, buffers, up=False, down=resample)


def linear(inside, out, bias=True):
    parameters = {"weight": (out, inside)} | ({"bias": (out,)} if bias else {})
    return module("Linear", (), {"in_features": inside, "out_features": out, "bias": bias}, parameters)


def norm(channels):
    return module("GroupNorm", (), {"num_channels": channels}, {"weight": (channels,), "bias": (channels,)}, eps=1e-6)


def unet_block(inside, out, emb, resample=False, attention=False):
    children = {"norm0": norm(inside), "conv0": conv(inside, out, 3, resample), "affine": linear(emb, out)}
    children |= {"norm1": norm(out), "conv1": conv(out, out)}
    skip = {"skip": conv(inside, out, 1, resample)} if inside != out or resample else {}
    children |= skip
    if attention:
        children |= {"norm2": norm(out), "qkv": conv(out, 3 * out, 1), "proj": conv(out, out, 1)}
    kwargs = {"in_channels": inside, "out_channels": out, "emb_channels": emb}
    plain = {} if skip else {"skip": None}
    return module("UNetBlock", (), kwargs, children=children, skip_scale=np.sqrt(0.5), num_heads=1, **plain)


def song_unet(resolution=32, width=128, mult=(2, 2, 2), blocks=4, attention=(16,)):
    """DDPM++ as the official SongUNet lays it out."""
    emb, enc, dec, out, skips = 4 * width, {}, {}, width, []
    for level, factor in enumerate(mult):
        side = resolution >> level
        if level:
            enc[f"{side}x{side}_down"] = unet_block(out, out, emb, resample=True)
        else:
            enc[f"{side}x{side}_conv"] = conv(3, width)
        skips.append(out)
        for k in range(blocks):
            inside, out = out, width * factor
            enc[f"{side}x{side}_block{k}"] = unet_block(inside, out, emb, attention=side in attention)
            skips.append(out)
    for level, factor in reversed(list(enumerate(mult))):
        side = resolution >> level
        if level == len(mult) - 1:
            dec[f"{side}x{side}_in0"] = unet_block(out, out, emb, attention=True)
            dec[f"{side}x{side}_in1"] = unet_block(out, out, emb)
        else:
            dec[f"{side}x{side}_up"] = unet_block(out, out, emb, resample=True)
        for k in range(blocks + 1):
            inside, out = out + skips.pop(), width * factor
            dec[f"{side}x{side}_block{k}"] = unet_block(inside, out, emb, attention=k == blocks and side in attention)
        if not level:
            dec[f"{side}x{side}_aux_norm"] = norm(out)
            dec[f"{side}x{side}_aux_conv"] = conv(out, 3)
    children = {"map_noise": module("PositionalEmbedding", (), {"num_channels": width}, num_channels=width)}
    children |= {"map_augment": linear(9, width, bias=False)}
    children |= {"map_layer0": linear(width, emb), "map_layer1": linear(emb, emb)}
    children |= {"enc": nn.ModuleDict(enc), "dec": nn.ModuleDict(dec)}
    kwargs = {"img_resolution": resolution, "in_channels": 3, "out_channels": 3, "label_dim": 0}
    kwargs |= {"model_channels": width, "channel_mult": list(mult), "num_blocks": blocks}
    return module("SongUNet", (), kwargs, children=children, map_label=None, label_dropout=0)


def edm(class_name="EDMPrecond", inner=None, **options):
    """A denoiser of EDM's repository."""
    inner = inner or song_unet(**({"resolution": 16, "width": 8, "blocks": 1, "mult": (1, 2)} | options))
    kwargs = {"img_resolution": 16, "img_channels": 3, "label_dim": 0, "model_type": type(inner).__name__}
    kwargs |= {"dropout": 0.13, "sigma_max": float("inf"), "channel_mult": [1, 2]}
    buffers = {"u": (11,)} if class_name == "iDDPMPrecond" else {}
    return module(
        class_name,
        (),
        kwargs,
        buffers=buffers,
        children={"model": inner},
        sigma_min=0,
        sigma_max=float("inf"),
        sigma_data=0.5,
        label_dim=0,
        use_fp16=False,
    )


def edm_file(network=None):
    loss = plain_object("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5)
    pipe = plain_object("AugmentPipe", p=0.12, strength=np.float32(0.5))
    return {"ema": network or edm(), "loss_fn": loss, "augment_pipe": pipe, "dataset_kwargs": {"path": "x.zip"}}


# ---------------------------------------------------------------------- EDM2


def edm2_block(inside, out, emb):
    def weight(*shape):
        return module(
            "MPConv", (shape[1], shape[0]), {"kernel": []}, {"weight": torch.randn(shape)}, out_channels=shape[0]
        )

    children = {
        "conv_res0": weight(out, inside, 3, 3),
        "emb_linear": weight(out, emb),
        "conv_res1": weight(out, out, 3, 3),
    }
    children |= {"conv_skip": weight(out, inside, 1, 1)} if inside != out else {}
    return module("Block", (inside, out, emb), {"flavor": "enc"}, {"emb_gain": ()}, children=children, res_balance=0.3)


def edm2(width=8):
    fourier = module("MPFourier", (width,), {}, buffers={"freqs": (width,), "phases": (width,)})
    blocks = nn.ModuleDict(
        {"64x64_block0": edm2_block(4, width, width), "64x64_block1": edm2_block(width, width, width)}
    )
    children = {"emb_fourier": fourier, "enc": blocks}
    unet = module("UNet", (), {"img_resolution": 64}, {"out_gain": ()}, children=children, label_balance=0.5)
    kwargs = {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "use_fp16": True, "sigma_data": 0.5}
    return module("Precond", (), EasyDict(kwargs), children={"unet": unet}, use_fp16=True).half()


def edm2_file():
    encoder = plain_object(
        "StabilityVAEEncoder",
        vae_name="some/vae",
        scale=np.float32([0.5, 0.25]).reshape(-1),
        bias=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    )
    loss = plain_object("EDM2Loss", P_mean=-0.4)
    return EasyDict(encoder=encoder, dataset_kwargs=EasyDict(path="x"), loss_fn=loss, ema=edm2())
