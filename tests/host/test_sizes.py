"""Pictures of any size, in a running ComfyUI."""

from typing import Any

import pytest

from .graphs import (
    DECODER,
    EMPTY,
    PROMPT,
    QUICK,
    STAGE_A,
    STAGE_B,
    STAGE_C,
    add,
    again,
    latents,
    levels_of,
    pictures,
    put,
)
from .server import Host

pytestmark = pytest.mark.host

SIZES = [(200, 136), (128, 128), (300, 257)]


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_has_its_size_and_is_the_packages(
    host: Host, quick: Any, package: Any, size: tuple[int, int]
) -> None:
    put(quick, EMPTY, width=size[0], height=size[1])
    (ours,) = package.paint(PROMPT, width=size[0], height=size[1], **QUICK)
    (theirs,) = pictures(host, quick, [STAGE_A, 0])
    assert theirs.shape == (size[1], size[0], 3)
    assert abs(theirs - levels_of(ours)).max() <= 2


def test_a_core_sampler_and_tiles_hand_the_size_on(host: Host, quick: Any) -> None:
    put(quick, EMPTY, width=300, height=257)
    wires = {name: quick[STAGE_C]["inputs"][name] for name in ("model", "positive", "negative")}
    numbers = {"seed": 5, "steps": 4, "cfg": 4.0, "denoise": 1.0}
    names = {"sampler_name": "euler", "scheduler": "simple"}
    core = add(quick, "KSampler", **wires, latent_image=[EMPTY, 0], **numbers, **names)
    repeated = add(quick, "RepeatLatentBatch", samples=core, amount=2)
    decoded = again(quick, STAGE_A, latent=again(quick, STAGE_B, latent=repeated), tile_size=256)
    assert pictures(host, quick, decoded)[0].shape == (257, 300, 3)


def test_the_core_decoder_gives_whole_blocks(host: Host, quick: Any) -> None:
    put(quick, EMPTY, width=200, height=136)
    core = add(quick, "VAEDecode", samples=[STAGE_B, 0], vae=[DECODER, 2])
    whole, picture = pictures(host, quick, core, [STAGE_A, 0])
    assert whole.shape == (256, 256, 3)
    assert (whole[60:196, 28:228] == picture).all()


def test_a_latent_that_was_cropped_is_decoded_whole(host: Host, quick: Any) -> None:
    put(quick, EMPTY, width=300, height=257)
    crop = {"width": 1024, "height": 1024, "x": 0, "y": 0}  # 8 pixels per cell
    half = add(quick, "LatentCrop", samples=[STAGE_B, 0], **crop | {"width": 512, "height": 768})
    assert latents(host, quick, half)[0].shape == (1, 4, 96, 64)
    assert pictures(host, quick, again(quick, STAGE_A, latent=half))[0].shape == (384, 256, 3)


def test_a_latent_that_was_turned_has_the_size_of_the_turned_picture(
    host: Host, quick: Any
) -> None:
    put(quick, EMPTY, width=200, height=384)
    turned = add(quick, "LatentRotate", samples=[STAGE_B, 0], rotation="90 degrees")
    assert pictures(host, quick, again(quick, STAGE_A, latent=turned))[0].shape == (200, 384, 3)
