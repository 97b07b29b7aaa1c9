"""What tells networks apart: their weights (and tokenizer), not the place that they were loaded from."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED = 16  # places of each tensor that are looked at one by one
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def of_module(module: nn.Module, dtype: torch.dtype | None = None) -> str:
    """12 hex digits of all weights as they are loaded (or rounded to ``dtype``), the same on every device.

    Every tensor's bits are summed as integers, which no order of summation changes; some of its places are read beside,
    since a sum does not see an exchange.
    """
    digest, numbers = hashlib.sha256(), []
    for name, value in sorted(module.state_dict().items()):
        value = value.to(dtype) if dtype is not None and value.is_floating_point() else value
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        bits = _bits(value)
        if bits.numel():
            places = torch.arange(min(SAMPLED, bits.numel()), device=bits.device) * bits.numel() // SAMPLED
            numbers += [bits.sum(dtype=torch.int64)[None], bits[places].long()]
    digest.update(json.dumps(torch.cat(numbers).tolist() if numbers else []).encode())
    return digest.hexdigest()[:12]


def _bits(value: Tensor) -> Tensor:
    flat = value.detach().contiguous().flatten()
    return flat.long() if flat.dtype == torch.bool else flat.view(BITS[flat.element_size()])


def of_tokenizer(tokenizer: Any) -> str:
    """12 hex digits of a transformers tokenizer: vocabulary, rules, special tokens and length."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        told = json.loads(backend.to_str())
        for changed_by_calls in ("truncation", "padding"):
            told.pop(changed_by_calls, None)
    else:
        told = sorted(tokenizer.get_vocab().items())
    marks = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    whole = [told, marks, tokenizer.model_max_length]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
