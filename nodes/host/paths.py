"""Several prompts or latents in one batch: along a path, or from a list."""

from typing import Any

import torch

from ...wuerstchen.interpolation import between
from ...wuerstchen.prompt_files import text_rows
from ...wuerstchen.sampling import LATENT_SHIFT
from .checks import check_channels
from .towers import encode


def latents_between(start: dict[str, Any], end: dict[str, Any], frames: int) -> dict[str, Any]:
    """Return a batch of Stage C latents along the arc from one to another, ends included.

    All are decoded with the noise of the first, so that the details stay as quiet as they can.

    Raises:
        ValueError: if one is not Stage C's or is a batch, or they differ in size.
    """
    for latent in (start, end):
        check_channels(latent["samples"], 16, "connect the output of Würstchen Stage C Sampler")
        if len(latent["samples"]) != 1:
            count = len(latent["samples"])
            raise ValueError(f"a path leads from one latent to one, got {count}; take one of them")
    stops = [latent["samples"].float() for latent in (start, end)]
    samples = between(stops, frames, dims=3, centre=-LATENT_SHIFT)
    others = {key: value for key, value in start.items() if key != "noise_mask"}
    place = start.get("batch_index", [0])[:1]
    return {**others, "samples": samples, "batch_index": place * frames}


def prompts_between(start: Any, end: Any, frames: int) -> Any:
    """Return a CONDITIONING with a row for each frame along the arc from one prompt to another.

    Raises:
        ValueError: if one holds several prompts, or they differ in length.
    """
    for conditioning in (start, end):
        if len(conditioning) != 1 or len(conditioning[0][0]) != 1:
            raise ValueError("a path leads from one prompt to one; connect Würstchen Text Encode")
    (first, entries), (last, _) = start[0], end[0]
    return [[between([first, last], frames), entries]]


def encode_lines(clip: Any, text: str) -> tuple[Any, int]:
    """Return the CONDITIONING of a prompt per line, a row for each, and their number.

    Raises:
        ValueError: if there is no prompt, not all are of one length, or the CLIP is scheduled.
    """
    lines = [(number, row["prompt"]) for number, row in text_rows(text)]
    if not lines:
        raise ValueError("text must hold a prompt per line, got none")
    encodings = [encode(clip, prompt) for _, prompt in lines]
    if any(len(encoding) > 1 for encoding in encodings):
        raise ValueError(
            "clip must not change during a run; schedule hooks on one prompt at a time"
        )
    encoded = [encoding[0] for encoding in encodings]
    tokens = [one.shape[1] for one, _ in encoded]
    for (number, _), count in zip(lines, tokens, strict=True):
        if count != tokens[0]:
            raise ValueError(
                f"all lines must be of one length, got {tokens[0]} tokens in line {lines[0][0]} and "
                f"{count} in line {number}; encode long prompts on their own"
            )
    return [[torch.cat([one for one, _ in encoded]), encoded[0][1]]], len(lines)
