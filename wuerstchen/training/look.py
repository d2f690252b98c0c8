"""Sheets of pictures, so that a training run and a finished model can be looked at."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, LABEL, COLUMNS = 160, 58, 6  # pixels, pixels, pictures in a row


def to_bytes(pixels: Tensor) -> Tensor:
    """Return pixels (N, 3, H, W) in [0, 1] as (N, H, W, 3) in 0..255, uint8, on the CPU."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def save_rows(rows: Sequence[Tensor], path: Path) -> None:
    """Save batches (N, 3, H, W) of one size below each other as one picture."""
    sheet = torch.cat([torch.cat(list(to_bytes(row)), dim=1) for row in rows], dim=0)
    Image.fromarray(sheet.numpy()).save(path)


def save_labelled(pictures: Sequence[np.ndarray], prompts: Sequence[str], path: Path) -> None:
    """Save pictures (H, W, 3), uint8, each above its prompt, as one picture."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8) + 8, rows * (CELL + LABEL) + 8), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        x, y = 8 + i % COLUMNS * (CELL + 8), 8 + i // COLUMNS * (CELL + LABEL)
        image = Image.fromarray(picture)
        image.thumbnail((CELL, CELL))
        sheet.paste(image, (x, y))
        pen.text((x, y + CELL + 2), "\n".join(textwrap.wrap(prompt, 27)), "black", font, spacing=1)
    sheet.quantize(64).save(path, optimize=True)
