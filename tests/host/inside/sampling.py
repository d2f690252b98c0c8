"""Steps, noise and what is said of latents, inside the host's Python."""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from chain import NodeChain, nodes


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
    from pack.wuerstchen.checkpoints.loading import load_network
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
