"""How sources are written on the command line: "SOURCE*SHARE+SOURCE*SHARE" and "SOURCE:STRENGTH".

Nothing heavy is imported here, so that a wrong word is refused at once.
"""

import math
import os
import re
from pathlib import Path

TOLERANCE = 1e-3
SHARE = re.compile(r"\*\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:\+(?=\s*\S)|$)")


def parse_blend(source: str | Path) -> list[tuple[str, float]] | None:
    """Return the sources and shares of "SOURCE*SHARE+SOURCE*SHARE", None if it is no blend.

    A `Path`, the name of something that exists and a text without any `*SHARE` are no blends.

    Raises:
        ValueError: if a part lacks its source or share, or the shares do not add up to 1.
    """
    if not isinstance(source, str) or os.path.exists(os.path.expanduser(source)):
        return None
    *parts, rest = SHARE.split(source)
    if not parts:
        return None
    sources, shares = [part.strip() for part in parts[::2]], [float(part) for part in parts[1::2]]
    if rest.strip() or not all(sources):
        raise ValueError(
            "a blend must be SOURCE*SHARE+SOURCE*SHARE, such as a.safetensors*0.5+"
            f"b.safetensors*0.5, got {source!r}"
        )
    total = sum(shares)
    if not abs(total - 1) < TOLERANCE + 1e-9:
        raise ValueError(f"the shares of a blend must add up to 1, got {total:g} in {source!r}")
    return list(zip(sources, shares, strict=True))


def parse_lora(text: str) -> tuple[str, float]:
    """Return source and strength of "SOURCE" or "SOURCE:STRENGTH"; without a strength it is 1.

    Only what is a number is a strength: "C:\\x.safetensors" and "a:b" are sources.

    Raises:
        ValueError: if there is no source or the strength is not finite.
    """
    source, colon, last = text.rpartition(":")
    if not colon or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", last):
        source, last = text, "1"
    strength = float(last)
    if not source.strip() or not math.isfinite(strength):
        raise ValueError(
            f"a LoRA must be SOURCE or SOURCE:STRENGTH, such as a.safetensors:0.8, got {text!r}"
        )
    return source, strength
