"""The loop of training, with tasks of few weights: it goes on where it stopped, and says what failed."""

import json
import math
import signal
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wuerstchen.training.interrupts import stop_on_signal
from wuerstchen.training.loop import PATIENCE, Plan, Run, drawings, finished, is_finished, train
from wuerstchen.training.states import save_state
from wuerstchen.training.vqgan import StageATask

from .untrained import CPU, QUIET

PLAN = Plan(steps=150, lr=1e-2, look_every=100, save_every=60, warm_up=1)


class Killed(BaseException):
    """What ends a run without a saved state."""


def nothing(count: int) -> None:
    pass


@dataclass
class Doubling:
    """Learn to double a number; the loss of some steps is not finite, and `before` sees every step."""

    name: str = "doubling"
    width: int = 1
    infinite: Container[int] = ()
    before: Callable[[int], None] = nothing
    count: int = 0
    ground: Sequence[nn.Module] = ()
    networks: nn.ModuleDict = field(init=False)

    def __post_init__(self) -> None:
        self.networks = nn.ModuleDict({"line": nn.Linear(self.width, 1, bias=False)})
        nn.init.constant_(self.networks["line"].weight, 0.5)

    def draw(self, rng: np.random.Generator, progress: float) -> float:
        return float(rng.normal())

    def losses(self, drawn: float, progress: float) -> dict[str, Tensor]:
        self.count += 1
        self.before(self.count)
        x = torch.full((1, self.width), drawn)
        factor = math.inf if self.count in self.infinite else 1.0
        return {"squared": factor * (self.networks["line"](x) - 2 * x.sum()).square().mean()}

    def look(self, folder: Path, step: int) -> dict[str, float]:
        return {"seen": 1.0}


def killed_at(fatal: int) -> Callable[[int], None]:
    def before(count: int) -> None:
        if count == fatal:
            raise Killed

    return before


def weights(task: StageATask) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in task.networks.parameters()]


def log(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "doubling.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_steps_without_finite_gradients_are_skipped_and_counted_in_the_log(tmp_path: Path) -> None:
    run = Run(Doubling(infinite=range(11, 21)), PLAN, tmp_path)
    for step in range(100):
        before = run.parameters[0].detach().clone()
        run.advance(1.0)
        assert bool((run.parameters[0] == before).all()) == (step + 1 in range(11, 21))
    assert [line["skipped"] for line in log(tmp_path)] == [10, 10]
    assert all(math.isfinite(line["squared"]) for line in log(tmp_path))


def test_a_run_that_only_skips_is_stopped_in_one_line(tmp_path: Path) -> None:
    run = Run(Doubling(infinite=range(3, 1000)), PLAN, tmp_path)
    for _ in range(PATIENCE + 1):
        run.advance(1.0)
    with pytest.raises(FloatingPointError, match=r"100 steps up to step 102 .*lower") as told:
        run.advance(1.0)
    assert run.step == PATIENCE + 2
    assert "\n" not in str(told.value)


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


def test_the_log_of_a_killed_run_is_that_of_a_run_that_was_not(tmp_path: Path) -> None:
    train(Doubling(infinite=[5]), PLAN, tmp_path / "straight")
    with pytest.raises(Killed):
        train(Doubling(infinite=[5], before=killed_at(110)), PLAN, tmp_path / "killed")
    with (tmp_path / "killed" / "doubling.jsonl").open("a") as opened:
        opened.write('{"step": 110, "sec')
    train(Doubling(), PLAN, tmp_path / "killed")

    straight, killed = log(tmp_path / "straight"), log(tmp_path / "killed")
    seconds = [line.pop("seconds") for line in killed]
    assert seconds == sorted(seconds)
    assert killed == [{name: line[name] for name in line if name != "seconds"} for line in straight]
    assert killed[-2]["skipped"] == 1


def test_a_log_without_a_state_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(Doubling(before=killed_at(55)), PLAN, tmp_path)
    assert [line["step"] for line in log(tmp_path)] == [50]
    train(Doubling(), PLAN, tmp_path)
    assert [line["step"] for line in log(tmp_path)] == [50, 100, 100, 150, 150]


def test_the_seconds_before_an_interrupt_count(tmp_path: Path) -> None:
    first = Run(Doubling(), PLAN, tmp_path)
    first.log.started -= 1000
    first.advance(1.0)
    first.save()
    second = Run(Doubling(), PLAN, tmp_path)
    second.resume()
    assert 1000 <= second.log.seconds < 1100
    assert second.recent == first.recent


def test_what_is_not_trained_yet_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        finished(StageATask(CPU), tmp_path)


def test_a_part_that_was_interrupted_is_not_finished(tmp_path: Path) -> None:
    run = Run(Doubling(), PLAN, tmp_path)
    assert not is_finished("doubling", PLAN, tmp_path)
    for _ in range(3):
        run.advance(1.0)
    run.save()
    assert not is_finished("doubling", PLAN, tmp_path)
    with pytest.raises(
        ValueError, match=r"must have all 150 steps, got 3; train the part doubling"
    ):
        finished(Doubling(), tmp_path)
    train(Doubling(), PLAN, tmp_path)
    assert is_finished("doubling", PLAN, tmp_path)
    assert not finished(Doubling(), tmp_path).networks.training


@pytest.mark.parametrize("use", [lambda *given: train(given[0], PLAN, given[1]), finished])
def test_a_state_of_other_sizes_or_of_an_older_loop_is_refused_in_one_line(
    tmp_path: Path, use: Callable[[Doubling, Path], object]
) -> None:
    train(Doubling(), PLAN, tmp_path)
    with pytest.raises(ValueError, match="begin anew in another folder") as told:
        use(Doubling(width=2), tmp_path)
    assert "\n" not in str(told.value)
    state = torch.load(tmp_path / "doubling.pt", weights_only=True)
    del state["steps"]
    torch.save(state, tmp_path / "doubling.pt")
    with pytest.raises(ValueError, match="begin anew in another folder"):
        use(Doubling(), tmp_path)


@pytest.mark.parametrize("use", [lambda *given: train(given[0], PLAN, given[1]), finished])
def test_a_state_that_stands_on_a_part_trained_anew_is_refused(
    tmp_path: Path, use: Callable[[Doubling, Path], object]
) -> None:
    before, anew = nn.Linear(2, 2), nn.Linear(2, 2)
    train(Doubling(ground=[before]), PLAN, tmp_path)
    use(Doubling(ground=[before]), tmp_path)
    with pytest.raises(ValueError, match=r"doubling\.pt must stand on the parts before it") as told:
        use(Doubling(ground=[anew]), tmp_path)
    assert "remove it, and the same command trains it, too" in str(told.value)


def test_the_bar_is_not_drawn_at_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Doubling(), PLAN, tmp_path)
    assert 1 < capsys.readouterr().err.count("\r") < 15


def test_averaged_weights_follow_at_a_distance(tmp_path: Path) -> None:
    task = StageATask(CPU)
    run, before = Run(task, Plan(steps=4, lr=1e-3, warm_up=1), tmp_path), weights(task)
    run.advance(task.draw(np.random.default_rng(0), 0.0))
    trained = [p.detach().clone() for p in run.parameters]
    own = {id(p) for p in run.parameters}
    start = [w for w, p in zip(before, task.networks.parameters(), strict=True) if id(p) in own]
    for average, old, new in zip(
        run.average, start, trained, strict=True
    ):  # a decay of 2/11 at first
        torch.testing.assert_close(average, torch.lerp(old, new, 9 / 11))


def test_a_look_at_the_averaged_weights_leaves_the_trained_ones(tmp_path: Path) -> None:
    task = StageATask(CPU)
    run = Run(task, Plan(steps=4, lr=1e-3, warm_up=1), tmp_path)
    run.advance(task.draw(np.random.default_rng(0), 0.0))
    trained = weights(task)
    with run.averaged():
        assert not all(map(torch.equal, trained, weights(task)))
    assert all(map(torch.equal, trained, weights(task)))


def test_the_learning_rate_rises_and_falls_to_a_hundredth(tmp_path: Path) -> None:
    run = Run(StageATask(CPU), Plan(steps=1000, lr=1e-3, warm_up=10), tmp_path)
    rates = []
    for run.step in (0, 9, 500, 999):
        rates.append(run._schedule())
    assert rates == pytest.approx([0.1, 1, 0.505, 0.01], abs=2e-3)


def test_what_is_random_in_a_step_depends_on_its_number_alone(tmp_path: Path) -> None:
    drawn: list[float] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        run = Run(Doubling(before=lambda _: drawn.append(float(torch.rand(())))), PLAN, tmp_path)
        run.advance(1.0)
        run.advance(1.0)
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_state_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    save_state(tmp_path / "a.pt", {"step": 1})
    before = (tmp_path / "a.pt").read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        save_state(tmp_path / "a.pt", {"step": 2})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_after_a_run_an_interrupt_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as caught:
        signal.raise_signal(signal.SIGINT)
    assert caught == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is before
