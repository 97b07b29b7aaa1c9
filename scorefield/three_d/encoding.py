"""Pictures to latents, with a choice of how the gradient comes back.

The exact gradient of an encoder is open to adversarial patterns: a small encoder reads the latents of a fine red chair
off a picture of green noise, and descent finds that picture. The decoder's way back asks instead how the decoded
picture changes along the latents' gradient. Where encoder and decoder invert each other, J_E J_D = 1, a step of the
picture along J_D g moves its latents along g, and it is a picture that the decoder can make.
"""

from collections.abc import Callable

import torch
from torch import Tensor

REACH = 0.1  # root mean square of the latents' step that the decoder's change is taken over


class DecoderGradient(torch.autograd.Function):
    """z = encode(images); the gradient g at z comes back as (decode(z) - decode(z - e g)) / e, with e |g| small."""

    @staticmethod
    def forward(ctx, images: Tensor, encode: Callable, decode: Callable, decoded: list) -> Tensor:
        with torch.no_grad():
            latents = encode(images)
            decoded.append(decode(latents))
        ctx.save_for_backward(latents, decoded[0])
        ctx.decode = decode
        return latents

    @staticmethod
    def backward(ctx, gradient: Tensor):
        latents, here = ctx.saved_tensors
        size = gradient.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
        reach = REACH / size.clamp_min(1e-20)
        with torch.no_grad():
            there = ctx.decode(latents - reach * gradient)
        change = (here - there) / reach
        # no gradient asks for no change; a broken one must be seen by those who skip broken steps
        return torch.where(size > 0, change, 0 * size + torch.zeros_like(change)), None, None, None


def encode_through_decoder(images: Tensor, encode: Callable, decode: Callable) -> tuple[Tensor, Tensor]:
    """(latents with the decoder's gradient, decoded pictures without one) of pictures [N, 3, H, W] in [-1, 1]."""
    decoded: list[Tensor] = []
    latents = DecoderGradient.apply(images, encode, decode, decoded)
    return latents, decoded[0]
