"""Pictures of any size: the cells of a side, crops, and tiles."""

from pathlib import Path

import pytest

from wuerstchen import Wuerstchen, cells
from wuerstchen.sizes import vq_cells

from .peers import levels
from .quick_pictures import PROMPT, QUICK, difference


@pytest.mark.parametrize(
    ("side", "blocks"), [(128, 1), (129, 2), (256, 2), (1000, 8), (1024, 8), (2176, 17)]
)
def test_cells_of_a_side_go_by_128_pixels(side: int, blocks: int) -> None:
    assert cells(side) == (3 * blocks, 32 * blocks)
    assert vq_cells(cells(side).semantic) == cells(side).vq


def test_every_side_to_4096_fits_and_is_cropped_from_the_next_block() -> None:
    for side in range(128, 4097):
        semantic, vq = found = cells(side)
        assert side <= found.pixels < side + 128
        assert (found.pixels % 128, vq_cells(semantic)) == (0, vq)


@pytest.mark.parametrize(
    "size",
    [
        (128, 128),
        (129, 200),
        (255, 256),
        (257, 130),
        (300, 500),
        (384, 256),
        (4096, 128),
        (130, 2001),
    ],
)
def test_pictures_have_exactly_the_pixels_asked_for(
    model: Wuerstchen, size: tuple[int, int]
) -> None:
    assert model.paint(PROMPT, QUICK, width=size[0], height=size[1])[0].size == size


def test_a_size_between_two_fits_is_the_middle_of_the_larger(model: Wuerstchen) -> None:
    whole = model.paint(PROMPT, QUICK, width=256, height=256)[0]
    part = model.paint(PROMPT, QUICK, width=200, height=156)[0]
    assert difference(whole.crop((28, 50, 228, 206)), part) == 0


def test_tiles_change_little_and_no_tile_larger_than_the_picture_anything(
    model: Wuerstchen,
) -> None:
    whole = model.paint(PROMPT, QUICK, width=384, height=256)[0]
    assert difference(whole, model.paint(PROMPT, QUICK, width=384, height=256, tile=512)[0]) <= 1
    tiled = model.paint(PROMPT, QUICK, width=384, height=256, tile=256)[0]
    assert tiled.size == (384, 256)
    assert difference(whole, tiled) > 1
    assert abs(levels(whole) - levels(tiled)).mean() < levels(whole).std() / 4


def test_one_tile_is_the_whole_with_texts_of_two_lengths_too(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    how = {"decoder_guidance": 4.0, "negative": "a green star " * 40}
    whole, one = (model.paint(PROMPT, QUICK, tile=tile, **how)[0] for tile in (None, 256))
    assert abs(levels(whole) - levels(one)).max() <= 1


def test_no_stage_after_the_prior_sees_more_than_a_tile_at_once(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    seen: list[tuple[int, ...]] = []
    for network in (model.stage_b.embedding, model.stage_a.up_blocks):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    model.paint(PROMPT, QUICK, width=512, height=384, tile=256)
    assert len(seen) > 2 * QUICK.decoder_steps
    assert max(side for size in seen for side in size) == 256 // 4
