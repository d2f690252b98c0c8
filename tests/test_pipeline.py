"""The whole road and each stage alone, on a tiny random model; the peer is diffusers."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, fromarray
from torch import nn

from wuerstchen import CheckpointError, Settings, Wuerstchen, cells, generators, to_images
from wuerstchen.compressor import Compressor
from wuerstchen.placement import Placement
from wuerstchen.sampling import published_times
from wuerstchen.settings import SAMPLERS
from wuerstchen.sizes import vq_cells

from .conftest import COMPRESSOR, write_network
from .peers import levels, mean_error, paint_with, pipelines

PROMPT, OTHER, NEGATIVE = "a large red circle on a blue background", "a green star", "blue"
QUICK = Settings(width=128, height=128, steps=3, decoder_steps=2)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Wuerstchen:
    return Wuerstchen.load(tiny, device="cpu", progress=False)


def difference(image: Image, other: Image) -> int:
    """The largest difference of a level in 0 to 255."""
    assert image.size == other.size
    return int(abs(levels(image) - levels(other)).max())


def test_a_prompt_becomes_an_rgb_picture_of_the_native_size(model: Wuerstchen) -> None:
    image = model.paint(PROMPT, seed=1)[0]
    assert (image.mode, image.size) == ("RGB", (256, 256))
    assert levels(image).std() > 10


def test_a_seed_gives_one_picture_and_another_seed_another(model: Wuerstchen) -> None:
    first, again, other = (model.paint(PROMPT, QUICK, seed=seed)[0] for seed in (1, 1, 2))
    assert difference(first, again) == 0
    assert difference(first, other) > 20


def test_no_global_seed_is_set_or_read(model: Wuerstchen) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.paint(PROMPT, QUICK)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_of_prompts_holds_the_single_pictures(model: Wuerstchen) -> None:
    settings = replace(QUICK, seed=5, negative=NEGATIVE, decoder_guidance=2.0)
    batch = model.paint([PROMPT, OTHER], settings, batch=2)
    singles = [model.paint(p, settings, seed=s)[0] for p in (PROMPT, OTHER) for s in (5, 6)]
    assert len(batch) == 4
    assert max(difference(one, many) for one, many in zip(singles, batch, strict=True)) <= 1


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


def test_a_batch_with_decoder_seeds_holds_the_single_pictures(model: Wuerstchen) -> None:
    batch = model.paint(PROMPT, QUICK, batch=2, decoder_seed=9)
    assert difference(batch[1], model.paint(PROMPT, QUICK, seed=1, decoder_seed=10)[0]) <= 1


def test_a_quantized_model_is_smaller_and_paints_about_the_same(
    tiny: Path, model: Wuerstchen
) -> None:
    small = Wuerstchen.load(tiny, device="cpu", quantize="int8", progress=False)
    for network, quantized in ((model.stage_c, small.stage_c), (model.stage_b, small.stage_b)):
        assert bytes_of(quantized) < 0.6 * bytes_of(network)
    assert bytes_of(small.stage_a) == bytes_of(model.stage_a)
    (wanted,), (found,) = (one.paint(PROMPT, QUICK) for one in (model, small))
    assert 0 < abs(levels(wanted) - levels(found)).mean() < 10


def bytes_of(network: Any) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def test_without_progress_nothing_is_said(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Wuerstchen.load(tiny, device="cpu", progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("offload", ["stage", "layer"])
def test_offload_does_not_change_the_picture(tiny: Path, model: Wuerstchen, offload: str) -> None:
    other = Wuerstchen.load(tiny, device="cpu", offload=offload, progress=False)
    assert difference(model.paint(PROMPT, QUICK)[0], other.paint(PROMPT, QUICK)[0]) == 0


def test_half_precision_paints_nearly_the_same(tiny: Path, model: Wuerstchen) -> None:
    half = Wuerstchen.load(tiny, device="cpu", dtype="bf16", progress=False)
    assert half.stage_c.projection.weight.dtype == torch.bfloat16
    images = (m.paint(PROMPT, QUICK, guidance=1.0)[0] for m in (model, half))
    assert abs(np.subtract(*map(levels, images))).mean() < 10


def test_the_negative_prompt_counts_only_with_guidance(model: Wuerstchen) -> None:
    guided, led = (model.paint(PROMPT, QUICK, negative=text)[0] for text in ("", NEGATIVE))
    assert difference(guided, led) > 5
    free, same = (model.paint(PROMPT, QUICK, guidance=1.0, negative=t)[0] for t in ("", NEGATIVE))
    assert difference(free, same) == 0


def test_guidance_of_one_and_below_is_none(model: Wuerstchen) -> None:
    one, none = (model.paint(PROMPT, QUICK, guidance=value)[0] for value in (1.0, 0.0))
    assert difference(one, none) == 0


@pytest.mark.parametrize("steps", [2, 5])
def test_a_decoder_seed_counts_for_stage_b_alone_whatever_the_steps_of_stage_c(
    model: Wuerstchen, steps: int
) -> None:
    text = model.encode_text([PROMPT])
    semantic = model.sample_semantic(text.prior, generators([3]), (128, 128), steps=steps)
    vq = model.sample_vq(semantic, text.decoder, generators([7]), steps=2)
    painted = model.paint(PROMPT, QUICK, steps=steps, seed=3, decoder_seed=7)[0]
    assert difference(to_images(model.decode_pixels(vq))[0], painted) == 0


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
def pair(twins: tuple[Path, Path]) -> list[Wuerstchen]:
    """Two models with compressors."""
    return [Wuerstchen.load(twin, device="cpu", progress=False) for twin in twins]


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


def test_guidance_in_an_interval_lies_between_none_and_all(model: Wuerstchen) -> None:
    text = model.encode_text([PROMPT]).prior

    def sampled(**how: Any) -> torch.Tensor:
        return model.sample_semantic(text, generators([3]), steps=4, sampler="euler", **how)

    everywhere, nowhere = sampled(guidance=4.0), sampled(guidance=1.0)
    late = sampled(guidance=4.0, interval=(0.6, 0.0))
    assert (sampled(guidance=4.0, interval=(1.0, 1e-6)) - everywhere).abs().max() < 1e-3
    assert 0 < (late - nowhere).abs().mean() < (everywhere - nowhere).abs().mean()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_paints_a_picture_for_each_stage(model: Wuerstchen, sampler: str) -> None:
    plain = model.paint(PROMPT, QUICK)[0]
    image = model.paint(PROMPT, QUICK, sampler=sampler, decoder_sampler=sampler)[0]
    assert levels(image).std() > 10
    assert (difference(image, plain) == 0) == (sampler in ("ddpm", "euler_ancestral"))


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


def test_every_side_to_4096_fits_and_is_cropped_from_the_next_block() -> None:
    for side in range(128, 4097):
        semantic, vq = found = cells(side)
        assert side <= found.pixels < side + 128
        assert (found.pixels % 128, vq_cells(semantic)) == (0, vq)


@pytest.mark.parametrize(
    ("side", "blocks"), [(128, 1), (129, 2), (256, 2), (1000, 8), (1024, 8), (2176, 17)]
)
def test_cells_of_a_side_go_by_128_pixels(side: int, blocks: int) -> None:
    assert cells(side) == (3 * blocks, 32 * blocks)
    assert vq_cells(cells(side).semantic) == cells(side).vq


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("width", value) for value in (127, 0, -5, 512.5, float("nan"), float("inf"), "512")),
        ("height", 64),
        ("steps", 0),
        ("decoder_steps", 0),
        ("batch", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("decoder_seed", -1),
        ("guidance", float("nan")),
        ("decoder_guidance", float("inf")),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a .*, got "):
        Settings(**{name: value})


def test_settings_are_one_for_all_or_one_for_each(model: Wuerstchen) -> None:
    with pytest.raises(ValueError, match="one setting per prompt, got 1 for 2"):
        model.paint([PROMPT, OTHER], [QUICK])


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


@dataclass(frozen=True, kw_only=True)
class Recording(Placement):
    """A placement that writes down which network comes to the device and which leaves it."""

    moves: list[str] = field(default_factory=list)

    @contextmanager
    def running(self, network: nn.Module, *, pack: bool = True) -> Iterator[None]:
        name = type(network).__name__
        self.moves.append(f"+{name}")
        with super().running(network, pack=pack):
            yield
        self.moves.append(f"-{name}")


def test_one_network_at_a_time_is_on_the_device(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", offload="stage", progress=False)
    placement = Recording(offload="stage")
    model.placement = model.prior_text.placement = model.decoder_text.placement = placement
    model.paint(PROMPT, QUICK)
    order = ["TextEncoder", "TextEncoder", "StageC", "StageB", "StageA"]
    assert placement.moves == [move for name in order for move in (f"+{name}", f"-{name}")]


NETWORKS = {
    "prior_text": "prior_text.network",
    "stage_c": "stage_c",
    "decoder_text": "decoder_text.network",
    "stage_b": "stage_b",
    "stage_a": "stage_a",
    "compressor": "compressor",
}
# Which networks come from the other model, if this folder or file of it is given as that argument.
TAKEN = [
    ("model", "", {*NETWORKS}),
    ("prior", "wuerstchen-prior", {"prior_text", "stage_c"}),
    ("prior", "wuerstchen-prior/prior", {"stage_c"}),
    ("decoder", "wuerstchen", {"decoder_text", "stage_b", "stage_a", "compressor"}),
    ("decoder", "wuerstchen/decoder", {"stage_b"}),
    ("stage_a", "wuerstchen", {"stage_a"}),
    ("stage_a", "wuerstchen/vqgan", {"stage_a"}),
    ("compressor", "wuerstchen", {"compressor"}),
    ("compressor", "wuerstchen/efficient_net", {"compressor"}),
]


def weights(model: Wuerstchen) -> dict[str, float]:
    """The sum of each network's weights, by which it is known."""
    found = {name: attrgetter(path)(model) for name, path in NETWORKS.items()}
    return {name: sum(w.double().sum().item() for w in n.parameters()) for name, n in found.items()}


@pytest.mark.parametrize(("argument", "place", "taken"), TAKEN)
def test_a_source_brings_its_networks_and_the_model_the_rest(
    twins: tuple[Path, Path],
    pair: list[Wuerstchen],
    argument: str,
    place: str,
    taken: set[str],
) -> None:
    sources = {"model": twins[0], argument: twins[1] / place}
    mixed = Wuerstchen.load(**sources, device="cpu", progress=False)
    ours, theirs, found = map(weights, (*pair, mixed))
    assert all(ours[name] != theirs[name] for name in NETWORKS)
    assert found == {name: theirs[name] if name in taken else ours[name] for name in NETWORKS}
    assert mixed.native_size == pair["prior_text" in taken].native_size


def test_whole_prior_and_decoder_need_no_model(tiny: Path) -> None:
    pair = {"prior": tiny / "wuerstchen-prior", "decoder": str(tiny / "wuerstchen")}
    assert Wuerstchen.load("/nowhere", **pair, device="cpu").native_size == 256


def test_networks_run_where_and_as_they_are_asked_to(tiny: Path) -> None:
    plain = Wuerstchen.load(tiny, device="cpu", progress=False)
    assert plain.placement == Placement()
    model = Wuerstchen.load(tiny, device="cpu", dtype="bf16", offload="layer", progress=False)
    wanted = Placement(dtype=torch.bfloat16, offload="layer")
    for placement in (model.placement, model.prior_text.placement, model.decoder_text.placement):
        assert placement == wanted
    assert not model.progress


def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"wuerstchen-prior/model_index\.json or wuerstchen/model_index\.json",
    ):
        Wuerstchen.load(tmp_path)
    shutil.copytree(tiny, tmp_path / "copy")
    (tmp_path / "copy" / "wuerstchen" / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"but found no wuerstchen/model_index\.json;"):
        Wuerstchen.load(tmp_path / "copy")


def test_a_model_without_a_native_size_paints_at_1024(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    index = tmp_path / "copy" / "wuerstchen-prior" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "WuerstchenPriorPipeline"}))
    assert Wuerstchen.load(tmp_path / "copy", device="cpu").native_size == 1024


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


def test_tiles_change_little_and_no_tile_larger_than_the_picture_anything(
    model: Wuerstchen,
) -> None:
    whole = model.paint(PROMPT, QUICK, width=384, height=256)[0]
    assert difference(whole, model.paint(PROMPT, QUICK, width=384, height=256, tile=512)[0]) <= 1
    tiled = model.paint(PROMPT, QUICK, width=384, height=256, tile=256)[0]
    assert tiled.size == (384, 256)
    assert difference(whole, tiled) > 1
    assert abs(levels(whole) - levels(tiled)).mean() < levels(whole).std() / 4


def test_no_stage_after_the_prior_sees_more_than_a_tile_at_once(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    seen: list[tuple[int, ...]] = []
    for network in (model.stage_b.embedding, model.stage_a.up_blocks):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    model.paint(PROMPT, QUICK, width=512, height=384, tile=256)
    assert len(seen) > 2 * QUICK.decoder_steps
    assert max(side for size in seen for side in size) == 256 // 4


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


@torch.no_grad()
def test_a_network_alone_takes_autocast(model: Wuerstchen) -> None:
    given = torch.randn(1, 16, 6, 6), torch.tensor([0.5]), model.encode_text("a cat").prior
    plain = model.stage_c(*given)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.stage_c(*given)
    assert 0 < mean_error(cast.float(), plain) < 0.05


@pytest.mark.parametrize("name", ["decoder_steps", "batch", "seed", "feather"])
def test_what_has_a_number_by_default_needs_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least"):
        Settings(**{name: None})


def test_one_text_is_one_prompt_and_seeds_may_be_numpys(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    one, several = model.encode_text("a cat"), model.encode_text(["a cat"])
    assert torch.equal(one.prior, several.prior)
    assert torch.equal(one.decoder, several.decoder)
    theirs, ours = generators(np.arange(2, 4)), generators([2, 3])
    assert [one.initial_seed() for one in theirs] == [one.initial_seed() for one in ours]


@pytest.mark.parametrize("changes", [{"start": 0.5}, {"fresh": False}])
def test_a_run_that_begins_with_a_latent_needs_one(tiny: Path, changes: dict[str, Any]) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    with pytest.raises(ValueError, match="begins with a latent; give latent"):
        model.sample_semantic(model.encode_text("a cat").prior, generators([0]), **changes)


def test_latents_are_tensors_like_any_other(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    text, rngs = model.encode_text(["a cat"]), generators([0])
    semantic = model.sample_semantic(text.prior, rngs, (128, 128), steps=1)
    semantic.requires_grad_().square().sum().backward()
    assert semantic.grad is not None
    with torch.no_grad():
        semantic[:, 0] += 1


def test_numbers_and_devices_of_other_types_are_taken_as_they_are_meant(tiny: Path) -> None:
    asked = Settings(
        width=np.int64(128), seed=np.uint32(7), batch=np.int8(2), outpaint=(np.int16(0),) * 4
    )
    assert asked == Settings(width=128, seed=7, batch=2)
    assert all(type(value) is int for value in (asked.width, asked.seed, *asked.outpaint))
    assert Settings(negative=None).negative == ""  # type: ignore[arg-type]
    model = Wuerstchen.load(tiny, device=torch.device("cpu"), progress=False)
    assert model.placement.device.type == "cpu"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 10**27}, "width must be a whole number of at most 2147483647, got 1000"),
        ({"width": 256.0}, "width must be a whole number of at least 128, got 256.0"),
        ({"guidance": 1e39}, r"guidance must be a number from -10000 to 10000, got 1e\+39"),
        ({"decoder_guidance": float("nan")}, "decoder_guidance must be a number from"),
        ({"guidance": "4"}, "guidance must be a number from -10000 to 10000, got '4'"),
        ({"guidance_end": None}, "guidance_end must be a number from 0 to 1, got None"),
        ({"image": "a.png", "strength": "x"}, "strength must be a number from 0 to 1, got 'x'"),
        ({"guidance": torch.ones(2)}, "guidance must be a number from -10000 to 10000, got tensor"),
        ({"image": "a.png", "outpaint": np.array(5)}, "outpaint must be pixels left, above"),
        ({"image": "a.png", "outpaint": 5}, "outpaint must be pixels left, above, right and below"),
        ({"negative": "caf\udce9"}, "negative must be text in UTF-8, got 'caf"),
    ],
)
def test_values_beyond_any_use_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_what_is_no_text_is_no_prompt(model: Wuerstchen) -> None:
    for prompt in ("caf\udce9", None, b"x"):
        with pytest.raises(ValueError, match="a prompt must be text in UTF-8, got "):
            model.paint([prompt], QUICK)  # type: ignore[list-item]


def test_only_c_and_b_are_quantized(tiny: Path) -> None:
    plain = Wuerstchen.load(tiny, device="cpu", progress=False)
    small = Wuerstchen.load(tiny, device="cpu", quantize="int8", progress=False)
    for part in ("prior_text.network", "decoder_text.network", "stage_a"):
        assert bytes_of(attrgetter(part)(small)) == bytes_of(attrgetter(part)(plain))


def test_outside_of_an_interval_only_the_prompt_counts(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    how = {"guidance": 4.0, "guidance_start": 1e-3, "steps": 3}
    free, outside = (
        model.paint(PROMPT, QUICK, **s)[0] for s in ({"guidance": 1.0, "steps": 3}, how)
    )
    assert abs(levels(free) - levels(outside)).max() <= 1


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


def test_the_last_seed_of_a_batch_is_in_the_range() -> None:
    with pytest.raises(ValueError, match="seed must be a whole number of at most"):
        Settings(seed=2**64 - 1, batch=2)


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


def test_negative_prompts_are_weighed_as_their_own_settings_say(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    each = [replace(QUICK, negative="a (blue:5) star", weighting=w) for w in ("comfy", "none")]
    together = model.paint(PROMPT, each)
    alone = [model.paint(PROMPT, one)[0] for one in each]
    assert (
        max(int(abs(levels(a) - levels(b)).max()) for a, b in zip(together, alone, strict=True))
        <= 1
    )


def test_one_tile_is_the_whole_with_texts_of_two_lengths_too(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    how = {"decoder_guidance": 4.0, "negative": "a green star " * 40}
    whole, one = (model.paint(PROMPT, QUICK, tile=tile, **how)[0] for tile in (None, 256))
    assert abs(levels(whole) - levels(one)).max() <= 1


def test_numbers_may_be_of_any_type() -> None:
    given = Settings(guidance=np.float32(3), guidance_rescale=Fraction(1, 2), seed=np.int64(2))
    assert given == Settings(guidance=3.0, guidance_rescale=0.5, seed=2)
    assert {type(given.guidance), type(given.guidance_rescale)} == {float}
