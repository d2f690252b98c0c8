"""Recorded steps: what they say, how often they are asked, and where they are used.

Where there is no CUDA device, PyTorch's tracer records a step instead: what it then repeats are, as in
a CUDA graph, the operations that were asked for once, on the tensors that were there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from wuerstchen import Wuerstchen, recording
from wuerstchen.canvas import to_pixels
from wuerstchen.placement import Placement
from wuerstchen.recording import RecordedStep
from wuerstchen.stage_b import StageB
from wuerstchen.stage_c import StageC

from .peers import error, random_weights, share_weights
from .test_placement import SMALL_B, SMALL_C


def traced(call: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Record as `recording.record` does, and leave what is not filled before the first repeat."""
    repeat = make_fx(lambda: call())()
    result = torch.full_like(repeat(), torch.nan)
    return lambda: result.copy_(repeat()), result


record = recording.record if torch.cuda.is_available() else traced
SHORT: dict[str, Any] = {"width": 256, "height": 256, "steps": 4, "decoder_steps": 4}
TIMES = (0.9, 0.5, 0.1, 0.7)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was recorded in a test."""
    found: list[Any] = []

    def note(call: Callable[[], Tensor], device: torch.device) -> Any:
        found.append(call)
        return record(call, device)

    monkeypatch.setattr(recording, "record", note)
    return found


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


@torch.inference_mode()
@pytest.mark.parametrize("stage", ["c", "b"])
def test_a_recorded_step_says_what_the_step_says_and_is_asked_for_twice(
    stage: str, recordings: list[Any]
) -> None:
    network: Any = StageC(SMALL_C) if stage == "c" else StageB(SMALL_B)
    weights = random_weights(network.state_dict())
    share_weights(weights, Placement(device=DEVICE).settle(network))
    text, more = normal(2, 5, 8), [normal(2, 4, 3, 3), (8, 8)] if stage == "b" else []
    constants = network.prepare(text, *more)
    asked = []

    def step(*given: Any) -> Tensor:
        asked.append(given)
        return network.step(*given)

    recorded = RecordedStep(step)
    runs = [(normal(2, 4, 8, 8) * (1 + t), torch.full((2,), t, device=DEVICE)) for t in TIMES]
    found = [recorded(*run, constants) for run in runs]
    for ours, run in zip(found, runs, strict=True):  # none has become a later one
        assert error(ours, network.step(*run, constants)) < 1e-5
    assert len(asked) == 2
    assert len(recordings) == 1


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"guidance": 1.0}, 2),
        ({"sampler": "dpmpp_2m", "decoder_sampler": "heun"}, 2),
        ({"guidance_end": 0.7}, 3),
        ({"negative": "word " * 90}, 3),
        ({"decoder_guidance": 2.0}, 2),
        ({"tile": 256, "width": 384}, 3),
    ],
)
def test_pictures_of_recorded_steps_are_those_of_plain_ones(
    tiny: Path,
    changes: dict[str, Any],
    count: int,
    recordings: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Wuerstchen.load(tiny, device=DEVICE, dtype="fp32", progress=False)

    def paint() -> Tensor:
        return to_pixels(model.paint("a red circle", **SHORT | changes)[0])

    plain = paint()
    assert not recordings
    monkeypatch.setattr(Placement, "can_repeat", True)
    model.records = True
    recorded = paint()
    assert len(recordings) == count
    assert (recorded - plain).abs().max() <= 1 / 255
    assert plain.std() > 0.01


@pytest.mark.parametrize(
    ("device", "offload", "repeats"),
    [
        ("cuda", "none", True),
        ("cuda", "stage", True),
        ("cuda", "layer", False),  # it fetches weights in a step
        ("cpu", "none", False),
        ("mps", "none", False),
    ],
)
def test_steps_are_repeated_by_cuda_devices_that_have_the_weights(
    device: str, offload: Any, repeats: bool
) -> None:
    assert Placement(device=torch.device(device), offload=offload).can_repeat == repeats
