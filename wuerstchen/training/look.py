"""Sheets of pictures, so that a training run can be looked at."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_bytes(pixels: Tensor) -> Tensor:
    """Return pixels (N, 3, H, W) in [0, 1] as (N, H, W, 3) in 0..255, uint8."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def save_rows(rows: Sequence[Tensor], path: Path) -> None:
    """Save batches (N, 3, H, W) of one size below each other as one picture."""
    sheet = torch.cat([torch.cat(list(to_bytes(row)), dim=1) for row in rows], dim=0)
    Image.fromarray(sheet.numpy()).save(path)
