"""What a run keeps on its device beside networks and activations: text embeddings and the autoencoder."""

import torch

from scorefield.teachers.base import Teacher
from scorefield.teachers.pipeline import PipelineTeacher

from .settings import TextToImageConfig

SAMPLE = 256  # prompts whose tokens are counted, spread over all of them
TOKENS_A_WORD = 1.5  # where no tokenizer is at hand


def memory_beside(config: TextToImageConfig, pipeline: Teacher, prompts: list[str]) -> dict[str, int]:
    """Bytes by role; only configuration files and, where there is one, the tokenizer are read.

    Embeddings count where they stay on the device: not those streamed, nor more than ``prompts.resident_gb`` of them.
    """
    if not isinstance(pipeline, PipelineTeacher):
        return {}
    told = dict(pipeline.random_condition(1))
    text, _ = told.pop("text", None), told.pop("text_mask", None)
    size = getattr(torch, config.stored).itemsize
    row: float = sum(value.numel() for value in told.values()) * size
    if text is not None:
        row += text.shape[-1] * mean_tokens(pipeline, prompts) * size
    kept = round(len(prompts) * row)
    stays = config.prompts.embeddings == "cached" and kept <= config.prompts.resident_gb * 1e9
    found = {"embeddings": kept} if stays else {}
    return found | {"autoencoder": size} if (size := autoencoder_bytes(pipeline)) else found


def mean_tokens(pipeline: PipelineTeacher, prompts: list[str]) -> float:
    """Tokens of a prompt that are kept, on average."""
    chosen = prompts[:: max(1, len(prompts) // SAMPLE)]
    tokenizer = pipeline.index.get("tokenizer") and pipeline.part("tokenizer")
    if tokenizer:
        counts = [len(ids) for ids in tokenizer(chosen, verbose=False).input_ids]
    else:
        counts = [round(TOKENS_A_WORD * len(prompt.split())) + 1 for prompt in chosen]
    return sum(min(count, pipeline.text_length()) for count in counts) / len(counts)


def autoencoder_bytes(pipeline: PipelineTeacher) -> int:
    """Of its weights, float32; 0 where its class is not named."""
    if (kind := pipeline.class_of("vae")) is None:
        return 0
    with torch.device("meta"):
        network = kind.from_config(pipeline.settings("vae"))
    return sum(p.numel() * 4 for p in network.parameters())
