"""LoRA files in every way of naming, merged into real tiny networks and taken out; the refusals."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wuerstchen import CheckpointError, Settings, Wuerstchen, generators
from wuerstchen.checkpoints import load_network
from wuerstchen.lora import Loras
from wuerstchen.lora_files import load_lora
from wuerstchen.lora_names import PRIOR, TEXT, Target, bare
from wuerstchen.lora_peft import matcher
from wuerstchen.notation import parse_lora
from wuerstchen.placement import Placement, place
from wuerstchen.stage_c import StageC, StageCConfig

from .peers import error, pipelines

RANK = 2
ATTENTION = [
    Target(PRIOR, f"blocks.{i}.attention.{name}")
    for i in (2, 5)
    for name in ("to_q", "to_k", "to_v", "to_out.0")
]
CONVOLUTIONS = [Target(PRIOR, "projection"), Target(PRIOR, "blocks.0.depthwise")]
OTHERS = [
    Target(PRIOR, name)
    for name in ("cond_mapper.0", "blocks.0.channelwise.4", "blocks.1.mapper", "out.1")
]
SELF_ATTENTION = [
    Target(TEXT, f"encoder.layers.{i}.self_attn.{name}_proj")
    for i in (0, 1)
    for name in ("q", "k", "v", "out")
]
EVERYWHERE = [
    *ATTENTION,
    *CONVOLUTIONS,
    *OTHERS,
    *SELF_ATTENTION,
    Target(TEXT, "encoder.layers.0.mlp.fc1"),
]
PROMPT, QUICK = "a large red circle", Settings(width=128, height=128, steps=3, decoder_steps=2)

Pairs = dict[Target, tuple[Tensor, Tensor]]
Name = Callable[[Target, str], str]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Wuerstchen:
    return Wuerstchen.load(tiny, device="cpu", progress=False)


@pytest.fixture
def loras(model: Wuerstchen) -> Iterator[Loras]:
    merged = Loras(model.stage_c, model.prior_text.network)
    yield merged
    merged.clear()


def weight(networks: Loras, target: Target) -> Tensor:
    network: Any = networks.networks[target.part]
    found: Tensor = network.get_submodule(target.layer).weight
    return found


def copies(networks: Loras) -> dict[str, Tensor]:
    """Return a copy of every tensor of both networks."""
    return {
        f"{part} {key}": tensor.clone()
        for part, network in networks.networks.items()
        if network is not None
        for key, tensor in network.state_dict().items()
    }


def unchanged(networks: Loras, before: dict[str, Tensor]) -> bool:
    now = copies(networks)
    return all(torch.equal(bits(now[key]), bits(before[key])) for key in before)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor


def draw(networks: Loras, targets: list[Target], seed: int = 0) -> Pairs:
    """Return a random up and down of each layer; those of a convolution as a convolution's."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for target in targets:
        shape = weight(networks, target).shape
        ones = [1] * (len(shape) - 2)
        up = torch.randn(shape[0], RANK, *ones, generator=generator)
        pairs[target] = up * 0.2, torch.randn(RANK, *shape[1:], generator=generator) * 0.2
    return pairs


def named(pairs: Pairs, name: Name) -> dict[str, Tensor]:
    """Return the tensors of a file; `name` gives a layer's key for "down" and for "up"."""
    files = [{name(t, "up"): up, name(t, "down"): down} for t, (up, down) in pairs.items()]
    return {key: tensor for tensors in files for key, tensor in tensors.items()}


def written(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def by_hand(networks: Loras, pairs: Pairs, scale: float) -> dict[Target, Tensor]:
    return {
        target: weight(networks, target)
        + scale * (up.flatten(1) @ down.flatten(1)).view(weight(networks, target).shape)
        for target, (up, down) in pairs.items()
    }


def check_merged(networks: Loras, expected: dict[Target, Tensor]) -> None:
    for target, tensor in expected.items():
        torch.testing.assert_close(weight(networks, target).data, tensor)


def dotted(prior: str, text: str, ending: str, words: dict[str, str]) -> Name:
    """Return the names of a format with dots; `words` are the format's for "up" and "down"."""
    return lambda target, role: (
        {PRIOR: prior, TEXT: text}[target.part] + target.layer + ending.format(words[role])
    )


def processor(target: Target, role: str) -> str:
    layer = target.layer.removesuffix(".0")
    if target.part == PRIOR:
        return f"prior.{layer.replace('.to_', '.processor.to_')}_lora.{role}.weight"
    block, _, last = layer.rpartition(".")
    return f"text_encoder.text_model.{block}.to_{last.removesuffix('_proj')}_lora.{role}.weight"


def kohya(prior: str, text: str) -> Name:
    """Return the names of a format with underscores."""
    return lambda target, role: (
        {PRIOR: prior, TEXT: text}[target.part]
        + target.layer.replace(".", "_")
        + f".lora_{role}.weight"
    )


def authors(target: Target, role: str) -> str:
    return peft(target, role).replace(".attention.to_out.0", ".attention.attn.out_proj")


AB = {"up": "B", "down": "A"}
WORDS = {"up": "up", "down": "down"}
peft = dotted("prior.", "text_encoder.text_model.", ".lora_{}.weight", AB)
FORMATS: dict[str, tuple[Name, list[Target]]] = {
    "attention processors": (processor, [*ATTENTION, *SELF_ATTENTION]),
    "PEFT": (peft, EVERYWHERE),
    "PEFT without a prefix": (dotted("", "text_model.", ".lora_{}.weight", AB), EVERYWHERE),
    "PEFT with an adapter's name": (
        dotted("base_model.model.", "base_model.model.", ".lora_{}.default.weight", AB),
        EVERYWHERE,
    ),
    "layers of diffusers 0.22": (
        dotted("unet.", "text_encoder.text_model.", ".lora.{}.weight", WORDS),
        EVERYWHERE,
    ),
    "linear layers of diffusers": (
        dotted("prior.", "text_encoder.text_model.", ".lora_linear_layer.{}.weight", WORDS),
        EVERYWHERE,
    ),
    "the host": (dotted("diffusion_model.", "text_encoder.", ".lora_{}.weight", WORDS), EVERYWHERE),
    "kohya": (kohya("lora_unet_", "lora_te_text_model_"), EVERYWHERE),
    "kohya with numbered towers": (kohya("lora_unet_", "lora_te1_text_model_"), EVERYWHERE),
    "OneTrainer": (
        dotted("lora_prior_unet.", "lora_prior_te.", ".lora_{}.weight", WORDS),
        EVERYWHERE,
    ),
    "OneTrainer until 2025": (kohya("lora_prior_unet_", "lora_prior_te_text_model_"), EVERYWHERE),
    "OneTrainer until 2024": (kohya("lora_prior_prior_", "lora_prior_te_text_model_"), EVERYWHERE),
    "the authors' layout": (authors, [t for t in ATTENTION if "to_out" in t.layer]),
}


@pytest.mark.parametrize("style", FORMATS)
def test_every_way_of_naming_merges_the_same_update(
    loras: Loras, tmp_path: Path, style: str
) -> None:
    name, targets = FORMATS[style]
    pairs = draw(loras, targets)
    expected = by_hand(loras, pairs, 0.7)
    lora = loras.add(written(tmp_path / "lora.safetensors", named(pairs, name)), 0.7)
    assert set(lora.updates) == set(targets)
    check_merged(loras, expected)


@pytest.mark.parametrize("name", [peft, kohya("lora_unet_", "lora_te_text_model_")])
def test_alpha_is_divided_by_the_rank(loras: Loras, tmp_path: Path, name: Name) -> None:
    pairs = draw(loras, EVERYWHERE)
    expected = by_hand(loras, pairs, 0.5 * 5 / RANK)
    tensors = named(pairs, name)
    for target in pairs:
        layer = name(target, "up").rsplit(".lora_", 1)[0]
        tensors[f"{layer}.alpha"] = torch.tensor(5)
    loras.add(written(tmp_path / "lora.safetensors", tensors), 0.5)
    check_merged(loras, expected)


@pytest.mark.parametrize("alpha", [5, 0.5, -3.0])
def test_an_alpha_saved_as_a_plain_number_counts(
    loras: Loras, tmp_path: Path, alpha: float
) -> None:
    pairs = draw(loras, EVERYWHERE)
    expected = by_hand(loras, pairs, alpha / RANK)
    alphas = {peft(t, "up").replace("lora_B.weight", "alpha"): alpha for t in pairs}
    torch.save({**named(pairs, peft), **alphas}, tmp_path / "lora.bin")
    loras.add(tmp_path / "lora.bin")
    check_merged(loras, expected)


def test_numbers_that_are_no_alpha_are_passed_over(loras: Loras, tmp_path: Path) -> None:
    pairs = draw(loras, ATTENTION)
    expected = by_hand(loras, pairs, 1)
    torch.save({"epoch": 3, **named(pairs, peft), "loss": 0.5}, tmp_path / "lora.pt")
    loras.add(tmp_path / "lora.pt")
    check_merged(loras, expected)


@pytest.mark.parametrize(
    ("layer", "alpha", "fault"),
    [
        ("to_q", 10**400, "with other than finite floats"),
        ("to_q", torch.tensor(1j), "with other than finite floats"),
        ("to_q", float("nan"), "with other than finite floats"),
        ("to_k", 1, "without up and down"),
        ("to_x", 1, "1 of 3 keys fit no layer: prior.blocks.2.attention.to_x.alpha"),
    ],
)
def test_an_alpha_saved_as_a_plain_number_is_refused_as_one_in_a_tensor(
    loras: Loras, tmp_path: Path, layer: str, alpha: Any, fault: str
) -> None:
    stem, path = "prior.blocks.2.attention", tmp_path / "lora.bin"
    torch.save(random_pair(f"{stem}.to_q") | {f"{stem}.{layer}.alpha": alpha}, path)
    assert fault in refused(loras, path)


def test_alpha_may_differ_from_layer_to_layer_and_be_missing_from_some(
    loras: Loras, tmp_path: Path
) -> None:
    pairs = draw(loras, ATTENTION[:3])
    tensors = named(pairs, processor)
    tensors[processor(ATTENTION[0], "down") + ".alpha"] = torch.tensor([1.0])
    tensors["prior.blocks.2.attention.to_k_lora.alpha"] = torch.tensor(8.0)
    lora = load_lora(written(tmp_path / "lora.safetensors", tensors), loras.networks[PRIOR], None)
    assert [lora.updates[target].scale for target in ATTENTION[:3]] == [0.5, 4, 1]


def test_queries_keys_and_values_joined_in_one_matrix_are_parted(
    loras: Loras, tmp_path: Path
) -> None:
    q, k, v = ATTENTION[:3]
    pairs = draw(loras, [q, k, v])
    down = pairs[q][1]
    expected = by_hand(loras, {target: (pairs[target][0], down) for target in pairs}, 1)
    up = torch.cat([pairs[target][0] for target in (q, k, v)])
    for stem in (
        "prior.blocks.2.attention.attn",
        "base_model.model.blocks.2.attention.attn.in_proj",
        "lora_unet_blocks_2_attention_attn_in_proj",
    ):
        tensors = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
        loras.add(written(tmp_path / "lora.safetensors", tensors))
        check_merged(loras, expected)
        loras.clear()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_files_of_any_precision_and_of_both_formats_are_read(
    loras: Loras, tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    pairs = {t: (a.to(dtype), b.to(dtype)) for t, (a, b) in draw(loras, EVERYWHERE).items()}
    expected = by_hand(loras, {t: (a.float(), b.float()) for t, (a, b) in pairs.items()}, 1)
    loras.add(written(tmp_path / f"lora{suffix}", named(pairs, peft)))
    check_merged(loras, expected)


@pytest.mark.parametrize("file", ["pytorch_lora_weights.safetensors", "adapter_model.bin"])
def test_a_folder_stands_for_the_lora_in_it(loras: Loras, tmp_path: Path, file: str) -> None:
    path = written(tmp_path / file, named(draw(loras, ATTENTION), peft))
    assert loras.add(tmp_path).path == loras.add(str(path)).path == path


@pytest.mark.parametrize(
    ("entries", "scales"),
    [
        ({"r": RANK, "lora_alpha": 8}, (4.0, 4.0)),
        ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, (8 / RANK**0.5, 8 / RANK**0.5)),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {r"blocks\.5\..*to_q": 6}}, (1.0, 3.0)),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"5.attention.to_q": 6}}, (1.0, 3.0)),
        ({"lora_dropout": 0.1}, (1.0, 1.0)),
    ],
)
@pytest.mark.parametrize("where", ["", "prior.", "unet.", "folder"])
def test_alpha_is_also_taken_from_what_peft_wrote_beside_the_tensors(
    loras: Loras, tmp_path: Path, where: str, entries: dict[str, Any], scales: tuple[float, ...]
) -> None:
    first, second = (
        Target(PRIOR, "blocks.2.attention.to_q"),
        Target(PRIOR, "blocks.5.attention.to_q"),
    )
    tensors = named(draw(loras, [first, second]), peft)
    metadata = None
    if where == "folder":
        (tmp_path / "adapter_config.json").write_text(json.dumps(entries))
    else:
        header = json.dumps({where + key: value for key, value in entries.items()})
        metadata = {"format": "pt", "lora_adapter_metadata": header}
    path = written(tmp_path / "adapter_model.safetensors", tensors, metadata)
    updates = load_lora(path, loras.networks[PRIOR]).updates
    assert (updates[first].scale, updates[second].scale) == pytest.approx(scales)


@pytest.mark.parametrize("start", ["text_model.", ""])
def test_alpha_of_the_text_tower_is_told_by_names_with_and_without_their_start(
    loras: Loras, tmp_path: Path, start: str
) -> None:
    layer = "encoder.layers.0.self_attn.q_proj"
    target = Target(TEXT, layer)
    tensors = named(draw(loras, [target]), peft)
    entries = {"text_encoder.r": 4, "text_encoder.alpha_pattern": {start + layer: 8}}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(entries)}
    path = written(tmp_path / "adapter_model.safetensors", tensors, header)
    updates = load_lora(path, loras.networks[PRIOR], loras.networks[TEXT]).updates
    assert updates[target].scale == pytest.approx(8 / RANK)


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


def test_what_is_mapped_from_a_file_is_not_written_to(tiny: Path, tmp_path: Path) -> None:
    source = tiny / "wuerstchen-prior" / "prior" / "diffusion_pytorch_model.safetensors"
    loras, before = Loras(load_network(source, "stage_c", Placement())), source.read_bytes()
    mapped = weight(loras, ATTENTION[0])
    numbers = mapped.clone()
    loras.add(written(tmp_path / "lora.safetensors", named(draw(loras, ATTENTION), peft)))
    assert torch.equal(mapped, numbers)
    assert source.read_bytes() == before


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


def test_a_lora_fits_a_network_that_was_built_without_a_file(tmp_path: Path) -> None:
    loras = Loras(StageC(StageCConfig(c=32, c_cond=24, depth=2, nhead=2)))
    pairs = draw(loras, ATTENTION)
    expected = {t: w.detach() for t, w in by_hand(loras, pairs, 1).items()}
    loras.add(written(tmp_path / "lora.safetensors", named(pairs, peft)))
    check_merged(loras, expected)
    assert weight(loras, ATTENTION[0]).requires_grad


def refused(loras: Loras, source: str | Path) -> str:
    """Return the one line of the refusal, after which every weight is as before."""
    before = copies(loras)
    with pytest.raises(CheckpointError) as caught:
        loras.add(source)
    text = str(caught.value)
    assert text.startswith(str(source))
    assert "\n" not in text
    assert len(text) < 700
    assert unchanged(loras, before)
    assert not loras.added
    return text


def refused_tensors(loras: Loras, folder: Path, tensors: dict[str, Tensor]) -> str:
    text = refused(loras, written(folder / "lora.safetensors", tensors))
    assert "expected a LoRA for Würstchen v2's Stage C (the prior) and its text tower" in text
    return text


def random_pair(stem: str, rows: int = 32, columns: int = 32) -> dict[str, Tensor]:
    return {
        f"{stem}.lora_up.weight": torch.randn(rows, RANK),
        f"{stem}.lora_down.weight": torch.randn(RANK, columns),
    }


OTHER_MODELS = {
    "lora_prior_unet_down_blocks_0_2_attention_to_q": "Stable Cascade",
    "lora_prior_unet.up_blocks.0.2.attention.to_q": "Stable Cascade",
    "prior.down_blocks.0.2.attention.to_q": "Stable Cascade",
    "lora_unet_up_blocks_1_3_channelwise_0": "Stable Cascade",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": "Stable Diffusion",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "Stable Diffusion",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": "Stable Diffusion",
    "transformer.transformer_blocks.0.attn.to_q": "a diffusion transformer",
    "lora_unet_double_blocks_0_img_attn_qkv": "a diffusion transformer",
}


@pytest.mark.parametrize(("stem", "name"), OTHER_MODELS.items())
def test_a_lora_of_another_model_is_named(
    loras: Loras, tmp_path: Path, stem: str, name: str
) -> None:
    text = refused_tensors(loras, tmp_path, random_pair(stem))
    assert f"this is a LoRA for {name} (2 of 2 keys fit no layer: {stem}" in text
    assert "take one that was trained on this prior" in text


def test_a_lora_of_stable_diffusion_is_named_even_where_its_text_tower_would_fit(
    loras: Loras, tmp_path: Path
) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    fitting = named(draw(loras, SELF_ATTENTION), kohya("", "lora_te_text_model_"))
    text = refused_tensors(loras, tmp_path, fitting | random_pair(stem))
    assert "this is a LoRA for Stable Diffusion (2 of 18 keys fit no layer" in text


def test_what_holds_no_lora_is_named(loras: Loras, tmp_path: Path, tiny: Path) -> None:
    prior = tiny / "wuerstchen-prior" / "prior" / "diffusion_pytorch_model.safetensors"
    assert "this is Stage C (the prior)" in refused(loras, prior)
    text = refused_tensors(loras, tmp_path, {"something": torch.ones(2)})
    assert "this is no LoRA known here (1 of 1 keys fit no layer: something)" in text
    assert "no LoRA known here (0 of 0 keys" in refused_tensors(loras, tmp_path, {})


@pytest.mark.parametrize("key", ["hada_w1_a", "lokr_w1", "dora_scale", "lora_mid.weight"])
def test_an_update_that_is_no_plain_product_is_refused(
    loras: Loras, tmp_path: Path, key: str
) -> None:
    stem = "lora_unet_blocks_2_attention_to_q"
    text = refused_tensors(loras, tmp_path, random_pair(stem) | {f"{stem}.{key}": torch.ones(2, 2)})
    assert "this is a LoHa, LoKr or DoRA" in text
    assert f"1 of 3 keys fit no layer: {stem}.{key}" in text


@pytest.mark.parametrize(
    "stranger",
    [
        "prior.blocks.8.attention.to_q.lora_A.weight",
        "prior.blocks.2.attention.to_q.lora_B.bias",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "prior.blocks.2.attention.to_q.alpha.beta",
        "blocks.2.attention.to_q.base_layer.weight",
    ],
)
def test_keys_that_fit_no_layer_are_listed(loras: Loras, tmp_path: Path, stranger: str) -> None:
    tensors = named(draw(loras, ATTENTION), peft) | {stranger: torch.ones(2, 32)}
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"found one for other layers (1 of 17 keys fit no layer: {stranger})" in text


def test_a_text_part_needs_a_text_tower(model: Wuerstchen, tmp_path: Path) -> None:
    tensors = named(draw(Loras(model.stage_c, model.prior_text.network), EVERYWHERE), peft)
    text = refused_tensors(Loras(model.stage_c), tmp_path, tensors)
    assert "18 of 46 keys fit no layer: text_encoder.text_model.encoder" in text


@pytest.mark.parametrize(("left", "missing"), [("A", "up"), ("B", "down")])
def test_a_matrix_without_its_other_is_refused(
    loras: Loras, tmp_path: Path, left: str, missing: str
) -> None:
    tensors = named(draw(loras, ATTENTION[:2]), peft)
    tensors.pop(f"prior.blocks.2.attention.to_q.lora_{'AB'.replace(left, '')}.weight")
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"found 1 layers without {missing} (prior.blocks.2.attention.to_q);" in text


def test_an_alpha_alone_is_refused(loras: Loras, tmp_path: Path) -> None:
    tensors = named(draw(loras, ATTENTION[:1]), peft)
    tensors["prior.blocks.2.attention.to_k.alpha"] = torch.tensor(1.0)
    text = refused_tensors(loras, tmp_path, tensors)
    assert "1 layers without up and down (prior.blocks.2.attention.to_k)" in text


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ((31, 2), (2, 32)),
        ((32, 2), (2, 33)),
        ((32, 3), (2, 32)),
        ((2, 32), (32, 2)),
        ((32, 0), (0, 32)),
        ((32,), (32,)),
        ((), ()),
    ],
)
def test_wrong_shapes_are_refused(
    loras: Loras, tmp_path: Path, up: tuple[int, ...], down: tuple[int, ...]
) -> None:
    stem = "prior.blocks.2.attention.to_q"
    tensors = {f"{stem}.lora_B.weight": torch.ones(up), f"{stem}.lora_A.weight": torch.ones(down)}
    text = refused_tensors(loras, tmp_path, tensors)
    wrong = f"{stem} up {list(up)} and down {list(down)} for 32 rows, 32 columns"
    assert f"found 1 layers of another shape ({wrong});" in text


def test_an_alpha_of_several_numbers_is_refused(loras: Loras, tmp_path: Path) -> None:
    stem = "prior.blocks.2.attention.to_q"
    text = refused_tensors(loras, tmp_path, random_pair(stem) | {f"{stem}.alpha": torch.ones(2)})
    assert f"1 layers of another shape ({stem} alpha [2])" in text


@pytest.mark.parametrize("role", ["lora_up.weight", "lora_down.weight", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(
    loras: Loras, tmp_path: Path, role: str, value: float
) -> None:
    stem = "prior.blocks.2.attention.to_q"
    tensors = random_pair(stem) | {f"{stem}.alpha": torch.tensor(1.0)}
    tensors[f"{stem}.{role}"].view(-1)[-1] = value
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"1 layers with other than finite floats ({stem})" in text


def test_whole_numbers_are_no_weights(loras: Loras, tmp_path: Path) -> None:
    stem = "prior.blocks.2.attention.to_q"
    tensors = {key: tensor.to(torch.int8) for key, tensor in random_pair(stem).items()}
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"1 layers with other than finite floats ({stem})" in text


def test_two_updates_for_one_layer_are_refused(loras: Loras, tmp_path: Path) -> None:
    stem = "prior.blocks.2.attention"
    again = random_pair("unet.blocks.2.attention.to_k")
    joined = random_pair(f"{stem}.attn.in_proj", rows=96)
    for other in (again, joined):
        text = refused_tensors(loras, tmp_path, random_pair(f"{stem}.to_k") | other)
        assert "found more than one update for the same layer" in text
        assert "save each LoRA as a file of its own" in text


@pytest.mark.parametrize(
    "entries",
    [
        {"lora_alpha": "many"},
        {"lora_alpha": [1]},
        {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": 3},
        {"lora_alpha": 1e999},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"blocks.2.attention.to_q": 10**400}},
        {"alpha_pattern": {"a{99999999999999}": 1}},
        {"alpha_pattern": {"(" * 20_000: 1}},
        {"alpha_pattern": {"(([a-z._0-9]+)+)+!": 1}},
        {"alpha_pattern": {".*" * 20 + "!": 1}},
        {"alpha_pattern": {"(.|.)" * 20 + "!": 1}},
        {"alpha_pattern": {"(?#[)" + "(.|.)" * 20 + r"!\]": 1}},
        {"alpha_pattern": {f"({'.|' * 40}.)" * 4 + "!": 1}},
        {"alpha_pattern": {"a" * 600: 1}},
    ],
)
def test_a_config_without_a_usable_alpha_is_refused(
    loras: Loras, tmp_path: Path, entries: dict[str, Any]
) -> None:
    metadata = {"lora_adapter_metadata": json.dumps(entries)}
    tensors = random_pair("prior.blocks.2.attention.to_q")
    path = written(tmp_path / "lora.safetensors", tensors, metadata)
    assert "expected PEFT's adapter config with numbers for lora_alpha" in refused(loras, path)


@pytest.mark.parametrize(
    "pattern",
    [
        "blocks.2.attention.to_q",
        r"^blocks\.2\.attention\.to_q$",
        ".*to_q",
        r"blocks\.\d+\..*\.(to_q|to_k)",
        r"(prior\.)?blocks\.[0-9]+\.attention\.to_(?:q|k|v)",
        r"blocks\.(2|5)\..*to_q.*",
    ],
)
def test_patterns_as_people_write_them_for_peft_are_compared(pattern: str) -> None:
    assert matcher(pattern).fullmatch("blocks.2.attention.to_q")
    assert not matcher(pattern).fullmatch("blocks.2.attention.to_out.0")


def test_missing_damaged_and_empty_sources_are_refused(loras: Loras, tmp_path: Path) -> None:
    assert "found nothing at this path" in refused(loras, tmp_path / "no.safetensors")
    assert "an empty folder" in refused(loras, tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    assert "download it again" in refused(loras, tmp_path / "cut.safetensors")
    assert "found cut.safetensors; give the file itself" in refused(loras, tmp_path)


def test_a_pickle_that_would_run_code_is_refused(loras: Loras, tmp_path: Path) -> None:
    torch.save({"a": nn.Linear(1, 1)}, tmp_path / "lora.bin")
    assert "could run code" in refused(loras, tmp_path / "lora.bin")


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("a.safetensors:+.5", ("a.safetensors", 0.5)),
        ("a.safetensors:1e-1", ("a.safetensors", 0.1)),
        ("owner/name:2", ("owner/name", 2.0)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:0.8", ("C:\\loras\\a.safetensors", 0.8)),
        ("C:/loras/a.safetensors", ("C:/loras/a.safetensors", 1.0)),
        ("a:b.safetensors", ("a:b.safetensors", 1.0)),
        ("a:b:0.5", ("a:b", 0.5)),
        ("style:2:1", ("style:2", 1.0)),
        ("a:", ("a:", 1.0)),
        ("a:nan", ("a:nan", 1.0)),
        ("a:1_0", ("a:1_0", 1.0)),
    ],
)
def test_only_a_number_behind_the_last_colon_is_a_strength(
    text: str, expected: tuple[str, float]
) -> None:
    assert parse_lora(text) == expected


@pytest.mark.parametrize("text", ["", " ", ":0.5", "a:1e999"])
def test_a_lora_without_a_source_or_a_finite_strength_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be SOURCE or SOURCE:STRENGTH, .*, got"):
        parse_lora(text)


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


def test_a_loaded_lora_tells_where_it_is_from(loras: Loras, tmp_path: Path) -> None:
    path = written(tmp_path / "lora.safetensors", named(draw(loras, ATTENTION), peft))
    lora = loras.add(path, 0.4)
    assert loras.added == [(lora, 0.4)]
    assert lora.path == path


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


def test_a_config_beside_another_file_is_not_its_own(loras: Any, tmp_path: Path) -> None:
    target = ATTENTION[0]
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8}))
    path = written(tmp_path / "style.safetensors", named(draw(loras, [target]), peft))
    assert load_lora(path, loras.networks[PRIOR]).updates[target].scale == 1


def test_an_alpha_in_the_file_comes_before_that_of_a_config(loras: Any, tmp_path: Path) -> None:
    target = ATTENTION[0]
    tensors = named(draw(loras, [target]), peft) | {
        f"prior.{target.layer}.alpha": torch.tensor(5.0)
    }
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 8})}
    path = written(tmp_path / "lora.safetensors", tensors, header)
    assert load_lora(path, loras.networks[PRIOR]).updates[target].scale == 2.5


@pytest.mark.parametrize("pattern", ["attention", r"\.attention\.to_q", "2.attention.to"])
def test_a_pattern_is_whole_names(loras: Any, tmp_path: Path, pattern: str) -> None:
    target = ATTENTION[0]
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 2, "alpha_pattern": {pattern: 6}})}
    path = written(tmp_path / "lora.safetensors", named(draw(loras, [target]), peft), header)
    assert load_lora(path, loras.networks[PRIOR]).updates[target].scale == 1


@pytest.mark.parametrize(
    "start", ["model.diffusion_model.", "module.", "base_model.model.module.prior."]
)
def test_what_stands_before_a_layer_is_taken_off(start: str) -> None:
    assert bare(f"{start}blocks.2.attention.to_q") == "blocks.2.attention.to_q"
