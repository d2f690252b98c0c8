"""The training of the bundled model: it learns, goes on where it stopped, and writes a model that loads."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wuerstchen.pipeline import Wuerstchen
from wuerstchen.placement import Placement
from wuerstchen.towers import load_text_tower
from wuerstchen.training.__main__ import main
from wuerstchen.training.decoder import DecoderTask
from wuerstchen.training.export import export, to_published_units
from wuerstchen.training.loop import Plan, Run, drawings, finished, train
from wuerstchen.training.prior import PriorTask
from wuerstchen.training.text import TextTask
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
    text = TextTask(CPU)
    decoder = DecoderTask(StageATask(CPU).stage_a, text.towers["decoder"], CPU)
    with torch.no_grad():
        for parameter in decoder.stage_b.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return PriorTask(decoder, text.towers["prior"], stock=[])


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


def test_published_units_change_nothing_that_stage_b_paints(whole: PriorTask) -> None:
    decoder = whole.decoder
    pixels = torch.rand(2, 3, 192, 192)
    x, t, text = torch.randn(2, 4, 64, 64), torch.tensor([0.3, 0.9]), torch.randn(2, 77, 64)
    decoder.networks.eval()
    with torch.no_grad():
        z = decoder.compressor(pixels)
        before = decoder.stage_b(x, t, text, z)
        to_published_units(decoder.compressor, decoder.stage_b)
        raw = decoder.compressor(pixels)
        after = decoder.stage_b(x, t, text, raw)
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


def test_what_is_not_trained_yet_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        finished(StageATask(CPU), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["measure", "--device", "cuda:99"], "argument --device: device cuda:99 is not there"),
        (["measure", "--threads", "-1"], "threads must be a whole number of at least 1, got -1"),
        (["measure", "--sheet", "taken/x.png"], "taken"),
        (["measure", "--sheet", "x.jpg"], "expected the name of a file that ends in .png, got x"),
        (["previews", "--out", "list.json"], "list.json: expected a JSON object, found a list"),
        (["previews", "--out", "a.json", "--prompts", "0"], "prompts must be a whole number"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Wuerstchen, "load", None)
    (tmp_path / "taken").write_bytes(b"")
    (tmp_path / "list.json").write_text("[]")
    monkeypatch.setattr(sys, "argv", ["training", *words])
    try:
        status = main()
    except SystemExit as ended:  # as argparse refuses
        status = ended.code  # type: ignore[assignment]
    assert status == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
