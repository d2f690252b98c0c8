"""What nodes do when memory is short, lent or elsewhere; on the CPU the host never brings this about."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from chain import ROOT, NodeChain, difference, pack

sys.path.append(str(ROOT / "tests"))


def half_loaded() -> dict[str, Any]:
    """Return the difference that half a network's memory makes, and what stayed unloaded."""
    import comfy.model_management as management

    shares: list[float] = []
    load = management.LoadedModel.model_load

    found = {}
    for weight_dtype in ("fp32", "bf16", "fp16"):
        management.LoadedModel.model_load = load
        whole = NodeChain(weight_dtype).run()
        management.unload_all_models()
        management.LoadedModel.model_load = in_half(load, shares)
        found[weight_dtype] = difference(whole, NodeChain(weight_dtype).run())
        management.unload_all_models()
    return {"differences": found, "largest share": max(shares), "loads": len(shares)}


def merged_in_part() -> dict[str, Any]:
    """Return how far a merge of two priors is from itself where half of it is loaded."""
    import comfy.model_management as management
    import torch
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    chain, other, load = NodeChain(), NodeChain(), management.LoadedModel.model_load
    drawn = torch.Generator().manual_seed(0)
    for parameter in other.prior.model.diffusion_model.parameters():
        data = parameter.data
        data.add_(0.3 * data.std(correction=0) * torch.randn(data.shape, generator=drawn))

    def painted(model: Any) -> Any:
        chain.prior = model
        found = chain.run()["semantic"]
        management.unload_all_models()
        return found

    def apart(one: Any, two: Any) -> float:
        return float((one - two).abs().max() / two.abs().max())

    plain, alone = chain.prior, painted(chain.prior)
    (merged,) = ModelMergeSimple().merge(plain, other.prior, 0.5)
    whole = painted(merged)
    management.LoadedModel.model_load = in_half(load, shares=[])
    half = painted(merged)
    management.LoadedModel.model_load = load
    return {
        "merge": apart(whole, alone),
        "half of it": apart(half, whole),
        "afterwards": apart(painted(plain), alone),
    }


def in_half(load: Callable[..., Any], shares: list[float]) -> Callable[..., Any]:
    """Return a way of loading half of a model; it notes the shares that were loaded."""

    def load_half(self: Any, budget: float = 0, force_patch_weights: bool = False) -> Any:
        self.model.detach()
        loaded = load(self, self.model.model_size() / 2, force_patch_weights)
        shares.append(self.model.loaded_size() / self.model.model_size())
        return loaded

    return load_half


def taken() -> dict[str, Any]:
    """Return the pages that the system lends for so many steps of Stage B."""
    import resource

    import torch

    chain = NodeChain()
    (wanted,) = chain.call("TextEncode", chain.clip_b, "a large red circle")
    semantic = {"samples": torch.randn(1, 16, 24, 24)}

    def pages(steps: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        chain.call("StageBDecode", chain.decoder, semantic, wanted, 2, steps, 0.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages(1)
    return {"few": pages(2), "many": pages(12)}


def lazy() -> dict[str, Any]:
    """Return the difference that layers make which get their weights when they are loaded."""
    try:
        import comfy.memory_management as memory
    except ImportError:
        return {"known": False}
    import comfy.ops

    whole = NodeChain().run()
    memory.aimdo_enabled = True
    empty = comfy.ops.disable_weight_init.Linear(1, 1).weight is None
    return {"known": True, "empty": empty, "difference": difference(whole, NodeChain().run())}


def copied() -> dict[str, Any]:
    """Return the difference that weights of their own make, as for a second device."""
    chain = NodeChain()
    whole = chain.run()
    if not hasattr(chain.prior, "is_dynamic"):
        return {"known": False}
    before = chain.prior.model
    chain.prior = chain.prior.clone(force_deepcopy=True)
    clip = chain.clip.clone()
    clip.patcher = chain.clip.patcher.clone(force_deepcopy=True)
    clip.cond_stage_model, before_clip = clip.patcher.model, chain.clip.patcher.model
    chain.clip = clip
    return {
        "known": True,
        "apart": chain.prior.model is not before and clip.patcher.model is not before_clip,
        "difference": difference(whole, chain.run()),
    }


def lent() -> dict[str, Any]:
    """Return how often weights are fetched from the host, and how often given back."""
    import comfy.ops

    counts = {"lent": 0, "returned": 0}
    if not hasattr(comfy.ops, "uncast_bias_weight"):
        return counts
    cast, uncast = comfy.ops.cast_bias_weight, comfy.ops.uncast_bias_weight

    def cast_bias_weight(layer: Any, like: Any, offloadable: bool = False) -> Any:
        counts["lent"] += 1
        assert offloadable
        return cast(layer, like, offloadable=True)

    def uncast_bias_weight(*given: Any) -> None:
        counts["returned"] += 1
        uncast(*given)

    pack()  # layers of the host itself have the functions by other names
    from pack.nodes.host import placement

    placement.comfy = SimpleNamespace(
        ops=SimpleNamespace(
            cast_bias_weight=cast_bias_weight,
            uncast_bias_weight=uncast_bias_weight,
            pick_operations=comfy.ops.pick_operations,
        ),
        model_management=placement.management,
    )
    NodeChain().run()
    return counts


def kept() -> dict[str, Any]:
    """Return what models keep after a run, and after one where weights are trained, not done yet."""
    import torch

    chain = NodeChain()
    chain.run()
    models = (chain.prior.model, chain.decoder.model)
    (text,) = chain.call("TextEncode", chain.clip, "a star")
    given = {"noise": torch.zeros(1, 16, 6, 6), "device": torch.device("cpu")}
    model = models[0]
    cond = model.extra_conds(**given, cross_attn=text[0][0])["constants"]
    model.current_patcher = chain.prior
    after = [len(one.run) for one in models]
    for parameter in model.diffusion_model.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode(False), torch.enable_grad():
        model.constants([cond], torch.device("cpu"))
    layers = [layer for one in models for layer in one.diffusion_model.modules()]
    return {
        "runs": after,
        "trained": len(model.run),
        "packed": sum(hasattr(layer, "packed") for layer in layers),
    }


def written_anew() -> dict[str, Any]:
    """Return the difference that new contents of a file make to a model that was loaded from it."""
    chain = NodeChain()
    import torch
    from pack.nodes.host.diffusion import diffusion_model
    from pack.wuerstchen.checkpoints.converting import convert
    from pack.wuerstchen.checkpoints.sources import MINI, PRIOR_FOLDER

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prior.safetensors"
        convert(MINI / PRIOR_FOLDER / "prior", file, torch.float32)
        chain.prior = diffusion_model(str(file), "stage_c", "fp32")
        before, size = chain.run(), file.stat().st_size
        with file.open("r+b") as contents:
            contents.write(bytes(size))
        return {"difference": difference(before, chain.run())}


def another_device() -> dict[str, Any]:
    """Return the difference that a device beside the CPU makes, and what came to it and from it.

    There each of the host's ways to calculate attention takes its turn.
    """
    import comfy.model_management as management
    from comfy.ldm.modules import attention

    try:
        import another_device as afar
    except AttributeError:
        return {"known": False}
    here = NodeChain().run()
    management.unload_all_models()
    # as the host takes any device that a package of its maker names
    management.cpu_state = management.CPUState.GPU
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.directml_enabled, management.directml_device = True, afar.DEVICE
    chain, apart, calls = NodeChain(), {}, []
    for kind in ("basic", "sub_quad", "split", "pytorch"):
        way = getattr(attention, f"attention_{kind}")

        def attend(*given: Any, way: Any = way, **others: Any) -> Any:
            calls.append(way)
            return way(*given, **others)

        attention.optimized_attention = attend
        apart[kind] = difference(here, chain.run())
    return {"known": True, "apart": apart, "ways": len(set(calls)), **afar.CROSSINGS}


def room_for_windows() -> dict[str, Any]:
    """Return the memory that the host makes free for Stage B: for all of a picture, for windows."""
    import comfy.model_management as management
    import comfy.sampler_helpers
    import torch

    chain, asked = NodeChain(), []
    load = management.load_models_gpu

    def noted(models: Any, memory_required: float = 0, **others: Any) -> Any:
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **others)

    (wanted,) = chain.call("TextEncode", chain.clip_b, "a star")
    semantic = {"samples": torch.ones(1, 16, 12, 12)}
    comfy.sampler_helpers.comfy.model_management.load_models_gpu = noted
    for tile in (0, 256):
        chain.call("StageBDecode", chain.decoder, semantic, wanted, 2, 1, 0.0, None, tile)
    return {"whole": asked[0], "windows": asked[-1], "calls": len(asked)}


def out_of_memory() -> dict[str, Any]:
    """Return how far the picture is off when Stage A cannot hold it whole."""
    import comfy.model_management as management

    chain = NodeChain()
    whole = chain.run(side=512)
    stage_a = chain.vae.first_stage_model
    decode, tiles = stage_a.decode, []

    def decode_if_small(latent: Any) -> Any:
        if latent.shape[2] * latent.shape[3] >= 128 * 128:
            raise management.OOM_EXCEPTION("not enough memory")
        tiles.append(list(latent.shape))
        return decode(latent)

    stage_a.decode = decode_if_small
    (image,) = chain.call("StageADecode", chain.vae, {"samples": whole["vq"]}, 0)
    apart = (image - whole["image"]).abs()
    return {"tiles": len(tiles), "mean": float(apart.mean()), "largest": float(apart.max())}
