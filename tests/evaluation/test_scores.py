"""Scores by pretrained models, on small random ones of the real classes, against computations of their own."""

import numpy as np
import pytest
import torch
from torch import nn

from scorefield.errors import UserError
from scorefield.evaluation.metrics import frechet_distance
from scorefield.evaluation.scores import SCORES, ScoresConfig, facts, measure, open_scores
from scorefield.evaluation.scores.aesthetic import head_of
from scorefield.evaluation.scores.hpsv2 import HpsV2, from_open_clip
from scorefield.evaluation.scores.imagereward import MEAN, STD, ImageReward
from scorefield.images import save_image, to_uint8
from tests.evaluation import clips
from tests.evaluation.references import OpenClip, RewardReference, shaken

PROMPTS = ["a red chair", "a blue cup", "two green cars", "a red boat, side view"]
MEAN_RGB = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD_RGB = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(clips.write_clip(tmp_path_factory.mktemp("clip") / "small"))


@pytest.fixture(scope="module")
def made():
    draws = torch.Generator().manual_seed(0)
    return {who: torch.rand(4, 3, clips.SIDE, clips.SIDE, generator=draws) * 2 - 1 for who in ("teacher", "student")}


def vectors(folder, images):
    """(picture vectors, text vectors, logit scale) in numpy, from the model's own forward pass."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    pixels = (to_uint8(images).numpy() / 255 - MEAN_RGB) / STD_RGB
    rows = [clips.clip_tokenizer(clips.TOKENS)(prompt)["input_ids"] for prompt in PROMPTS]
    with torch.no_grad():
        out = [
            model(input_ids=torch.tensor([row]), pixel_values=torch.from_numpy(p[None]).float())
            for row, p in zip(rows, pixels, strict=True)
        ]
    picture, text = (np.concatenate([getattr(o, k).numpy() for o in out]) for k in ("image_embeds", "text_embeds"))
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    return unit(picture), unit(text), float(model.logit_scale.exp())


def test_clip_score_is_the_cosine_by_hand(folder, made):
    settings = ScoresConfig(["clip"], {"clip": {"path": folder}})
    settings.check_scores()
    scores = open_scores(settings, "cpu")
    found = measure(scores, made, PROMPTS)
    for who in made:
        picture, text, _ = vectors(folder, made[who])
        single = 100 * np.maximum((picture * text).sum(1), 0)
        assert found[who]["clip_score"] == pytest.approx(single.mean(), abs=1e-4)
        half = 1.96 * single.std(ddof=1) / 2
        assert found[who]["clip_score_interval"] == pytest.approx(
            [single.mean() - half, single.mean() + half], abs=1e-3
        )
    assert found["teacher"] != found["student"]
    told = facts(scores)["clip_score"]
    assert told["title"] == "CLIP score"
    assert told["model"].startswith("small (")  # the folder, and what its weights are


def test_pickscore_and_the_probability_between_two_candidates(folder, made):
    found = measure(open_scores(ScoresConfig(["pickscore"], {"pickscore": {"path": folder}}), "cpu"), made, PROMPTS)
    raw = {}
    for who in made:
        picture, text, scale = vectors(folder, made[who])
        raw[who] = scale * (picture * text).sum(1)
        assert found[who]["pickscore"] == pytest.approx(raw[who].mean(), abs=1e-4)
    chance = 1 / (1 + np.exp(raw["student"] - raw["teacher"]))
    assert found["teacher"]["pickscore_probability"] == pytest.approx(chance.mean(), abs=1e-5)
    assert found["student"]["pickscore_probability"] == pytest.approx(1 - chance.mean(), abs=1e-5)
    alone = measure(
        open_scores(ScoresConfig(["pickscore"], {"pickscore": {"path": folder}}), "cpu"),
        {"student": made["student"]},
        PROMPTS,
    )
    assert "pickscore_probability" not in alone["student"]


HEADS = {
    "linear": nn.Linear(clips.JOINT, 1),
    "mlp": nn.Sequential(
        nn.Linear(clips.JOINT, 12), nn.Dropout(0.2), nn.Linear(12, 8), nn.Dropout(0.2), nn.Linear(8, 6),
        nn.Dropout(0.1), nn.Linear(6, 4), nn.Linear(4, 1),
    ),
    "relu": nn.Sequential(
        nn.Linear(clips.JOINT, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADS)
def test_aesthetic_heads_of_all_published_layouts(folder, made, tmp_path, kind):
    head = shaken(HEADS[kind], seed=3)
    prefix = "" if kind == "linear" else "layers."
    torch.save({prefix + key: value for key, value in head.state_dict().items()}, tmp_path / "head.pth")
    options = {"path": folder, "head": str(tmp_path / "head.pth")}
    scores = open_scores(ScoresConfig(["aesthetic"], {"aesthetic": options}), "cpu")
    found = measure(scores, made, PROMPTS)
    for who in made:
        with torch.no_grad():
            wanted = head(torch.from_numpy(vectors(folder, made[who])[0])).mean().item()
        assert found[who]["aesthetic_score"] == pytest.approx(wanted, abs=1e-5)
    assert scores[0].model.startswith("head.pth (")


def test_aesthetic_heads_that_do_not_fit(folder, tmp_path):
    with pytest.raises(UserError, match="no aesthetic head that is known"):
        head_of({"fc.weight": torch.zeros(1, 2)}, "x.pth")
    torch.save(nn.Linear(5, 1).state_dict(), tmp_path / "head.pth")
    with pytest.raises(UserError, match="reads 5 features"):
        SCORES.get("aesthetic")("cpu", path=folder, head=str(tmp_path / "head.pth"))


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    """(folder of the base CLIP, weights in open_clip's layout, the network that they are of)."""
    place = tmp_path_factory.mktemp("hps")
    base = clips.write_clip(place / "clip-h", act="gelu")
    network = shaken(OpenClip(len(clips.clip_tokenizer())), seed=5)
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, place / "hps.pt")
    return str(base), str(place / "hps.pt"), network


def test_hpsv2_is_the_open_clip_network_by_another_name(hps, made):
    base, weights, network = hps
    score = HpsV2("cpu", weights=weights, path=base)
    pixels = (to_uint8(made["teacher"]).numpy() / 255 - MEAN_RGB) / STD_RGB
    tokenizer = clips.clip_tokenizer(clips.TOKENS)
    tokens = torch.tensor(tokenizer(PROMPTS, padding="max_length", max_length=clips.TOKENS)["input_ids"])
    with torch.no_grad():
        picture, text = network.visual(torch.from_numpy(pixels).float()), network.encode_text(tokens)
    wanted = nn.functional.cosine_similarity(picture, text)
    torch.testing.assert_close(score.read(to_uint8(made["teacher"]), PROMPTS), wanted, rtol=1e-4, atol=1e-5)


def test_hpsv2_puts_oblong_pictures_between_bars(hps):
    base, weights, _ = hps
    score = HpsV2("cpu", weights=weights, path=base)
    seen = score.clip.prepare(torch.full((1, 3, 40, 80), 255, dtype=torch.uint8))
    black, white = ((v - MEAN_RGB[:, 0, 0]) / STD_RGB[:, 0, 0] for v in (0.0, 1.0))
    assert seen.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(seen[0, :, 7, 5], black, atol=1e-5)
    np.testing.assert_allclose(seen[0, :, 8, 5], white, atol=1e-5)
    np.testing.assert_allclose(seen[0, :, 23, 5], white, atol=1e-5)
    np.testing.assert_allclose(seen[0, :, 24, 5], black, atol=1e-5)


def test_weights_of_another_network_are_named(hps, tmp_path):
    base, _, network = hps
    with pytest.raises(UserError, match=r'"visual.conv2.weight" is no tensor'):
        from_open_clip({"visual.conv2.weight": torch.zeros(1)})
    state = network.state_dict()
    torch.save({k: v for k, v in state.items() if k != "visual.ln_post.bias"}, tmp_path / "less.pt")
    with pytest.raises(UserError, match=r"it lacks vision_model.post_layernorm.bias"):
        HpsV2("cpu", weights=str(tmp_path / "less.pt"), path=base)
    torch.save(state | {"visual.proj": torch.zeros(32, 8)}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=r"visual_projection.weight is \(8, 32\), and \(16, 32\) is wanted"):
        HpsV2("cpu", weights=str(tmp_path / "odd.pt"), path=base)


def test_the_layout_is_open_clips_own(hps, made):
    model = pytest.importorskip("open_clip.model")
    _, _, network = hps
    vision = {"image_size": clips.SIDE, "layers": clips.LAYERS, "width": clips.WIDTH, "patch_size": clips.PATCH}
    vision["head_width"] = clips.WIDTH // clips.HEADS
    text = {"context_length": clips.TOKENS, "vocab_size": len(clips.clip_tokenizer()), "width": clips.WIDTH}
    theirs = model.CLIP(clips.JOINT, vision, text | {"heads": clips.HEADS, "layers": clips.LAYERS}).eval()
    theirs.load_state_dict(network.state_dict())
    tokens = torch.randint(0, len(clips.clip_tokenizer()), (4, clips.TOKENS))
    with torch.no_grad():
        torch.testing.assert_close(network.visual(made["teacher"]), theirs.encode_image(made["teacher"]))
        torch.testing.assert_close(network.encode_text(tokens), theirs.encode_text(tokens))


def test_imagereward_is_its_authors_network_by_another_name(made, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "chair", "blue", "cup", "side", ",", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    reference = shaken(RewardReference(len(words) + 2), seed=7, by=0.1)
    torch.save(reference.file(), tmp_path / "ImageReward.pt")
    score = ImageReward("cpu", str(tmp_path / "ImageReward.pt"), str(tmp_path))
    ids = [[2, 5, 6, 7, 3], [2, 5, 8, 9, 3], [2, 1, 1, 1, 3], [2, 5, 6, 1, 11, 10, 1, 3]]
    tokens = torch.tensor([row + [0] * (35 - len(row)) for row in ids])
    pixels = (to_uint8(made["student"]).numpy() / 255 - MEAN_RGB) / STD_RGB
    with torch.no_grad():
        raw = reference(torch.from_numpy(pixels).float(), tokens, tokens > 0)
    torch.testing.assert_close(score.read(to_uint8(made["student"]), PROMPTS), (raw - MEAN) / STD, rtol=1e-4, atol=1e-4)
    torch.save({"epoch": torch.zeros(1)}, tmp_path / "ImageReward.pt")
    with pytest.raises(UserError, match=r'no ImageReward: it holds "epoch"'):
        ImageReward("cpu", str(tmp_path / "ImageReward.pt"), str(tmp_path))


def test_r_precision_counts_pictures_that_find_their_prompt(folder, made, tmp_path):
    picture, text, _ = vectors(folder, made["teacher"])
    near = picture @ text.T
    wanted = (near.argmax(1) == np.arange(4)).mean()
    options = {"r_precision": {"path": folder}}
    found = measure(open_scores(ScoresConfig(["r_precision"], options), "cpu"), made, PROMPTS)
    assert found["teacher"]["clip_r_precision"] == pytest.approx(wanted)
    # each picture with the prompt that it is nearest to finds it; with the farthest it does not
    score = open_scores(ScoresConfig(["r_precision"], options), "cpu")[0]
    score.pool = PROMPTS
    pictures = to_uint8(made["teacher"])
    assert score.read(pictures, [PROMPTS[k] for k in near.argmax(1)]).tolist() == [1, 1, 1, 1]
    assert score.read(pictures, [PROMPTS[k] for k in near.argmin(1)]).tolist() == [0, 0, 0, 0]
    (tmp_path / "pool.txt").write_text("\n".join(["a red chair", *PROMPTS]))
    pooled = ScoresConfig(["r_precision"], {"r_precision": {"path": folder, "prompts": str(tmp_path / "pool.txt")}})
    assert open_scores(pooled, "cpu")[0].definition.endswith("among 4 prompts of pool.txt")
    with pytest.raises(UserError, match="R-precision needs other prompts"):
        open_scores(ScoresConfig(["r_precision"], options), "cpu")[0].read(pictures[:2], ["same", "same"])


def test_fid_against_a_folder_and_against_its_statistics(made, tmp_path):
    from scorefield.evaluation.features import open_features
    from scorefield.evaluation.judge import Judge
    from scorefield.evaluation.metrics import FeatureStatistics

    torch.manual_seed(0)
    Judge({"object": ["a", "b"]}, (8, 8, 8, 8)).save(tmp_path / "judge")
    real = torch.rand(10, 3, 32, 32) * 2 - 1
    for k, picture in enumerate(real):  # two sizes: each picture is read as it lies on disk
        save_image(picture if k < 4 else picture[:, :24], tmp_path / "real" / str(k % 2) / f"{k}.png")
    options = {"features": str(tmp_path), "reference": str(tmp_path / "real")}
    network = open_features(str(tmp_path))
    order = sorted(range(10), key=lambda k: (k % 2, k))
    parts = [network.read(to_uint8(real[k : k + 1] if k < 4 else real[k : k + 1, :, :24]))[0] for k in order]
    wanted = frechet_distance(torch.cat(parts), network.read(to_uint8(made["teacher"]))[0])
    scores = open_scores(ScoresConfig(["fid"], {"fid": options}), "cpu")
    found = measure(scores, made, PROMPTS)["teacher"]
    assert found == {"fd_judge": pytest.approx(wanted, rel=1e-4)}
    assert facts(scores)["fd_judge"]["definition"].endswith("10 pictures of real")
    assert facts(scores)["fd_judge"]["better"] == "lower"
    FeatureStatistics(network.identity).update(torch.cat(parts)).save(tmp_path / "real.npz")
    options["reference"] = str(tmp_path / "real.npz")
    again = measure(open_scores(ScoresConfig(["fid"], {"fid": options}), "cpu"), made, PROMPTS)["teacher"]
    assert again["fd_judge"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["clop"], {}, 'unknown score "clop": did you mean "clip"'),
        (["clip"], {"clip": {"paht": "x"}}, 'unknown option "paht" of score "clip": did you mean "path"'),
        (["clip"], {"clip": "x"}, r"score_options.clip is 'x', not a table"),
        ([], {"clop": {}}, 'unknown score "clop"'),
        (["clip"], {"clip": {"path": "no/such"}}, "neither a folder nor in the hub's cache.*hub:no/such to download"),
        (["clip"], {"clip": {"path": "."}}, "config.json is missing"),
        (["aesthetic"], {"aesthetic": {"path": "hub:x/y"}}, "aesthetic.head is missing: give a head's weights"),
        (["hpsv2"], {"hpsv2": {"weights": "gone.pt"}}, "weights=gone.pt does not exist: give the file HPS_v2.1"),
        (["imagereward"], {}, "imagereward.weights is missing: give the file ImageReward.pt"),
        (["r_precision"], {"r_precision": {"path": "hub:x/y", "prompts": "gone.txt"}}, "gone.txt does not exist"),
        (["fid"], {"fid": {"features": "gone.pth"}}, 'no feature network "gone.pth"'),
        (["fid"], {"fid": {"features": "toybox", "reference": "gone"}}, "reference=gone does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(names, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        ScoresConfig(names, options).check_scores()


def test_a_folder_without_all_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    clips.write_clip(tmp_path / "torn")
    state = load_file(tmp_path / "torn" / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, tmp_path / "torn" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"no whole CLIPModel: visual_projection.weight is missing"):
        SCORES.get("clip")("cpu", path=str(tmp_path / "torn"))
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot load a CLIPModel from"):
        SCORES.get("clip")("cpu", path=str(tmp_path / "torn"))


def test_long_prompts_are_told(folder, capsys):
    clip = SCORES.get("clip")("cpu", path=folder).clip
    clip.texts(["a new chair", "a chair " * 9])
    clip.texts(["a chair " * 9])
    assert capsys.readouterr().out.count("1 of 2 prompts are longer than the 24 tokens that small") == 1
