"""Configuration of the optional terms; each is off by default."""

from dataclasses import dataclass, field
from pathlib import Path

from scorefield.errors import UserError, suggest
from scorefield.generators.terms.divergence import DIVERGENCES
from scorefield.losses.base import Loss

HEADS, DISTANCES = ("mean", "conv"), ("pixels", "judge", "lpips")


@dataclass
class DiscriminatorConfig:
    """A discriminator on real pictures in the online score's encoder (SiDA, arXiv:2410.14919; DMD2)."""

    weight: float = 0.0  # of the generator's term; 0: off
    online_weight: float = 1.0  # of the discriminator's loss beside the online score's
    head: str = "mean"  # "mean" over the encoder's channels (SiDA), or "conv", a small network of its own (DMD2)
    start: int = 0  # first iteration in which the generator feels it
    data: str = ""  # real pictures
    images: int = 50_000  # read at most

    def __post_init__(self) -> None:
        if self.weight < 0 or self.online_weight <= 0 or self.start < 0 or self.images < 1:
            raise UserError(
                "terms.adversarial: weight and start must be at least 0, online_weight positive and images at least 1"
            )
        if self.head not in HEADS:
            raise UserError(f'terms.adversarial.head "{self.head}" is unknown: {suggest(self.head, HEADS)}')

    def check_data(self) -> None:
        """Raise UserError where no real pictures are, before anything heavy starts."""
        if not self.data:
            raise UserError("a discriminator needs real pictures: give terms.adversarial.data")


@dataclass
class AdversarialConfig(DiscriminatorConfig):
    """Real pictures with classes: ``data`` is "toybox", an .npz, or a folder with a sub-folder a class."""

    label: str = "object"  # Toybox's class

    def check_data(self) -> None:
        super().check_data()
        if self.data != "toybox" and not Path(self.data).exists():
            raise UserError(f'terms.adversarial.data "{self.data}" does not exist')


@dataclass
class CaptionedConfig(DiscriminatorConfig):
    """Real pictures with captions.

    ``data`` is "toybox"; a folder as ``train-teacher --data`` takes it; a folder of webdataset's .tar shards, or
    "shards-{000..012}.tar"; "hf:NAME-OR-FOLDER@SPLIT" of the datasets package (extra "datasets").
    """

    head: str = "conv"  # of a transformer's block half-way the mean over channels is a slow learner
    image: str = "image"  # column of a Hugging Face dataset
    caption: str = "caption"  # its column, or the key in JSON
    latents: str = "cached"  # encoded once, kept in shards; or "streamed": ahead of every batch, nothing kept
    cache: str = ""  # folder of the shards, which runs may share; empty: cache/real of the run folder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latents not in ("cached", "streamed"):
            known = suggest(self.latents, ("cached", "streamed"))
            raise UserError(f'terms.adversarial.latents "{self.latents}" is unknown: {known}')


@dataclass
class DivergenceConfig:
    """Samples weighted so that a loss of the reverse KL follows another f-divergence (arXiv:2502.15681)."""

    name: str = "reverse_kl"  # all weights 1; others read the density ratio off the discriminator
    clip: float = 5.0  # largest |log ratio|

    def __post_init__(self) -> None:
        if self.name not in DIVERGENCES:
            raise UserError(f'terms.divergence.name "{self.name}" is unknown: {suggest(self.name, DIVERGENCES)}')
        if not self.clip > 0:
            raise UserError(f"terms.divergence.clip must be positive, not {self.clip}")


@dataclass
class AnchorConfig:
    """A pull to what the generator made of the same latents before: keeps the identity of each z."""

    weight: float = 0.0  # 0: off
    distance: str = "pixels"  # mean squared difference of "pixels" or of the "judge"'s features, or "lpips"
    judge: str = "toybox32"  # asset or folder with the judge
    trunk: str = ""  # of lpips: torchvision's AlexNet or VGG16 weights, or "random"
    net: str = "alex"  # of lpips: alex or vgg

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f"terms.anchor.weight must be at least 0, not {self.weight}")
        if self.distance not in DISTANCES:
            raise UserError(f'terms.anchor.distance "{self.distance}" is unknown: {suggest(self.distance, DISTANCES)}')
        if self.net not in ("alex", "vgg"):
            raise UserError(f'terms.anchor.net "{self.net}" is unknown: {suggest(self.net, ("alex", "vgg"))}')


@dataclass
class DiscriminatorTerms:
    """A discriminator's term and what reads its ratio of densities."""

    adversarial: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)

    @property
    def discriminates(self) -> bool:
        """Whether a discriminator is trained."""
        return self.adversarial.weight > 0 or self.divergence.name != "reverse_kl"

    def check(self, loss: Loss) -> None:
        """Raise UserError for what is missing, before anything heavy starts."""
        if self.discriminates:
            self.adversarial.check_data()
            if not loss.needs_online:
                raise UserError("the discriminator lies in the online score, which this loss has none of")
        if self.divergence.name != "reverse_kl" and (loss.needs_jacobian or not loss.needs_online):
            raise UserError(
                "terms.divergence weighs the gradient of a KL divergence: use loss.name=diff_instruct, dmd or vsd"
            )


@dataclass
class CaptionedTerms(DiscriminatorTerms):
    """What joins the score loss of a task with prompts; nothing by default."""

    adversarial: CaptionedConfig = field(default_factory=CaptionedConfig)


@dataclass
class TermsConfig(DiscriminatorTerms):
    """What joins the score loss of a task with classes; nothing by default."""

    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)

    def check(self, loss: Loss) -> None:
        super().check(loss)
        if self.anchor.weight and self.anchor.distance == "lpips":
            trunk = self.anchor.trunk
            if not trunk:
                raise UserError("terms.anchor.distance=lpips needs terms.anchor.trunk, weights of its AlexNet or VGG16")
            if trunk != "random" and not Path(trunk).is_file():
                raise UserError(f'terms.anchor.trunk "{trunk}" does not exist')
