"""The jobs of the training's command line: they start alike, make nothing twice, and refuse in time."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wuerstchen.pipeline import Wuerstchen
from wuerstchen.settings import Settings
from wuerstchen.training import __main__ as jobs, samplers, vqgan
from wuerstchen.training.__main__ import main
from wuerstchen.training.cases import PARTS

from .untrained import CPU, QUIET


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


@dataclass(frozen=True, kw_only=True)
class SmallScale(samplers.Scale):
    references_c: tuple[int, int] = (2, 3)
    references_b: tuple[int, int] = (1, 2)


FEW = {
    "stage_c": [Settings(), Settings(sampler="ddim", steps=1)],
    "stage_b": [Settings(decoder_steps=2), Settings(decoder_sampler="ddim", decoder_steps=1)],
    "presets": PARTS["presets"],
}


@pytest.mark.parametrize(
    ("words", "told", "made"),
    [
        ("measure --prompts 1 --width 128 --height 128 --sheet a.png", "everything", "a.png"),
        ("previews --prompts 2 --out a.json", "Stage C 128", "a.json"),
        ("precision --prompts 2", "int8, bf16", None),
        ("samplers --prompts 2 --checked 2 --out table", "balanced", "table/samplers.png"),
    ],
)
def test_every_job_says_what_it_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    told: str,
    made: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    for room in (jobs, samplers):
        monkeypatch.setattr(room, "PARTS", FEW)
    monkeypatch.setattr(jobs, "Scale", SmallScale)
    (tmp_path / "a.json").write_text('{"Stage C 1280": {}}')
    monkeypatch.setattr(sys, "argv", ["training", *words.split(), "--device", "cpu"])
    assert main() == 0
    assert told in capsys.readouterr().out
    assert made is None or (tmp_path / made).stat().st_size > 30
    assert "Stage C 1280" in json.loads((tmp_path / "a.json").read_text())
