"""The text towers in training: they learn to tell scenes apart, as wide as the stages expect."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wuerstchen.training import text
from wuerstchen.training.loop import Plan, Run, drawings
from wuerstchen.training.mini import STAGE_B, STAGE_C
from wuerstchen.training.shapes import Scene, Thing
from wuerstchen.training.text import TextTask, answers, random_spots

from .untrained import CPU


def test_the_text_towers_learn_to_tell_scenes_apart(tmp_path: Path) -> None:
    task = TextTask(CPU)
    run = Run(task, Plan(steps=24, lr=2e-3, look_every=100, warm_up=1), tmp_path)
    losses = [sum(run.advance(drawn).values()) for drawn in drawings(task, run.plan, 0)]
    assert losses[-1] < 0.9 * losses[0]


def test_the_towers_are_as_wide_as_the_stages_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "STAGE_C", replace(STAGE_C, c_cond=96))
    monkeypatch.setattr(text, "STAGE_B", replace(STAGE_B, clip_embd=32))
    towers = TextTask(CPU).towers
    widths = {name: tower.network.config.hidden_size for name, tower in towers.items()}
    assert widths == {"prior": 96, "decoder": 32}


def test_the_largest_random_number_is_a_position_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), 1 - 2**-24))
    lengths = torch.arange(2, 78)
    assert random_spots(lengths, 77).tolist() == [76] * len(lengths)


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
