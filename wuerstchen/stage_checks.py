"""What a stage takes: text features, pixels, latents with masks, and networks of one model.

Anything else is refused with what it is and what would fit; so are results beyond a precision.
"""

from typing import Any

import torch
from torch import Tensor

from .checkpoints.files import CheckpointError
from .sampling import from_published
from .sizes import cells

OVERSHOOT = 0.25  # of pixels beyond 0 and 1, which scaling leaves


def check_fit(model: Any) -> None:
    """Refuse stages that do not fit together.

    Raises:
        CheckpointError: with both sizes.
    """
    b, c = model.stage_b.config, model.stage_c.config
    pairs = {
        "the prior takes features of the text of": (c.c_cond, model.prior_text.width),
        "the decoder takes features of the text of": (b.clip_embd, model.decoder_text.width),
        "the decoder takes a semantic latent of": (b.effnet_embd, c.c_in),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise CheckpointError(
                f"{what} {expected} channels, but the other part has {found}; parts of different "
                "models do not mix: give the model that they belong to (for the published ones, v2)"
            )


def finite(found: Tensor, stage: str, dtype: torch.dtype) -> Tensor:
    """Return what a stage found; refuse other than finite numbers.

    Raises:
        ValueError: with what to change.
    """
    if not found.isfinite().all():
        raise ValueError(
            f"the result of {stage} must be of finite numbers, got others in {dtype}; take dtype bf16 "
            "or fp32, fewer or weaker LoRAs, or another checkpoint"
        )
    return found


def check_features(text: Tensor, width: int, n: int) -> None:
    """Refuse features of another text tower, or not of one text or `n`.

    Raises:
        ValueError: with the rule.
    """
    if not isinstance(text, Tensor) or text.ndim != 3 or text.shape[2] != width:
        found = list(text.shape) if isinstance(text, Tensor) else type(text).__name__
        raise ValueError(
            f"text must be features (N, L, {width}) of this stage's own text tower, got {found}"
        )
    if len(text) not in (1, n) or n == 0:
        raise ValueError(f"one generator per text, got {n} for {len(text)}")


def check_pixels(pixels: Tensor) -> None:
    """Refuse pixels that the compressor cannot read.

    Raises:
        ValueError: with the rule.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        kind = f"{str(pixels.dtype).removeprefix('torch.')} of the shape {list(pixels.shape)}"
        raise ValueError(f"pixels must be floats of the shape (N, 3, H, W), got {kind}")
    height, width = pixels.shape[2:]
    if any(side < 1 or cells(side).pixels != side for side in (width, height)):
        raise ValueError(
            f"the sides of a picture must be multiples of 128 pixels, got {width}×{height}"
        )
    if len(pixels) and not bool((pixels >= -OVERSHOOT).all() & (pixels <= 1 + OVERSHOOT).all()):
        least, most = (float(end) for end in pixels.aminmax())
        raise ValueError(f"pixels must be from 0 to 1, got some from {least:g} to {most:g}")


def known_z(latent: Tensor, mask: Tensor | None, like: Tensor) -> Tensor:
    """Return z (N, 16, h, w) of a latent 42 z - 1 of N or 1 rows, as `like` is.

    Raises:
        ValueError: if latent or mask are not one for all rows or one for each, or of other shapes.
    """
    if latent.ndim != 4 or len(latent) not in (1, len(like)):
        raise ValueError(f"one latent per generator, got {len(latent)} for {len(like)}")
    if latent.shape[1:] != like.shape[1:]:
        wanted, found = list(like.shape[1:]), list(latent.shape[1:])
        raise ValueError(f"a latent for this model and size has the shape {wanted}, got {found}")
    if mask is not None and (
        mask.ndim != 4 or len(mask) not in (1, len(like)) or mask.shape[2:] != latent.shape[2:]
    ):
        raise ValueError(
            "a mask has one row or one per generator, and the latent's rows and columns, got "
            f"{list(mask.shape)} for a latent {list(latent.shape)}"
        )
    return from_published(latent.to(like)).expand_as(like)
