"""The host's nodes for models on Würstchen's: merging, LoRA and compiling, in a running ComfyUI."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wuerstchen.checkpoints.files import METADATA_CONFIG

from .graphs import (
    DECODER,
    DECODER_SEED,
    EMPTY,
    NEGATIVE,
    POSITIVE,
    PRIOR,
    PROMPT,
    QUICK,
    SEED,
    STAGE_A,
    STAGE_B,
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
    save_latent,
    save_picture,
    without_ends,
)
from .server import ROOT, Host

pytestmark = pytest.mark.host

MINI = ROOT / "wuerstchen" / "mini" / "wuerstchen-prior" / "prior"
KEYS, OUT = "blocks.2.attention.to_k", "blocks.5.attention.to_out.0"
TEXT, HEAD = "blocks.8.kv_mapper.1", "cond_mapper.0"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "dotted": lambda module: f"diffusion_model.{module}",
    "underscored": lambda module: f"lora_unet_{module.replace('.', '_')}",
}
RANK, ALPHA, STRENGTH = 2, 1.0, 0.8


@pytest.fixture
def graph(graph: Any) -> Any:
    """The plain graph with few steps, in full precision."""
    put(graph, STAGE_C, times="uniform", steps=4)
    put(graph, STAGE_B, steps=4)
    put(graph, PRIOR, weight_dtype="fp32")
    return graph


def bundled() -> dict[str, Tensor]:
    """Return the weights of the bundled Stage C."""
    tensors = load_file(MINI / "diffusion_pytorch_model.safetensors")
    return {name: tensor.float() for name, tensor in tensors.items()}


def other() -> dict[str, Tensor]:
    """Return the weights of another Stage C: noise is added to the bundled one's."""
    drawn = torch.Generator().manual_seed(3)
    return {
        name: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=drawn)
        for name, tensor in bundled().items()
    }


def keep(host: Host, name: str, tensors: dict[str, Tensor]) -> str:
    """Write a Stage C where the host looks for it, once; return its name."""
    file = folder(host, "diffusion_models") / name
    if not file.exists():
        config = (MINI / "config.json").read_text(encoding="utf-8")
        save_file(tensors, file, metadata={METADATA_CONFIG: config})
    return name


def folder(host: Host, name: str) -> Path:
    """Return a folder of the host's models."""
    place = host.base / "models" / name
    place.mkdir(exist_ok=True)
    return place


def loaded(graph: Graph, prior: str) -> Link:
    """Add a loader of a Stage C."""
    return again(graph, PRIOR, prior=prior)


def sampled(graph: Graph, model: Link) -> Link:
    """Add a run of Stage C with this model."""
    return again(graph, STAGE_C, model=model)


def merged(graph: Graph, one: Link, other: Link, ratio: float) -> Link:
    """Add a merge of two models; a ratio of 1 is the first."""
    return add(graph, "ModelMergeSimple", model1=one, model2=other, ratio=ratio)


def test_a_merge_is_the_interpolation_of_the_weights(host: Host, graph: Graph) -> None:
    one, two = bundled(), other()
    mean = {name: 0.5 * tensor + 0.5 * two[name] for name, tensor in one.items()}
    first = [PRIOR, 0]
    second = loaded(graph, keep(host, "other.safetensors", two))
    middle = loaded(graph, keep(host, "mean.safetensors", mean))
    merges = [merged(graph, first, second, ratio) for ratio in (1.0, 0.5, 0.0)]
    runs = [sampled(graph, model) for model in (*merges, first, middle, second)]
    all_first, half, all_second, plain, by_file, plain_second = latents(host, graph, *runs)
    assert apart(all_first, plain) == 0
    assert apart(half, by_file) < 1e-3
    assert apart(all_second, plain_second) < 1e-3
    assert min(apart(by_file, plain), apart(by_file, plain_second)) > 0.01


def test_a_merge_paints_the_picture_of_the_packages_blend(host: Host, graph: Graph) -> None:
    from wuerstchen import Wuerstchen

    two = keep(host, "other.safetensors", other())
    blend = f"{MINI}*0.3+{folder(host, 'diffusion_models') / two}*0.7"
    package = Wuerstchen.load(prior=blend, device="cpu", progress=False)
    put(graph, STAGE_C, seed=SEED)
    put(graph, STAGE_B, seed=DECODER_SEED)
    put(graph, EMPTY, width=256, height=256)
    put(graph, STAGE_C, model=merged(graph, [PRIOR, 0], loaded(graph, two), 0.3))
    (ours,) = package.paint(PROMPT, width=256, height=256, **QUICK)
    (theirs,) = pictures(host, graph, [STAGE_A, 0])
    assert abs(theirs - levels_of(ours)).max() <= 2


def test_a_model_merged_with_itself_stays_itself(host: Host, graph: Graph) -> None:
    again_same = loaded(graph, keep(host, "same.safetensors", bundled()))
    runs = [sampled(graph, merged(graph, [PRIOR, 0], again_same, 0.3)), [STAGE_C, 0]]
    same, plain = latents(host, graph, *runs)
    assert apart(same, plain) < 1e-4


@pytest.mark.parametrize("node", ["ModelSave", "CheckpointSave"])
@pytest.mark.parametrize(("loader", "stage"), [(PRIOR, STAGE_C), (DECODER, STAGE_B)])
def test_what_the_host_saves_of_a_model_is_loaded_again(
    host: Host, graph: Graph, loader: str, stage: str, node: str
) -> None:
    put(graph, DECODER, weight_dtype="fp32")
    parts = {} if node == "ModelSave" else {"clip": [loader, 1], "vae": [DECODER, 2]}
    asked, name = without_ends(graph), f"{node}-{loader}"
    add(asked, node, model=[loader, 0], filename_prefix=name, **parts)
    assert host.run(asked).message == ""
    (saved,) = (host.base / "output").glob(f"{name}*.safetensors")
    saved.rename(folder(host, "diffusion_models") / f"{name}.safetensors")
    part = {PRIOR: "prior", DECODER: "decoder"}[loader]
    once_more = again(graph, loader, **{part: f"{name}.safetensors"})
    one, other = latents(host, graph, again(graph, stage, model=once_more), [stage, 0])
    assert apart(one, other) == 0


def low_rank(module: str) -> tuple[Tensor, Tensor]:
    """Return the two matrices of a LoRA for a linear layer of the bundled Stage C."""
    rows, columns = bundled()[f"{module}.weight"].shape
    drawn = torch.Generator().manual_seed(rows + len(module))
    up = 0.5 * torch.randn(rows, RANK, generator=drawn)
    return up, 0.5 * torch.randn(RANK, columns, generator=drawn)


def keep_lora(host: Host, name: str, modules: list[str], spelt: Callable[[str], str]) -> str:
    """Write a LoRA for these layers where the host looks for it; return its name."""
    tensors = {}
    for module in modules:
        up, down = low_rank(module)
        entries = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(ALPHA)}
        tensors.update({f"{spelt(module)}.{end}": tensor for end, tensor in entries.items()})
    save_file(tensors, folder(host, "loras") / name)
    return name


def with_lora(graph: Graph, name: str, strength: float) -> Link:
    """Add the prior's model with a LoRA."""
    given = {"model": [PRIOR, 0], "lora_name": name, "strength_model": strength}
    return add(graph, "LoraLoaderModelOnly", **given)


def hooked(graph: Graph, lora: str, on_both: bool) -> dict[str, Link]:
    """Hook a LoRA to the positive prompt or to both; return the wires of the prompts."""
    hook = add(graph, "CreateHookLoraModelOnly", lora_name=lora, strength_model=STRENGTH)
    given = {"strength": 1.0, "set_cond_area": "default", "hooks": hook}
    if on_both:
        prompts = {"positive_NEW": [POSITIVE, 0], "negative_NEW": [NEGATIVE, 0]}
        pair = add(graph, "PairConditioningSetProperties", **prompts, **given)
        return {"positive": pair, "negative": output(pair, 1)}
    return {
        "positive": add(graph, "ConditioningSetProperties", cond_NEW=[POSITIVE, 0], **given),
        "negative": [NEGATIVE, 0],
    }


@pytest.mark.parametrize(("on_both", "guidance"), [(True, 4.0), (False, 1.0)])
def test_a_hooked_lora_changes_the_prompts_that_it_is_hooked_to(
    host: Host, graph: Graph, on_both: bool, guidance: float
) -> None:
    lora = keep_lora(host, "hooked.safetensors", [KEYS, TEXT], SPELLINGS["dotted"])
    put(
        graph,
        STAGE_C,
        guidance=guidance,
        sampler=add(graph, "KSamplerSelect", sampler_name="euler"),
    )
    loader, wires = with_lora(graph, lora, STRENGTH), hooked(graph, lora, on_both)
    here = again(graph, STAGE_C, **wires)
    there = again(graph, STAGE_C, model=loader)
    by_hook, by_loader, plain = latents(host, graph, here, there, [STAGE_C, 0])
    assert apart(by_hook, by_loader) < 1e-4
    assert apart(plain, by_loader) > 0.01


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("modules", [[KEYS], [OUT], [TEXT, HEAD], [KEYS, OUT, TEXT]])
def test_a_lora_is_its_product_added_to_the_weights(
    host: Host, graph: Graph, modules: list[str], spelling: str
) -> None:
    name = "-".join(modules)
    lora = keep_lora(host, f"{name}-{spelling}.safetensors", modules, SPELLINGS[spelling])
    tensors = bundled()
    for module in modules:
        up, down = low_rank(module)
        tensors[f"{module}.weight"] += STRENGTH * ALPHA / RANK * up @ down
    by_file = loaded(graph, keep(host, f"{name}.safetensors", tensors))
    models = (with_lora(graph, lora, STRENGTH), by_file, with_lora(graph, lora, 0.0), [PRIOR, 0])
    patched, added, off, plain = latents(host, graph, *(sampled(graph, m) for m in models))
    assert apart(patched, added) < 1e-4
    assert apart(off, plain) == 0
    assert apart(patched, plain) > 0.01


def skip_without(host: Host, node: str) -> None:
    """Skip the test if the host has no such node."""
    if not host.get(f"object_info/{node}"):
        pytest.skip(f"this version of the host has no {node}")


def bypassed(graph: Graph, loader: str, lora: str) -> Link:
    """Add the model of a loader with a LoRA beside its weights, as newer hosts can."""
    given = {"model": [loader, 0], "lora_name": lora, "strength_model": STRENGTH}
    return add(graph, "LoraLoaderBypassModelOnly", **given)


def test_a_lora_beside_the_weights_does_what_it_does_in_them(host: Host, graph: Graph) -> None:
    skip_without(host, "LoraLoaderBypassModelOnly")
    lora = keep_lora(host, "beside.safetensors", [KEYS, OUT, TEXT], SPELLINGS["dotted"])
    models = bypassed(graph, PRIOR, lora), with_lora(graph, lora, STRENGTH)
    beside, inside = latents(host, graph, *(sampled(graph, model) for model in models))
    assert apart(beside, inside) < 1e-3


def test_a_lora_beside_weights_that_are_folded_is_refused(host: Host, graph: Graph) -> None:
    skip_without(host, "LoraLoaderBypassModelOnly")
    up, down = torch.ones(512, RANK), torch.ones(RANK, 192)
    entries = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(ALPHA)}
    name = "diffusion_model.down_blocks.0.0.channelwise.0"
    tensors = {f"{name}.{end}": tensor for end, tensor in entries.items()}
    save_file(tensors, folder(host, "loras") / "folded.safetensors")
    changed = without_ends(graph)
    model = bypassed(changed, DECODER, "folded.safetensors")
    save_latent(changed, again(changed, STAGE_B, model=model))
    assert "load that LoRA into the weights instead" in host.run(changed).message
    put(graph, STAGE_B, seed=DECODER_SEED + 1)
    assert host.run(graph).message == ""  # without it all is as it was


def test_a_model_computes_in_the_precision_that_is_asked_of_it(host: Host, graph: Graph) -> None:
    lower = add(graph, "ModelComputeDtype", model=[PRIOR, 0], dtype="bf16")
    rounded, plain = latents(host, graph, sampled(graph, lower), [STAGE_C, 0])
    assert 1e-3 < apart(rounded, plain) < 0.2


def test_a_compiled_stage_c_paints_the_same(host: Host, graph: Graph) -> None:
    run = sampled(graph, compiled(graph, PRIOR))
    assert_nearly_equal(*latents(host, graph, run, [STAGE_C, 0]))


def test_a_compiled_stage_b_paints_the_same(host: Host, graph: Graph) -> None:
    run = again(graph, STAGE_B, model=compiled(graph, DECODER))
    assert_nearly_equal(*latents(host, graph, run, [STAGE_B, 0]))


def test_the_hosts_easy_cache_spares_calls_and_paints_nearly_the_same(
    host: Host, graph: Graph
) -> None:
    put(graph, STAGE_C, steps=20)
    given = {"reuse_threshold": 1.0, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    run = sampled(graph, add(graph, "EasyCache", model=[PRIOR, 0], **given))
    assert 0 < apart(*latents(host, graph, run, [STAGE_C, 0])) < 0.3


def compiled(graph: Graph, loader: str) -> Link:
    """Add the compiled model of a loader; compiling it takes a minute or two."""
    return add(graph, "TorchCompileModel", model=[loader, 0], backend="inductor")


def assert_nearly_equal(fast: Tensor, plain: Tensor) -> None:
    """Compiled code rounds otherwise: the same bits would mean that it did not run."""
    assert 0 < apart(fast, plain) < 1e-3


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        ("PerturbedAttentionGuidance", {"scale": 3.0}),
        ("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}),
        ("TomePatchModel", {"ratio": 0.3}),
    ],
)
def test_a_patch_of_blocks_that_are_not_there_is_refused(
    host: Host, graph: Graph, node: str, settings: Any
) -> None:
    put(graph, STAGE_C, model=add(graph, node, model=[PRIOR, 0], **settings))
    outcome = host.run(graph)
    assert outcome.error["node_id"] == STAGE_C
    assert "model must have no patches of a U-Net's blocks, got some (" in outcome.message


def test_a_stage_c_latent_has_no_pixels_yet(host: Host, graph: Graph) -> None:
    decoded = add(graph, "VAEDecode", samples=[STAGE_C, 0], vae=[DECODER, 2])
    asked = without_ends(graph)
    save_picture(asked, decoded)
    assert "put Würstchen Stage B Decode before it" in host.run(asked).message
