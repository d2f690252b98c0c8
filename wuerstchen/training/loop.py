"""One loop for every stage: steps, averaged weights, log, pictures, and a state to go on from.

A `Task` says what is trained and what its loss is. All randomness of step k comes from (seed, k), so
a run that was stopped goes on as if it never was.
"""

import json
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast a task learns.

    `steps` of the optimiser, `lr` at its peak, `decay` of the averaged weights, pictures every
    `look_every` steps and a saved state every `save_every`.
    """

    steps: int
    lr: float
    decay: float = 0.998
    warm_up: int = 100
    look_every: int = 1000
    save_every: int = 250
    seed: int = 0


class Task(Protocol):
    """A stage in training."""

    name: str
    networks: nn.ModuleDict

    def draw(self, rng: np.random.Generator, progress: float) -> Any:
        """Return what a step learns from; `progress` in [0, 1) is the share of the run that is done."""

    def losses(self, drawn: Any, progress: float) -> dict[str, Tensor]:
        """Return named scalars whose sum is minimised."""

    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures of what the networks do now, and return figures worth logging."""


T = TypeVar("T", bound=Task)


def train(task: Task, plan: Plan, folder: Path) -> None:
    """Train `task` to the end of `plan`, or from where `folder` says that it stopped.

    Writes `<name>.pt` (state), `<name>.jsonl` (log) and pictures into `folder`. The networks hold the
    averaged weights afterwards. An interrupt saves the state and raises KeyboardInterrupt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(task, plan, folder)
    run.resume()
    bar = tqdm(total=plan.steps, initial=run.step, desc=task.name, unit="step", mininterval=2)
    with stop_on_signal() as stopped, bar:
        for drawn in drawings(task, plan, run.step):
            figures = run.advance(drawn)
            bar.update()
            bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()})
            if run.step % plan.look_every == 0 or run.step == plan.steps:
                run.look()
            if run.step % plan.save_every == 0 or run.step == plan.steps:
                run.save()
            if stopped:
                run.save()
                raise KeyboardInterrupt
    run.use_average()


class Drawings(Dataset[Any]):
    """What each step learns from, by the step's number."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self.task, self.plan = task, plan

    def __getitem__(self, step: int) -> Any:
        return self.task.draw(np.random.default_rng((self.plan.seed, step)), step / self.plan.steps)


def drawings(task: Task, plan: Plan, start: int) -> "DataLoader[Any]":
    """Return what the steps from `start` on learn from, drawn ahead in a process of its own."""
    return DataLoader(
        Drawings(task, plan),
        batch_size=None,
        sampler=range(start, plan.steps),
        num_workers=1,
        prefetch_factor=4,
        worker_init_fn=leave_signals_to_the_trainer,
    )


def leave_signals_to_the_trainer(worker: int) -> None:
    """Let an interrupt from the keyboard, which reaches all processes, pass by a drawing one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Run:
    """The state of one training run."""

    def __init__(self, task: Task, plan: Plan, folder: Path) -> None:
        self.task, self.plan, self.folder = task, plan, folder
        self.step = 0
        self.parameters = [p for p in task.networks.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.started = time.time()
        self.recent: dict[str, float] = {}

    def advance(self, drawn: Any) -> dict[str, float]:
        """Take one step and return the smoothed losses."""
        torch.manual_seed(self.plan.seed * self.plan.steps + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * self._schedule()
        losses = self.task.losses(drawn, self.step / self.plan.steps)
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        decay = min(self.plan.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        for name, loss in losses.items():
            value = float(loss.detach())
            self.recent[name] = 0.98 * self.recent.get(name, value) + 0.02 * value
        if self.step % 50 == 0:
            self._log(self.recent)
        return self.recent

    def look(self) -> None:
        """Show the averaged weights, log the figures."""
        with self.averaged():
            self._log(self.task.look(self.folder, self.step))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the networks for a while."""
        own = [p.detach().clone() for p in self.parameters]
        self.use_average()
        self.task.networks.eval()
        yield
        self.task.networks.train()
        copy_into(self.parameters, own)

    def use_average(self) -> None:
        """Put the averaged weights into the networks."""
        copy_into(self.parameters, self.average)

    def save(self) -> None:
        """Write the state; a reader never sees half of it."""
        state = {
            "step": self.step,
            "networks": self.task.networks.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.folder / f"{self.task.name}.pt"
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self) -> None:
        """Take up the state of an earlier run, if there is one."""
        path = self.folder / f"{self.task.name}.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=task_device(self.task), weights_only=True)
        self.step = state["step"]
        self.task.networks.load_state_dict(state["networks"])
        copy_into(self.average, state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / self.plan.warm_up)
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / self.plan.steps)))

    def _log(self, figures: dict[str, float]) -> None:
        seconds = time.time() - self.started
        line = {"step": self.step, "seconds": round(seconds, 1)} | {
            k: round(v, 5) for k, v in figures.items()
        }
        with open(self.folder / f"{self.task.name}.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def early_times(n: int) -> Tensor:
    """Return random times (n,) in [0, 1], dense towards 1: what a picture shows is decided early.

    In near-pure noise only the condition tells the network anything; later the noisy input does.
    """
    return 1 - torch.rand(n).square()


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Run networks in bfloat16 where that is faster and as good."""
    backends = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    # On the CPU the backward pass of fused attention takes twice as long in bfloat16.
    with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(backends):
        yield


@torch.no_grad()
def copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source's numbers into its target."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yield a list that is filled, instead of an exception, when the user or the system interrupts."""
    caught: list[int] = []
    kept = {
        number: signal.signal(number, lambda received, frame: caught.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def finished(task: T, folder: Path) -> T:
    """Return `task` with the averaged weights that its training left in `folder`, for use.

    Raises:
        FileNotFoundError: if it was not trained yet.
    """
    path = folder / f"{task.name}.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; train the part {task.name} first")
    state = torch.load(path, map_location=task_device(task), weights_only=True)
    task.networks.load_state_dict(state["networks"])
    copy_into([p for p in task.networks.parameters() if p.requires_grad], state["average"])
    task.networks.eval()
    return task


def task_device(task: Task) -> torch.device:
    """Return where a task's networks are."""
    return next(task.networks.parameters()).device
