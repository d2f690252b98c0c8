"""Compiled blocks: what they say, with which weights, and what is said where nothing compiles."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wuerstchen import Wuerstchen
from wuerstchen.compiling import compile_blocks
from wuerstchen.layers import AttnBlock, ResBlock, TimestepBlock
from wuerstchen.placement import Offload, Placement
from wuerstchen.stage_a import MixBlock, StageA
from wuerstchen.stage_b import StageB
from wuerstchen.stage_c import StageC

from .peers import error, random_weights, share_weights
from .test_placement import SMALL_A, SMALL_B, SMALL_C

BLOCKS = {AttnBlock, ResBlock, TimestepBlock, MixBlock}
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)


def scale_weights(networks: Any, factor: float) -> None:
    for network in networks:
        for weight in network.parameters():
            weight.mul_(factor)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("offload", ["none", "layer"])
def test_compiled_blocks_say_what_plain_ones_say_whatever_their_weights(offload: Offload) -> None:
    placement = Placement(offload=offload)
    ops = placement.ops
    c, b, a = networks = StageC(SMALL_C, ops), StageB(SMALL_B, ops), StageA(SMALL_A, ops)
    for network in networks:
        share_weights(random_weights(network.state_dict()), placement.settle(network))
    drawn = torch.Generator().manual_seed(3)
    shapes = ((1, 5, 8), (1, 4, 3, 3), (1, 4, 8, 8), (1,))
    text, effnet, x, t = (torch.rand(shape, generator=drawn) for shape in shapes)

    def say() -> list[Tensor]:
        with placement.running(c), placement.running(b), placement.running(a):
            return [c(effnet, t, text), b(x, t, text, effnet), a.decode(x)]

    before = say()
    scale_weights(networks, 1.25)
    after = say()
    for network in networks:
        compile_blocks(network)
    found = say()
    scale_weights(networks, 0.8)
    for one, other in zip(after + before, found + say(), strict=True):
        assert error(one, other) < 1e-4
    assert error(before[0], after[0]) > 1e-2


@needs_compiler
@pytest.mark.parametrize("compiles", [False, True])
def test_a_model_is_compiled_in_all_blocks_that_repeat_if_asked(tiny: Path, compiles: bool) -> None:
    model = Wuerstchen.load(tiny, device="cpu", compile=compiles, progress=False)
    parts = [
        part
        for network in (model.stage_c, model.stage_b, model.stage_a)
        for part in network.modules()
    ]
    assert {type(part) for part in parts} >= BLOCKS
    compiled = {part for part in parts if part._compiled_call_impl is not None}
    assert compiled == {part for part in parts if compiles and type(part) in BLOCKS}
    assert model.cuda_graphs == compiles


def test_where_nothing_can_be_compiled_one_line_says_so(tiny: Path, tmp_path: Path) -> None:
    words = ["-m", "wuerstchen", "a red circle", "--model", str(tiny), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *words, "--compile", "--output", str(tmp_path / "a.png")],
        env=os.environ | {"CXX": "missing", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("wuerstchen: error: compiling for cpu does not work here, leave out")
    assert not (tmp_path / "a.png").exists()
