"""Real pictures with captions for the adversarial term: read alike from every source, held against generated ones."""

import io
import json
import math
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from scorefield.cli import main
from scorefield.data.captioned import open_captioned
from scorefield.errors import UserError
from scorefield.generators.base import Batch
from scorefield.generators.terms.adversarial import AdversarialTerm
from scorefield.generators.terms.real import STREAM, CaptionedReal
from scorefield.generators.terms.settings import CaptionedConfig, DivergenceConfig
from scorefield.images import save_image, to_float
from scorefield.prompts import sources
from scorefield.random import Draws
from scorefield.runfolder import RunFolder
from scorefield.teachers import shared
from tasks.text_to_image.real import open_pictures, open_real
from tasks.text_to_image.settings import TextToImageConfig
from tests.teachers import families

COUNT = 9
CAPTIONS = [f"a red thing, number {k}" for k in range(COUNT)]
TELLS = ["sd_eps", "sdxl", "sd3", "flux_schnell", "sana", "pixart_sigma", "dit"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Nine pictures as a folder, as two tar shards and as a saved dataset; and a small teacher of every family."""
    root = tmp_path_factory.mktemp("real")
    for k, caption in enumerate(CAPTIONS):
        picture = torch.rand(3, 20 + k, 26, generator=torch.Generator().manual_seed(k)) * 2 - 1
        save_image(picture, root / "folder" / f"{k:03d}.png")
        (root / "folder" / f"{k:03d}.txt").write_text(caption)
    (root / "tars").mkdir()
    for number, (first, last) in enumerate([(0, 5), (5, COUNT)]):
        with tarfile.open(root / "tars" / f"part-{number:03d}.tar", "w") as tar:
            for k in range(first, last):
                said = (
                    ("txt", CAPTIONS[k].encode()) if number else ("json", json.dumps({"caption": CAPTIONS[k]}).encode())
                )
                members = [("png", (root / "folder" / f"{k:03d}.png").read_bytes()), said, ("cls", b"7")]
                for suffix, content in sorted(members):
                    entry = tarfile.TarInfo(f"some/{k:03d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            lone = tarfile.TarInfo("some/uncaptioned.png")
            tar.addfile(lone, io.BytesIO(b""))
    return root


@pytest.fixture(scope="module")
def folder_of(root):
    def get(name):
        path = root / "teachers" / name
        return path if path.exists() else families.write(name, path)

    return get


# ---------------------------------------------------------------------- sources


def test_a_folder_and_tar_shards_and_a_dataset_hold_the_same_pictures(root, monkeypatch):
    folder = open_captioned(str(root / "folder"), 16, 50)
    rows = [8, 0, 5, 5]
    pictures, captions = folder.at(rows)
    assert pictures.shape == (4, 3, 16, 16)
    assert captions == [CAPTIONS[row] for row in rows] == folder.captions(rows)
    assert torch.equal(pictures[2], pictures[3])
    places = [str(root / "tars"), f"{root}/tars/part-{{000..001}}.tar", f"{root}/tars/part-*.tar"]
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    paths = [str(root / "folder" / f"{k:03d}.png") for k in range(COUNT)]
    table = datasets.Dataset.from_dict({"picture": paths, "text": [[caption, "other"] for caption in CAPTIONS]})
    table.cast_column("picture", datasets.Image()).save_to_disk(root / "dataset", num_proc=1)
    places.append(f"hf:{root / 'dataset'}")
    for place in places:
        source = open_captioned(place, 16, 50, "picture", "caption" if "tar" in place else "text")
        assert len(source.items) == len(set(source.items)) == COUNT
        found, said = source.at(rows)
        assert torch.equal(found, pictures)
        assert said == captions == source.captions(rows)
    with pytest.raises(UserError, match=r'no column "image".*it has picture, text'):
        open_captioned(places[-1], 16, 50)
    with pytest.raises(UserError, match='cannot load the dataset "nobody/nothing"'):
        open_captioned("hf:nobody/nothing", 16, 50)


def test_a_limit_takes_some_pictures_always_the_same(root):
    one, other = (open_captioned(str(root / "folder"), 8, 4) for _ in range(2))
    assert one.items == other.items
    assert len(one.items) == 4
    assert open_captioned(str(root / "tars"), 8, 6).captions(range(6)) == CAPTIONS[:6]
    toybox = open_captioned("toybox", 16, 3)
    assert toybox.at([2, 1])[1] == toybox.captions([2, 1])
    assert toybox.at([2, 1])[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("nowhere", "neither a folder"),
        ("broken.tar", "as an uncompressed tar shard"),
        ("empty.tar", "no captioned picture"),
        ("part-{000..002}.tar", "part-002.tar"),
        ("words.tar", "cannot read the caption a.txt in"),
        ("empty", "no captioned picture"),
    ],
)
def test_what_holds_no_pictures_is_named(data, expected, root):
    place = root / "tars"
    (place / "broken.tar").write_bytes(b"no tar at all" * 100)
    (place / "empty").mkdir(exist_ok=True)
    for name, members in (("empty", []), ("words", [("a.png", b"x"), ("a.txt", b"\xff\xfe")])):
        with tarfile.open(place / f"{name}.tar", "w") as tar:
            for member, content in members:
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    try:
        with pytest.raises(UserError, match=expected):
            open_captioned(str(place / data), 16, 50)
    finally:
        for name in ("broken", "empty", "words"):
            (place / f"{name}.tar").unlink()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"scorefield\[datasets\]"):
        open_captioned("hf:x", 16, 5)


# ---------------------------------------------------------------------- features and gradients


@pytest.mark.parametrize("name", TELLS)
def test_features_are_what_the_network_itself_hands_on_half_way(name, folder_of):
    teacher = families.teacher(name, folder_of(name))
    net = teacher.denoiser()
    told = teacher.encode(["thing 7", "item 3"] if name == "dit" else ["a red chair", "a boat"])
    x, sigma = families.start(teacher.latent_shape), torch.tensor([0.3, 2.0])
    blocks = getattr(net.network, "transformer_blocks", None)
    part = net.network.mid_block if blocks is None else blocks[(len(blocks) - 1) // 2]
    after = (
        net.network.up_blocks[0]
        if blocks is None
        else net.network.proj_out
        if name != "dit"
        else net.network.proj_out_2
    )
    seen, later = [], []
    handles = [
        part.register_forward_hook(lambda *a: seen.append(a[2])),
        after.register_forward_hook(lambda *a: later.append(1)),
    ]
    net(x, sigma, told)
    assert later == [1]
    handles.pop(0).remove()
    features = net.encode(x, sigma, told)
    assert later == [1]  # the rest was not run
    expected = seen[0][-1] if isinstance(seen[0], tuple) else seen[0]
    assert features.shape[0] == 2
    assert features.ndim == 4
    if expected.ndim == 3:  # tokens, row by row
        rows, columns = features.shape[2:]
        assert rows == columns
        expected = torch.stack([expected[:, k].unflatten(1, (-1,)) for k in range(rows * columns)], -1)
        expected = expected.unflatten(-1, (rows, columns))
    torch.testing.assert_close(features, expected.float())
    net(x, sigma, told)
    assert later == [1, 1]  # and nothing is left of the stop


def test_features_of_an_adapter_are_its_roles(folder_of):
    teacher = families.teacher("pixart_sigma", folder_of("pixart_sigma"))
    base, views = shared.share(teacher.denoiser(), {"online": shared.Adapter(2)})
    told, x, sigma = teacher.encode(["a", "b"]), families.start(teacher.latent_shape), torch.tensor([0.3, 2.0])
    assert torch.equal(views["online"].encode(x, sigma, told), base.encode(x, sigma, told))
    for name, parameter in views["online"].named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert not torch.allclose(views["online"].encode(x, sigma, told), base.encode(x, sigma, told))
    views["online"].encode(x, sigma, told).sum().backward()
    assert any(p.grad is not None for p in views["online"].parameters())


class Fixed(sources.Conditions):
    """Some latents and captions, by number."""

    def __init__(self, latents, told):
        super().__init__(len(latents), STREAM)
        self.data = {"latents": latents, **told}

    def __call__(self, draws):
        rows = draws.integers(self.stream, self.count)
        found = {key: value[rows] for key, value in self.data.items()}
        return found, found


@pytest.mark.parametrize(("name", "head"), [("pixart_sigma", "mean"), ("sd_eps", "conv"), ("pixart_sigma", "conv")])
def test_both_sides_gradients_against_finite_differences(name, head, folder_of):
    teacher = families.teacher(name, folder_of(name))
    net = teacher.denoiser().requires_grad_(True)
    told = teacher.encode(["a red chair", "a boat", "a cat"])
    real = CaptionedReal(Fixed(families.start(teacher.latent_shape, 3), told), teacher.latent_shape)
    settings = CaptionedConfig(weight=0.5, head=head, data="x")
    term = AdversarialTerm(settings, DivergenceConfig(), net, real, lambda u: 0.3 + u)
    if head == "conv":
        torch.nn.init.normal_(term.head.last.weight, std=0.2)
    batch = Batch(term.draw(Draws(0, 0, torch.arange(3))), told, told)
    x0 = torch.randn(3, *teacher.latent_shape, generator=torch.Generator().manual_seed(8)).requires_grad_(True)
    loss = term.generator(x0, batch, 0)

    sigma, eps = 0.3 + batch.latents["adversarial_u_generator"], batch.latents["adversarial_eps_generator"]
    features = net.encode(x0 + sigma.view(-1, 1, 1, 1) * eps, sigma, told)
    logits = (features if head == "mean" else net.discriminator(features)).flatten(1).mean(1)
    torch.testing.assert_close(loss, 0.5 * x0[0].numel() * F.softplus(-logits).mean())

    loss.backward()
    assert all(p.grad is None for p in net.parameters())  # the generator's part teaches the discriminator nothing
    way = torch.randn_like(x0)
    step = 2e-2
    with torch.no_grad():
        ahead, behind = (term.generator(x0 + side * step * way, batch, 0).double() for side in (1, -1))
    slope = (ahead - behind) / (2 * step)
    assert float((x0.grad * way).sum()) == pytest.approx(float(slope), rel=2e-2)

    loss = term.online(x0.detach(), batch)
    loss.backward()
    weight = next(p for p in net.parameters() if p.grad is not None and p.grad.abs().max() > 1e-6)
    way, step = torch.randn_like(weight) * weight.std(), 1e-2
    with torch.no_grad():
        ends = []
        for side in (1, -1):
            weight += side * step * way
            ends.append(term.online(x0.detach(), batch).double())
            weight -= side * step * way
    assert float((weight.grad * way).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=5e-2)


# ---------------------------------------------------------------------- latents


def test_latents_are_the_autoencoders_kept_or_streamed(root, folder_of, tmp_path):
    teacher = families.teacher("pixart_sigma", folder_of("pixart_sigma"), dtype=torch.bfloat16)
    config = TextToImageConfig()
    config.teacher.dtype = "bfloat16"
    found = {}
    for where in ("cached", "streamed"):
        config.terms.adversarial = CaptionedConfig(weight=1.0, data=str(root / "tars"), latents=where)
        pictures = open_pictures(config, teacher)
        source = open_real(config, teacher, pictures, tmp_path / "cache", "cpu", ThreadPoolExecutor(1))
        assert source.count == COUNT
        found[where] = [source(Draws(0, k, torch.arange(5)))[0] for k in range(3)]
        source.close()
    rows = Draws(0, 2, torch.arange(5)).integers(STREAM, COUNT).tolist()
    images = to_float(pictures.at(rows)[0])
    assert images.shape[-1] == 16  # eight latents of two pixels
    with torch.no_grad():
        expected = teacher.encode_images(images)
    for kept, streamed in zip(found["cached"], found["streamed"], strict=True):
        longest = kept["text"].shape[1]
        torch.testing.assert_close(kept["latents"], streamed["latents"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept["text"], streamed["text"][:, :longest], rtol=2**-7, atol=1e-2)
        assert torch.equal(kept["text_mask"], streamed["text_mask"][:, :longest])
    torch.testing.assert_close(found["cached"][2]["latents"], expected, rtol=1e-5, atol=1e-5)  # not rounded to bf16
    stored = load_file(tmp_path / "cache" / "real" / "shard-00000.safetensors")
    assert stored["latents"].dtype == torch.float32
    assert stored["states"].dtype == torch.bfloat16
    assert any(
        "AutoencoderKL" in part for part in json.loads((tmp_path / "cache/real/cache.json").read_text())["encoder"]
    )


# ---------------------------------------------------------------------- a run


@pytest.mark.parametrize(
    ("name", "kind", "latents"),
    [("pixart_sigma", "full", "cached"), pytest.param("sd_eps", "lora", "streamed", marks=pytest.mark.slow)],
)
def test_a_run_with_a_discriminator_and_again_from_its_checkpoint(
    name, kind, latents, root, folder_of, tmp_path, capsys
):
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS * 2))
    settings = {
        "teacher.path": folder_of(name),
        "teacher.max_tokens": families.TOKENS,
        "prompts.path": tmp_path / "prompts.txt",
        "training.iterations": 4,
        "training.batch": 4,
        "training.accumulation": 2,
        "training.device": "cpu",
        "checkpoints.every": 2,
        "evaluation.samples": 2,
        "evaluation.teacher_steps": 2,
        "evaluation.preview": 2,
        "evaluation.judge": "none",
        "monitors.enabled": "[]",
        "generator.kind": kind,
        "online.kind": kind,
        "terms.adversarial.weight": 0.1,
        "terms.adversarial.head": "conv",
        "terms.adversarial.data": root / "folder",
        "terms.adversarial.latents": latents,
    }
    words = [
        "run",
        "text_to_image",
        "--out",
        str(tmp_path / "r"),
        *(f"{key}={value}" for key, value in settings.items()),
    ]
    assert main(words) == 0
    figures = [line for line in RunFolder(tmp_path / "r").metrics() if "loss/adversarial" in line][-1]
    assert figures["loss/adversarial_online"] == pytest.approx(math.log(2), abs=0.1)
    assert figures["nan_samples"] == 0
    newest = tmp_path / "r" / "checkpoints" / "iteration-000004"
    ends = {part: load_file(newest / f"{part}.safetensors") for part in ("ema", "online")}
    assert ends["online"]["discriminator.last.weight"].abs().sum() > 0
    newest.rename(tmp_path / "aside")
    assert main([*words, "--resume"]) == 0
    for part, weights in ends.items():
        again = load_file(newest / f"{part}.safetensors")
        assert all(torch.equal(value, again[key]) for key, value in weights.items()), part
    assert main(["sample", str(tmp_path / "r"), "a cat", "--out", str(tmp_path / "p"), "--device", "cpu"]) == 0
    assert main([*words, "--resume", "terms.adversarial.weight=0.2"]) == 2
    assert "terms.adversarial.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["terms.adversarial.weight=1"], "give terms.adversarial.data"),
        (["terms.adversarial.weight=1", "terms.adversarial.data=nowhere"], "nowhere is neither a folder"),
        (["terms.adversarial.latents=kept"], "cached, streamed"),
        (["terms.divergence.name=forward_kl", "terms.adversarial.data=toybox"], "diff_instruct"),
        (["terms.anchor.weight=1"], "terms"),
    ],
)
def test_wrong_words(words, expected, capsys):
    assert main(["run", "text_to_image", "--dry-run", *words]) == 2
    assert expected in capsys.readouterr().err
