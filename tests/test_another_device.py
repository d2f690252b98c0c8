"""What runs on a device, on one that is not the CPU: all is brought there, and nothing else meets it."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wuerstchen import Wuerstchen, placement
from wuerstchen.pixels import to_pixels
from wuerstchen.samplers import SAMPLERS
from wuerstchen.training.__main__ import PLANS

from .training.untrained import make_batches_small, task

try:
    from .another_device import CPU, CROSSINGS, DEVICE
except AttributeError:
    pytest.skip("this version of PyTorch knows no devices in Python", allow_module_level=True)

SHORT: dict[str, Any] = {"width": 256, "height": 256, "steps": 3, "decoder_steps": 2}
PICTURE, MASK = Image.linear_gradient("L").convert("RGB"), Image.new("L", (256, 256))
MASK.paste(255, (100, 0, 256, 256))
OVER: dict[str, Any] = {"image": PICTURE, "width": None, "height": None}


def load(device: torch.device, dtype: str = "fp32", **how: str) -> Wuerstchen:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "choose_device", torch.device)
        return Wuerstchen.load("mini", device=device, dtype=dtype, progress=False, **how)


def painted(model: Wuerstchen, **settings: Any) -> Tensor:
    return torch.cat([to_pixels(one) for one in model.paint("a red circle", **SHORT | settings)])


def difference(one: Tensor, other: Tensor) -> float:
    """Return the mean difference in levels of 255."""
    return 255 * float((one - other).abs().mean())


def test_tensors_of_two_devices_do_not_meet() -> None:
    afar = torch.ones(2, 3, device=DEVICE)
    with pytest.raises(RuntimeError, match="one device"):
        afar + torch.ones(2, 3)
    assert torch.equal((afar + torch.tensor(1.0)).cpu(), torch.full((2, 3), 2.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": 2},
        {"negative": "word " * 90},
        {"guidance": 1.0},
        {"guidance_start": 0.9, "guidance_end": 0.3, "guidance_rescale": 0.7},
        {"decoder_guidance": 2.0},
        {"width": 512, "tile": 256},
        OVER | {"strength": 0.6},
        OVER | {"mask": MASK},
        OVER | {"outpaint": (0, 0, 128, 0), "strength": 0.5},
        *({"sampler": name, "decoder_sampler": name} for name in SAMPLERS),
    ],
)
def test_pictures_are_the_cpus(settings: dict[str, Any]) -> None:
    assert difference(*(painted(load(device), **settings) for device in (CPU, DEVICE))) < 0.02


@pytest.mark.parametrize("offload", ["none", "stage", "layer"])
@pytest.mark.parametrize("how", [{"dtype": "fp16"}, {"dtype": "bf16"}, {"quantize": "int8"}])
def test_so_they_are_wherever_weights_rest(how: dict[str, str], offload: str) -> None:
    models = [load(device, offload=offload, **how) for device in (CPU, DEVICE)]
    assert difference(*map(painted, models)) < 0.5


@pytest.mark.parametrize(("sampler", "noises"), [("ddim", 0), ("ddpm", 1)])
def test_steps_read_nothing_and_bring_nothing_but_noise(sampler: str, noises: int) -> None:
    model, crossed = load(DEVICE), []
    for steps in (3, 7):
        before = dict(CROSSINGS)
        painted(model, steps=steps, decoder_steps=steps, sampler=sampler, decoder_sampler=sampler)
        crossed.append({way: CROSSINGS[way] - before[way] for way in CROSSINGS})
    few, many = crossed
    assert many["down"] == few["down"] > 0
    assert many["up"] == few["up"] + 2 * 4 * noises > 0


@pytest.mark.parametrize("name", PLANS)
def test_what_is_trained_is_judged_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches_small(monkeypatch)
    part = task(name, DEVICE)
    drawn = part.draw(np.random.default_rng(0), 0.0)
    for loss in part.losses(drawn, 0.0).values():
        assert loss.device == DEVICE
        assert loss.isfinite()
