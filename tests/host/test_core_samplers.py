"""The host's own samplers on Stage C and Stage B, in a running ComfyUI."""

from typing import Any

import pytest

from wuerstchen.training.judge import judge

from .graphs import (
    DECODER,
    EMPTY,
    NEGATIVE,
    POSITIVE,
    POSITIVE_B,
    PRIOR,
    STAGE_A,
    STAGE_B,
    STAGE_C,
    Graph,
    Link,
    add,
    again,
    apart,
    core_sample,
    latents,
    output,
    pictures,
    put,
    save_latent,
)
from .server import Host

pytestmark = pytest.mark.host

SEED, STEPS, GUIDANCE = 5, 4, 4.0
SAMPLERS = ("euler", "dpmpp_2m", "uni_pc")


def stage_c(graph: Graph) -> dict[str, Link]:
    """Return what a core sampler is given for Stage C."""
    wires = {"positive": [POSITIVE, 0], "negative": [NEGATIVE, 0]}
    return {"model": [PRIOR, 0], **wires, "latent": [EMPTY, 0]}


def stage_b(graph: Graph) -> dict[str, Link]:
    """Return what a core sampler is given for Stage B."""
    put(graph, STAGE_C, times="uniform", steps=STEPS)
    given = {"conditioning": [POSITIVE_B, 0], "latent": [STAGE_C, 0]}
    positive = add(graph, "WuerstchenStageBConditioning", **given)
    negative = again(graph, POSITIVE_B, text="")
    sizes = {"width": 256, "height": 256, "compression": 42, "batch_size": 1}
    empty = output(add(graph, "StableCascade_EmptyLatentImage", **sizes), 1)
    wires = {"positive": positive, "negative": negative}
    return {"model": [DECODER, 0], **wires, "latent": empty}


STAGES = {"stage_c": stage_c, "stage_b": stage_b}


def ksampler(graph: Graph, wires: dict[str, Link], sampler: str, **others: Any) -> Link:
    """Add a KSampler with the scheduler `simple`."""
    numbers = {"seed": SEED, "steps": STEPS, "cfg": GUIDANCE, "denoise": 1.0, **others}
    latent = {"latent_image": wires["latent"]}
    given = {name: wires[name] for name in ("model", "positive", "negative")} | latent
    return add(graph, "KSampler", **given, **numbers, sampler_name=sampler, scheduler="simple")


def cfg_guider(graph: Graph, wires: dict[str, Link], guidance: float = GUIDANCE) -> Link:
    """Add a guider that leads away from the negative."""
    given = {name: wires[name] for name in ("model", "positive", "negative")}
    return add(graph, "CFGGuider", **given, cfg=guidance)


def selected(graph: Graph, sampler: str) -> Link:
    """Add one of the host's samplers."""
    return add(graph, "KSamplerSelect", sampler_name=sampler)


def simple(graph: Graph, wires: dict[str, Link], steps: int = STEPS) -> Link:
    """Add the sigmas of the scheduler `simple`."""
    numbers = {"scheduler": "simple", "steps": steps, "denoise": 1.0}
    return add(graph, "BasicScheduler", model=wires["model"], **numbers)


# Not uni_pc: KSampler gives it other sigmas than a scheduler does.
@pytest.mark.parametrize("sampler", ["ddpm", "euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_sampler_in_parts_equals_the_whole(
    host: Host, graph: Graph, stage: str, sampler: str
) -> None:
    wires = STAGES[stage](graph)
    parts = (cfg_guider(graph, wires), selected(graph, sampler), simple(graph, wires))
    whole = ksampler(graph, wires, sampler)
    in_parts = core_sample(graph, *parts, wires["latent"], SEED)
    one, other = latents(host, graph, whole, in_parts)
    assert one.shape == {"stage_c": (1, 16, 6, 6), "stage_b": (1, 4, 64, 64)}[stage]
    assert apart(one, other) == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_basic_guider_is_guidance_of_one(
    host: Host, graph: Graph, stage: str, sampler: str
) -> None:
    wires = STAGES[stage](graph)
    basic = add(graph, "BasicGuider", model=wires["model"], conditioning=wires["positive"])
    rest = (selected(graph, sampler), simple(graph, wires), wires["latent"], SEED)
    guiders = (basic, cfg_guider(graph, wires, 1.0), cfg_guider(graph, wires))
    plain, one, four = latents(
        host, graph, *(core_sample(graph, guider, *rest) for guider in guiders)
    )
    assert apart(plain, one) == 0
    assert apart(plain, four) > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_core_nodes_paint_what_the_prompt_asks_for(host: Host, graph: Graph, sampler: str) -> None:
    prior = ksampler(graph, stage_c(graph), sampler, steps=20)
    wires = stage_b(graph)
    put(graph, wires["positive"][0], latent=prior)
    decoded = ksampler(graph, wires, sampler, steps=12, cfg=1.0)
    image = add(graph, "VAEDecode", samples=decoded, vae=[DECODER, 2])
    seen = judge(pictures(host, graph, image)[0].astype("uint8"))
    assert seen is not None
    assert (seen.colour, seen.background, seen.place) == ("red", "blue", "centre")


@pytest.mark.parametrize("times", ["published", "simple"])
def test_stage_c_with_a_core_sampler_equals_the_core_sampler(
    host: Host, graph: Graph, times: str
) -> None:
    wires = stage_c(graph)
    sigmas = {"published": published, "simple": lambda graph: simple(graph, wires)}[times](graph)
    euler = selected(graph, "euler")
    ours = again(graph, STAGE_C, sampler=euler, sigmas=sigmas, seed=SEED, guidance=GUIDANCE)
    core = core_sample(graph, cfg_guider(graph, wires), euler, sigmas, wires["latent"], SEED)
    one, other = latents(host, graph, ours, core)
    assert apart(one, other) == 0


def published(graph: Graph) -> Link:
    """Add the sigmas of Stage C's published times."""
    return add(graph, "WuerstchenTimes", steps=1, times="published", start=1.0, end=0.0)


def test_the_published_times_drive_a_core_sampler(host: Host, graph: Graph) -> None:
    wires = stage_c(graph)
    parts = (cfg_guider(graph, wires), selected(graph, "euler"), published(graph))
    prior = core_sample(graph, *parts, wires["latent"], SEED)
    put(graph, STAGE_B, latent=prior)
    outcome = host.run(graph)
    assert outcome.message == ""
    assert outcome.steps[prior[0]] == 29
    seen = judge(pictures(host, graph, [STAGE_A, 0])[0].astype("uint8"))
    assert seen is not None
    assert (seen.colour, seen.background, seen.place) == ("red", "blue", "centre")


def test_the_published_times_as_sigmas_are_the_samplers_own(host: Host, graph: Graph) -> None:
    with_sigmas = again(graph, STAGE_C, sigmas=published(graph), times="uniform", steps=2)
    one, other = latents(host, graph, with_sigmas, [STAGE_C, 0])
    assert apart(one, other) == 0


def test_rising_sigmas_are_refused_unless_a_sampler_can_go_back(host: Host, graph: Graph) -> None:
    flipped = add(graph, "FlipSigmas", sigmas=published(graph))
    put(graph, STAGE_C, sigmas=flipped)
    assert "sigmas must fall, got some that rise; connect a sampler" in host.run(graph).message
    put(graph, STAGE_C, sampler=selected(graph, "euler"))
    assert host.run(graph).message == ""


def test_a_sampler_that_needs_the_negative_has_it_without_guidance_too(
    host: Host, graph: Graph
) -> None:
    wires, sampler = stage_c(graph), selected(graph, "euler_cfg_pp")
    ours = again(graph, STAGE_C, sampler=sampler, guidance=1.0, seed=SEED)
    rest = (sampler, published(graph), wires["latent"], SEED)
    core = core_sample(graph, cfg_guider(graph, wires, 1.0), *rest)
    one, other = latents(host, graph, ours, core)
    assert apart(one, other) == 0


def test_a_run_without_any_step_leaves_a_masked_latent_as_it_is(host: Host, graph: Graph) -> None:
    mask = add(graph, "SolidMask", value=1.0, width=256, height=256)
    masked = add(graph, "SetLatentNoiseMask", samples=[STAGE_C, 0], mask=mask)
    nothing = output(add(graph, "SplitSigmas", sigmas=published(graph), step=29), 1)
    kept = again(graph, STAGE_C, latent=masked, sigmas=nothing)
    one, other = latents(host, graph, kept, [STAGE_C, 0])
    assert apart(one, other) < 1e-5


@pytest.mark.parametrize("name", ["ModelSamplingSD3", "ModelSamplingFlux"])
def test_the_schedule_of_another_model_is_refused_in_words(
    host: Host, graph: Graph, name: str
) -> None:
    given = {"ModelSamplingSD3": {"shift": 3.0}}.get(
        name, {"max_shift": 1.15, "base_shift": 0.5, "width": 256, "height": 256}
    )
    put(graph, STAGE_C, model=add(graph, name, model=[PRIOR, 0], **given))
    assert "remove the ModelSampling node before the sampler" in host.run(graph).message


@pytest.mark.parametrize("name", ["dpmpp_2m", "lms"])
def test_so_many_times_that_some_are_alike_paint_a_picture(
    host: Host, graph: Graph, name: str
) -> None:
    wires, sampler, runs = stage_c(graph), selected(graph, name), []
    for steps in (170, 60):
        times = add(graph, "WuerstchenTimes", steps=steps, times="uniform", start=1.0, end=0.0)
        guider = cfg_guider(graph, wires)
        for sigmas in (times, simple(graph, wires, steps)):
            runs.append(core_sample(graph, guider, sampler, sigmas, wires["latent"], SEED))
        runs.append(again(graph, STAGE_C, sampler=sampler, times="uniform", steps=steps))
    found = latents(host, graph, *runs)
    for one, other in zip(found[:3], found[3:], strict=True):
        assert 0 < apart(one, other) < 0.05


def test_even_times_are_those_of_the_simple_scheduler(host: Host, graph: Graph) -> None:
    wires, euler = stage_c(graph), selected(graph, "euler")
    even = add(graph, "WuerstchenTimes", steps=STEPS, times="uniform", start=1.0, end=0.0)
    one, other = latents(
        host,
        graph,
        *(
            core_sample(graph, cfg_guider(graph, wires), euler, sigmas, wires["latent"], SEED)
            for sigmas in (even, simple(graph, wires))
        ),
    )
    assert apart(one, other) < 1e-4


def test_the_core_conditioning_of_stage_b_serves_as_well(host: Host, graph: Graph) -> None:
    wires = stage_b(graph)
    given = {"conditioning": [POSITIVE_B, 0], "stage_c": [STAGE_C, 0]}
    core = wires | {"positive": add(graph, "StableCascade_StageB_Conditioning", **given)}
    one, other = latents(host, graph, *(ksampler(graph, w, "euler") for w in (core, wires)))
    assert apart(one, other) == 0


def test_an_empty_latent_of_another_size_is_refused_in_words(host: Host, graph: Graph) -> None:
    wires = stage_b(graph)
    put(graph, wires["latent"][0], width=512)
    save_latent(graph, ksampler(graph, wires, "euler"))
    message = host.run(graph).message
    assert "must have [64, 64] rows and columns for this Stage C latent, got [64, 128]" in message
    assert "StableCascade_EmptyLatentImage with width 256 and height 256" in message
