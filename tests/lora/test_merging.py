"""LoRAs merged into real tiny networks by their strengths, added up, and taken out to the last bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from wuerstchen import Settings, Wuerstchen, generators
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.lora.merging import Loras
from wuerstchen.lora.names import PRIOR
from wuerstchen.placement import Placement, place
from wuerstchen.stage_c import StageC, StageCConfig

from ..peers import error
from .lora_tensors import (
    ATTENTION,
    EVERYWHERE,
    SELF_ATTENTION,
    by_hand,
    check_merged,
    copies,
    draw,
    named,
    peft,
    unchanged,
    weight,
    written,
)

PROMPT, QUICK = "a large red circle", Settings(width=128, height=128, steps=3, decoder_steps=2)


def test_a_loaded_lora_tells_where_it_is_from(loras: Loras, tmp_path: Path) -> None:
    path = written(tmp_path / "lora.safetensors", named(draw(loras, ATTENTION), peft))
    lora = loras.add(path, 0.4)
    assert loras.added == [(lora, 0.4)]
    assert lora.path == path


def test_a_lora_fits_a_network_that_was_built_without_a_file(tmp_path: Path) -> None:
    loras = Loras(StageC(StageCConfig(c=32, c_cond=24, depth=2, nhead=2)))
    pairs = draw(loras, ATTENTION)
    expected = {t: w.detach() for t, w in by_hand(loras, pairs, 1).items()}
    loras.add(written(tmp_path / "lora.safetensors", named(pairs, peft)))
    check_merged(loras, expected)
    assert weight(loras, ATTENTION[0]).requires_grad


def test_taking_out_gives_back_the_very_weights(loras: Loras, tmp_path: Path) -> None:
    before, kept = copies(loras), weight(loras, ATTENTION[0])
    for seed, strength in enumerate((1.0, -0.3)):
        pairs = draw(loras, EVERYWHERE, seed)
        loras.add(written(tmp_path / f"{seed}.safetensors", named(pairs, peft)), strength)
    assert not unchanged(loras, before)
    assert not torch.equal(weight(loras, ATTENTION[0]), kept)
    loras.clear()
    assert weight(loras, ATTENTION[0]) is kept
    assert unchanged(loras, before)
    assert not loras.added


def test_what_is_mapped_from_a_file_is_not_written_to(tiny: Path, tmp_path: Path) -> None:
    source = tiny / "wuerstchen-prior" / "prior" / "diffusion_pytorch_model.safetensors"
    loras, before = Loras(load_network(source, "stage_c", Placement())), source.read_bytes()
    mapped = weight(loras, ATTENTION[0])
    numbers = mapped.clone()
    loras.add(written(tmp_path / "lora.safetensors", named(draw(loras, ATTENTION), peft)))
    assert torch.equal(mapped, numbers)
    assert source.read_bytes() == before


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("offload", ["none", "layer"])
def test_the_sum_is_formed_in_float32_and_cast_once_to_the_weights_precision(
    tiny: Path, tmp_path: Path, dtype: str, offload: str
) -> None:
    placement = place("cpu", dtype, offload)
    network = load_network(tiny / "wuerstchen-prior", "stage_c", placement)
    loras = Loras(network)
    before, pairs = copies(loras), draw(loras, ATTENTION)
    loras.add(written(tmp_path / "lora.safetensors", named(pairs, peft)), 0.5)
    for target, (up, down) in pairs.items():
        original = before[f"{PRIOR} {target.layer}.weight"]
        expected = (original.float() + 0.5 * (up @ down)).to(placement.dtype)
        assert weight(loras, target).dtype == placement.dtype
        torch.testing.assert_close(weight(loras, target).data, expected)
        assert not weight(loras, target).requires_grad
    loras.clear()
    assert unchanged(loras, before)


def test_a_quantized_layer_gets_its_sum_whole_and_its_numbers_back(
    tiny: Path, tmp_path: Path
) -> None:
    placement = Placement(dtype=torch.bfloat16, quantize="int8")
    loras = Loras(load_network(tiny / "wuerstchen-prior", "stage_c", placement))
    before = copies(loras)
    for seed in range(2):
        pairs = draw(loras, ATTENTION, seed)
        loras.add(written(tmp_path / f"{seed}.safetensors", named(pairs, peft)), seed)
    for target, (up, down) in pairs.items():
        numbers, scale = (before[f"{PRIOR} {target.layer}.{name}"] for name in ("weight", "scale"))
        assert torch.equal(weight(loras, target), (numbers * scale + up @ down).bfloat16())
        layer = loras.networks[PRIOR].get_submodule(target.layer)
        assert torch.equal(layer.fetch(torch.zeros(1))[0], weight(loras, target).float())
    loras.clear()
    assert unchanged(loras, before)


def test_several_are_added_up_in_float32_and_not_one_after_the_other_in_half(
    tiny: Path, tmp_path: Path
) -> None:
    loras = Loras(load_network(tiny / "wuerstchen-prior", "stage_c", place("cpu", "bf16")))
    before, sum_of_all = copies(loras), {t: torch.zeros(()) for t in ATTENTION}
    for seed in range(8):
        pairs = {t: (up * 0.1, down) for t, (up, down) in draw(loras, ATTENTION, seed).items()}
        sum_of_all = {t: sum_of_all[t] + up @ down for t, (up, down) in pairs.items()}
        loras.add(written(tmp_path / f"{seed}.safetensors", named(pairs, peft)))
    for target, total in sum_of_all.items():
        exact = before[f"{PRIOR} {target.layer}.weight"].float() + total
        assert torch.equal(weight(loras, target), exact.to(torch.bfloat16))


def test_opposite_strengths_meet_in_the_middle(loras: Loras, tmp_path: Path) -> None:
    before, pairs = copies(loras), draw(loras, EVERYWHERE)
    path = written(tmp_path / "lora.safetensors", named(pairs, peft))
    expected = by_hand(loras, pairs, -1.5)
    loras.add(path, -1.5)
    check_merged(loras, expected)
    loras.add(path, 1.5)
    assert all(
        torch.equal(weight(loras, t), before[f"{t.part} {t.layer}.weight"]) for t in EVERYWHERE
    )


def test_strength_0_changes_no_bit(loras: Loras, tmp_path: Path) -> None:
    before, kept = copies(loras), weight(loras, ATTENTION[0])
    path = written(tmp_path / "lora.safetensors", named(draw(loras, EVERYWHERE), peft))
    loras.add(path, 0)
    assert unchanged(loras, before)
    assert weight(loras, ATTENTION[0]) is kept


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1e38])
def test_a_strength_that_spoils_the_weights_is_refused_and_changes_nothing(
    loras: Loras, tmp_path: Path, strength: float
) -> None:
    before = copies(loras)
    pairs = {t: (up * 1e3, down) for t, (up, down) in draw(loras, ATTENTION).items()}
    path = written(tmp_path / "lora.safetensors", named(pairs, peft))
    with pytest.raises(ValueError, match="strength must"):
        loras.add(path, strength)
    assert unchanged(loras, before)
    assert not loras.added


def test_a_picture_changes_with_a_lora_and_comes_back_without_it(
    model: Wuerstchen, loras: Loras, tmp_path: Path
) -> None:
    def painted() -> tuple[Tensor, Tensor, bytes]:
        features = model.encode_text([PROMPT]).prior
        latent = model.sample_semantic(features, generators([1]), (128, 128), steps=3)
        return features, latent, model.paint(PROMPT, QUICK)[0].tobytes()

    before = painted()
    loras.add(written(tmp_path / "a.safetensors", named(draw(loras, ATTENTION), peft)))
    of_prior = painted()
    assert torch.equal(of_prior[0], before[0])
    assert error(of_prior[1], before[1]) > 0.01
    loras.add(written(tmp_path / "b.safetensors", named(draw(loras, SELF_ATTENTION), peft)))
    of_both = painted()
    assert error(of_both[0], before[0]) > 0.01
    assert error(of_both[1], of_prior[1]) > 0.01
    assert of_both[2] != before[2]
    loras.clear()
    features, latent, picture = painted()
    assert torch.equal(features, before[0])
    assert torch.equal(latent, before[1])
    assert picture == before[2]


def test_a_model_takes_a_lora_for_both_networks_and_gives_it_back(
    tiny: Path, tmp_path: Path
) -> None:
    model = Wuerstchen.load(tiny, device="cpu", progress=False)

    def painted() -> tuple[Tensor, Tensor, bytes]:
        return *model.encode_text([PROMPT]), model.paint(PROMPT, QUICK)[0].tobytes()

    before = painted()
    pairs = draw(model.loras, EVERYWHERE)
    model.load_lora(written(tmp_path / "lora.safetensors", named(pairs, peft)), 0.5)
    prior, decoder, picture = painted()
    assert error(prior, before[0]) > 0.01
    assert torch.equal(decoder, before[1])
    model.unload_loras()
    again = painted()
    assert torch.equal(again[0], before[0])
    assert again[2] == before[2] != picture
