"""The jobs of the training's command line: they start alike, make nothing twice, and refuse in time."""

import sys
from pathlib import Path

import pytest
import torch

from wuerstchen.pipeline import Wuerstchen
from wuerstchen.training import __main__ as jobs, vqgan
from wuerstchen.training.__main__ import main
from wuerstchen.training.loop import Plan

CPU = torch.device("cpu")
QUIET = Plan(steps=4, lr=1e-3, look_every=100, save_every=100, warm_up=1)


def test_a_part_always_starts_from_the_same_weights(tmp_path: Path) -> None:
    first, second = (jobs.task("stage_a", tmp_path, CPU).networks.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_makes_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["training", "mini", "--work", str(tmp_path), "--only", "stage_a"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setitem(jobs.PLANS, "stage_a", QUIET)
    monkeypatch.setattr(vqgan, "BATCH", 2)
    assert main() == 0
    monkeypatch.setattr(jobs, "task", None)
    assert main() == 0


@pytest.mark.parametrize(
    ("job", "goes_on"), [("mini", True), ("samplers", True), ("measure", False)]
)
def test_an_interrupt_promises_to_go_on_only_where_it_will(
    job: str,
    goes_on: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(jobs.JOBS, job, interrupted)
    monkeypatch.setattr(sys, "argv", ["training", job])
    assert main() == 130
    assert ("goes on" in capsys.readouterr().err) == goes_on


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
