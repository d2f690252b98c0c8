"""Captured steps: what they say, how often they are asked, and where they are used.

Where there is no CUDA device, PyTorch's tracer captures a step instead: what it then replays are, as
in a CUDA graph, the operations that were asked for once, on the tensors that were there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from wuerstchen import Wuerstchen, cuda_graphs
from wuerstchen.cuda_graphs import CapturedStep
from wuerstchen.pixels import to_pixels
from wuerstchen.placement import Placement
from wuerstchen.stage_b import StageB
from wuerstchen.stage_c import StageC

from .peers import error, normal, random_weights, share_weights
from .test_placement import SMALL_B, SMALL_C


def traced(call: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Capture as `cuda_graphs.capture` does: the result is nothing before the first replay."""
    replay = make_fx(lambda: call())()
    result = torch.full_like(replay(), torch.nan)
    return lambda: result.copy_(replay()), result


capture = cuda_graphs.capture if torch.cuda.is_available() else traced
SHORT: dict[str, Any] = {"width": 256, "height": 256, "steps": 4, "decoder_steps": 4}
TIMES = (0.9, 0.5, 0.1, 0.7)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was captured in a test."""
    found: list[Any] = []

    def note(call: Callable[[], Tensor], device: torch.device) -> Any:
        found.append(call)
        return capture(call, device)

    monkeypatch.setattr(cuda_graphs, "capture", note)
    return found


@torch.inference_mode()
@pytest.mark.parametrize("stage", ["c", "b"])
def test_a_captured_step_says_what_the_step_says_and_is_asked_for_twice(
    stage: str, captures: list[Any]
) -> None:
    network: Any = StageC(SMALL_C) if stage == "c" else StageB(SMALL_B)
    share_weights(random_weights(network.state_dict()), network)
    Placement(device=DEVICE).settle(network)
    text = normal(2, 5, 8).to(DEVICE)
    more = [normal(2, 4, 3, 3).to(DEVICE), (8, 8)] if stage == "b" else []
    constants = network.prepare(text, *more)
    asked = []

    def step(*given: Any) -> Tensor:
        asked.append(given)
        return network.step(*given)

    captured = CapturedStep(step)
    runs = [
        (normal(2, 4, 8, 8).to(DEVICE) * (1 + t), torch.full((2,), t, device=DEVICE)) for t in TIMES
    ]
    found = [captured(*run, constants) for run in runs]
    for ours, run in zip(found, runs, strict=True):  # none has become a later one
        assert error(ours, network.step(*run, constants)) < 1e-5
    assert len(asked) == 2
    assert len(captures) == 1


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"guidance": 1.0}, 2),
        ({"sampler": "dpmpp_2m", "decoder_sampler": "heun"}, 2),
        ({"guidance_end": 0.7}, 3),
        ({"negative": "word " * 90}, 3),
        ({"decoder_guidance": 2.0}, 2),
        ({"tile": 256, "width": 384}, 1),  # windows are not captured
    ],
)
def test_pictures_of_captured_steps_are_those_of_plain_ones(
    tiny: Path,
    changes: dict[str, Any],
    count: int,
    captures: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Wuerstchen.load(tiny, device=DEVICE, dtype="fp32", progress=False)

    def paint() -> Tensor:
        return to_pixels(model.paint("a red circle", **SHORT | changes)[0])

    plain = paint()
    assert not captures
    monkeypatch.setattr(Placement, "can_capture", True)
    model.cuda_graphs = True
    captured = paint()
    assert len(captures) == count
    assert (captured - plain).abs().max() <= 1 / 255
    assert plain.std() > 0.01


@pytest.mark.parametrize(
    ("device", "offload", "captures"),
    [
        ("cuda", "none", True),
        ("cuda", "stage", True),
        ("cuda", "layer", False),  # it fetches weights in a step
        ("cpu", "none", False),
        ("mps", "none", False),
    ],
)
def test_steps_are_captured_on_cuda_devices_that_have_the_weights(
    device: str, offload: Any, captures: bool
) -> None:
    assert Placement(device=torch.device(device), offload=offload).can_capture == captures
