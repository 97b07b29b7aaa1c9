"""Open a teacher: its adapter is named, or told by the class that its model_index.json names."""

import torch

from scorefield.errors import UserError, suggest
from scorefield.registry import construct
from scorefield.teachers.base import TEACHERS, Teacher
from scorefield.teachers.pipeline import PipelineTeacher, folder_or_id, pipeline_index
from scorefield.teachers.settings import TeacherConfig


def open_teacher(settings: TeacherConfig, device: str) -> Teacher:
    """The teacher that ``settings`` name, its networks still unloaded.

    Raises UserError for an unknown name, an option that it does not have, and a path that holds no such teacher.
    """
    name = adapter_of(settings.path) if settings.name == "auto" else settings.name
    given = settings.path, device, getattr(torch, settings.dtype), settings.max_tokens
    return construct("teacher", name, TEACHERS.get(name), settings.options, *given)


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
