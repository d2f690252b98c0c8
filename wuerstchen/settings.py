"""How to paint: the numbers that a user may choose, their ranges, and sizes in pixels and cells.

Nothing heavy is imported here, so that a wrong number is refused at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SMALLEST_SIDE = 128
SAMPLERS = (
    "ddpm",
    "ddim",
    "euler",
    "euler_ancestral",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "unipc",
    "lms",
    "deis",
)
WEIGHTINGS = ("comfy", "compel", "none")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to paint.

    Attributes:
        weighting: how prompts weigh their words, one of `WEIGHTINGS`.
        negative: what the picture should not show; used by guidance only.
        width: pixels, at least 128; None is the model's native size.
        height: as `width`.
        steps: of Stage C, evenly spaced; None is the published list of 29.
        sampler: of Stage C, one of `SAMPLERS`.
        guidance: of Stage C; above 1 the prompt is weighed against `negative`.
        guidance_rescale: from 0 to 1, how much guidance keeps the contrast of no guidance.
        guidance_start: first time (1 = noise) at which Stage C is guided.
        guidance_end: last such time.
        decoder_steps: of Stage B.
        decoder_sampler: of Stage B.
        decoder_guidance: of Stage B.
        seed: of the first image; image i has seed + i.
        decoder_seed: of the first image, for Stage B alone; None goes on with Stage C's generator.
        batch: images per prompt.

    Raises:
        ValueError: if a number is out of its range.
    """

    weighting: str = "comfy"
    negative: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    sampler: str = "ddpm"
    guidance: float = 4.0
    guidance_rescale: float = 0.0
    guidance_start: float = 1.0
    guidance_end: float = 0.0
    decoder_steps: int = 12
    decoder_sampler: str = "ddpm"
    decoder_guidance: float = 0.0
    seed: int = 0
    decoder_seed: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            check_whole(name, getattr(self, name), SMALLEST_SIDE)
        for name in ("steps", "decoder_steps", "batch"):
            check_whole(name, getattr(self, name), 1)
        for name in ("seed", "decoder_seed"):
            check_whole(name, getattr(self, name), 0, 2**64 - self.batch)
        for name in ("guidance", "decoder_guidance"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)}")
        for name in ("sampler", "decoder_sampler"):
            check_choice(name, getattr(self, name), SAMPLERS)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale must be from 0 to 1, got {self.guidance_rescale}")
        check_interval(self.guidance_start, self.guidance_end)


class Cells(NamedTuple):
    """Cells along one side of a picture."""

    semantic: int
    vq: int


def cells(side: int) -> Cells:
    """Return the cells along a side of `side` pixels: 3 semantic and 32 VQ cells per 128 pixels.

    Only such sizes fit through Stage B; a side between two of them is painted at the next larger
    one and cropped from the middle.

    Raises:
        ValueError: if `side` is not a whole number of at least 128.
    """
    check_whole("a side", side, SMALLEST_SIDE)
    blocks = -(-side // 128)
    return Cells(3 * blocks, 32 * blocks)


def vq_cells(semantic_cells: int) -> int:
    """Return the VQ cells along a side of a semantic latent.

    Raises:
        ValueError: if the semantic cells are not a multiple of 3.
    """
    if semantic_cells < 1 or semantic_cells % 3:
        raise ValueError(
            f"rows and columns of a semantic latent must be multiples of 3, got {semantic_cells}"
        )
    return semantic_cells // 3 * 32


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices.

    Raises:
        ValueError: with all that are.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_interval(start: float, end: float) -> None:
    """Refuse times between which nothing is guided.

    Raises:
        ValueError: with the rule and the values.
    """
    if not 1 >= start > end >= 0:
        raise ValueError(
            "guidance_start and guidance_end are times that fall from at most 1 to at least 0, "
            f"got {start} and {end}"
        )


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuse a number that is not whole or not in its range; None passes.

    Raises:
        ValueError: with the rule and the value.
    """
    if value is None:
        return
    if not isinstance(value, int) or value < least or (most is not None and value > most):
        above = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{above}, got {value}")
