"""One loop for every stage: steps, averaged weights, log, pictures, and a state to go on from.

A `Task` says what is trained and what its loss is. All randomness of step k comes from (seed, k), so
a run that was stopped goes on as if it never was.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .interrupts import leave_signals_to_the_trainer, stop_on_signal
from .kept import checksum
from .log import Log
from .states import copy_into, load_state, save_state, steps_done, trained

# From random numbers and the share of the run that is done, in [0, 1), to what a step learns from.
Draw = Callable[[np.random.Generator, float], Any]
PATIENCE = 100  # steps in a row whose gradients are not finite


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
    ground: Sequence[nn.Module]  # finished networks of parts before it, on which it stands

    @property
    def draw(self) -> Draw:
        """What draws a step's lesson, in a process of its own: it holds no networks."""

    def losses(self, drawn: Any, progress: float) -> dict[str, Tensor]:
        """Return named scalars whose sum is minimised."""

    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures of what the networks do now, and return figures worth logging."""


T = TypeVar("T", bound=Task)


def train(task: Task, plan: Plan, folder: Path) -> None:
    """Train `task` to the end of `plan`, or from where `folder` says that it stopped.

    Writes `<name>.pt` (state), `<name>.jsonl` (log) and pictures into `folder`. The networks hold the
    averaged weights afterwards. An interrupt saves the state and raises KeyboardInterrupt.

    Raises:
        FloatingPointError: if the gradients of `PATIENCE` steps in a row are not finite.
        ValueError: if the state in `folder` is of other networks, or stands on others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(task, plan, folder)
    run.resume()
    bar = tqdm(total=plan.steps, initial=run.step, desc=task.name, unit="step", mininterval=2)
    with stop_on_signal() as stopped, bar:
        for drawn in drawings(task, plan, run.step):
            figures = run.advance(drawn)
            shown = {name: f"{value:.4f}" for name, value in figures.items()}
            bar.set_postfix(shown, refresh=False)
            bar.update()
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

    def __init__(self, draw: Draw, plan: Plan) -> None:
        self.draw, self.plan = draw, plan

    def __getitem__(self, step: int) -> Any:
        return self.draw(np.random.default_rng((self.plan.seed, step)), step / self.plan.steps)


def drawings(task: Task, plan: Plan, start: int) -> "DataLoader[Any]":
    """Return what the steps from `start` on learn from, drawn ahead in a process of its own."""
    return DataLoader(
        Drawings(task.draw, plan),
        batch_size=None,
        sampler=range(start, plan.steps),
        num_workers=1,
        prefetch_factor=4,
        worker_init_fn=leave_signals_to_the_trainer,
    )


class Run:
    """The state of one training run."""

    def __init__(self, task: Task, plan: Plan, folder: Path) -> None:
        self.task, self.plan, self.folder = task, plan, folder
        self.path, self.log = state_path(task.name, folder), Log(folder / f"{task.name}.jsonl")
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.parameters = trained(task.networks)
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.recent: dict[str, float] = {}

    def advance(self, drawn: Any) -> dict[str, float]:
        """Take one step and return the smoothed losses.

        A step whose gradients are not finite is skipped and counted.

        Raises:
            FloatingPointError: if it is the last of `PATIENCE` such steps in a row.
        """
        torch.manual_seed(self.plan.seed * self.plan.steps + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * self._schedule()
        losses = self.task.losses(drawn, self.step / self.plan.steps)
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.step += 1
        if torch.isfinite(norm):
            self._learn(losses)
        else:
            self._skip()
        if self.step % 50 == 0:
            self.log.write(self.step, self.recent | {"skipped": self.skipped})
        return self.recent

    def _learn(self, losses: dict[str, Tensor]) -> None:
        """Move the weights and their averages, and smooth the losses."""
        self.optimizer.step()
        self.skipped_in_a_row = 0
        decay = min(self.plan.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        for name, loss in losses.items():
            value = float(loss.detach())
            self.recent[name] = 0.98 * self.recent.get(name, value) + 0.02 * value

    def _skip(self) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == PATIENCE:
            raise FloatingPointError(
                f"the gradients of {self.task.name} must be finite, but those of {PATIENCE} steps "
                f"up to step {self.step} were not; lower the lr of its plan, then the same "
                "command goes on from the last saved state"
            )

    def look(self) -> None:
        """Show the averaged weights, log the figures."""
        with self.averaged():
            self.log.write(self.step, self.task.look(self.folder, self.step))

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
        """Write the state."""
        save_state(
            self.path,
            {
                "step": self.step,
                "steps": self.plan.steps,
                "seconds": self.log.seconds,
                "recent": self.recent,
                "skipped": self.skipped,
                "networks": self.task.networks.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "ground": checksum(*self.task.ground),
            },
        )

    def resume(self) -> None:
        """Take up the state of an earlier run, if there is one, and cut the log to it.

        Raises:
            ValueError: if the state is of other networks, or stands on others.
        """
        if not self.path.exists():
            self.log.go_on(0, 0.0)
            return
        state = load_state(self.path, self.task.networks, checksum(*self.task.ground))
        self.step, self.skipped, self.recent = state["step"], state["skipped"], state["recent"]
        copy_into(self.average, state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log.go_on(self.step, state["seconds"])

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / self.plan.warm_up)
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / self.plan.steps)))


def finished(task: T, folder: Path) -> T:
    """Return `task` with the averaged weights that its training left in `folder`, for use.

    Raises:
        FileNotFoundError: if it was not trained yet.
        ValueError: if its training is not at its end, was of other networks, or stands on others.
    """
    path = state_path(task.name, folder)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; train the part {task.name} first")
    state = load_state(path, task.networks, checksum(*task.ground))
    if state["step"] < state["steps"]:
        raise ValueError(
            f"{path} must have all {state['steps']} steps, got {state['step']}; "
            f"train the part {task.name} to its end first"
        )
    copy_into(trained(task.networks), state["average"])
    task.networks.eval()
    return task


def is_finished(name: str, plan: Plan, folder: Path) -> bool:
    """Whether the part of this name has seen all steps of its plan."""
    return steps_done(state_path(name, folder)) >= plan.steps


def state_path(name: str, folder: Path) -> Path:
    """Return the file of a part's state."""
    return folder / f"{name}.pt"
