"""The training of the bundled model: it learns, goes on where it stopped, and writes a model that loads."""

import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wuerstchen.layers import ResBlock
from wuerstchen.pipeline import Wuerstchen
from wuerstchen.placement import Placement
from wuerstchen.towers import load_text_tower
from wuerstchen.training import __main__ as jobs, decoder, prior, text, vqgan
from wuerstchen.training.data import SIZES, batch, captions, edge_weights
from wuerstchen.training.decoder import DecoderTask, StageBTask
from wuerstchen.training.export import export, to_published_units
from wuerstchen.training.loop import Plan, Run, Task, drawings, finished, train
from wuerstchen.training.measure import measure
from wuerstchen.training.mini import STAGE_B, STAGE_C
from wuerstchen.training.noising import early_times
from wuerstchen.training.previews import read_colours
from wuerstchen.training.prior import PriorTask, Stock, kept_stock
from wuerstchen.training.samplers import against
from wuerstchen.training.shapes import Scene, Thing, random_scene
from wuerstchen.training.text import TextTask, answers, random_spots
from wuerstchen.training.vqgan import StageATask

CPU = torch.device("cpu")
QUIET = Plan(steps=4, lr=1e-3, look_every=100, save_every=100, warm_up=1)


@pytest.fixture(autouse=True)
def one_start() -> Iterator[None]:
    """Every test starts from the same untrained weights."""
    torch.manual_seed(0)
    return


@pytest.fixture
def whole() -> PriorTask:
    towers = TextTask(CPU).towers
    task = DecoderTask(StageATask(CPU).stage_a, towers["decoder"], CPU)
    stir(task.stage_b)
    return PriorTask(task, towers["prior"], stock=[])


@torch.no_grad()
def stir(network: nn.Module) -> None:
    """Let no weight be zero that may become another."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(0.02 * torch.randn_like(parameter))


def random_stock() -> Stock:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(4)]
    return [(torch.randn(4, 16, 6, 6), scenes) for _ in SIZES]


def weights(task: StageATask) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in task.networks.parameters()]


def test_a_run_that_stopped_goes_on_as_if_it_never_had(tmp_path: Path) -> None:
    plan = Plan(steps=4, lr=1e-3, look_every=100, save_every=2, warm_up=1)
    straight = StageATask(CPU)
    start = {key: value.clone() for key, value in straight.networks.state_dict().items()}
    train(straight, plan, tmp_path / "straight")

    first = StageATask(CPU)
    first.networks.load_state_dict(start)
    run = Run(first, plan, tmp_path / "stopped")
    run.folder.mkdir()
    for _, drawn in zip(range(2), drawings(first, plan, 0), strict=False):
        run.advance(drawn)
    run.save()
    second = StageATask(CPU)
    train(second, plan, tmp_path / "stopped")

    for expected, found in zip(weights(straight), weights(second), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_interrupt_saves_the_state(tmp_path: Path) -> None:
    class Interrupted(StageATask):
        def losses(self, pixels: Tensor, progress: float) -> dict[str, Tensor]:
            signal.raise_signal(signal.SIGINT)
            return super().losses(pixels, progress)

    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(CPU), QUIET, tmp_path)
    assert torch.load(tmp_path / "stage_a.pt", weights_only=True)["step"] == 1


def test_the_text_towers_learn_to_tell_scenes_apart(tmp_path: Path) -> None:
    task = TextTask(CPU)
    run = Run(task, Plan(steps=24, lr=2e-3, look_every=100, warm_up=1), tmp_path)
    losses = [sum(run.advance(drawn).values()) for drawn in drawings(task, run.plan, 0)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", jobs.PLANS)
def test_a_step_moves_all_that_is_trained(
    whole: PriorTask, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a channel is zero all over the map, as many are after a while."""
    for module, constant in ((vqgan, "BATCH"), (text, "BATCH"), (prior, "BATCH")):
        monkeypatch.setattr(module, constant, 4)
    monkeypatch.setattr(decoder, "WINDOWS", 4)
    monkeypatch.setattr(decoder, "WHOLES", 2)
    make: dict[str, Callable[[], Task]] = {
        "stage_a": lambda: StageATask(CPU),
        "text": lambda: TextTask(CPU),
        "decoder": lambda: whole.decoder,
        "stage_b": lambda: StageBTask(whole.decoder),
        "prior": lambda: PriorTask(whole.decoder, whole.tower, random_stock()),
    }
    task = make[name]()
    stir(task.networks)
    for block in task.networks.modules():
        if isinstance(block, ResBlock):
            nn.init.constant_(block.channelwise[0].bias[:1], -1e3)
    run = Run(task, QUIET, tmp_path)
    before = [parameter.detach().clone() for parameter in run.parameters]
    run.advance(task.draw(np.random.default_rng(0), 0.0))

    named = [(key, one) for key, one in task.networks.named_parameters() if one.requires_grad]
    assert run.skipped == 0
    for (key, parameter), old in zip(named, before, strict=True):
        if name in ("decoder", "stage_b") and key.startswith("tower.heads."):
            continue  # nothing is asked of the tower while it learns with Stage B
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
        assert parameter.isfinite().all(), key
        assert not torch.equal(parameter, old), key


class NoNetworks(pickle.Pickler):
    """Carries what is drawn with to another process, as on systems that start it afresh."""

    def reducer_override(self, thing: Any) -> Any:
        assert not isinstance(thing, nn.Module)
        return NotImplemented  # which tells pickle to go its own way


def test_what_draws_takes_no_network_along(whole: PriorTask) -> None:
    tasks = (StageATask(CPU), TextTask(CPU), whole.decoder, StageBTask(whole.decoder))
    for task in (*tasks, PriorTask(whole.decoder, whole.tower, random_stock())):
        taken = BytesIO()
        NoNetworks(taken).dump(task.draw)
        drawn = pickle.loads(taken.getvalue())(np.random.default_rng(0), 0.0)
        assert type(drawn) is type(task.draw(np.random.default_rng(0), 0.0))


def test_published_units_change_nothing_that_stage_b_paints(whole: PriorTask) -> None:
    compressor, stage_b = whole.decoder.compressor, whole.decoder.stage_b
    pixels = torch.rand(2, 3, 192, 192)
    x, t, features = torch.randn(2, 4, 64, 64), torch.tensor([0.3, 0.9]), torch.randn(2, 77, 64)
    whole.decoder.networks.eval()
    with torch.no_grad():
        z = compressor(pixels)
        before = stage_b(x, t, features, z)
        to_published_units(compressor, stage_b)
        raw = compressor(pixels)
        after = stage_b(x, t, features, raw)
    torch.testing.assert_close(raw, 42 * z - 1, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * float(before.abs().max()))


def test_a_trained_model_is_written_in_the_published_layout_and_paints(
    whole: PriorTask, tmp_path: Path
) -> None:
    export(whole, tmp_path)
    model = Wuerstchen.load(tmp_path, device="cpu", progress=False)
    (image,) = model.paint("a small red ring", steps=2, decoder_steps=1, width=128, height=128)
    assert image.size == (128, 128)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 16_000_000


def test_transformers_reads_the_text_encoders_that_were_written(
    whole: PriorTask, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, CLIPTextModel

    export(whole, tmp_path)
    for folder in ("wuerstchen-prior", "wuerstchen"):
        home = tmp_path / folder
        network = CLIPTextModel.from_pretrained(home / "text_encoder", dtype=torch.float32)
        tokens = AutoTokenizer.from_pretrained(home / "tokenizer")(
            ["a small red ring"], padding="max_length", return_tensors="pt"
        )
        with torch.no_grad():
            theirs = network(tokens.input_ids, tokens.attention_mask).last_hidden_state
        ours = load_text_tower(home, Placement()).encode(["a small red ring"])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_largest_random_number_is_a_position_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), 1 - 2**-24))
    lengths = torch.arange(2, 78)
    assert random_spots(lengths, 77).tolist() == [76] * len(lengths)


def test_the_towers_are_as_wide_as_the_stages_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "STAGE_C", replace(STAGE_C, c_cond=96))
    monkeypatch.setattr(text, "STAGE_B", replace(STAGE_B, clip_embd=32))
    towers = TextTask(CPU).towers
    widths = {name: tower.network.config.hidden_size for name, tower in towers.items()}
    assert widths == {"prior": 96, "decoder": 32}


def test_the_stock_is_made_once_for_a_compressor(
    whole: PriorTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior, "STOCK", 10)
    whole.decoder.networks.eval()
    first = kept_stock(whole.decoder, tmp_path)
    assert [tuple(z.shape) for z, _ in first] == [(6, 16, 6, 6), (2, 16, 6, 9), (2, 16, 9, 6)]
    with monkeypatch.context() as patched:
        patched.setattr(prior, "latents", lambda *_: pytest.fail("made again"))
        again = kept_stock(whole.decoder, tmp_path)
    for (z, scenes), (other, same) in zip(first, again, strict=True):
        assert torch.equal(z, other)
        assert scenes == same
    stir(whole.decoder.compressor)
    assert not torch.equal(kept_stock(whole.decoder, tmp_path)[0][0], first[0][0])


def test_what_is_not_trained_yet_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        finished(StageATask(CPU), tmp_path)


def test_most_times_are_early() -> None:
    times = early_times(10_000)
    assert 0 <= float(times.min()) <= float(times.max()) <= 1
    assert float(times.mean()) == pytest.approx(2 / 3, abs=0.02)


def test_colours_that_are_linear_in_a_latent_are_read_off_it() -> None:
    drawn = torch.Generator().manual_seed(0)
    latents, factors = torch.randn(3, 4, 8, 6, generator=drawn), torch.randn(4, 3, generator=drawn)
    bias = torch.tensor([0.1, -0.2, 0.3])
    colours = (latents.movedim(1, -1) @ factors + bias).movedim(-1, 1)
    found = read_colours(latents, colours.repeat_interleave(4, 2).repeat_interleave(4, 3))
    torch.testing.assert_close(torch.tensor(found["factors"]), factors, atol=1e-4, rtol=0)
    assert found["bias"] == pytest.approx(bias.tolist(), abs=1e-4)
    assert found["explained"] == 1


def test_a_case_that_is_right_less_often_loses() -> None:
    usual = {"part": "stage_c", "settings": {}, "right": [1, 1, 1, 0], "shape": [1, 1, 1, 0]}
    worse = usual | {"settings": {"steps": 4}, "right": [1, 0, 1, 0]}
    assert against(worse, [usual, worse])["lost"] == 25


def test_every_prompt_is_measured_with_a_seed_of_its_own() -> None:
    model = Wuerstchen.load(device="cpu", progress=False)
    *_, second = measure(model, prompts=2, size=(128, 128), seed=5)
    (wanted,) = model.paint(second.prompt, width=128, height=128, seed=6)
    assert np.array_equal(second.pixels, wanted)


def test_a_window_shows_something_of_its_thing() -> None:
    for seed in range(8):
        windows = batch(np.random.default_rng(seed), 8, crop=64)
        assert windows.pixels.shape == (8, 3, 64, 64)
        assert windows.things.flatten(1).any(dim=1).all()


def test_of_two_things_the_left_is_asked_for_first() -> None:
    left, right = (
        Thing(colour=c, shape="star", size="small", place=p)
        for c, p in (("red", "left"), ("green", "right"))
    )
    told = answers(
        [Scene(things=pair, background="blue") for pair in ((left, right), (right, left))]
    )
    assert told["colour1"].tolist() == [0, 0]
    assert told["place2"].tolist() == [1, 1]


def test_some_captions_are_dropped_for_guidance() -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(1000)]
    dropped = captions(scenes, rng, dropped=0.15).count("")
    assert dropped == pytest.approx(150, abs=40)
    assert all(captions(scenes, rng))


def test_outlines_weigh_most_and_plain_ground_one() -> None:
    things = torch.zeros(1, 1, 32, 32)
    things[..., 8:24, 8:24] = 1
    found = edge_weights(things, 4)[0, 0]
    assert found[0, 0] == 1  # ground
    assert found[3, 3] == 2  # inside
    assert min(found[1, 3], found[2, 3]) >= 5  # on either side of the outline
