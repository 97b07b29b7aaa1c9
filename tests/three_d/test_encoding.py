import torch

from scorefield.teachers.pixart import PixArt
from scorefield.three_d.encoding import encode_through_decoder


def test_for_a_linear_autoencoder_the_picture_moves_along_the_decoder():
    torch.manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(12, 12))[0] * torch.linspace(0.5, 2, 12)  # decoder, invertible
    inverse = torch.linalg.inv(matrix)
    encode = lambda x: (x.flatten(1) @ inverse.T).view(-1, 3, 2, 2)  # noqa: E731
    decode = lambda z: (z.flatten(1) @ matrix.T).view(-1, 3, 2, 2)  # noqa: E731
    images, target = torch.randn(5, 3, 2, 2, requires_grad=True), torch.randn(5, 3, 2, 2)
    latents, decoded = encode_through_decoder(images, encode, decode)
    torch.testing.assert_close(latents, encode(images))
    torch.testing.assert_close(decoded, images, atol=1e-5, rtol=1e-4)
    ((latents - target).square().sum() / 2).backward()
    torch.testing.assert_close(images.grad, images.detach() - decode(target), atol=1e-3, rtol=1e-3)


def test_no_gradient_changes_nothing_and_a_broken_one_is_seen():
    identity = lambda x: x.clone()  # noqa: E731
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    latents, _ = encode_through_decoder(images, identity, identity)
    weight = torch.ones_like(latents)
    weight[0], weight[1] = 0.0, float("nan")
    (latents * weight).sum().backward()
    assert images.grad[0].abs().max() == 0
    assert images.grad[1].isnan().any()


def test_toyboxs_encoder_inverts_its_decoder_and_is_differentiable():
    from scorefield.data import toybox

    pipeline = PixArt("toybox")
    pictures, _ = toybox.images(range(4), toybox.TEST_SEED)
    images = (pictures.float() / 127.5 - 1).requires_grad_()
    latents = pipeline.encode_images(images)
    assert latents.shape == (4, *pipeline.latent_shape)
    assert (pipeline.decode(latents) - images).abs().mean() < 0.05
    latents.sum().backward()
    assert images.grad.abs().sum() > 0
