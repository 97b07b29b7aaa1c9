"""Which adapter reads a pipeline: told by the class that its model_index.json names."""

from scorefield.errors import UserError, suggest
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.pipeline import PipelineTeacher, folder_or_id, pipeline_index


def adapter_of(path: str) -> str:
    """Name of the teacher adapter for a folder, hub id or asset.

    Raises UserError for what is no pipeline, and for a pipeline whose class no adapter reads.
    """
    known = {
        pipeline: name
        for name in TEACHERS
        if issubclass(TEACHERS.get(name), PipelineTeacher)
        for pipeline in TEACHERS.get(name).pipelines  # type: ignore[attr-defined]
    }
    kind = str(pipeline_index(folder_or_id(path)).get("_class_name", "pipeline without a class"))
    if kind not in known:
        raise UserError(f"teacher {path} is a {kind}, which no adapter reads: {suggest(kind, known)}")
    return known[kind]
