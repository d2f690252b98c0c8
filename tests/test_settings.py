"""Every setting changes its own picture, has a range, and takes numbers of any type."""

from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, fromarray

from wuerstchen import Settings, Wuerstchen

from .quick_pictures import NEGATIVE, OTHER, difference


def picture(seed: int, mode: str = "RGB") -> Image:
    """A picture or mask of 384 × 128 pixels, on a grid of 8 × 8 random ones."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return fromarray(noise).convert(mode).resize((384, 128))


WEIGHTED = "a (large:3) red circle"
OVER = Settings(
    image=picture(0),
    mask=picture(1, "L"),
    negative=NEGATIVE,
    steps=3,
    decoder_steps=2,
    decoder_guidance=2.0,
)
# Another value of each setting, with which that becomes another picture.
CHANGED: dict[str, Any] = {
    "weighting": "none",
    "negative": OTHER,
    "width": 256,
    "height": 256,
    "steps": 4,
    "sampler": "euler",
    "guidance": 2.0,
    "guidance_rescale": 0.7,
    "guidance_start": 0.5,
    "guidance_end": 0.9,
    "decoder_steps": 3,
    "decoder_sampler": "euler",
    "decoder_guidance": 1.5,
    "seed": 9,
    "decoder_seed": 9,
    "batch": 2,
    "image": picture(2),
    "mask": picture(3, "L"),
    "strength": 0.5,
    "outpaint": (0, 0, 128, 0),
    "feather": 0,
    "tile": 256,
}


@pytest.fixture(scope="module")
def over(pair: list[Wuerstchen]) -> list[Image]:
    return pair[0].paint(WEIGHTED, OVER)


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_setting_changes_its_own_picture_and_no_other(
    pair: list[Wuerstchen], over: list[Image], name: str
) -> None:
    settings = replace(OVER, **{name: CHANGED[name]})
    changed = pair[0].paint(WEIGHTED, settings)
    first, last = over[0], changed[-1]
    assert first.size != last.size or difference(first, last) > 1
    together = pair[0].paint(WEIGHTED, [OVER, settings])
    assert len(together) == 1 + len(changed)
    assert max(map(difference, together, over + changed)) <= 1


def test_numbers_may_be_of_any_type() -> None:
    given = Settings(guidance=np.float32(3), guidance_rescale=Fraction(1, 2), seed=np.int64(2))
    assert given == Settings(guidance=3.0, guidance_rescale=0.5, seed=2)
    assert {type(given.guidance), type(given.guidance_rescale)} == {float}


def test_numbers_and_devices_of_other_types_are_taken_as_they_are_meant(tiny: Path) -> None:
    asked = Settings(
        width=np.int64(128), seed=np.uint32(7), batch=np.int8(2), outpaint=(np.int16(0),) * 4
    )
    assert asked == Settings(width=128, seed=7, batch=2)
    assert all(type(value) is int for value in (asked.width, asked.seed, *asked.outpaint))
    assert Settings(negative=None).negative == ""  # type: ignore[arg-type]
    model = Wuerstchen.load(tiny, device=torch.device("cpu"), progress=False)
    assert model.placement.device.type == "cpu"


BELOW = "must be a whole number of at least"
ABOVE = "must be a whole number of at most"
FINITE = "must be a number from -10000 to 10000"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        *(("width", value, f"{BELOW} 128, got") for value in (127, 0, -5, 512.5, 256.0, "512")),
        *(("width", float(value), BELOW) for value in ("nan", "inf")),
        ("width", 10**27, f"{ABOVE} 2147483647, got 1000"),
        ("height", 64, f"{BELOW} 128, got 64"),
        ("steps", 0, f"{BELOW} 1, got 0"),
        *(("decoder_steps", value, f"{BELOW} 1, got {value}") for value in (0, None)),
        *(("batch", value, f"{BELOW} 1, got {value}") for value in (0, None)),
        *(("seed", value, f"{BELOW} 0, got {value}") for value in (-1, None)),
        ("seed", 2**64, ABOVE),
        ("decoder_seed", -1, f"{BELOW} 0, got -1"),
        ("feather", None, f"{BELOW} 0, got None"),
        ("guidance", float("nan"), f"{FINITE}, got nan"),
        ("guidance", 1e39, rf"{FINITE}, got 1e\+39"),
        ("guidance", "4", f"{FINITE}, got '4'"),
        ("guidance", torch.ones(2), f"{FINITE}, got tensor"),
        ("decoder_guidance", float("inf"), f"{FINITE}, got inf"),
        ("guidance_end", None, "must be a number from 0 to 1, got None"),
        ("strength", "x", "must be a number from 0 to 1, got 'x'"),
        *(
            ("outpaint", value, "must be pixels left, above, right and")
            for value in (5, np.array(5))
        ),
        ("negative", "caf\udce9", "must be text in UTF-8, got 'caf"),
    ],
)
def test_a_setting_beyond_its_range_is_refused_by_name(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} {rule}"):
        Settings(**{"image": "a.png", name: value})


def test_the_last_seed_of_a_batch_must_be_in_the_range() -> None:
    with pytest.raises(ValueError, match="seed must be a whole number of at most"):
        Settings(seed=2**64 - 1, batch=2)
