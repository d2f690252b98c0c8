"""Batches along a path from one prompt or latent to another."""

from typing import Any

from ...wuerstchen.interpolation import interpolate
from ...wuerstchen.sampling import LATENT_SHIFT
from .checks import check_stage_c_latent


def latents_between(start: dict[str, Any], end: dict[str, Any], frames: int) -> dict[str, Any]:
    """Return a batch of Stage C latents along the arc from one to another, ends included.

    All are decoded with the noise of the first, so that the details stay as quiet as they can.

    Raises:
        ValueError: if one is not Stage C's or is a batch, or they differ in size.
    """
    for latent in (start, end):
        check_stage_c_latent(latent["samples"])
        if len(latent["samples"]) != 1:
            count = len(latent["samples"])
            raise ValueError(f"a path leads from one latent to one, got {count}; take one of them")
    stops = [latent["samples"].float() for latent in (start, end)]
    samples = interpolate(stops, frames, dims=3, centre=-LATENT_SHIFT)
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
    return [[interpolate([first, last], frames), entries]]
