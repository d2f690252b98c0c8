"""Placement: devices, precisions, and where weights are before, in and after a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wuerstchen import Wuerstchen, placement as placements
from wuerstchen.placement import DTYPES, Offload, Placement, choose_device, choose_dtype, place
from wuerstchen.stage_a import StageA, StageAConfig
from wuerstchen.stage_b import StageB, StageBConfig
from wuerstchen.stage_c import StageC, StageCConfig

from .peers import error, levels, mean_error
from .quick_pictures import PROMPT, QUICK, difference

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
SMALL_C = StageCConfig(c_in=4, c=16, c_cond=8, c_r=8, depth=1, nhead=2)
SMALL_B = StageBConfig(
    c_r=8,
    c_cond=8,
    c_hidden=(8, 16),
    nhead=(-1, 2),
    blocks=(1, 1),
    level_config=("CT", "CTA"),
    inject_effnet=(False, True),
    effnet_embd=4,
    clip_embd=8,
)
SMALL_A = StageAConfig(bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=8)


def placed(offload: Offload, device: torch.device = CPU) -> Placement:
    return Placement(device=device, offload=offload)


@torch.no_grad()
def outputs(placement: Placement) -> list[torch.Tensor]:
    """What each stage says in a run under `placement`, with the same weights and inputs."""
    c = StageC(SMALL_C, ops=placement.ops)
    b = StageB(SMALL_B, ops=placement.ops)
    a = StageA(SMALL_A, ops=placement.ops)
    generator = torch.Generator().manual_seed(9)
    for network in (c, b, a):
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        placement.settle(network)
    shapes = ((1, 5, 8), (1, 4, 3, 3), (1, 4, 8, 8), (1, 3, 8, 8))
    drawn = (torch.randn(shape, generator=generator) for shape in shapes)
    text, effnet, x, pixels = (tensor.to(placement.device) for tensor in drawn)
    t = torch.tensor([0.5], device=placement.device)
    with placement.running(c), placement.running(b), placement.running(a):
        a_says = [a.decode(x), a.encode(pixels), *a.quantize(x)]
        return [c(x, t, text), b(x, t, text, effnet), *a_says]


@pytest.mark.parametrize("offload", ["stage", "layer"])
def test_offload_does_not_change_what_a_network_says(offload: Offload) -> None:
    for wanted, found in zip(outputs(placed("none")), outputs(placed(offload)), strict=True):
        # older versions of PyTorch round packed products in another way
        assert error(found, wanted) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_quantized_layer_keeps_each_row_to_a_half_of_its_127th(dtype: torch.dtype) -> None:
    placement = Placement(dtype=dtype, quantize="int8")
    network = nn.Sequential(placement.ops.Linear(50, 20), placement.ops.Linear(20, 3))
    network[0].weight.mul_(torch.logspace(-3, 2, 20)[:, None])
    network[1].weight.zero_()
    exact = [layer.weight.to(dtype) for layer in network]
    settled, like = placement.settle(network), torch.zeros(1, dtype=torch.float32)
    for layer, weight in zip(settled, exact, strict=True):
        assert layer.weight.dtype == torch.int8
        step = weight.float().abs().amax(dim=1, keepdim=True) / 127
        assert ((layer.fetch(like)[0] - weight.float()).abs() <= 0.501 * step).all()
        assert layer(torch.ones(1, layer.in_features, dtype=dtype)).dtype == dtype


@torch.no_grad()
@pytest.mark.parametrize("offload", ["none", "stage", "layer"])
def test_a_quantized_model_says_about_the_same_wherever_its_weights_rest(
    offload: Offload,
) -> None:
    found = outputs(Placement(offload=offload, quantize="int8"))
    for exact, resident, one in zip(
        outputs(Placement()), outputs(Placement(quantize="int8")), found, strict=True
    ):
        assert torch.equal(resident, one)
        assert mean_error(one.float(), exact.float()) < 0.1
    elsewhere = outputs(Placement(device=ELSEWHERE, offload=offload, quantize="int8"))
    assert {output.device for output in elsewhere} == {ELSEWHERE}


@torch.no_grad()
@pytest.mark.parametrize(("offload", "copies"), [("none", True), ("stage", False)])
def test_a_cpu_keeps_packed_weights_for_a_run_unless_memory_is_short(
    offload: Offload, copies: bool
) -> None:
    placement = placed(offload)
    network = placement.settle(StageC(SMALL_C, ops=placement.ops))
    first, out = network.blocks[0].channelwise[0], network.blocks[0].channelwise[-1]
    with placement.running(network):
        network(torch.ones(1, 4, 3, 3), torch.ones(1), torch.ones(1, 5, 8))
        assert all(bool(getattr(layer, "packed", None)) == copies for layer in (first, out))
    assert not any(hasattr(layer, "packed") for layer in network.modules())


@pytest.mark.parametrize("offload", ["none", "stage", "layer"])
def test_every_stage_runs_on_a_device_that_is_not_the_cpu(offload: Offload) -> None:
    assert all(output.device == ELSEWHERE for output in outputs(placed(offload, ELSEWHERE)))


def test_stage_offload_brings_weights_to_the_device_for_the_run_only() -> None:
    placement = placed("stage", ELSEWHERE)
    network = placement.settle(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with placement.running(network):
        assert {tensor.device for tensor in network.state_dict().values()} == {ELSEWHERE}
    assert {tensor.device for tensor in network.state_dict().values()} == {CPU}
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_weights_leave_the_device_when_a_run_is_interrupted() -> None:
    placement = placed("stage", ELSEWHERE)
    network = placement.settle(nn.Linear(3, 3))
    with pytest.raises(KeyboardInterrupt), placement.running(network):
        raise KeyboardInterrupt
    assert network.weight.device == CPU


def test_layer_offload_leaves_the_network_on_the_cpu_while_it_runs() -> None:
    placement = placed("layer", ELSEWHERE)
    network = placement.settle(StageC(SMALL_C, ops=placement.ops))
    with placement.running(network):
        assert {tensor.device for tensor in network.state_dict().values()} == {CPU}


def test_layer_offload_moves_a_network_of_other_layers_as_a_whole() -> None:
    placement = placed("layer", ELSEWHERE)
    network = placement.settle(nn.Linear(3, 3))
    with placement.running(network):
        assert network.weight.device == ELSEWHERE
    assert network.weight.device == CPU


def test_no_offload_puts_weights_on_the_device_at_once() -> None:
    assert placed("none", ELSEWHERE).settle(nn.Linear(3, 3)).weight.device == ELSEWHERE


def test_settling_gives_the_precision_and_stops_training() -> None:
    network = Placement(dtype=torch.bfloat16).settle(nn.Sequential(nn.Linear(3, 3), nn.Dropout()))
    assert next(network.parameters()).dtype == torch.bfloat16
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_streamed_layers_take_the_precision_of_their_input() -> None:
    layer = placed("layer").ops.Linear(3, 3)
    assert layer(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def bytes_of(network: Any) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def test_a_quantized_model_is_smaller_and_paints_about_the_same(
    tiny: Path, model: Wuerstchen
) -> None:
    small = Wuerstchen.load(tiny, device="cpu", quantize="int8", progress=False)
    for network, quantized in ((model.stage_c, small.stage_c), (model.stage_b, small.stage_b)):
        assert bytes_of(quantized) < 0.6 * bytes_of(network)
    (wanted,), (found,) = (one.paint(PROMPT, QUICK) for one in (model, small))
    assert 0 < abs(levels(wanted) - levels(found)).mean() < 10


def test_only_c_and_b_are_quantized(tiny: Path, model: Wuerstchen) -> None:
    small = Wuerstchen.load(tiny, device="cpu", quantize="int8", progress=False)
    for part in ("prior_text.network", "decoder_text.network", "stage_a"):
        assert bytes_of(attrgetter(part)(small)) == bytes_of(attrgetter(part)(model))


@pytest.mark.parametrize("offload", ["stage", "layer"])
def test_offload_does_not_change_the_picture(tiny: Path, model: Wuerstchen, offload: str) -> None:
    other = Wuerstchen.load(tiny, device="cpu", offload=offload, progress=False)
    assert difference(model.paint(PROMPT, QUICK)[0], other.paint(PROMPT, QUICK)[0]) == 0


def test_half_precision_paints_nearly_the_same(tiny: Path, model: Wuerstchen) -> None:
    half = Wuerstchen.load(tiny, device="cpu", dtype="bf16", progress=False)
    assert half.stage_c.projection.weight.dtype == torch.bfloat16
    images = (m.paint(PROMPT, QUICK, guidance=1.0)[0] for m in (model, half))
    assert abs(np.subtract(*map(levels, images))).mean() < 10


@pytest.mark.parametrize("offload", ["none", "stage", "layer"])
def test_a_cpu_without_products_in_half_precision_computes_in_float32(
    offload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled model's numbers are halves, so that nothing is lost."""
    monkeypatch.setattr(placements, "multiplies", lambda dtype, device: dtype == torch.float32)
    whole = Wuerstchen.load(device="cpu", progress=False)
    half = Wuerstchen.load(device="cpu", dtype="fp16", offload=offload, progress=False)
    for part in ("prior_text.network", "stage_c", "stage_b"):
        assert 2 * bytes_of(attrgetter(part)(half)) == bytes_of(attrgetter(part)(whole))
    assert difference(half.paint(PROMPT, QUICK)[0], whole.paint(PROMPT, QUICK)[0]) <= 1


def test_only_a_cpu_computes_in_another_precision_than_it_keeps() -> None:
    for dtype in DTYPES.values():
        assert Placement(dtype=dtype, device=ELSEWHERE).precision == dtype
        assert Placement(dtype=dtype).precision in (dtype, torch.float32)
    assert Placement().ops is nn


@dataclass(frozen=True, kw_only=True)
class Recording(Placement):
    """A placement that writes down which network comes to the device and which leaves it."""

    moves: list[str] = field(default_factory=list)

    @contextmanager
    def running(self, network: nn.Module, *, pack: bool = True) -> Iterator[None]:
        name = type(network).__name__
        self.moves.append(f"+{name}")
        with super().running(network, pack=pack):
            yield
        self.moves.append(f"-{name}")


def test_one_network_at_a_time_is_on_the_device(tiny: Path) -> None:
    model = Wuerstchen.load(tiny, device="cpu", offload="stage", progress=False)
    placement = Recording(offload="stage")
    model.placement = model.prior_text.placement = model.decoder_text.placement = placement
    model.paint(PROMPT, QUICK)
    order = ["TextEncoder", "TextEncoder", "StageC", "StageB", "StageA"]
    assert placement.moves == [move for name in order for move in (f"+{name}", f"-{name}")]


def test_networks_run_where_and_as_they_are_asked_to(tiny: Path) -> None:
    plain = Wuerstchen.load(tiny, device="cpu", progress=False)
    assert plain.placement == Placement()
    model = Wuerstchen.load(tiny, device="cpu", dtype="bf16", offload="layer", progress=False)
    wanted = Placement(dtype=torch.bfloat16, offload="layer")
    for placement in (model.placement, model.prior_text.placement, model.decoder_text.placement):
        assert placement == wanted
    assert not model.progress


def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto").type == "mps"
    assert choose_device("mps:0").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu:0") == CPU


def test_auto_precision_is_half_on_accelerators_and_full_on_the_cpu() -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("auto", torch.device("mps")) == torch.float16
    assert choose_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("name", ["gpu", "xpu", "cuda:x", "cuda:", "cpu:1", "mps:1", "CUDA", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device must be"):
        choose_device(name)


def test_a_device_that_is_not_there_is_refused_with_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="available are cpu, cuda:0"):
        choose_device("cuda:7")


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="fp32, fp16 or bf16, got 'fp8'"):
        place(dtype="fp8")
    with pytest.raises(ValueError, match="none, stage or layer, got 'disk'"):
        place(offload="disk")
    with pytest.raises(ValueError, match="quantize must be none or int8, got 'int4'"):
        Placement(quantize="int4")
