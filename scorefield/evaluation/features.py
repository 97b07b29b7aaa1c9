"""Networks whose features the figures are made of: the judge, Inception-v3 as FID uses it, MobileNetV2.

A Fréchet distance means nothing without its network, so each says what a distance on it may be called. Nothing is
downloaded unless a name begins with "hub:".
"""

from pathlib import Path

import torch
from torch import Tensor

from scorefield import resources
from scorefield.errors import UserError, suggest
from scorefield.evaluation.judge import Judge
from scorefield.files import digest
from scorefield.images import to_float

INCEPTION_SHA256 = "6726825d"  # what torch-fidelity's conversion of the 2015-12-05 graph begins with
HUB = ("hub:inception",)


class FeatureNetwork:
    """Features, and class scores for the Inception score, of uint8 pictures.

    Attributes:
        name: for people, with the number of features. distance: what a Fréchet distance on them is called.
        identity: written into statistics files; two networks of one identity give the same features.
        dimensions: of the features. resize: how pictures reach the network's size, in words.
    """

    name: str
    distance: str
    identity: str
    dimensions: int
    resize: str

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(features [B, D], class scores before the softmax [B, K]), float32, of images uint8 [B, 3, H, W]."""
        raise NotImplementedError


class JudgeFeatures(FeatureNetwork):
    """The judge's pooled features; its first head gives the class scores."""

    resize = "none: the judge reads pictures of any size"
    distance = "FD-judge"

    def __init__(self, folder: Path, device: str):
        self.judge = Judge.load(folder, device)
        self.dimensions = self.judge.widths[-1]
        self.identity = f"judge {digest(folder / 'judge.safetensors')[:16]}"
        known = folder.parent.name if folder.name == "judge" else folder.name
        self.name = f"scorefield judge ({known}), {self.dimensions} features"

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.judge.features(to_float(images))
        return features, next(iter(self.judge.heads.values()))(features)


class InceptionFeatures(FeatureNetwork):
    """Inception-v3 of FID through torch-fidelity, which resizes as TensorFlow 1 did (bilinear, no antialiasing).

    Only the converted 2015-12-05 weights give a "FID"; other weights of the same network give "FD-Inception".

    Args:
        path: torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``; None fetches it as "hub:" asks.
    """

    dimensions = 2048
    resize = "TensorFlow 1's bilinear to 299 px, not antialiased, inside the network"

    def __init__(self, path: Path | None, device: str):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError('Inception features need torch-fidelity: pip install "scorefield[eval]"') from error
        sha = INCEPTION_SHA256
        if path is not None:
            safe_state(path)  # torch-fidelity's own reading would run what a pickle asks for
            sha = digest(path)
        layers = ["2048", "logits_unbiased"]
        try:
            given = None if path is None else str(path)
            network = FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=given)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"cannot use {path or 'the hub'} as Inception-v3 weights: {reason}") from error
        self.network = network.to(device)
        official = sha.startswith(INCEPTION_SHA256)
        self.distance = "FID" if official else "FD-Inception"
        self.identity = "inception-v3 2015-12-05" if official else f"inception-v3 {sha[:16]}"
        self.name = f"{self.identity}, 2048 features"

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images)


def safe_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a torch file, or of its "state_dict"; raises UserError for anything that is more than tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"cannot read weights from {path}: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no plain table of tensors")
    return state


def judge_folder(name: str) -> Path | None:
    """Where a judge lies: a folder, an asset, or "judge" inside either; None for nowhere."""
    for place in (Path(name), resources.root() / "assets" / name):
        for folder in (place, place / "judge"):
            if (folder / "judge.json").is_file():
                return folder
    return None


def check(name: str) -> None:
    """Raise UserError unless ``open_features`` could find ``name``; nothing is loaded."""
    if name.startswith("hub:"):
        if name not in HUB:
            raise UserError(f'no feature network is called "{name}": {suggest(name, HUB)}')
    elif judge_folder(name) is None and not Path(name).is_file():
        raise UserError(
            f'there is no feature network "{name}": give a judge\'s folder or asset, Inception weights of '
            "torch-fidelity (.pth), a MobileNetV2 as .safetensors, or hub:inception to fetch FID's network"
        )


def open_features(name: str, device: str = "cpu") -> FeatureNetwork:
    """The feature network that ``name`` means.

    Args:
        name: a judge's folder or asset; torch-fidelity's Inception weights (.pth or .pt); a MobileNetV2 as
            .safetensors (``scorefield.evaluation.graph``); "hub:inception" fetches FID's network.

    Raises:
        UserError: nothing of that name, or a file that does not fit.
    """
    check(name)
    if name.startswith("hub:"):
        return InceptionFeatures(None, device)
    if folder := judge_folder(name):
        return JudgeFeatures(folder, device)
    path = Path(name)
    if path.suffix == ".safetensors":
        from scorefield.evaluation.graph import MobileNetFeatures

        return MobileNetFeatures(path, device)
    return InceptionFeatures(path, device)
