"""What it costs to store or calculate a model less precisely than in float32.

The same held-out prompts are painted from the same noise in every precision, with the published
steps, and compared picture by picture with those in float32.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_whole
from ..pipeline import Wuerstchen
from ..settings import Settings
from .distances import grey_distance, path_distance
from .trial import Trial, paired_loss

EXACT = ("fp32", "none")
FP8 = "fp8_e4m3fn"  # as the nodes' loaders store weights
LESS = (("bf16", "none"), ("fp32", "int8"), ("bf16", "int8"), ("fp32", FP8), ("bf16", FP8))


class Loss(NamedTuple):
    """What a precision costs against float32.

    Attributes:
        dtype: of all weights and of what is calculated.
        quantize: how the weights of Stages C and B are stored: none, int8 or `FP8`.
        megabytes: of the weights of Stages C and B.
        right: share of pictures in which the judge reads everything as it was asked for.
        lost: points by which that is less.
        error: standard error of this paired difference.
        semantic: RMS distance of the semantic latents, over their RMS.
        grey: RMS distance of the pixels in levels of 255.
    """

    dtype: str
    quantize: str
    megabytes: float
    right: float
    lost: float
    error: float
    semantic: float
    grey: float


def precision(source: str, *, prompts: int = 400, seed: int = 0, device: str) -> Iterator[Loss]:
    """Yield the loss of each precision, that of float32 first.

    Raises:
        ValueError: if there are fewer than 2 prompts.
    """
    check_whole("prompts", prompts, 2)
    exact: tuple[Tensor, Tensor, list[int]] | None = None
    for dtype, quantize in (EXACT, *LESS):
        model = stored(source, device, dtype, quantize)
        z, pixels, right = painted(model, prompts, seed)
        exact = exact or (z, pixels, right)
        yield Loss(
            dtype,
            quantize,
            megabytes(model, quantize),
            sum(right) / prompts,
            *paired_loss(exact[2], right),
            path_distance(z, exact[0]),
            grey_distance(pixels, exact[1]),
        )


def stored(source: str, device: str, dtype: str, quantize: str) -> Wuerstchen:
    """Return a model whose Stages C and B are stored as `quantize` says."""
    load = partial(Wuerstchen.load, source, device=device, dtype=dtype, progress=False)
    if quantize != FP8:
        return load(quantize=quantize)
    model = load()
    for numbers in chain(model.stage_c.parameters(), model.stage_b.parameters()):
        numbers.copy_(numbers.to(torch.float8_e4m3fn))
    return model


def painted(model: Wuerstchen, prompts: int, seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return z, pixels, and which pictures are right."""
    trial = Trial(model, prompts, seed)
    z = trial.compose(Settings(), prompts)
    pixels = model.decode_pixels(trial.develop(z, Settings()))
    return z, pixels, [int(all(traits.values())) for traits in trial.judged(pixels)]


def megabytes(model: Wuerstchen, quantize: str) -> float:
    """Return what the weights of Stages C and B take, stored as `quantize` says."""
    states = (network.state_dict().values() for network in (model.stage_c, model.stage_b))
    sizes = (x.numel() if quantize == FP8 else x.nbytes for x in chain(*states))
    return float(sum(sizes)) / 1e6
