"""Stages one by one: their latents kept and continued, runs in parts, and what does not fit together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wuerstchen import CheckpointError, Wuerstchen, generators, to_images
from wuerstchen.compressor import Compressor

from .conftest import COMPRESSOR, write_network
from .peers import mean_error
from .quick_pictures import OTHER, PROMPT, QUICK, difference


def test_stages_one_by_one_give_the_picture_and_its_latents(model: Wuerstchen) -> None:
    rngs, text = generators([3, 4]), model.encode_text([PROMPT])
    semantic = model.sample_semantic(text.prior, rngs, (384, 256))
    vq = model.sample_vq(semantic, text.decoder, rngs)
    pixels = model.decode_pixels(vq)
    assert [tuple(t.shape) for t in (semantic, vq, pixels)] == [
        (2, 16, 6, 9),
        (2, 4, 64, 96),
        (2, 3, 256, 384),
    ]
    assert {t.dtype for t in (semantic, vq, pixels)} == {torch.float32}
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    painted = model.paint(PROMPT, seed=3, batch=2, width=384)
    assert [difference(*pair) for pair in zip(to_images(pixels), painted, strict=True)] == [0, 0]


def test_one_text_is_one_prompt_and_seeds_may_be_numpys(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    one, several = model.encode_text("a cat"), model.encode_text(["a cat"])
    assert torch.equal(one.prior, several.prior)
    assert torch.equal(one.decoder, several.decoder)
    theirs, ours = generators(np.arange(2, 4)), generators([2, 3])
    assert [one.initial_seed() for one in theirs] == [one.initial_seed() for one in ours]


def test_latents_are_tensors_like_any_other(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    text, rngs = model.encode_text(["a cat"]), generators([0])
    semantic = model.sample_semantic(text.prior, rngs, (128, 128), steps=1)
    semantic.requires_grad_().square().sum().backward()
    assert semantic.grad is not None
    with torch.no_grad():
        semantic[:, 0] += 1


@torch.no_grad()
def test_a_network_alone_takes_autocast(model: Wuerstchen) -> None:
    given = torch.randn(1, 16, 6, 6), torch.tensor([0.5]), model.encode_text("a cat").prior
    plain = model.stage_c(*given)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.stage_c(*given)
    assert 0 < mean_error(cast.float(), plain) < 0.05


def test_latents_saved_and_decoded_later_give_the_same_picture(
    tiny: Path, model: Wuerstchen, tmp_path: Path
) -> None:
    text = model.encode_text([PROMPT])
    semantic = model.sample_semantic(text.prior, generators([3]), steps=3)
    torch.save({"semantic": semantic, "text": text.decoder}, tmp_path / "latents.pt")
    later = Wuerstchen.load(tiny, device="cpu", progress=False)
    saved = torch.load(tmp_path / "latents.pt", weights_only=True)
    vq = later.sample_vq(saved["semantic"], saved["text"], generators([8]))
    torch.save(vq, tmp_path / "vq.pt")
    image = to_images(later.decode_pixels(torch.load(tmp_path / "vq.pt", weights_only=True)))[0]
    assert difference(image, model.paint(PROMPT, seed=3, decoder_seed=8, steps=3)[0]) == 0


@pytest.mark.parametrize("steps", [2, 5])
def test_a_decoder_seed_counts_for_stage_b_alone_whatever_the_steps_of_stage_c(
    model: Wuerstchen, steps: int
) -> None:
    text = model.encode_text([PROMPT])
    semantic = model.sample_semantic(text.prior, generators([3]), (128, 128), steps=steps)
    vq = model.sample_vq(semantic, text.decoder, generators([7]), steps=2)
    painted = model.paint(PROMPT, QUICK, steps=steps, seed=3, decoder_seed=7)[0]
    assert difference(to_images(model.decode_pixels(vq))[0], painted) == 0


def test_a_run_may_be_parted_at_any_time(model: Wuerstchen) -> None:
    text = model.encode_text([PROMPT]).prior
    how = {"sampler": "euler"}
    whole = model.sample_semantic(text, generators([3]), steps=8, **how)
    half = model.sample_semantic(text, generators([3]), steps=4, end=0.5, **how)
    rest = model.sample_semantic(
        text, generators([9]), steps=4, start=0.5, latent=half, fresh=False, **how
    )
    torch.testing.assert_close(rest, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))


def test_the_later_a_latent_is_entered_the_more_of_it_stays(model: Wuerstchen) -> None:
    first, other = (model.encode_text([text]).prior for text in (PROMPT, OTHER))
    latent = model.sample_semantic(first, generators([3]), steps=6)
    changes = [
        float((over - latent).abs().mean())
        for start in (0.1, 0.5, 1.0)
        for over in [
            model.sample_semantic(other, generators([4]), latent=latent, start=start, steps=6)
        ]
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("changes", [{"start": 0.5}, {"fresh": False}])
def test_a_run_that_begins_with_a_latent_needs_one(tiny: Path, changes: dict[str, Any]) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    with pytest.raises(ValueError, match="begins with a latent; give latent"):
        model.sample_semantic(model.encode_text("a cat").prior, generators([0]), **changes)


def test_guidance_in_an_interval_lies_between_none_and_all(model: Wuerstchen) -> None:
    text = model.encode_text([PROMPT]).prior

    def sampled(**how: Any) -> torch.Tensor:
        return model.sample_semantic(text, generators([3]), steps=4, sampler="euler", **how)

    everywhere, nowhere = sampled(guidance=4.0), sampled(guidance=1.0)
    late = sampled(guidance=4.0, interval=(0.6, 0.0))
    assert (sampled(guidance=4.0, interval=(1.0, 1e-6)) - everywhere).abs().max() < 1e-3
    assert 0 < (late - nowhere).abs().mean() < (everywhere - nowhere).abs().mean()


def test_stages_refuse_what_does_not_fit_together(model: Wuerstchen) -> None:
    text, semantic = model.encode_text([PROMPT]), torch.zeros(1, 16, 4, 3)
    with pytest.raises(ValueError, match="multiples of 3, got 4"):
        model.sample_vq(semantic, text.decoder, generators([0]))
    with pytest.raises(ValueError, match="one generator per semantic latent, got 2 for 1"):
        model.sample_vq(semantic, text.decoder, generators([0, 1]))
    with pytest.raises(ValueError, match="one generator per text, got 3 for 2"):
        model.sample_semantic(text.prior.repeat(2, 1, 1), generators([0, 1, 2]))
    with pytest.raises(ValueError, match="at least 128, got 100"):
        model.sample_semantic(text.prior, generators([0]), (100, 128))
    with pytest.raises(ValueError, match="at least one prompt"):
        model.paint([])
    with pytest.raises(ValueError, match="at most 8×4, got 9×4"):
        to_images(torch.zeros(1, 3, 4, 8), (9, 4))


@pytest.mark.parametrize("stage", ["stage_c", "stage_b"])
def test_numbers_beyond_the_precision_are_told_and_not_painted(tiny: Path, stage: str) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    for parameter in getattr(model, stage).parameters():
        parameter.mul_(1e30)
    with pytest.raises(
        ValueError, match=r"must be of finite numbers, got others in torch\.float32"
    ):
        model.paint("a cat", steps=2, decoder_steps=2, width=128, height=128)


def test_pixels_that_are_no_numbers_are_refused(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    model.stage_a.out_block[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match="the result of Stage A must be of finite numbers"):
        model.decode_pixels(torch.zeros(1, 4, 32, 32))


def test_parts_of_different_models_are_refused(tiny: Path) -> None:
    for part, folder, sizes in (
        ("prior", "wuerstchen-prior/prior", "32 channels, but the other part has 128"),
        ("decoder", "wuerstchen/decoder", "32 channels, but the other part has 64"),
    ):
        with pytest.raises(
            CheckpointError, match=f"the {part} takes features of the text of {sizes}"
        ):
            Wuerstchen.load(**{part: tiny / folder}, device="cpu", progress=False)


def test_a_compressor_of_other_channels_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = replace(COMPRESSOR, c_latent=8)
    write_network(tmp_path / "x", "EfficientNetEncoder", Compressor(config), 1)
    model = Wuerstchen.load(tiny, compressor=tmp_path / "x", device="cpu", progress=False)
    with pytest.raises(CheckpointError, match="of 8 channels, the decoder takes 16"):
        _ = model.compressor
