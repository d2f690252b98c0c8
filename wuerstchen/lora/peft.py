"""PEFT's adapter config: the alpha of each layer, in a file beside a LoRA's tensors or in their header.

It holds an alpha for all layers, others for those that match a pattern, and how an alpha and the rank
become a scale.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoints.files import LONGEST_NAME, SAFE, parsed
from .names import PRIOR, TEXT, Target

CONFIG_FILE, CONFIG_ENTRY = "adapter_config.json", "lora_adapter_metadata"
# Repeats and groups in a pattern, and alternatives: with so many a comparison takes 20 ms at most.
MOST_MARKS, MOST_CHOICES = 5, 50


def adapter_config(path: Path) -> dict[str, Any]:
    """Return what PEFT wrote of a LoRA in the file's header or beside it, nothing if it did not."""
    from safetensors import safe_open

    beside = path.with_name(CONFIG_FILE)
    if path.name.startswith("adapter_model.") and beside.is_file():
        return parsed(beside.read_bytes(), beside)
    if path.suffix.lower() not in SAFE:
        return {}
    with safe_open(path, framework="pt") as file:
        entry = (file.metadata() or {}).get(CONFIG_ENTRY)
    return {} if entry is None else parsed(entry, path)


def adapter_scale(config: Mapping[str, Any], target: Target, rank: int) -> float:
    """Return PEFT's scale of a layer: alpha / rank, or alpha / √rank if the config says so.

    Entries have the part's name before them where a file has several parts.

    Raises:
        ValueError: if it is not a finite number; also ArithmeticError, AttributeError, TypeError
            or re.error.
    """

    def entry(name: str, otherwise: Any) -> Any:
        parts = (f"{target.part}.", "unet." if target.part == PRIOR else "", "")
        return next((config[p + name] for p in parts if p + name in config), otherwise)

    alpha, layer = entry("lora_alpha", rank), target.layer
    if target.part == TEXT:  # as it is named where the adapter was made
        layer = f"text_model.{layer.removeprefix('text_model.')}"
    for pattern, own in (entry("alpha_pattern", None) or {}).items():
        if matcher(pattern).fullmatch(layer):
            alpha = own
            break
    scale = float(alpha) / (math.sqrt(rank) if entry("use_rslora", False) else rank)
    if not math.isfinite(scale):
        raise ValueError(f"lora_alpha {alpha}")
    return scale


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> re.Pattern[str]:
    """Return one of PEFT's patterns of layer names, compiled as PEFT matches it.

    Raises:
        ValueError: if it is long, or could take for ever to match: if it repeats a group, or has
            more than a few repeats and groups; also OverflowError and re.error.
    """
    bare = re.sub(r"\\.|\[[^]]*\]", "", pattern)  # without escapes and sets
    marks = len(re.findall(r"[*+?{(]", bare.replace("(?:", "(")))
    refused = re.search(r"\)[*+{]|\(\?[^:!=<]", bare)  # a group repeated, or with comments and such
    if marks > MOST_MARKS or bare.count("|") > MOST_CHOICES or refused:
        raise ValueError(f"the pattern {pattern[:40]!r}, which may take for ever")
    if len(pattern) > LONGEST_NAME:
        raise ValueError(f"a pattern of {len(pattern)} characters")
    return re.compile(rf"(.*\.)?({pattern})")
