"""Reading parts of a pipeline from a local folder or the hub, with one clear sentence when that fails."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from scorefield.errors import UserError
from scorefield.files import read_json

PATIENCE = 5  # seconds for the hub's first answer


def quiet() -> None:
    """No progress bars of the libraries between our own lines."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("diffusers.models.modeling_utils").addFilter(told_by_us)


def told_by_us(record: logging.LogRecord) -> bool:
    """False for what diffusers logs just before it raises the same."""
    return not str(record.msg).startswith("An error occurred while trying to fetch")


def read_settings(path: str, part: str, name: str) -> dict[str, Any]:
    """The JSON file ``part/name`` of a pipeline ("" for its root).

    Raises UserError: no such folder or repository, a gated one, the hub out of reach, a broken file.
    """
    file = f"{part}/{name}" if part else name
    local = Path(path) / file
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            local = Path(hf_hub_download(path, file, etag_timeout=PATIENCE, local_files_only=not reachable()))
        except Exception as error:
            raise UserError(explain(error, path, file)) from error
    elif not local.exists():
        raise UserError(f"{path} is no whole pipeline folder: {file} is missing")
    try:
        return read_json(local)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} of {path} is not whole JSON: {error}") from error


def load(loader, path: str, part: str, **options):
    """``loader.from_pretrained`` of a part; raises UserError with the reason in one sentence."""
    quiet()
    if options.get("variant") in ("", None):
        options.pop("variant", None)
    if not Path(path).is_dir() and not reachable():
        options["local_files_only"] = True
    try:
        return loader.from_pretrained(path, subfolder=part, **options)
    except Exception as error:
        raise UserError(explain(error, path, part, options.get("variant", ""))) from error


def absent(index: dict[str, Any], kind: Any) -> list[str]:
    """Parts that model_index.json goes without and that the pipeline's class ``kind`` must be told are None."""
    return [
        name
        for name, value in index.items()
        if isinstance(value, list) and value[0] is None and name not in kind._optional_components
    ]


@cache
def reachable() -> bool:
    """Whether the hub answers, asked once and briefly: its own client would try for minutes before it gave up.

    Where it does not, only what was downloaded before is looked for.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # of the client's own kinds: no name, no route, no certificate, no answer in time
        return False
    return True


def explain(error: Exception, path: str, part: str, variant: str = "") -> str:
    """Why ``part`` of ``path`` cannot be had and what to do about it, in one sentence."""
    names = {type(link).__name__ for link in chain(error)}
    if "GatedRepoError" in names:
        return (
            f"{path} is gated: accept its terms on its page and log in (hf auth login, or HF_TOKEN), "
            "or give a local folder as teacher.path"
        )
    if names & {"RepositoryNotFoundError", "HFValidationError"}:
        return (
            f"teacher.path {path} is no local folder, and the hub has no such repository or it is private: check the "
            "name, log in (hf auth login), or give a local folder"
        )
    if told := without_variant(path, part, variant):
        return told
    text = str(error).strip().splitlines()
    first = text[0] if text else type(error).__name__
    if Path(path).is_dir() or "EntryNotFoundError" in names:
        return f"cannot load {part} of {path}: {first}"
    away = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "ConnectTimeout"}
    if names & (away | {"Timeout", "ReadTimeout"}):
        return (
            f"teacher.path {path} is neither a local folder nor a hub repository that can be reached (it is not in the "
            "cache either): give a local folder, or download it where there is a network (hf download)"
        )
    return f"cannot load {part} of {path}: {first}"


def chain(error: BaseException | None):
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def without_variant(path: str, part: str, variant: str) -> str:
    """One sentence where ``part`` of a local folder has weights, but none of ``variant``; else ""."""
    if not variant or not Path(path).is_dir() or not (there := variants(Path(path) / part)) or variant in there:
        return ""
    return f'{part} of {path} has no weights of the variant "{variant}": there are {", ".join(sorted(there))}'


def variants(folder: Path) -> set[str]:
    """Variants of the weights in a folder; "none" for those without one."""
    stems = [path.name.split(".")[:-1] for path in folder.glob("*.safetensors")]
    return {parts[-1].split("-")[0] if len(parts) > 1 else "none" for parts in stems}
