"""Prompt to picture on a tiny random model: seeds, batches, guidance, progress; the peer is diffusers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wuerstchen import Settings, Wuerstchen, generators
from wuerstchen.sampling import published_times
from wuerstchen.settings import SAMPLERS

from .peers import levels, paint_with, pipelines
from .quick_pictures import NEGATIVE, OTHER, PROMPT, QUICK, difference


def test_a_prompt_becomes_an_rgb_picture_of_the_native_size(model: Wuerstchen) -> None:
    image = model.paint(PROMPT, seed=1)[0]
    assert (image.mode, image.size) == ("RGB", (256, 256))
    assert levels(image).std() > 10


@pytest.mark.peer
def test_the_whole_road_equals_diffusers(tiny: Path, model: Wuerstchen) -> None:
    pipes = pipelines(tiny)
    published = Settings(seed=11)
    both_guided = Settings(
        seed=12, steps=7, decoder_steps=5, decoder_guidance=2.0, negative=NEGATIVE
    )
    for settings, times in ((published, published_times().tolist()), (both_guided, None)):
        for width, height in ((128, 128), (256, 256), (256, 384), (384, 128)):
            sized = replace(settings, width=width, height=height)
            embeddings, image = paint_with(pipes, PROMPT, sized, times)
            semantic = model.sample_semantic(
                model.prior_text.encode([PROMPT]),
                generators([sized.seed]),
                (width, height),
                negative=model.prior_text.encode([sized.negative]),
                steps=sized.steps,
            )
            torch.testing.assert_close(
                semantic, embeddings, atol=1e-4 * float(embeddings.abs().max()), rtol=0
            )
            assert difference(model.paint(PROMPT, sized)[0], image) <= 2


def test_a_seed_gives_one_picture_and_another_seed_another(model: Wuerstchen) -> None:
    first, again, other = (model.paint(PROMPT, QUICK, seed=seed)[0] for seed in (1, 1, 2))
    assert difference(first, again) == 0
    assert difference(first, other) > 20


def test_no_global_seed_is_set_or_read(model: Wuerstchen) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.paint(PROMPT, QUICK)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "deis", "guidance_rescale": 0.5},
        {"tile": 256, "width": 384, "height": 256},
    ],
)
def test_numbers_are_float32_on_their_own_device_whatever_pytorchs_defaults(
    tiny: Path, changes: dict[str, Any]
) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    how = {"seed": 3, "steps": 2, "decoder_steps": 2, "width": 128, "height": 128} | changes
    prompt = "a (large:1.4) circle"
    (plain,) = model.paint(prompt, **how)
    with torch.device("meta"):
        (elsewhere,) = model.paint(prompt, **how)
    assert difference(plain, elsewhere) == 0
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            (other,) = model.paint(prompt, **how)
        finally:
            torch.set_default_dtype(torch.float32)
        assert difference(plain, other) == 0


def test_a_batch_of_prompts_holds_the_single_pictures(model: Wuerstchen) -> None:
    settings = replace(QUICK, seed=5, negative=NEGATIVE, decoder_guidance=2.0)
    batch = model.paint([PROMPT, OTHER], settings, batch=2)
    singles = [model.paint(p, settings, seed=s)[0] for p in (PROMPT, OTHER) for s in (5, 6)]
    assert len(batch) == 4
    assert max(difference(one, many) for one, many in zip(singles, batch, strict=True)) <= 1


def test_a_batch_with_decoder_seeds_holds_the_single_pictures(model: Wuerstchen) -> None:
    batch = model.paint(PROMPT, QUICK, batch=2, decoder_seed=9)
    assert difference(batch[1], model.paint(PROMPT, QUICK, seed=1, decoder_seed=10)[0]) <= 1


def test_prompts_with_settings_of_their_own_hold_the_single_pictures(model: Wuerstchen) -> None:
    prompts = [PROMPT, OTHER, PROMPT + ", " + "a green star " * 90, PROMPT]
    each = [
        replace(QUICK, seed=1, negative=NEGATIVE),
        replace(QUICK, seed=2, decoder_seed=5, batch=2),
        replace(QUICK, seed=3),
        replace(QUICK, seed=4, width=256),
    ]
    together = model.paint(prompts, each)
    alone = [
        image for one in zip(prompts, each, strict=True) for image in model.paint(one[0], one[1])
    ]
    assert [image.size for image in together] == [(128, 128)] * 4 + [(256, 128)]
    assert max(map(difference, together, alone)) <= 1


def test_pictures_come_in_the_order_of_their_prompts(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    each = [replace(QUICK, width=side, seed=seed) for seed, side in enumerate((128, 256, 128))]
    together = model.paint(PROMPT, each)
    alone = [model.paint(PROMPT, one)[0] for one in each]
    assert [image.size for image in together] == [(128, 128), (256, 128), (128, 128)]
    assert (
        max(int(abs(levels(a) - levels(b)).max()) for a, b in zip(together, alone, strict=True))
        <= 1
    )


def test_settings_are_one_for_all_or_one_for_each(model: Wuerstchen) -> None:
    with pytest.raises(ValueError, match="one setting per prompt, got 1 for 2"):
        model.paint([PROMPT, OTHER], [QUICK])


def test_a_word_that_weighs_more_changes_the_picture_and_one_of_weight_1_does_not(
    model: Wuerstchen,
) -> None:
    plain, heavy, same = (
        model.paint(f"a {word} circle", QUICK)[0] for word in ("red", "(red:50)", "(red:1)")
    )
    assert difference(plain, heavy) > 5
    assert difference(plain, same) == 0
    compel = model.paint("a (red)50 circle", QUICK, weighting="compel")[0]
    assert difference(compel, heavy) == 0


def test_what_is_no_text_is_no_prompt(model: Wuerstchen) -> None:
    for prompt in ("caf\udce9", None, b"x"):
        with pytest.raises(ValueError, match="a prompt must be text in UTF-8, got "):
            model.paint([prompt], QUICK)  # type: ignore[list-item]


def test_the_negative_prompt_counts_only_with_guidance(model: Wuerstchen) -> None:
    guided, led = (model.paint(PROMPT, QUICK, negative=text)[0] for text in ("", NEGATIVE))
    assert difference(guided, led) > 5
    free, same = (model.paint(PROMPT, QUICK, guidance=1.0, negative=t)[0] for t in ("", NEGATIVE))
    assert difference(free, same) == 0


def test_negative_prompts_are_weighed_as_their_own_settings_say(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    each = [replace(QUICK, negative="a (blue:5) star", weighting=w) for w in ("comfy", "none")]
    together = model.paint(PROMPT, each)
    alone = [model.paint(PROMPT, one)[0] for one in each]
    assert (
        max(int(abs(levels(a) - levels(b)).max()) for a, b in zip(together, alone, strict=True))
        <= 1
    )


def test_guidance_of_one_and_below_is_none(model: Wuerstchen) -> None:
    one, none = (model.paint(PROMPT, QUICK, guidance=value)[0] for value in (1.0, 0.0))
    assert difference(one, none) == 0


def test_outside_of_an_interval_only_the_prompt_counts(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    how = {"guidance": 4.0, "guidance_start": 1e-3, "steps": 3}
    free, outside = (
        model.paint(PROMPT, QUICK, **s)[0] for s in ({"guidance": 1.0, "steps": 3}, how)
    )
    assert abs(levels(free) - levels(outside)).max() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_paints_a_picture_for_each_stage(model: Wuerstchen, sampler: str) -> None:
    plain = model.paint(PROMPT, QUICK)[0]
    image = model.paint(PROMPT, QUICK, sampler=sampler, decoder_sampler=sampler)[0]
    assert levels(image).std() > 10
    assert (difference(image, plain) == 0) == (sampler in ("ddpm", "euler_ancestral"))


def test_a_bar_counts_the_steps_of_each_stage(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Wuerstchen.load(tiny, device="cpu")
    model.paint(PROMPT, QUICK)
    shown = capfd.readouterr()
    assert all(
        bar in shown.err
        for bar in ("Stage C: 100%", "3/3", "Stage B: 100%", "2/2", "Stage A: 100%")
    )
    assert shown.out == ""
    model.progress = False
    model.paint(PROMPT, QUICK)
    assert capfd.readouterr().err == ""


def test_without_progress_nothing_is_said(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Wuerstchen.load(tiny, device="cpu", progress=False)
    assert capfd.readouterr() == ("", "")
