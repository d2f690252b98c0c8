"""The bundled model: small, complete, obedient, and the same picture in diffusers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wuerstchen import Settings, Wuerstchen
from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.checkpoints.sources import MINI
from wuerstchen.compressor import prepare_pixels
from wuerstchen.placement import Placement
from wuerstchen.sampling import generators, published_times
from wuerstchen.training.judge import judge
from wuerstchen.training.measure import measure

from .peers import paint_with, pipelines

PROMPT = "a large red circle on a blue background"
NOWHERE = "http://127.0.0.1:9"  # nothing answers there


@pytest.fixture(scope="module")
def mini() -> Wuerstchen:
    return Wuerstchen.load(device="cpu", progress=False)


def test_it_takes_at_most_16_megabytes() -> None:
    assert sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file()) <= 16_000_000


def test_every_network_is_there_in_half_precision() -> None:
    found = [entry for part in MINI.iterdir() if part.is_dir() for entry in describe(part)]
    kinds = sorted(entry.kind or entry.name for entry in found)
    towers = ["text_encoder"] * 2
    assert kinds == sorted(["stage_a", "stage_b", "stage_c", "compressor", *towers])
    assert {dtype for entry in found for dtype in entry.dtypes} <= {"float16", "int64"}


@pytest.mark.parametrize("size", [(256, 256), (384, 256), (256, 384)])
def test_it_paints_the_example(mini: Wuerstchen, size: tuple[int, int]) -> None:
    (image,) = mini.paint(PROMPT, width=size[0], height=size[1], seed=1)
    verdict = judge(np.asarray(image))
    assert image.size == size
    assert verdict is not None
    assert (verdict.colour, verdict.background, verdict.size) == ("red", "blue", "large")


def test_it_obeys_held_out_prompts(mini: Wuerstchen) -> None:
    *_, final = measure(mini, prompts=20, seed=100)
    assert min(final.score.rates().values()) >= 0.9


def test_stage_b_paints_a_picture_from_its_own_semantic_latent(mini: Wuerstchen) -> None:
    compressor = load_network(MINI / "wuerstchen", "compressor", Placement())
    (image,) = mini.paint("a large green square on a white background", seed=3)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        semantic = compressor(prepare_pixels(pixels))
    vq = mini.sample_vq(semantic, mini.decoder_text.encode([""]), generators([5]))
    again = mini.decode_pixels(vq)
    assert float((again - pixels).abs().mean()) < 0.06


@pytest.mark.peer
def test_diffusers_paints_the_same_picture(mini: Wuerstchen) -> None:
    settings = Settings(seed=4, width=256, height=256)
    _, expected = paint_with(pipelines(MINI), PROMPT, settings, published_times().tolist())
    (image,) = mini.paint(PROMPT, settings)
    assert image.size == expected.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max() <= 2


def test_the_command_line_writes_the_example_offline_in_15_seconds(tmp_path: Path) -> None:
    """By processor time, so that other programs do not count."""
    out, before = tmp_path / "circle.png", os.times()
    command = [sys.executable, "-m", "wuerstchen", PROMPT, "--device", "cpu", "--output", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 15


def test_its_native_size_is_written_in_its_index() -> None:
    index = json.loads((MINI / "wuerstchen-prior" / "model_index.json").read_text())
    assert index["native_size"] == 256
