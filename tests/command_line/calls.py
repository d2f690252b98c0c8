"""What the tests of the command line share: prompts, quick options, what it wrote and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wuerstchen import Settings

PROMPT, OTHER = "a large red circle", "a green star"
QUICK = ["--width", "128", "--height", "128", "--steps", "2", "--decoder-steps", "1"]
ABOUT_THE_MODEL = (
    "model",
    "prior",
    "decoder",
    "stage_a",
    "compressor",
    "lora",
    "quantize",
    "version",
)
REPEATED = {
    **dict.fromkeys(ABOUT_THE_MODEL),
    **vars(Settings()),
    "prompt": PROMPT,
    "image": "old.png",
    "lora": ["style:1.0", "other"],
}
Capture = pytest.CaptureFixture[str]


def about(path: Path) -> dict[str, Any]:
    """What the file says of its settings."""
    facts: dict[str, Any] = json.loads(Image.open(path).text["wuerstchen"])  # type: ignore[attr-defined]
    return facts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(run: Callable[[], int], folder: Path, capfd: Capture) -> str:
    """The one line that a refused command says; it leaves nothing behind."""
    before = names(folder)
    capfd.readouterr()
    assert run() == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert names(folder) == before
    assert err.startswith("wuerstchen: error: ")
    assert err.count("\n") == 1
    return err
