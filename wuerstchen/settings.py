"""How to paint: what a user may choose, and in which ranges.

Nothing heavy is imported here, so that a wrong number is refused at once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .checks import MOST, check_choice, check_number, check_text, check_whole
from .sizes import SMALLEST_SIDE, SMALLEST_TILE

MOST_GUIDANCE = 10_000.0
MOST_IMAGES = 4096  # of a prompt
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
# the last times know the picture without guidance, which only adds its errors there
ALL_PRESETS = {"sampler": "dpmpp_2m", "decoder_sampler": "dpmpp_2m", "guidance_end": 0.35}
PRESETS: dict[str, dict[str, Any]] = {  # measured: `training samplers`
    "fast": ALL_PRESETS | {"steps": 10, "decoder_steps": 6},
    "balanced": ALL_PRESETS | {"steps": 14, "decoder_steps": 8},
    "best": ALL_PRESETS | {"steps": 40, "decoder_steps": 20},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to paint.

    Attributes:
        weighting: how prompts weigh their words, one of `WEIGHTINGS`.
        negative: what the picture should not show; used by guidance only. None is "".
        width: pixels before `outpaint`, at least 128; None is the image's, without one the model's
            native size.
        height: as `width`.
        steps: of Stage C, evenly spaced; None is the published list of 29.
        sampler: of Stage C, one of `SAMPLERS`.
        guidance: of Stage C, -10000 to 10000; above 1 the prompt is weighed against `negative`.
        guidance_rescale: from 0 to 1, how much guidance keeps the contrast of no guidance.
        guidance_start: first time (1 = noise) at which Stage C is guided.
        guidance_end: last such time.
        decoder_steps: of Stage B.
        decoder_sampler: of Stage B.
        decoder_guidance: of Stage B, likewise.
        seed: of the first image, 0 to 2**64 - `batch`; image i has seed + i.
        decoder_seed: of the first image, for Stage B alone; None goes on with Stage C's generator.
        batch: images per prompt, 1 to 4096; along a path, images painted at once.
        image: what to paint over: a file's path, a picture of Pillow's or a uint8 array (H, W) or
            (H, W, 3); scaled to cover `width` and `height`, where they are given, and cropped from
            the middle.
        mask: which part of it to paint anew (white) and which to keep (black): likewise, or a bool
            array (H, W); of the image's own size.
        strength: how much of `image` is painted anew, from 0 (only Stages B and A) to 1 (all);
            None is 0.7, and 1 with a mask or to outpaint.
        outpaint: pixels to add to `image` left, above, right and below.
        feather: pixels, 0 or more, along which new ones take over within a mask.
        tile: side in pixels, at least 256, of what Stages B and A do at once; None is the whole
            picture.

    Raises:
        ValueError: if a number is out of its range, a word is unknown, or there is a mask, a strength
            or an `outpaint` without an image.
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
    image: Any = None
    mask: Any = None
    strength: float | None = None
    outpaint: tuple[int, int, int, int] = (0, 0, 0, 0)
    feather: int = 16
    tile: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            self._set_whole(name, SMALLEST_SIDE)
        for name in ("steps", "decoder_steps"):
            self._set_whole(name, 1)
        self._set_whole("batch", 1, MOST_IMAGES)
        for name in ("seed", "decoder_seed"):
            self._set_whole(name, 0, 2**64 - self.batch)
        self._set_whole("feather", 0)
        self._set_whole("tile", SMALLEST_TILE)
        for name in ("guidance", "decoder_guidance"):
            self._set_number(name, -MOST_GUIDANCE, MOST_GUIDANCE)
        for name in ("sampler", "decoder_sampler"):
            check_choice(name, getattr(self, name), SAMPLERS)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        for name in ("guidance_rescale", "guidance_start", "guidance_end"):
            self._set_number(name, 0, 1)
        check_interval(self.guidance_start, self.guidance_end)
        object.__setattr__(self, "negative", self.negative or "")  # None, too, is nothing
        check_text("negative", self.negative)
        self._check_image()

    def _set_whole(self, name: str, least: int, most: int = MOST) -> None:
        value = getattr(self, name)
        if value is not None or getattr(type(self), name) is not None:  # None only as the default
            object.__setattr__(self, name, check_whole(name, value, least, most))

    def _set_number(self, name: str, least: float, most: float) -> None:
        object.__setattr__(self, name, check_number(name, getattr(self, name), least, most))

    def _check_image(self) -> None:
        if self.strength is not None:
            self._set_number("strength", 0, 1)
        try:
            sides = tuple(self.outpaint)
        except TypeError:
            sides = ()
        if len(sides) != 4:
            raise ValueError(
                f"outpaint must be pixels left, above, right and below, got {self.outpaint}"
            )
        pixels = tuple(check_whole("each side of outpaint", side, 0) for side in sides)
        object.__setattr__(self, "outpaint", pixels)
        asked = {"mask": self.mask, "strength": self.strength, "outpaint": any(pixels) or None}
        given = [name for name, value in asked.items() if value is not None]
        if self.image is None and given:
            raise ValueError(f"give an image to paint over, or no {' and no '.join(given)}")

    @classmethod
    def from_words(cls, words: Mapping[str, Any], **others: Any) -> "Settings":
        """Return settings of values as files hold them: text, or numbers of JSON.

        Args:
            words: by the settings' names; what is None or empty is left at its default.
            others: settings that `words` come before.

        Raises:
            ValueError: if a name is unknown or a value cannot be read.
        """
        kinds = {field.name: field.type for field in fields(cls)}
        for name in words:
            check_choice("a setting", name, list(kinds))
        given = {name: word for name, word in words.items() if word not in (None, "")}
        return cls(
            **others | {name: read_word(name, word, kinds[name]) for name, word in given.items()}
        )

    def sized(self, width: int, height: int) -> "Settings":
        """Return the settings for an image of this size, what is outpainted included."""
        left, top, right, bottom = self.outpaint
        return replace(self, width=width - left - right, height=height - top - bottom)

    def alone(self, i: int) -> "Settings":
        """Return the settings that paint image `i` of a batch on its own."""
        later = None if self.decoder_seed is None else self.decoder_seed + i
        return replace(self, batch=1, seed=self.seed + i, decoder_seed=later)

    @property
    def effective_strength(self) -> float:
        """How much of the image is painted anew, also where `strength` is None."""
        if self.strength is not None:
            return self.strength
        return 0.7 if self.mask is None and not any(self.outpaint) else 1.0


def whole(word: Any) -> int:
    """Return the whole number that a word of a file or of the command line says.

    Raises:
        ValueError: if it says none.
    """
    try:
        return int(str(word).removesuffix(".0"))  # tables with gaps hold whole numbers as 3.0
    except ValueError:
        raise ValueError(f"must be a whole number, got {word!r}") from None


def number(word: Any) -> float:
    """Return the finite number that a word says.

    Raises:
        ValueError: if it says none.
    """
    try:
        value = float(str(word))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {word!r}")
    return value


def sides(word: Any) -> tuple[int, ...]:
    """Return the four whole numbers of a list, or of a word with commas between them.

    Raises:
        ValueError: if it has others.
    """
    try:
        numbers = tuple(map(whole, word.split(",") if isinstance(word, str) else word))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4:
        about = "must be pixels left, above, right and below, such as 64,0,64,0"
        raise ValueError(f"{about}, got {word!r}")
    return numbers


# by the types of `Settings`; what is not here is text
READERS: dict[Any, Callable[[Any], Any]] = {
    int: whole,
    int | None: whole,
    float: number,
    float | None: number,
    tuple[int, int, int, int]: sides,
}


def read_word(name: str, word: Any, kind: Any) -> Any:
    """Return the value of a setting of the type `kind` that a file holds.

    Raises:
        ValueError: if the word is no such value.
    """
    try:
        return READERS.get(kind, str)(word)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


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
