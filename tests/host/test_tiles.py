"""Stage B in windows, in a running ComfyUI."""

from typing import Any

import pytest

from wuerstchen.sizes import SMALLEST_TILE

from .graphs import (
    DECODER,
    DECODER_SEED,
    EMPTY,
    POSITIVE_B,
    PROMPT,
    STAGE_A,
    STAGE_B,
    STAGE_C,
    STEPS,
    again,
    apart,
    latents,
    put,
)
from .server import Host

pytestmark = pytest.mark.host

WIDTH, HEIGHT, TILE = 512, 384, 256  # six windows


@pytest.fixture
def large(quick: Any) -> Any:
    """The graph for a picture that has several windows."""
    put(quick, EMPTY, width=WIDTH, height=HEIGHT, batch=2)
    put(quick, DECODER, weight_dtype="fp32")
    return quick


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_windows_are_blended_in_every_step_as_in_the_package(
    host: Host, large: Any, package: Any, guidance: float
) -> None:
    from wuerstchen import generators

    given = {"guidance": guidance, "negative": again(large, POSITIVE_B, text="")}
    runs = [again(large, STAGE_B, **given, tile_size=tile) for tile in (0, TILE)]
    semantic, whole, theirs = latents(host, large, [STAGE_C, 0], *runs)
    ours = package.sample_vq(
        semantic,
        package.encode_text([PROMPT]).decoder,
        generators([DECODER_SEED, DECODER_SEED + 1]),
        steps=STEPS,
        guidance=guidance,
        tile=TILE,
    )
    assert theirs.shape == (2, 4, HEIGHT // 4, WIDTH // 4)
    assert apart(theirs, ours) < 1e-4
    assert apart(theirs, whole) > 1e-3


def test_a_window_as_large_as_the_picture_changes_nothing(host: Host, large: Any) -> None:
    one = again(large, STAGE_B, tile_size=1024)
    single, whole = latents(host, large, one, [STAGE_B, 0])
    assert apart(single, whole) < 1e-5


@pytest.mark.parametrize("stage", [STAGE_A, STAGE_B])
def test_a_tile_that_is_too_small_is_refused_in_words(host: Host, large: Any, stage: str) -> None:
    put(large, stage, tile_size=SMALLEST_TILE - 64)
    message = host.run(large).message
    assert f"tile_size must be a whole number of at least {SMALLEST_TILE}" in message
