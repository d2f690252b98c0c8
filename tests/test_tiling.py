"""Stage A and Stage B in pieces: no seam."""

from itertools import chain, pairwise

import pytest
import torch
from torch import Tensor

from wuerstchen import Wuerstchen, generators
from wuerstchen.layers import Share
from wuerstchen.sampling import Denoiser, ddpm, denoiser, draw_noise, guided, last, uniform_times
from wuerstchen.stage_a import StageA, StageAConfig
from wuerstchen.stage_b import StageB, StageBConfig, StageBConstants
from wuerstchen.tiling import Window, bell, cover, cut, decode_tiled, halo, spans, tiled

from .peers import error, random_weights, share_weights

B = StageBConfig(
    c_hidden=(16, 24, 32),
    nhead=(-1, 3, 4),
    blocks=(1, 1, 1),
    level_config=("CT", "CTA", "CTA"),
    inject_effnet=(False, True, True),
    c_cond=24,
    clip_embd=24,
    c_r=16,
)


def make_stage_a(levels: int = 2, blocks: int = 2) -> StageA:
    config = StageAConfig(
        levels=levels, bottleneck_blocks=blocks, embed_dim=16, num_vq_embeddings=8
    )
    network = StageA(config)
    share_weights(random_weights(network.state_dict()), network)
    return network


def make_stage_b() -> StageB:
    network = StageB(B)
    share_weights(random_weights(network.state_dict()), network)
    return network


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_pixel_depends_on_the_cells_of_the_halo_and_on_no_others(
    levels: int, blocks: int
) -> None:
    network = make_stage_a(levels, blocks)
    scale, margin, middle = network.config.downscale, halo(network.config), 8
    latent = torch.randn(1, 4, 17, 17, requires_grad=True)
    cell = slice(middle * scale, (middle + 1) * scale)
    network.decode(latent)[:, :, cell, cell].square().sum().backward()
    assert latent.grad is not None
    reached = latent.grad.abs().amax(dim=(0, 1)).nonzero()
    assert reached.amin(dim=0).tolist() == [middle - margin] * 2
    assert reached.amax(dim=0).tolist() == [middle + margin] * 2


def test_the_halo_of_the_published_stage_a_is_13_cells() -> None:
    assert halo(StageAConfig()) == 13


@pytest.mark.parametrize(("levels", "blocks"), [(1, 1), (2, 0), (2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("size", [(37, 50), (64, 40), (12, 61), (16, 16)])
def test_stage_a_in_parts_gives_the_pixels_of_the_whole(
    levels: int, blocks: int, size: tuple[int, int]
) -> None:
    network = make_stage_a(levels, blocks)
    tile = 4 * halo(network.config) * network.config.downscale
    latent = torch.randn(2, 4, *size)
    for pixels in (tile, tile + 7, 2 * tile, 1000):
        assert error(decode_tiled(network, latent, pixels), network.decode(latent)) < 1e-5


def test_no_part_of_stage_a_is_larger_than_the_tile() -> None:
    network, seen = make_stage_a(), []

    class Watched:
        config = network.config

        def decode(self, latent: Tensor) -> Tensor:
            seen.append(max(latent.shape[2:]))
            return network.decode(latent)

    for side in range(17, 60):
        decode_tiled(Watched(), torch.randn(1, 4, 8, side), 68)
    assert max(seen) == 17


def test_stage_a_in_parts_keeps_the_precision_of_the_network() -> None:
    network = make_stage_a().to(torch.bfloat16)
    latent = torch.randn(1, 4, 30, 20).to(torch.bfloat16)
    assert decode_tiled(network, latent, 64).dtype == torch.bfloat16


def test_a_tile_of_stage_a_is_at_least_four_halos() -> None:
    latent = torch.randn(1, 4, 30, 20)
    decode_tiled(make_stage_a(), latent, 48)
    with pytest.raises(ValueError, match="at least 48 pixels, got 47"):
        decode_tiled(make_stage_a(), latent, 47)


@pytest.mark.parametrize(("tile", "overlap", "multiple"), [(64, 16, 16), (70, 10, 8), (9, 3, 1)])
def test_windows_cover_a_side_and_share_enough(tile: int, overlap: int, multiple: int) -> None:
    for side in range(multiple, 500, multiple):
        found = spans(side, tile, overlap, multiple)
        length = min(tile // multiple * multiple, side)
        assert {size for _, size in found} == {length}
        starts = [start for start, _ in found]
        assert (starts[0], starts[-1]) == (0, side - length)
        assert not any(start % multiple for start in starts)
        assert all(start + length - later >= overlap for start, later in pairwise(starts))
        assert all(start < later for start, later in pairwise(starts))


def test_windows_are_as_few_as_can_be() -> None:
    assert spans(256, 256, 64, 16) == [(0, 256)]
    assert spans(448, 256, 64, 16) == [(0, 256), (192, 256)]
    assert len(spans(464, 256, 64, 16)) == 3
    assert len(cover((1024, 1024), 256, 16)) == 25


def test_windows_share_a_quarter_of_the_tile() -> None:
    assert len(cover((448, 256), 256, 16)) == 2
    assert len(cover((464, 256), 256, 16)) == 3


def test_a_window_is_longer_than_what_it_shares() -> None:
    with pytest.raises(ValueError, match="at least 48 cells to share 17, got 40"):
        spans(256, 40, 17, 16)
    assert spans(96, 48, 17, 16)


def test_windows_that_know_the_noise_give_that_of_the_whole() -> None:
    def denoise(x: Tensor, t: float) -> Tensor:
        return x * t

    x, t = torch.randn(3, 4, 40, 56), 0.9
    windows = cover((40, 56), 16, 8)
    blended = tiled(windows, [denoise] * len(windows))
    torch.testing.assert_close(blended(x, t), denoise(x, t))
    half = blended(x.half(), t)
    torch.testing.assert_close(half, denoise(x.half(), t).float(), rtol=1e-3, atol=1e-3)


def constant(value: float) -> Denoiser:
    return lambda x, t: torch.full_like(x, value)


def test_windows_that_disagree_fade_into_each_other() -> None:
    windows = [Window(16, 64, 0, 0), Window(16, 64, 0, 48)]
    row = tiled(windows, [constant(0), constant(1)])(torch.zeros(1, 4, 16, 112), 1.0)
    row = row[0, 0, 0]
    assert torch.equal(row[:48], torch.zeros(48))
    torch.testing.assert_close(row[64:], torch.ones(48))
    steps = row.diff()
    assert float(steps.min()) >= -1e-6
    assert float(steps.max()) < 0.15
    assert float(row[47:50].diff().max()) < 0.02


def test_weights_of_a_window_are_a_bell_that_is_nowhere_zero() -> None:
    weights = bell(64)
    assert float(weights.min()) > 0
    assert torch.allclose(weights, weights.flip(0))
    assert (weights[:32].diff() > 0).all()
    assert float(weights[0]) < 0.01 * float(weights.max())


def make_inputs(n: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, *size, generator=generator)
    text = torch.randn(n, 5, B.clip_embd, generator=generator)
    return x, torch.full((n,), 0.6), text, torch.randn(n, 16, 3, 6, generator=generator)


def features(constants: StageBConstants) -> list[Tensor]:
    """Return the semantic latent as each convolution block sees it, in the network's order."""
    blocks = chain.from_iterable(constants.down + constants.up)
    return [block.features for block in blocks if isinstance(block, Share)]


def test_constants_cut_out_of_the_whole_are_those_of_the_window() -> None:
    network, size, window = make_stage_b(), (32, 64), Window(16, 24, 8, 40)
    x, t, text, effnet = make_inputs(2, size)
    whole = network.prepare(text, effnet, size)
    part, other = cut(whole, size, window), cut(whole, size, Window(16, 24, 8, 0))
    fine, coarse = (slice(2, 6), slice(10, 16)), (slice(1, 3), slice(5, 8))  # in 4 and in 8 cells
    places = (fine, coarse, coarse, fine)
    for wide, narrow, place in zip(features(whole), features(part), places, strict=True):
        assert torch.equal(narrow, wide[(slice(None), *place)])
    x = window.of(x)
    assert error(network.step(x, t, other), network.step(x, t, part)) > 0.01


def test_constants_of_windows_take_no_memory_of_their_own() -> None:
    network, size = make_stage_b(), (32, 64)
    _, _, text, effnet = make_inputs(2, size)
    whole = network.prepare(text, effnet, size)
    part = cut(whole, size, Window(16, 24, 8, 40))
    pairs = zip(whole.down + whole.up, part.down + part.up, strict=True)
    tensors = 0
    for before, after in pairs:
        for left, right in zip(before, after, strict=True):
            for mine, given in zip(left or (), right or (), strict=True):
                tensors += 1
                assert given.untyped_storage().data_ptr() == mine.untyped_storage().data_ptr()
    assert tensors > 0


def test_windows_of_stage_b_take_batches_and_guidance() -> None:
    network, size = make_stage_b(), (32, 64)
    x, _, text, effnet = make_inputs(4, size)
    windows = cover(size, 24, B.granularity)

    def blended(rows: slice) -> Denoiser:
        whole = network.prepare(text[rows], effnet[rows], size)
        return tiled(windows, [denoiser(network.step, cut(whole, size, w)) for w in windows])

    led = guided(blended(slice(0, 4)), 3.0)(x[:2], 0.6)
    wanted, unwanted = (blended(rows)(x[:2], 0.6) for rows in (slice(0, 2), slice(2, 4)))
    assert error(led, torch.lerp(unwanted, wanted, 3.0)) < 1e-4


def seams(pixels: Tensor, windows: list[Window]) -> float:
    """Return the mean difference of neighbouring pixels across the borders of windows."""
    found = []
    for axis, borders in (
        (2, {end for w in windows for end in (w.top, w.top + w.rows)}),
        (3, {end for w in windows for end in (w.left, w.left + w.columns)}),
    ):
        across = pixels.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(dim=1)
        inner = [4 * end - 1 for end in borders if 0 < 4 * end < pixels.shape[axis]]
        found.append(across[inner])
    return float(torch.cat(found).mean())


@torch.no_grad()
def test_the_bundled_model_paints_no_seams() -> None:
    """What is painted where windows meet is as smooth as in the picture painted at once.

    Windows that share nothing show that a seam would be seen.
    """
    model = Wuerstchen.load(device="cpu", progress=False)
    prompts = ["a large red circle on a blue background", "a green ring on a white background"]
    text, size, rows = model.encode_text(prompts), (128, 128), range(2)
    semantic = model.sample_semantic(text.prior, generators(rows), (512, 512))
    whole = model.stage_b.prepare(text.decoder, semantic, size)
    step, multiple = model.stage_b.step, model.stage_b.config.granularity
    x = draw_noise(generators(rows), (4, *size), torch.device("cpu"))

    def painted(denoise: Denoiser) -> Tensor:
        steps = ddpm(denoise, x, uniform_times(6), generators(rows))
        return model.decode_pixels(last(steps))

    def ratio(windows: list[Window]) -> float:
        parts = [denoiser(step, cut(whole, size, window)) for window in windows]
        return seams(painted(tiled(windows, parts)), windows) / seams(at_once, windows)

    at_once = painted(denoiser(step, whole))
    apart = [Window(64, 64, top, left) for top in (0, 64) for left in (0, 64)]
    assert ratio(cover(size, 64, multiple)) < 1.2
    assert ratio(apart) > 2
