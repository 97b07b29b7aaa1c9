"""The model card of an exported student: front matter that the hub reads, and what the run itself recorded."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorefield.errors import UserError, suggest
from scorefield.files import read_json
from scorefield.runfolder import RunFolder

# identifiers that the hub takes as ``license``
IDENTIFIERS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other
"""
LICENSES = frozenset(IDENTIFIERS.split())
# of published teachers, where their own card is not at hand
KNOWN = {
    "PixArt-alpha/PixArt-XL-2-512x512": ("openrail++", "", ""),
    "PixArt-alpha/PixArt-XL-2-1024-MS": ("openrail++", "", ""),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("creativeml-openrail-m", "", ""),
    "stabilityai/stable-diffusion-xl-base-1.0": ("openrail++", "", ""),
    "stabilityai/stable-diffusion-3.5-medium": ("other", "stabilityai-ai-community", "LICENSE.md"),
    "black-forest-labs/FLUX.1-dev": ("other", "flux-1-dev-non-commercial-license", "LICENSE.md"),
    "black-forest-labs/FLUX.1-schnell": ("apache-2.0", "", ""),
}
FIGURES = {  # of summary.json: (what the table calls it, what the hub calls it)
    "prompt_accuracy": ("prompt accuracy", "accuracy"),
    "frechet": ("Fréchet distance", "frechet_distance"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
    "diversity": ("diversity", "diversity"),
}
NOT_QUALITY = {"steps", "guidance", "seconds_per_image", "samples"}


@dataclass
class Base:
    """What a student was distilled from.

    Attributes:
        path: as in the configuration. hub: its hub id, "" where it has none.
        license, license_name, license_link: as the hub's front matter has them; "" where nothing says.
    """

    path: str
    hub: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""

    @property
    def name(self) -> str:
        """For people: no place of this machine."""
        return self.hub or short(self.path)


def base_of(path: str, base_model: str = "", license: str = "", license_link: str = "") -> Base:
    """The base at ``path`` (asset, folder, hub id); the other arguments go before what its own card says.

    A licence that the hub has no identifier for becomes "other" with a name and a link.
    Raises UserError for such a licence without a link.
    """
    local = Path(path).is_dir()
    hub = base_model or ("" if local or "/" not in path else path)
    base = Base(path, hub)
    own = own_card(path) if local or "/" in path else {"license": "apache-2.0"}  # an asset is of this repository
    base.hub = hub or (own["base_model"] if isinstance(own.get("base_model"), str) else "")
    if license:
        if license in LICENSES and license != "other":
            base.license, base.license_link = license, license_link
        elif license_link:
            base.license, base.license_name, base.license_link = "other", license, license_link
        else:
            raise UserError(
                f'the hub has no licence identifier "{license}": give --license-link as well, or one of its own; '
                f"{suggest(license, LICENSES)}"
            )
    elif isinstance(own.get("license"), str):
        base.license, base.license_name, base.license_link = (
            str(own.get(key) or "") for key in ("license", "license_name", "license_link")
        )
        if base.license_link and "://" not in base.license_link and base.hub:
            base.license_link = linked(base.hub, base.license_link)
    elif base.hub in KNOWN:
        base.license, base.license_name, link = KNOWN[base.hub]
        base.license_link = linked(base.hub, link) if link else ""
    return base


def linked(hub: str, file: str) -> str:
    """Address of a file of a hub repository."""
    return f"https://huggingface.co/{hub}/blob/main/{file.removeprefix('./')}"


def own_card(path: str) -> dict[str, Any]:
    """Front matter of the base's own card, from its folder or from the hub; {} where there is none to be had."""
    from huggingface_hub import ModelCard, hf_hub_download

    from scorefield.teachers.hub import PATIENCE

    try:
        file = Path(path) / "README.md"
        if not Path(path).is_dir():
            file = Path(hf_hub_download(path, "README.md", etag_timeout=PATIENCE))
        return ModelCard.load(file, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # no card, no network, no valid YAML: then nothing is known, which the card says
        return {}


@dataclass
class Card:
    """All that a card says.

    Attributes:
        name: of the export. title: one line on what it is. usage: Markdown that shows how it is run.
        base: what it was distilled from. relation: "finetune" or "adapter".
        tags: of the hub. task: the hub's pipeline tag, "" for none.
        folder: the run. samples: (prompt, {who: file within the export}) of pictures.
    """

    name: str
    title: str
    usage: str
    base: Base
    folder: RunFolder
    relation: str = "finetune"
    tags: list[str] = field(default_factory=list)
    task: str = "text-to-image"
    samples: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def text(self) -> str:
        """README.md with its front matter."""
        from huggingface_hub import ModelCard

        body = "\n\n".join(part for part in self._sections() if part)
        return str(ModelCard(f"---\n{self._front()}\n---\n\n{body}\n"))

    def _front(self) -> str:
        from huggingface_hub import ModelCardData

        base = self.base
        more: dict[str, Any] = {"base_model_relation": self.relation} if base.hub else {}
        if self.samples:
            more["widget"] = [{"text": prompt, "output": {"url": who["student"]}} for prompt, who in self.samples]
        results = self._results()
        data = ModelCardData(
            base_model=base.hub or None,
            license=base.license or None,
            license_name=base.license_name or None,
            license_link=base.license_link or None,
            library_name="diffusers",
            pipeline_tag=self.task or None,
            tags=self.tags,
            model_name=self.name if results else None,
            eval_results=results or None,
            **more,
        )
        return data.to_yaml()

    def _figures(self) -> dict[str, dict[str, Any]]:
        """{who: figures} of summary.json with its further pipelines, those that were measured."""
        summary = self.folder.summary()
        rows = {who: summary.get(who) or {} for who in ("real", "teacher", "student")}
        rows |= summary.get("peers") or {}
        return {who: row for who, row in rows.items() if any(number(value) for value in row.values())}

    def _results(self) -> list[Any]:
        from huggingface_hub import EvalResult

        summary = self.folder.summary()
        row = summary.get("student") or {}
        return [
            EvalResult(
                task_type=self.task or "image-generation",
                dataset_type="prompts",
                dataset_name=prompts_of(self.folder),
                metric_type=FIGURES.get(key, (key, key))[1],
                metric_name=FIGURES.get(key, (key, key))[0],
                metric_value=round(float(value), 6),
            )
            for key, value in row.items()
            if number(value) and key not in NOT_QUALITY
        ]

    def _sections(self) -> list[str]:
        return [
            f"# {self.name}",
            self.title,
            self.usage,
            self._table(),
            self._pictures(),
            self._training(),
            self._licence(),
            f"## Whole configuration\n\n```yaml\n{public(self.folder.config_text()).strip()}\n```",
        ]

    def _table(self) -> str:
        rows = self._figures()
        if "student" not in rows:
            return "## Figures\n\nNot measured: the run was not finished when this was exported."
        keys = list(dict.fromkeys(key for row in rows.values() for key, value in row.items() if number(value)))
        keys.sort(key=lambda key: (key not in ("steps", "guidance"), key == "seconds_per_image"))
        heads = [FIGURES.get(key, (key.replace("_", " "), ""))[0] for key in keys]
        lines = [f"| | {' | '.join(heads)} |", "|---" * (len(keys) + 1) + "|"]
        for who, row in rows.items():
            lines.append(f"| {who} | {' | '.join(shown(row.get(key)) for key in keys)} |")
        summary = self.folder.summary()
        network = summary.get("feature_network")
        told = f"On {prompts_of(self.folder)}."
        told += f" Distances, precision, recall and diversity are in the features of {network}." if network else ""
        return "\n".join(["## Figures", "", told, "", *lines])

    def _pictures(self) -> str:
        if not self.samples:
            return ""
        players = [who for who in ("teacher", "student") if who in self.samples[0][1]]
        lines = [f"| prompt | {' | '.join(players)} |", "|---" * (len(players) + 1) + "|"]
        for prompt, files in self.samples:
            cells = " | ".join(f"![{who}]({files[who]})" for who in players)
            lines.append(f"| {prompt.replace('|', '/')} | {cells} |")
        return "\n".join(["## Samples", "", "The first held-out prompts, not chosen.", "", *lines])

    def _training(self) -> str:
        import yaml

        config = yaml.safe_load(self.folder.config_text()) or {}
        rows = training_rows(config, self.folder.summary(), recorded(self.folder))
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["## Training", "", "| | |", "|---|---|", *lines])

    def _licence(self) -> str:
        base = self.base
        named = base.license_name or base.license
        if not named:
            return (
                f"## Licence\n\nThe weights derive from {base.name}, whose licence is not known here: state it before "
                "these are passed on."
            )
        at = f" ({base.license_link})" if base.license_link else ""
        return f"## Licence\n\nThe weights derive from {base.name} and are under its licence, {named}{at}."


def recorded(folder: RunFolder) -> dict[str, Any]:
    """environment.json of a run, {} where there is none."""
    path = folder.path / "environment.json"
    return read_json(path) if path.exists() else {}


def training_rows(config: dict[str, Any], summary: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """What the run was, in the order of a reader's questions; only what its files say."""

    def get(key: str) -> Any:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    loss = ", ".join(f"{key} {value}" for key, value in (config.get("loss") or {}).items() if value is not None)
    versions = environment.get("versions") or {}
    found = {
        "teacher": short(get("teacher.path")),
        "loss": loss.removeprefix("name "),
        "student": f"{get('generator.name')}, {get('generator.kind')}",
        "online score": get("online.kind"),
        "noise level of the input": get("generator.init_sigma"),
        "guidance scale on the teacher": get("training.guidance_scale"),
        "iterations": summary.get("iterations") or get("training.iterations"),
        "batch": get("training.batch"),
        "generated images": summary.get("images_generated"),
        "learning rates": f"student {get('training.generator.learning_rate')}, "
        f"online {get('training.online.learning_rate')}",
        "precision": get("training.precision"),
        "prompts": short(get("prompts.path")),
        "seed": get("training.seed"),
        "machine": environment.get("machine") and f"{environment['machine']}, {environment.get('device', '')}",
        "wall time": summary.get("wall_seconds") and f"{summary['wall_seconds']:.0f} s",
        "made with": f"scorefield {versions.get('scorefield', '')}, torch {versions.get('torch', '')}, "
        f"diffusers {versions.get('diffusers', '')}",
    }
    return {key: value for key, value in found.items() if value not in (None, "", "None")}


def prompts_of(folder: RunFolder) -> str:
    """What a run was measured on, in words."""
    import yaml

    config = yaml.safe_load(folder.config_text()) or {}
    settings = config.get("evaluation") or {}
    count = folder.summary().get("evaluated_prompts") or settings.get("samples")
    named = settings.get("prompts") or (config.get("prompts") or {}).get("path")
    return f"{count} held-out prompts of {short(named)}"


def short(path: Any) -> str:
    """A local path by its name alone: where it lies on this machine is nobody's business. Anything else as it is."""
    return Path(str(path)).name if Path(str(path)).is_absolute() else str(path)


def public(config: str) -> str:
    """A configuration without the places of this machine."""
    return re.sub(r"(?<=: )/\S+", lambda found: short(found[0]), config)


def number(value: Any) -> bool:
    """Whether ``value`` is a figure."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A figure for a table."""
    if not number(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
