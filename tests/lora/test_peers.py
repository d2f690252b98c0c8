"""LoRAs that act as they do with the loaders of diffusers and PEFT, and those that the peers write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from wuerstchen.lora.merging import Loras
from wuerstchen.lora.names import PRIOR

from ..peers import error, pipelines
from .lora_tensors import ATTENTION, FORMATS, RANK, draw, named, written


def check_predictions(loras: Loras, source: Path, theirs: Any) -> None:
    """Check that Stage C with the LoRA predicts what the peer's prior does that has it already."""
    ours: Any = loras.networks[PRIOR]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 16, 6, 6, generator=generator)
    t, text = torch.tensor([0.6]), torch.randn(1, 77, 32, generator=generator)
    with torch.no_grad():
        truth, plain = theirs(x, t, text), ours(x, t, text)
        loras.add(source)
        assert error(ours(x, t, text), truth) < 1e-5
    assert error(plain, truth) > 0.001


@pytest.mark.peer
@pytest.mark.parametrize("style", ["attention processors", "PEFT"])
def test_the_prior_predicts_what_it_does_with_diffusers_own_loader(
    tiny: Path, loras: Loras, tmp_path: Path, style: str
) -> None:
    pytest.importorskip("peft")
    tensors = named(draw(loras, ATTENTION), FORMATS[style][0])
    path = written(tmp_path / "pytorch_lora_weights.safetensors", tensors)
    theirs, _ = pipelines(tiny)
    theirs.load_lora_weights(str(path.parent), weight_name=path.name)
    check_predictions(loras, path, theirs.prior)


@pytest.mark.peer
@pytest.mark.parametrize("way", ["pipeline", "network", "PEFT"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["to_q", "to_k", "to_v", "to_out.0"], "lora_alpha": 6},
        {"target_modules": ["to_q"], "lora_alpha": 6, "use_rslora": True},
        {"target_modules": ["projection", "out.1", "channelwise.0", "mapper"], "lora_alpha": 1},
        {"target_modules": ["to_v"], "lora_alpha": 1, "alpha_pattern": {"5.attention.to_v": 8}},
    ],
)
def test_what_the_peers_write_acts_as_it_does_there(
    tiny: Path, loras: Loras, tmp_path: Path, options: dict[str, Any], way: str
) -> None:
    peft = pytest.importorskip("peft")
    pipe, _ = pipelines(tiny)
    config = peft.LoraConfig(r=RANK, init_lora_weights=False, **options)
    torch.manual_seed(0)
    if way == "PEFT":
        peft.get_peft_model(pipe.prior, config).save_pretrained(tmp_path)
    else:
        pipe.prior.add_adapter(config, "default")
    if way == "network":
        pipe.prior.save_lora_adapter(tmp_path, adapter_name="default")
    if way == "pipeline":
        layers, entries = peft.get_peft_model_state_dict(pipe.prior), config.to_dict()
        pipe.save_lora_weights(
            tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=entries
        )
    check_predictions(loras, tmp_path, pipe.prior)
