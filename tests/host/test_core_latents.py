"""The host's nodes for latents and pictures on Würstchen's, in a running ComfyUI."""

from typing import Any

import pytest

from .graphs import (
    DECODER,
    EMPTY,
    POSITIVE,
    PRIOR,
    STAGE_A,
    STAGE_B,
    STAGE_C,
    Graph,
    Link,
    add,
    again,
    apart,
    latents,
    pictures,
    put,
)
from .server import Host

pytestmark = pytest.mark.host

VAE = [DECODER, 2]
SAMPLERS = ("own", "euler", "dpmpp_2m")
COLOURS = ("red", "blue", "green", "yellow", "orange")
WINDOWS = {
    "context_schedule": "standard_static",
    "context_stride": 1,
    "closed_loop": False,
    "fuse_method": "pyramid",
    "freenoise": False,
    "cond_retain_index_list": "",
    "split_conds_to_windows": False,
    "latent_retain_index_list": "",
    "causal_window_fix": True,
}


def of_batch(graph: Graph, latent: Link, index: int) -> Link:
    """Add what takes one latent of a batch."""
    return add(graph, "LatentFromBatch", samples=latent, batch_index=index, length=1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_latent_of_a_batch_is_the_one_that_is_sampled_alone(
    host: Host, quick: Any, sampler: str
) -> None:
    empty = again(quick, EMPTY, batch=3)
    if sampler != "own":
        put(quick, STAGE_C, sampler=add(quick, "KSamplerSelect", sampler_name=sampler))
    together = again(quick, STAGE_C, latent=empty)
    alone = again(quick, STAGE_C, latent=of_batch(quick, empty, 2))
    all_three, one = latents(host, quick, together, alone)
    assert all_three.shape == (3, 16, 6, 6)
    assert apart(all_three[2:], one) < 1e-4
    assert apart(all_three[1:2], one) > 0.01


def test_a_core_sampler_too_knows_a_latents_place_in_its_batch(host: Host, quick: Any) -> None:
    empty, given = again(quick, EMPTY, batch=3), quick[STAGE_C]["inputs"]
    wires = {name: given[name] for name in ("model", "positive", "negative")}
    numbers = {"seed": 5, "steps": 4, "cfg": 4.0, "denoise": 1.0}
    names = {"sampler_name": "euler", "scheduler": "simple"}
    together, alone = (
        add(quick, "KSampler", **wires, latent_image=latent, **numbers, **names)
        for latent in (empty, of_batch(quick, empty, 2))
    )
    all_three, one = latents(host, quick, together, alone)
    assert apart(all_three[2:], one) < 1e-4
    assert apart(all_three[1:2], one) > 0.01


def test_stage_b_decodes_a_latent_of_a_batch_as_it_does_alone(host: Host, quick: Any) -> None:
    batch = again(quick, STAGE_C, latent=again(quick, EMPTY, batch=3))
    together = again(quick, STAGE_B, latent=batch)
    alone = again(quick, STAGE_B, latent=of_batch(quick, batch, 2))
    all_three, one = latents(host, quick, together, alone)
    assert all_three.shape == (3, 4, 64, 64)
    assert apart(all_three[2:], one) < 1e-4
    assert apart(all_three[1:2], one) > 0.01


def test_a_repeated_empty_latent_is_a_batch(host: Host, quick: Any) -> None:
    repeated = add(quick, "RepeatLatentBatch", samples=[EMPTY, 0], amount=3)
    runs = [again(quick, STAGE_C, latent=e) for e in (repeated, again(quick, EMPTY, batch=3))]
    one, other = latents(host, quick, *runs)
    assert one.shape == (3, 16, 6, 6)
    assert apart(one, other) == 0


def test_a_repeated_latent_gets_other_details_of_one_composition(host: Host, quick: Any) -> None:
    repeated = add(quick, "RepeatLatentBatch", samples=[STAGE_C, 0], amount=2)
    batch, single = latents(host, quick, again(quick, STAGE_B, latent=repeated), [STAGE_B, 0])
    assert apart(batch[:1], single) < 1e-4
    assert apart(batch[1:], single) > 0.01


def right_half(graph: Graph) -> Link:
    """Add a mask of the right half of a picture."""
    nothing = add(graph, "SolidMask", value=0.0, width=256, height=256)
    half = add(graph, "SolidMask", value=1.0, width=128, height=256)
    given = {"destination": nothing, "source": half}
    return add(graph, "MaskComposite", **given, x=128, y=0, operation="add")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_what_the_mask_shows_is_painted_anew(host: Host, quick: Any, sampler: str) -> None:
    masked = add(quick, "SetLatentNoiseMask", samples=[STAGE_C, 0], mask=right_half(quick))
    green = again(quick, POSITIVE, text="a small green star on a yellow background")
    over = again(quick, STAGE_C, latent=masked, positive=green, seed=9)
    if sampler != "own":
        put(quick, over[0], sampler=add(quick, "KSamplerSelect", sampler_name=sampler))
    before, after = latents(host, quick, [STAGE_C, 0], over)
    assert apart(after[..., :3], before[..., :3]) < 1e-5
    assert apart(after[..., 3:], before[..., 3:]) > 0.1


def test_blended_latents_lie_between_and_decode(host: Host, quick: Any) -> None:
    one, other = [STAGE_C, 0], again(quick, STAGE_C, seed=9)
    blends = [
        add(quick, "LatentBlend", samples1=one, samples2=other, blend_factor=factor)
        for factor in (1.0, 0.5)
    ]
    decoded = [again(quick, STAGE_B, latent=latent) for latent in (one, *blends)]
    first, second, whole, half = latents(host, quick, one, other, *blends)
    assert apart(whole, first) == 0
    assert apart(half, (first + second) / 2) < 1e-6
    plain, same, between = latents(host, quick, *decoded)
    assert apart(same, plain) == 0
    assert apart(between, plain) > 0.01


def test_the_core_decoder_equals_stage_a(host: Host, graph: Any) -> None:
    core = add(graph, "VAEDecode", samples=[STAGE_B, 0], vae=VAE)
    tiles = {"overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    large, small = (
        add(graph, "VAEDecodeTiled", samples=[STAGE_B, 0], vae=VAE, tile_size=side, **tiles)
        for side in (512, 128)
    )
    links = (core, large, small, [STAGE_A, 0])
    plain, in_one, in_four, ours = pictures(host, graph, *links)
    assert (plain == ours).all()
    assert abs(in_one - ours).max() <= 1
    assert abs(in_four - ours).max() <= 16


def test_stage_a_in_tiles_has_the_pixels_of_the_whole(host: Host, graph: Any) -> None:
    wide = again(graph, EMPTY, width=640)
    latent = again(graph, STAGE_B, latent=again(graph, STAGE_C, latent=wide))
    whole, tiles = (again(graph, STAGE_A, latent=latent, tile_size=side) for side in (0, 256))
    plain, in_three = pictures(host, graph, whole, tiles)
    assert plain.shape[1] == 640
    assert abs(in_three - plain).max() <= 1


def test_a_picture_comes_back_from_the_core_encoder(host: Host, graph: Any) -> None:
    encoded = add(graph, "VAEEncode", pixels=[STAGE_A, 0], vae=VAE)
    core = add(graph, "VAEDecode", samples=encoded, vae=VAE)
    ours = again(graph, STAGE_A, latent=encoded)
    before, after, own = pictures(host, graph, [STAGE_A, 0], core, ours)
    assert (after == own).all()
    assert abs(after - before).mean() < 4
    assert latents(host, graph, encoded)[0].shape == (1, 4, 64, 64)


def test_a_small_picture_goes_through_stage_a(host: Host, graph: Any) -> None:
    sizes = {"width": 96, "height": 64, "crop": "disabled"}
    small = add(graph, "ImageScale", image=[STAGE_A, 0], upscale_method="area", **sizes)
    back = again(graph, STAGE_A, latent=add(graph, "VAEEncode", pixels=small, vae=VAE))
    one, other = pictures(host, graph, small, back)
    assert one.shape == other.shape == (64, 96, 3)
    assert abs(one - other).mean() < 8


def test_a_scaled_picture_is_saved_in_its_new_size(host: Host, graph: Any) -> None:
    sizes = {"width": 96, "height": 64, "crop": "disabled"}
    small = add(graph, "ImageScale", image=[STAGE_A, 0], upscale_method="area", **sizes)
    scaled, whole = pictures(host, graph, small, [STAGE_A, 0])
    assert scaled.shape == (64, 96, 3)
    assert abs(scaled.mean(axis=(0, 1)) - whole.mean(axis=(0, 1))).max() < 1


def test_context_windows_give_each_latent_of_a_batch_what_is_its_own(
    host: Host, quick: Any
) -> None:
    if "causal_window_fix" not in str(host.get("object_info/ContextWindowsManual")):
        pytest.skip("this version of the host has no windows along a batch")
    text = "\n".join(f"a large {colour} circle" for colour in COLOURS)
    lines = add(quick, "WuerstchenTextEncodeLines", clip=[PRIOR, 1], text=text)
    empty = again(quick, EMPTY, batch=len(COLOURS))
    put(quick, STAGE_C, latent=empty, positive=lines, guidance=1.0)
    sizes = {"context_length": 3, "context_overlap": 1, "dim": 0}
    windows = [
        add(quick, "ContextWindowsManual", model=[m, 0], **WINDOWS, **sizes)
        for m in (PRIOR, DECODER)
    ]
    found = latents(
        host,
        quick,
        [STAGE_C, 0],
        again(quick, STAGE_C, model=windows[0]),
        [STAGE_B, 0],
        again(quick, STAGE_B, model=windows[1]),
    )
    for whole, parts in (found[:2], found[2:]):
        assert apart(whole, parts) < 1e-4
        assert apart(whole[:1], whole[1:2]) > 0.1


def test_sizes_that_stage_b_cannot_decode_are_refused_before_the_run(
    host: Host, quick: Any
) -> None:
    larger = add(
        quick, "LatentUpscaleBy", samples=[STAGE_C, 0], upscale_method="bicubic", scale_by=1.25
    )
    second = again(quick, STAGE_C, latent=larger, denoise=0.5)
    put(quick, STAGE_B, latent=second)
    outcome = host.run(quick)
    assert outcome.error["node_id"] == second[0]
    assert "must be multiples of 3, got 8" in outcome.message
