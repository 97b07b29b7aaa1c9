"""Feature networks: what they are called, how pictures reach them, and whose statistics they may be compared with."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from scorefield.errors import UserError
from scorefield.evaluation.features import open_features
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.measure import read_statistics
from scorefield.evaluation.metrics import FeatureStatistics

torch.set_num_threads(1)


def judge(folder, seed=0):
    torch.manual_seed(seed)
    Judge({"object": [str(k) for k in range(4)]}, (8, 8, 8, 16)).save(folder / "judge")
    return open_features(str(folder))


def pictures(count, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def test_a_judge_reads_features_and_class_scores(tmp_path):
    network = judge(tmp_path)
    features, scores = network.read(pictures(3, 16))
    direct = Judge.load(tmp_path / "judge")
    torch.testing.assert_close(features, direct.features(pictures(3, 16).float() / 127.5 - 1))
    torch.testing.assert_close(scores, direct.heads["object"](features))
    assert network.distance == "FD-judge"
    assert network.dimensions == features.shape[1] == 16


def test_statistics_are_taken_from_the_same_network_only(tmp_path):
    network, other = judge(tmp_path / "a"), judge(tmp_path / "b", seed=1)
    features = network.read(pictures(20, 16))[0]
    FeatureStatistics(network.identity).update(features).save(tmp_path / "own.npz")
    back = read_statistics(tmp_path / "own.npz", network)
    torch.testing.assert_close(back.covariance, torch.cov(features.double().T))
    with pytest.raises(UserError, match="statistics of judge"):
        read_statistics(tmp_path / "own.npz", other)
    np.savez(tmp_path / "edm.npz", mu=np.zeros(16), sigma=np.eye(16))
    with pytest.raises(UserError, match="does not say which network"):
        read_statistics(tmp_path / "edm.npz", network)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "no feature network"), ("hub:inceptoin", "hub:inception"), ("file.pth", "weights")],
)
def test_what_is_no_feature_network(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=message):
        open_features(name)


class Payload:
    def __reduce__(self):
        import os

        return os.mkdir, ("payload-ran",)


def test_weights_that_would_run_something_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Payload()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(), 2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(UserError, match="cannot read weights"):
            open_features(name)
    assert not (tmp_path / "payload-ran").exists()


def tensorflow_resize(images: np.ndarray, size: int) -> np.ndarray:
    """TensorFlow 1's resize_bilinear with align_corners off: place i reads at i * in / out, no half pixel."""
    side = images.shape[-1]
    at = np.arange(size) * (side / size)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, side - 1), at - low
    rows = images[:, :, low] * (1 - part)[:, None] + images[:, :, high] * part[:, None]
    return rows[..., low] * (1 - part) + rows[..., high] * part


def test_inception_resizes_as_tensorflow_did_and_says_whose_weights_it_has(tmp_path, monkeypatch):
    source = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network_class = source.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:  # random weights, as there is no way to have none
        patch.setattr(source, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network_class, "load_state_dict", lambda *_: None)
        state = network_class("random", ["2048"]).state_dict()
    torch.save(state, tmp_path / "random.pth")
    network = open_features(str(tmp_path / "random.pth"))
    assert network.distance == "FD-Inception"  # never "FID": these are not FID's weights
    seen = []
    network.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = pictures(2, 32)
    features, scores = network.read(images)
    wanted = (tensorflow_resize(images.double().numpy(), 299) - 128) / 128
    np.testing.assert_allclose(seen[0].numpy(), wanted, atol=1e-5)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(scores, features @ network.network.fc.weight.T)  # without the output bias

    np.savez(tmp_path / "edm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UserError, match="does not say which network"):
        read_statistics(tmp_path / "edm.npz", network)
    network.distance = "FID"  # as the published weights give; EDM's files are made with those
    assert read_statistics(tmp_path / "edm.npz", network).count > 2
    np.savez(tmp_path / "small.npz", mu=np.zeros(8), sigma=np.eye(8))
    with pytest.raises(UserError, match="8 features"):
        read_statistics(tmp_path / "small.npz", network)


def test_mobilenet_as_a_list_of_operations(tmp_path):
    torch.manual_seed(0)
    first, depth, last = torch.randn(4, 3, 3, 3), torch.randn(4, 1, 3, 3), torch.randn(1280, 4, 1, 1)
    head = torch.randn(5, 1280, 1, 1) / 30
    weights = {0: first, 1: depth, 3: last, 5: head}
    tensors = {f"op{k}.weight": w for k, w in weights.items()} | {
        f"op{k}.bias": w[:, 0, 0, 0].clone() for k, w in weights.items()
    }
    conv = {"stride": 1, "same": 1, "act": 0}
    ops = [
        [0, "CONV_2D", [7], 8, {"stride": 2, "same": 1, "act": 3}],
        [1, "DEPTHWISE_CONV_2D", [8], 9, {"stride": 1, "same": 1, "act": 0}],
        [2, "ADD", [8, 9], 10, {}],
        [3, "CONV_2D", [10], 11, conv | {"act": 1}],
        [4, "MEAN", [11], 12, {}],
        [5, "CONV_2D", [12], 13, conv],
        [6, "SOFTMAX", [13], 14, {}],
    ]
    save_file(tensors, tmp_path / "net.safetensors", {"input": "7", "ops": json.dumps(ops)})
    network = open_features(str(tmp_path / "net.safetensors"))
    assert network.distance == "FD-MobileNetV2"
    images = pictures(2, 96)
    x = images.float() / 127.5 - 1
    bias = {k: w[:, 0, 0, 0] for k, w in weights.items()}
    x = F.conv2d(F.pad(x, (0, 1, 0, 1)), first, bias[0], stride=2).clamp(0, 6)  # an even side: TensorFlow pads the end
    x = x + F.conv2d(x, depth, bias[1], padding=1, groups=4)
    features = F.conv2d(x, last, bias[3]).relu().mean((2, 3))
    seen, scores = network.read(images)
    torch.testing.assert_close(seen, features)
    torch.testing.assert_close(scores, features @ head.flatten(1).T + bias[5])
    save_file(tensors, tmp_path / "bad.safetensors", {"input": "7", "ops": json.dumps(ops[:2])})
    with pytest.raises(UserError, match="do not fit together"):
        open_features(str(tmp_path / "bad.safetensors"))
