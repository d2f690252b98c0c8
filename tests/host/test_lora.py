"""LoRA files by our own loader, in a running ComfyUI."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from .graphs import (
    DECODER,
    NEGATIVE,
    POSITIVE,
    PRIOR,
    PROMPT,
    QUICK,
    STAGE_A,
    STAGE_C,
    Graph,
    Link,
    add,
    again,
    apart,
    latents,
    levels_of,
    output,
    pictures,
    put,
)
from .server import Host

pytestmark = pytest.mark.host

SIDE = {"width": 256, "height": 256}
RANK, ALPHA = 2, 3.0
LAYERS = {
    "prior.blocks.2.attention.to_q": (160, 160),
    "lora_unet_blocks_5_attention_to_out_0": (160, 160),
    "text_encoder.text_model.encoder.layers.0.self_attn.v_proj": (128, 128),
    "lora_te_text_model_encoder_layers_1_mlp_fc1": (512, 128),
}


@pytest.fixture
def lora(host: Host) -> str:
    """A LoRA for the bundled prior and its text encoder, in the spellings of two trainers."""
    tensors: dict[str, Tensor] = {}
    drawn = torch.Generator().manual_seed(1)
    for name, (rows, columns) in LAYERS.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, RANK, generator=drawn) / 2
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, columns, generator=drawn) / 2
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return keep(host, "four.safetensors", tensors)


def keep(host: Host, name: str, tensors: dict[str, Tensor]) -> str:
    """Write a LoRA where the host looks for it; return its name."""
    folder = host.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name)
    return name


def with_lora(graph: Graph, name: str, model: float = 1.0, clip: float = 1.0) -> Link:
    """Add Stage C and its CLIP with a LoRA."""
    given = {"model": [PRIOR, 0], "clip": [PRIOR, 1], "lora": name}
    strengths = {"strength_model": model, "strength_clip": clip}
    return add(graph, "WuerstchenLoadLora", **given, **strengths)


def use(graph: Graph, loader: Link) -> None:
    """Let the graph take Stage C and its CLIP from `loader`."""
    put(graph, STAGE_C, model=loader)
    for text in (POSITIVE, NEGATIVE):
        put(graph, text, clip=output(loader, 1))


def test_a_picture_with_a_lora_is_the_packages(
    host: Host, quick: Any, package: Any, lora: str
) -> None:
    plain = pictures(host, quick, [STAGE_A, 0])[0]
    package.load_lora(host.base / "models" / "loras" / lora, 0.7)
    try:
        (ours,) = package.paint(PROMPT, **SIDE, **QUICK)
    finally:
        package.unload_loras()
    use(quick, with_lora(quick, lora, 0.7, 0.7))
    theirs = pictures(host, quick, [STAGE_A, 0])[0]
    assert abs(theirs - levels_of(ours)).max() <= 2
    assert abs(theirs - plain).max() > 20


def test_both_strengths_count_alone_and_zero_is_the_plain_picture(
    host: Host, quick: Any, lora: str
) -> None:
    (plain,) = latents(host, quick, [STAGE_C, 0])
    found = []
    for strengths in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        use(quick, with_lora(quick, lora, *strengths))
        found += latents(host, quick, [STAGE_C, 0])
    off, model, clip = found
    assert apart(off, plain) == 0
    assert min(apart(model, plain), apart(clip, plain), apart(model, clip)) > 0.01


@pytest.mark.parametrize("part", ["prior", "text"])
def test_each_strength_is_that_of_its_own_network(host: Host, quick: Any, part: str) -> None:
    name, (rows, columns) = list(LAYERS.items())[{"prior": 0, "text": 2}[part]]
    sizes = {"lora_up.weight": (rows, RANK), "lora_down.weight": (RANK, columns)}
    lora = keep(
        host, f"{part}.safetensors", {f"{name}.{end}": torch.randn(s) for end, s in sizes.items()}
    )
    (plain,) = latents(host, quick, [STAGE_C, 0])
    found = []
    for strengths in ((1.0, 0.0), (0.0, 1.0)):
        use(quick, with_lora(quick, lora, *strengths))
        found += latents(host, quick, [STAGE_C, 0])
    changed, same = found if part == "prior" else reversed(found)
    assert apart(same, plain) == 0
    assert apart(changed, plain) > 0.01


def test_a_second_lora_is_added_to_the_first(host: Host, quick: Any, lora: str) -> None:
    first = with_lora(quick, lora, 0.3, 0.3)
    wires = {"model": first, "clip": output(first, 1), "strength_model": 0.4, "strength_clip": 0.4}
    found = []
    for loader in (again(quick, first[0], **wires), with_lora(quick, lora, 0.7, 0.7)):
        use(quick, loader)
        found += latents(host, quick, [STAGE_C, 0])
    assert apart(*found) < 1e-4


def test_a_file_that_fits_nothing_is_refused_in_one_line(host: Host, quick: Any) -> None:
    key = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"
    use(quick, with_lora(quick, keep(host, "sd.safetensors", {key: torch.ones(4, 2)})))
    message = host.run(quick).message.strip()
    assert "this is a LoRA for Stable Diffusion" in message
    assert "\n" not in message


def test_stage_b_is_refused_in_words(host: Host, quick: Any, lora: str) -> None:
    loader = with_lora(quick, lora)
    use(quick, loader)
    put(quick, loader[0], clip=[DECODER, 1])
    assert "clip must be Stage C's text encoder, got another one" in host.run(quick).message
    put(quick, loader[0], model=[DECODER, 0])
    assert "model must be Stage C, got Stage B" in host.run(quick).message
