"""Painting over pictures and along paths, by the bundled model, which has a compressor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wuerstchen import CheckpointError, Settings, Wuerstchen, generators, interpolate, to_images
from wuerstchen.pixels import to_pixels
from wuerstchen.sampling import from_published
from wuerstchen.settings import SAMPLERS

from .peers import levels

CIRCLE, STAR = "a large red circle on a blue background", "a yellow star on a blue background"
QUICK = Settings(width=128, height=128, steps=6, decoder_steps=3)
OVER = Settings(steps=6, decoder_steps=3)


@pytest.fixture(scope="module")
def model() -> Wuerstchen:
    return Wuerstchen.load(device="cpu", progress=False)


@pytest.fixture(scope="module")
def circle(model: Wuerstchen) -> Image.Image:
    return model.paint(CIRCLE, seed=3)[0]


def left_half(image: Image.Image) -> Image.Image:
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask


def test_strength_zero_is_the_pure_decode_of_the_encoded_picture(
    model: Wuerstchen, circle: Image.Image
) -> None:
    painted = model.paint(CIRCLE, OVER, image=circle, strength=0.0, seed=2)[0]
    semantic = model.encode_semantic(to_pixels(circle))
    text = model.encode_text([CIRCLE])
    vq = model.sample_vq(semantic, text.decoder, generators([2]), steps=3)
    assert np.array_equal(levels(painted), levels(to_images(model.decode_pixels(vq))[0]))
    assert abs(levels(painted) - levels(circle)).mean() < 12
    assert float(from_published(semantic).std()) == pytest.approx(1, abs=0.5)


def test_the_more_strength_the_less_of_the_picture_stays(
    model: Wuerstchen, circle: Image.Image
) -> None:
    prompt = "a small yellow star on a green background"
    distances = []
    for strength in (0.0, 0.35, 1.0):
        painted = model.paint(prompt, image=circle, strength=strength)[0]
        distances.append(abs(levels(painted) - levels(circle)).mean())
    assert distances == sorted(distances)
    assert distances[0] < 12 < 40 < distances[-1]


def test_full_strength_is_nearly_the_picture_without_one(
    model: Wuerstchen, circle: Image.Image
) -> None:
    alone = model.paint(STAR, seed=4)[0]
    over = model.paint(STAR, image=circle, strength=1.0, seed=4)[0]
    assert abs(levels(alone) - levels(over)).mean() < 12


def test_a_mask_keeps_the_rest_to_the_last_bit_and_paints_within(
    model: Wuerstchen, circle: Image.Image
) -> None:
    mask = left_half(circle)
    painted = model.paint("a small yellow star at the left", image=circle, mask=mask, seed=1)[0]
    assert np.array_equal(levels(painted)[:, 128:], levels(circle)[:, 128:])
    assert abs(levels(painted)[:, :128] - levels(circle)[:, :128]).mean() > 15


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_arrives_at_the_known_latent(model: Wuerstchen, sampler: str) -> None:
    latent = 42 * torch.randn(1, 16, 3, 6, generator=torch.Generator().manual_seed(0)) - 1
    mask = torch.zeros(1, 1, 3, 6)
    mask[..., 3:] = 1
    text = model.encode_text([CIRCLE]).prior
    found = model.sample_semantic(
        text, generators([1]), steps=5, sampler=sampler, latent=latent, mask=mask
    )
    assert torch.allclose(found[..., :3], latent[..., :3], atol=1e-4)
    assert not torch.allclose(found[..., 3:], latent[..., 3:], atol=5)


def test_outpainting_adds_exactly_the_pixels_asked_for(
    model: Wuerstchen, circle: Image.Image
) -> None:
    painted = model.paint(CIRCLE, OVER, image=circle, outpaint=(0, 30, 100, 0))[0]
    assert painted.size == (356, 286)
    assert np.array_equal(levels(painted)[30:, :256], levels(circle))


def test_a_batch_painted_over_a_picture_holds_the_single_pictures(
    model: Wuerstchen, circle: Image.Image
) -> None:
    batch = model.paint(STAR, OVER, image=circle, batch=2, seed=6)
    alone = model.paint(STAR, OVER, image=circle, seed=7)[0]
    assert abs(levels(batch[1]) - levels(alone)).max() <= 1


def test_a_path_between_prompts_begins_and_ends_at_their_pictures(model: Wuerstchen) -> None:
    native = replace(QUICK, width=256, height=256)
    frames = model.interpolate([CIRCLE, STAR], 3, native, seed=2)
    for frame, prompt in ((0, CIRCLE), (2, STAR)):
        alone = model.paint(prompt, native, seed=2)[0]
        assert abs(levels(frames[frame]) - levels(alone)).max() <= 1
    for end in (0, 2):
        assert abs(levels(frames[1]) - levels(frames[end])).max() > 20


def test_along_a_path_all_else_is_as_for_the_first_stop(model: Wuerstchen) -> None:
    stops = [replace(QUICK, seed=seed) for seed in (2, 3, 4)]
    frames = model.interpolate([CIRCLE, STAR, CIRCLE], 3, stops)
    for frame, prompt in zip(frames, (CIRCLE, STAR, CIRCLE), strict=True):
        assert abs(levels(frame) - levels(model.paint(prompt, QUICK, seed=2)[0])).max() <= 1


def test_a_path_between_pictures_is_the_arc_between_their_latents(
    model: Wuerstchen, circle: Image.Image
) -> None:
    star = model.paint("a star on a green background", seed=5)[0]
    stops = [Settings(image=image, strength=0.0, decoder_steps=3) for image in (circle, star)]
    frames = model.interpolate("", 5, stops)
    z = [from_published(model.encode_semantic(to_pixels(image))) for image in (circle, star)]
    arc = 42 * interpolate(z, 5, dims=3) - 1
    text = model.encode_text([""]).decoder
    vq = model.sample_vq(arc, text, generators([0] * 5), steps=3)
    for frame, image in zip(frames, to_images(model.decode_pixels(vq)), strict=True):
        assert abs(levels(frame) - levels(image)).max() <= 1


def test_stops_that_do_not_go_together_are_refused(model: Wuerstchen, circle: Image.Image) -> None:
    sizes = [QUICK, Settings(width=256, height=128)]
    with pytest.raises(ValueError, match="the stops of a path must be of one size"):
        model.interpolate([CIRCLE, STAR], 3, sizes)
    with pytest.raises(ValueError, match="give it no mask and no outpaint"):
        model.interpolate([CIRCLE, STAR], 3, OVER, image=circle, mask=left_half(circle))
    with pytest.raises(ValueError, match="at least 2 stops and 2 frames, got 1 stops"):
        model.interpolate(CIRCLE, 3, QUICK)


def test_masks_and_sizes_that_do_not_fit_are_refused(model: Wuerstchen) -> None:
    text, rngs = model.encode_text([CIRCLE]).prior, generators([0])
    latent = torch.zeros(1, 16, 3, 3)
    with pytest.raises(
        ValueError, match="a mask has one row or one per generator, and the latent's rows"
    ):
        model.sample_semantic(text, rngs, latent=latent, mask=torch.ones(1, 1, 3, 4))
    with pytest.raises(ValueError, match="a mask needs a clean latent"):
        model.sample_semantic(text, rngs, mask=torch.ones(1, 1, 3, 3))
    for other in (torch.zeros(1, 4, 3, 3), torch.zeros(1, 16, 3, 6)):
        with pytest.raises(ValueError, match=r"has the shape \[16, 3, 3\], got \["):
            model.sample_semantic(text, rngs, (128, 128), latent=other)
    with pytest.raises(ValueError, match="a mask has one row or one per generator"):
        model.sample_semantic(text, rngs, latent=latent, mask=torch.ones(3, 1, 3, 3))
    both: Any = model.encode_text([CIRCLE])
    for features in (both, both.decoder, text[0]):
        with pytest.raises(ValueError, match=r"text must be features \(N, L, 128\) of this"):
            model.sample_semantic(features, rngs)
    with pytest.raises(ValueError, match="one generator per text, got 0 for 1"):
        model.sample_semantic(text, [])


def test_pixels_are_floats_from_0_to_1(model: Wuerstchen) -> None:
    grey = torch.full((1, 3, 128, 128), 0.5)
    for pixels, rule in (
        ((grey * 255).byte(), "must be floats of the shape .*, got uint8 of the shape"),
        (grey[0], "must be floats of the shape"),
        (grey[:, :1], "must be floats of the shape"),
        (grey - 1, "must be from 0 to 1, got some from -0.5 to -0.5"),
        (grey * 255, "must be from 0 to 1, got some from 127.5 to 127.5"),
        (grey * torch.nan, "must be from 0 to 1, got some from nan to nan"),
    ):
        with pytest.raises(ValueError, match=rule):
            model.encode_semantic(pixels)
    assert model.encode_semantic(grey + 0.51).isfinite().all()  # as scaling leaves them


def test_an_autocast_around_changes_no_picture(model: Wuerstchen, circle: Image.Image) -> None:
    plain = model.paint(CIRCLE, QUICK)[0], model.paint(CIRCLE, OVER, image=circle)[0]
    with torch.autocast("cpu", torch.bfloat16):
        within = model.paint(CIRCLE, QUICK)[0], model.paint(CIRCLE, OVER, image=circle)[0]
    for one, other in zip(plain, within, strict=True):
        assert np.array_equal(levels(one), levels(other))


def test_a_model_without_a_compressor_says_what_to_give(tiny: Path, circle: Image.Image) -> None:
    bare = Wuerstchen.load(tiny, device="cpu", progress=False)
    with pytest.raises(
        CheckpointError, match=r"comes without a compressor, .* warp-ai/EfficientNetEncoder"
    ):
        bare.paint(CIRCLE, OVER, image=circle)


def test_images_of_a_path_come_one_by_one_or_some_at_once(
    model: Wuerstchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = model.interpolate([CIRCLE, STAR], 5, QUICK, seed=2)
    counts, decode = [], model.decode_pixels

    def counted(vq: torch.Tensor, *how: Any) -> torch.Tensor:
        counts.append(len(vq))
        return decode(vq, *how)

    monkeypatch.setattr(model, "decode_pixels", counted)
    walk = model.walk([CIRCLE, STAR], 5, QUICK, seed=2, batch=2)
    for i, (image, wanted) in enumerate(zip(walk, alone, strict=True)):
        assert abs(levels(image) - levels(wanted)).max() <= 1
        assert counts == [2, 2, 1][: i // 2 + 1]


def test_a_path_leads_between_what_is_unwanted_too(model: Wuerstchen) -> None:
    stops = [replace(QUICK, negative=text) for text in ("blue", "a large yellow star")]
    frames = model.interpolate([CIRCLE, STAR], 2, stops, seed=2)
    alone = model.paint(STAR, stops[1], seed=2)[0]
    assert abs(levels(frames[-1]) - levels(alone)).max() <= 1


def test_stops_with_an_image_or_a_mask_for_some_only_are_refused(
    model: Wuerstchen, circle: Image.Image
) -> None:
    with pytest.raises(ValueError, match="all or none of them with an image"):
        model.interpolate([CIRCLE, STAR], 3, [OVER, replace(OVER, image=circle)])
    with pytest.raises(ValueError, match="give it no mask and no outpaint"):
        model.interpolate([CIRCLE, STAR], 3, OVER, image=circle, outpaint=(0, 0, 8, 0))


def test_a_compressor_that_is_none_is_named(tiny: Path, circle: Image.Image) -> None:
    wrong = Wuerstchen.load(
        tiny, compressor=tiny / "wuerstchen" / "vqgan", device="cpu", progress=False
    )
    with pytest.raises(
        CheckpointError, match=r"expected the semantic compressor .* this is Stage A"
    ):
        wrong.paint(CIRCLE, OVER, image=circle)


def test_what_is_left_noisy_is_noisy_outside_the_mask_too(model: Wuerstchen) -> None:
    latent = 42 * torch.randn(1, 16, 3, 6, generator=torch.Generator().manual_seed(0)) - 1
    mask = torch.zeros(1, 1, 3, 6)
    text = model.encode_text([CIRCLE]).prior
    noisy = model.sample_semantic(text, generators([1]), steps=3, latent=latent, mask=mask, end=0.5)
    assert 0.4 < float((noisy - latent).std() / latent.std()) < 1.2


def test_pictures_on_canvases_of_one_size_keep_their_own(model: Wuerstchen) -> None:
    image = Image.effect_noise((140, 128), 50).convert("RGB")
    over = Settings(image=image, steps=2, decoder_steps=1)
    each = [replace(over, outpaint=(0, 0, side, 0)) for side in (8, 16)]
    assert [one.size for one in model.paint(CIRCLE, each)] == [(148, 128), (156, 128)]


def test_a_picture_is_read_in_half_precision(circle: Image.Image) -> None:
    half = Wuerstchen.load(device="cpu", dtype="bf16", progress=False)
    (again,) = half.paint(CIRCLE, OVER, image=circle, strength=0.0)
    assert abs(levels(again) - levels(circle)).mean() < 15


@pytest.mark.parametrize(("latents", "masks"), [(2, 2), (1, 2), (2, 1)])
def test_latents_and_masks_are_one_for_all_or_one_for_each(
    model: Wuerstchen, latents: int, masks: int
) -> None:
    text, drawn = model.encode_text([CIRCLE]).prior, torch.Generator().manual_seed(0)
    known = 42 * torch.randn(latents, 16, 3, 3, generator=drawn) - 1
    open_cells = torch.eye(3)[:masks, None, None, :].expand(-1, -1, 3, -1)

    def over(seeds: list[int], latent: Tensor, mask: Tensor) -> Tensor:
        return model.sample_semantic(text, generators(seeds), steps=2, latent=latent, mask=mask)

    pairs = zip(known.expand(2, -1, -1, -1), open_cells.expand(2, -1, -1, -1), strict=True)
    alone = [over([3 + i], *(one[None] for one in pair)) for i, pair in enumerate(pairs)]
    torch.testing.assert_close(over([3, 4], known, open_cells), torch.cat(alone), atol=5e-3, rtol=0)
