"""Checks that need to stand inside the host's own Python: `inside.py CHECKOUT CHECK`.

Prints one line of JSON, which `test_inside.py` reads. On the CPU the host never loads a network in
part and never runs out of memory, so these two are brought about here.
"""

import asyncio
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PACK = "pack"
STEPS = 4


def main() -> None:
    """Run a check and print what it found."""
    checkout, check = sys.argv[1:]
    sys.argv[1:] = ["--cpu"]
    sys.path.insert(0, checkout)
    import comfy.options

    comfy.options.enable_args_parsing()
    print(json.dumps(CHECKS[check]()))


def pack() -> Any:
    """Return the folder as the host imports it."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]


def nodes() -> dict[str, Any]:
    """Return the classes of the nodes by id."""
    extension = asyncio.run(pack().comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in classes}


def importing() -> dict[str, Any]:
    """Return what asking for the nodes costs once the host is there."""
    import nodes as host_nodes

    asyncio.run(host_nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    before, started = set(sys.modules), time.process_time()
    count = len(nodes())
    seconds = time.process_time() - started
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - {PACK}
    return {"nodes": count, "seconds": seconds, "new": sorted(new & set(OUTSIDE))}


OUTSIDE = ("transformers", "diffusers", "huggingface_hub", "tokenizers", "requests", "tqdm")


class NodeChain:
    """From a prompt to a picture by calling the nodes."""

    def __init__(self, weight_dtype: str = "fp32") -> None:
        self.nodes = nodes()
        mini = "mini (bundled)"
        self.prior, self.clip = self.call("LoadPrior", mini, mini, weight_dtype)
        self.decoder, self.clip_b, self.vae = self.call(
            "LoadDecoder", mini, mini, mini, weight_dtype
        )
        (self.compressor,) = self.call("LoadCompressor", mini, weight_dtype)

    def call(self, name: str, *values: Any) -> Any:
        """Return the outputs of a node."""
        return self.nodes[f"Wuerstchen{name}"].execute(*values).result

    def run(self, side: int = 256) -> dict[str, Any]:
        """Return what each stage gives for a batch of two."""
        prompt = "a large red circle on a blue background"
        (positive,), (negative,) = (
            self.call("TextEncode", self.clip, text) for text in (prompt, "")
        )
        (wanted,) = self.call("TextEncode", self.clip_b, prompt)
        (empty,) = self.call("EmptyLatent", side, side, 2)
        (semantic,) = self.call(
            "StageCSampler", self.prior, positive, negative, empty, 1, STEPS, 4.0, "uniform", 1.0
        )
        (vq,) = self.call("StageBDecode", self.decoder, semantic, wanted, 2, STEPS, 0.0)
        (image,) = self.call("StageADecode", self.vae, vq, 0)
        (again,) = self.call("StageCEncode", image, self.compressor)
        latents = {"semantic": semantic, "vq": vq, "encoded": again}
        return {name: latent["samples"] for name, latent in latents.items()} | {"image": image}


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference of any stage, relative to the largest number."""
    return max(float((one[k] - other[k]).abs().max() / one[k].abs().max()) for k in one)


def in_half(load: Callable[..., Any], shares: list[float]) -> Callable[..., Any]:
    """Return a way of loading half of a model; it notes the shares that were loaded."""

    def load_half(self: Any, budget: float = 0, force_patch_weights: bool = False) -> Any:
        self.model.detach()
        loaded = load(self, self.model.model_size() / 2, force_patch_weights)
        shares.append(self.model.loaded_size() / self.model.model_size())
        return loaded

    return load_half


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


def frames() -> dict[str, Any]:
    """Return what a network sees and says of areas beside its grid."""
    import torch

    pack()
    from pack.nodes.host.constants import Frame, framed, mirrored, on_grid

    drawn = torch.Generator().manual_seed(0)
    x, seen = torch.rand(1, 2, 3, 19, generator=drawn), []
    grid, frame = on_grid((3, 19, 16, 21), 8)

    def look(y: Any) -> Any:
        seen.append(y)
        return 2 * y

    said = framed(look, x, frame)
    (y,) = seen
    return {
        "grid": grid,
        "frame": tuple(frame),
        "seen": list(y.shape),
        "inside": bool((y[:, :, :3, 5:24] == x).all()),
        "said": bool((said == 2 * x).all()),
        "edge": bool((y[:, :, :3, 4] == x[..., 1]).all()),
        "mirrored": mirrored(3, 2, 4).tolist(),
        "single": mirrored(1, 1, 2).tolist(),
        "whole": on_grid((16, 8, 0, 24), 8)[1] == Frame(),
    }


def kept_pixels() -> dict[str, Any]:
    """Return which pixels outside a mask are not the original's to the last bit, and inside."""
    import torch

    keep = nodes()["WuerstchenKeepPixels"].execute
    drawn = torch.Generator().manual_seed(0)
    painted, original = (torch.rand(2, 40, 50, 3, generator=drawn) for _ in range(2))
    mask = torch.zeros(1, 40, 50)
    mask[:, 10:30, 5:45] = 1
    (image,) = keep(painted, original, mask, 4).result
    (hard,) = keep(painted, original, mask, 0).result
    inside, middle = mask[0] == 1, torch.zeros(40, 50, dtype=torch.bool)
    middle[14:26, 9:41] = True
    return {
        "outside": int((image != original)[:, ~inside].sum()),
        "middle": int((image != painted)[:, middle].sum()),
        "hard inside": int((hard != painted)[:, inside].sum()),
        "edge that is neither": int(
            ((image != painted) & (image != original))[:, inside & ~middle].sum()
        ),
        "edge": int((inside & ~middle).sum()) * 6,
    }


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


def weighting() -> dict[str, Any]:
    """Return how far the package's features are from the host's, relative to the largest."""
    chain = NodeChain()
    from pack.wuerstchen.placement import Placement
    from pack.wuerstchen.sources import MINI
    from pack.wuerstchen.towers import load_text_tower

    found, placement = {}, Placement()
    for folder, clip in (("wuerstchen-prior", chain.clip), ("wuerstchen", chain.clip_b)):
        tower = load_text_tower(MINI / folder, placement)
        for prompt in WEIGHTED:
            theirs = chain.call("TextEncode", clip, prompt)[0][0][0]
            ours = tower.encode([prompt])
            apart = float((ours - theirs).abs().max() / theirs.abs().max())
            found[f"{folder}, {prompt}"] = (ours.shape == theirs.shape, apart)
    return found


WEIGHTED = (
    "a (large:1.3) red circle",
    "(a (red:1.5) circle:2) on (blue:sky)",
    r"a (small) ((green)) \(star\) (on:0.4) white",
    "a large red circle on a blue background and " * 11 + "a small (green:1.4) star",
    "red " * 73 + "(a large star:1.3) on blue",
)


def samplers() -> dict[str, Any]:
    """Return how far our samplers are from the host's of the same name, with the same noise."""
    nodes()
    import comfy.k_diffusion.sampling as theirs
    import torch
    from pack.wuerstchen.samplers import SAMPLERS
    from pack.wuerstchen.sampling import chosen_times, draw_noise, generators, last, sigma_at

    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    times, rngs = chosen_times(12, end=0.02), (3, 4)
    sigmas = sigma_at(times).double()
    scales = (1 + sigmas**2).sqrt()
    model = hosted_model()

    def noise_in(x: Any, t: float) -> Any:
        sigma = sigma_at(torch.tensor(t)).double()
        y = x * (1 + sigma**2).sqrt()
        return (y - model(y, sigma.expand(len(x)))) / sigma

    def apart(name: str, **how: Any) -> float:
        y = getattr(theirs, f"sample_{name}")(model, x * scales[0], sigmas, **how)
        ours = last(SAMPLERS[name](noise_in, x, times, generators(rngs)))
        return float((ours * scales[-1] - y).abs().max())

    found = {name: apart(name) for name in ("euler", "heun", "lms", "dpmpp_2m")}
    for name in ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde"):
        drawn = partial(draw_noise, generators(rngs), x.shape[1:], x.device)
        found[name] = apart(name, noise_sampler=lambda *_, drawn=drawn: drawn().double())
    return found


def hosted_model() -> Any:
    """Return a model of data of deviation 1/2, as the host's samplers call one."""
    from pack.nodes.host.schedule import Schedule

    class Model:
        inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=Schedule()),
            model_patcher=SimpleNamespace(get_model_object=lambda name: Schedule()),
        )

        def __call__(self, y: Any, sigma: Any, **_: Any) -> Any:
            return y * 0.25 / (0.25 + sigma[:, None, None, None] ** 2)

    return Model()


def speed() -> dict[str, Any]:
    """Return the seconds of a guided step of a middle-sized Stage C: the package's, our sampler's
    and KSampler's.

    A step is an eighth of what nine steps take longer than one, so that preparations do not count.
    All three take turns, and of each the quickest runs count.
    """
    nodes()
    import comfy.sample
    import torch
    from pack.nodes.host.diffusion import diffusion_model
    from pack.nodes.host.sampling import chosen_sigmas, sample
    from pack.wuerstchen.checkpoints import load_network
    from pack.wuerstchen.placement import Placement
    from pack.wuerstchen.sampling import ddpm, denoiser, generators, guided, last, uniform_times

    with tempfile.TemporaryDirectory() as folder:
        source, placement = middle_sized(Path(folder)), Placement()
        model, plain = (
            diffusion_model(source, "stage_c", "fp32"),
            load_network(source, "stage_c", placement),
        )
        text, x = torch.randn(1, 77, 256), torch.zeros(1, 16, 24, 24)
        positive, negative, latent = [[text, {}]], [[text * 0.5, {}]], {"samples": x}

        @torch.no_grad()
        def package(steps: int) -> None:
            with placement.running(plain):
                constants = plain.prepare(torch.cat([text, text * 0.5]))
                denoise = guided(denoiser(plain.step, constants), 4.0)
                last(ddpm(denoise, torch.randn_like(x), uniform_times(steps), generators([1])))

        def ours(steps: int) -> None:
            sample(model, positive, negative, latent, 1, 4.0, chosen_sigmas("uniform", steps))

        def ksampler(steps: int) -> None:
            how = (steps, 4.0, "euler", "simple", positive, negative, x)
            comfy.sample.sample(model, torch.randn_like(x), *how)

        ways: dict[str, Callable[[int], None]] = {
            "package": package,
            "ours": ours,
            "ksampler": ksampler,
        }
        return taking_turns(ways, rounds=6)


def taking_turns(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
    """Return the processor seconds of a step of each way, from its quickest runs of all rounds."""
    found: dict[tuple[str, int], list[float]] = {(name, n): [] for name in ways for n in (1, 9)}
    for _ in range(rounds):
        for (name, steps), times in found.items():
            started = time.process_time()
            ways[name](steps)
            times.append(time.process_time() - started)
    return {name: (min(found[name, 9]) - min(found[name, 1])) / 8 for name in ways}


def middle_sized(folder: Path) -> str:
    """Return a component folder with a Stage C of random weights."""
    import torch
    from pack.wuerstchen.stage_c import StageC, StageCConfig
    from safetensors.torch import save_file

    sizes = {"c": 768, "c_cond": 256, "depth": 2, "nhead": 12}
    network = StageC(StageCConfig(**sizes))
    tensors = {key: 0.03 * torch.randn(value.shape) for key, value in network.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes))
    return str(folder)


def controlled() -> dict[str, Any]:
    """Return what a model says to a ControlNet."""
    import torch

    chain = NodeChain()
    found = {}
    for model, shape in ((chain.prior, (1, 16, 6, 6)), (chain.decoder, (1, 4, 64, 64))):
        given = {"noise": torch.zeros(shape), "device": torch.device("cpu"), "control": object()}
        try:
            model.model.extra_conds(**given)
        except ValueError as error:
            found[type(model.model.diffusion_model).__name__] = str(error)
    return found


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


def last_seed() -> dict[str, Any]:
    """Return how far the second latent of the last seed is from the first of seed 0."""
    chain = NodeChain()
    (positive,), (negative,) = (
        chain.call("TextEncode", chain.clip, text) for text in ("a star", "")
    )

    def sampled(seed: int, batch: int) -> Any:
        (empty,) = chain.call("EmptyLatent", 256, 256, batch)
        how = (positive, negative, empty, seed, 2, 4.0, "uniform", 1.0)
        return chain.call("StageCSampler", chain.prior, *how)[0]["samples"]

    alone = sampled(0, 1)
    return {"apart": float((sampled(2**64 - 1, 2)[1:] - alone).abs().max() / alone.abs().max())}


def not_finite() -> dict[str, Any]:
    """Return what is said of a latent that is no number."""
    chain = NodeChain()
    chain.prior.model.diffusion_model.projection.bias.data[0] = float("nan")
    try:
        chain.run()
    except ValueError as error:
        return {"said": str(error)}
    return {"said": ""}


def masks() -> dict[str, Any]:
    """Return how far masks of a batch are from those of its pictures alone, and what a path keeps."""
    import torch

    chain, drawn = NodeChain(), torch.Generator().manual_seed(0)
    image, mask = torch.rand(2, 256, 256, 3, generator=drawn), torch.zeros(2, 256, 256)
    mask[0, :, :128], mask[1, :128] = 1, 1
    encode = partial(chain.call, "StageCEncode")
    ((both,), *alone) = (
        encode(image[rows], chain.compressor, mask[rows])
        for rows in (slice(2), slice(1), slice(1, 2))
    )
    ends = [one for (one,) in alone]
    (path,) = chain.call("InterpolateLatents", *ends, 3)
    apart = both["noise_mask"] - torch.cat([one["noise_mask"] for one in ends])
    return {
        "apart": float(apart.abs().max()),
        "differ": bool((both["noise_mask"][0] != both["noise_mask"][1]).any()),
        "path": sorted({"samples", "noise_mask"} & set(path)),
    }


CHECKS: dict[str, Callable[[], dict[str, Any]]] = {
    "importing": importing,
    "kept": kept,
    "masks": masks,
    "last_seed": last_seed,
    "not_finite": not_finite,
    "half_loaded": half_loaded,
    "merged_in_part": merged_in_part,
    "lazy": lazy,
    "copied": copied,
    "lent": lent,
    "frames": frames,
    "kept_pixels": kept_pixels,
    "controlled": controlled,
    "room_for_windows": room_for_windows,
    "out_of_memory": out_of_memory,
    "samplers": samplers,
    "speed": speed,
    "weighting": weighting,
}

if __name__ == "__main__":
    main()
