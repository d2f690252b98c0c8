"""The host's nodes for conditionings on Würstchen's, in a running ComfyUI."""

from typing import Any

import numpy as np
import pytest

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
)
from .server import Host

pytestmark = pytest.mark.host

GREEN = "a small green star on a yellow background"
EVERYWHERE = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0}
LEFT, RIGHT = EVERYWHERE | {"width": 0.5}, EVERYWHERE | {"x": 0.5, "width": 0.5}


@pytest.fixture
def graph(graph: Any) -> Any:
    """The plain graph with few steps."""
    put(graph, STAGE_C, times="uniform", steps=4)
    put(graph, STAGE_B, steps=4)
    return graph


def green(graph: Graph) -> Link:
    """Add another prompt."""
    return again(graph, POSITIVE, text=GREEN)


def sampled(graph: Graph, positive: Link) -> Link:
    """Add a run of Stage C with this conditioning."""
    return again(graph, STAGE_C, positive=positive)


def with_area(graph: Graph, conditioning: Link, area: dict[str, float]) -> Link:
    """Add a conditioning's area in shares of the picture."""
    kind = "ConditioningSetAreaPercentage"
    return add(graph, kind, conditioning=conditioning, **area, strength=1.0)


def with_range(graph: Graph, conditioning: Link, start: float, end: float) -> Link:
    """Add a conditioning's part of the run."""
    kind = "ConditioningSetTimestepRange"
    return add(graph, kind, conditioning=conditioning, start=start, end=end)


def combined(graph: Graph, one: Link, other: Link) -> Link:
    """Add both conditionings together."""
    return add(graph, "ConditioningCombine", conditioning_1=one, conditioning_2=other)


@pytest.mark.parametrize("text", ["a large red circle on a blue background", "", "(red:1.3) star"])
def test_the_core_text_encoder_serves_both_stages(host: Host, graph: Graph, text: str) -> None:
    put(graph, POSITIVE, text=text)
    put(graph, POSITIVE_B, text=text)
    prior = sampled(graph, add(graph, "CLIPTextEncode", clip=[PRIOR, 1], text=text))
    positive_b = add(graph, "CLIPTextEncode", clip=[DECODER, 1], text=text)
    decoded = again(graph, STAGE_B, latent=prior, positive=positive_b)
    core_c, core_b, c, b = latents(host, graph, prior, decoded, [STAGE_C, 0], [STAGE_B, 0])
    assert apart(core_c, c) == 0
    assert apart(core_b, b) == 0


def test_two_combined_prompts_give_the_mean_of_both(host: Host, graph: Graph) -> None:
    one, other = [POSITIVE, 0], green(graph)
    both, reverse = combined(graph, one, other), combined(graph, other, one)
    euler = add(graph, "KSamplerSelect", sampler_name="euler")
    # One step of euler from noise to the picture is linear in what the network predicts.
    step = add(graph, "WuerstchenTimes", steps=1, times="uniform", start=1.0, end=0.0)
    given = {"sampler": euler, "sigmas": step, "guidance": 1.0}
    runs = [again(graph, STAGE_C, positive=text, **given) for text in (one, other, both, reverse)]
    first, second, mean, backwards = latents(host, graph, *runs)
    assert apart(first, second) > 0.01
    assert apart(mean, (first + second) / 2) < 1e-4
    assert apart(backwards, mean) < 1e-5


def test_an_average_is_its_ends_and_something_between(host: Host, graph: Graph) -> None:
    ends = {"conditioning_to": [POSITIVE, 0], "conditioning_from": green(graph)}
    averages = [
        add(graph, "ConditioningAverage", **ends, conditioning_to_strength=strength)
        for strength in (1.0, 0.0, 0.5)
    ]
    runs = [sampled(graph, text) for text in (*averages, *ends.values())]
    one, zero, half, to, start = latents(host, graph, *runs)
    assert apart(one, to) == 0
    assert apart(zero, start) == 0
    assert min(apart(half, to), apart(half, start)) > 0.01


def test_concatenated_prompts_are_read_together_in_any_order(host: Host, graph: Graph) -> None:
    one, other = [POSITIVE, 0], green(graph)
    joined = [
        add(graph, "ConditioningConcat", conditioning_to=to, conditioning_from=start)
        for to, start in ((one, other), (other, one))
    ]
    # Guidance weighs the 154 tokens against the 77 of the negative.
    runs = [sampled(graph, text) for text in (*joined, one, other)]
    forth, back, first, second = latents(host, graph, *runs)
    assert apart(forth, back) < 1e-3
    assert min(apart(forth, first), apart(forth, second)) > 0.01


def test_an_area_of_everything_changes_nothing(host: Host, graph: Graph) -> None:
    prior = sampled(graph, with_area(graph, [POSITIVE, 0], EVERYWHERE))
    decoded = again(graph, STAGE_B, positive=with_area(graph, [POSITIVE_B, 0], EVERYWHERE))
    area_c, area_b, c, b = latents(host, graph, prior, decoded, [STAGE_C, 0], [STAGE_B, 0])
    assert apart(area_c, c) < 1e-5
    assert apart(area_b, b) < 1e-5


def test_the_prompt_of_the_left_half_changes_only_the_left_half(host: Host, graph: Graph) -> None:
    right = with_area(graph, green(graph), RIGHT)
    lefts = ([POSITIVE, 0], [NEGATIVE, 0])
    put(graph, STAGE_C, guidance=1.0)  # the host lets a negative work on the whole as well
    runs = [sampled(graph, combined(graph, with_area(graph, left, LEFT), right)) for left in lefts]
    one, other = latents(host, graph, *runs)
    assert apart(one[..., 3:], other[..., 3:]) < 1e-5
    assert apart(one[..., :3], other[..., :3]) > 0.05


def test_an_area_of_stage_b_shows_its_part_of_its_own_prior(host: Host, graph: Graph) -> None:
    put(graph, STAGE_C, times="published")
    priors = ([STAGE_C, 0], sampled(graph, green(graph)))
    texts = [
        add(graph, "WuerstchenStageBConditioning", conditioning=[POSITIVE_B, 0], latent=prior)
        for prior in priors
    ]
    halves = [with_area(graph, text, area) for text, area in zip(texts, (LEFT, RIGHT), strict=True)]
    runs = [decoded_by_core(graph, text) for text in (combined(graph, *halves), *texts)]
    images = [add(graph, "VAEDecode", samples=run, vae=[DECODER, 2]) for run in runs]
    both, left, right = pictures(host, graph, *images)
    third = both.shape[1] // 3
    assert abs(both - left)[:, :third].mean() < 10
    assert abs(both - right)[:, -third:].mean() < 10
    assert abs(left - right)[:, :third].mean() > 40
    assert abs(left - right)[:, -third:].mean() > 40


@pytest.mark.parametrize("tile", [0, 256])
def test_areas_of_stage_b_may_lie_beside_its_grid(host: Host, graph: Graph, tile: int) -> None:
    put(graph, STAGE_C, times="published")
    put(graph, STAGE_B, tile_size=tile)
    put(graph, EMPTY, width=512)
    whole = again(graph, STAGE_B)
    areas = EVERYWHERE | {"width": 0.3}, EVERYWHERE | {"x": 0.3, "width": 0.7}
    parts = [with_area(graph, [POSITIVE_B, 0], area) for area in areas]
    split = again(graph, STAGE_B, positive=combined(graph, *parts))
    images = [again(graph, STAGE_A, latent=latent) for latent in (whole, split)]
    one, other = pictures(host, graph, *images)
    assert abs(one - other).max() > 0
    assert abs(one - other).mean() < 8


@pytest.mark.parametrize("where", [(0, 96), (0, 0)], ids=["left", "nowhere"])
def test_a_mask_may_bound_its_area(host: Host, graph: Graph, where: tuple[int, int]) -> None:
    """A mask of nothing bounds 8 rows and columns, more than Stage C's latent has."""
    empty = add(graph, "SolidMask", value=0.0, width=256, height=256)
    part = add(graph, "SolidMask", value=1.0, width=max(1, where[1]), height=256)
    mask = empty
    if where[1]:
        ends = {"destination": empty, "source": part, "x": 0, "y": 0, "operation": "add"}
        mask = add(graph, "MaskComposite", **ends)
    bounds = {"mask": mask, "strength": 1.0, "set_cond_area": "mask bounds"}
    for stage, text in ((STAGE_C, POSITIVE), (STAGE_B, POSITIVE_B)):
        part = add(graph, "ConditioningSetMask", conditioning=[text, 0], **bounds)
        put(graph, stage, positive=combined(graph, [text, 0], part))
    assert host.run(graph).message == ""


def decoded_by_core(graph: Graph, positive: Link) -> Link:
    """Add a run of the host's sampler on Stage B and return its latent."""
    numbers = {"seed": 5, "steps": 8, "cfg": 1.0, "denoise": 1.0}
    sizes = {"width": 256, "height": 256, "compression": 42, "batch_size": 1}
    empty = output(add(graph, "StableCascade_EmptyLatentImage", **sizes), 1)
    given = {"positive": positive, "negative": [POSITIVE_B, 0], "latent_image": empty}
    names = {"sampler_name": "euler", "scheduler": "simple"}
    return add(graph, "KSampler", model=[DECODER, 0], **given, **numbers, **names)


def test_two_halves_are_painted_as_their_prompts_ask(host: Host, graph: Graph) -> None:
    put(graph, STAGE_C, times="published")
    left, right = (with_area(graph, text, area) for text, area in halves(graph))
    put(graph, STAGE_C, positive=combined(graph, left, right))
    put(graph, POSITIVE_B, text="")
    picture = pictures(host, graph, [STAGE_A, 0])[0]
    left_edge = np.median(picture[:, :16], axis=(0, 1))
    right_edge = np.median(picture[:, -16:], axis=(0, 1))
    assert left_edge[2] > left_edge[0] + 80
    assert right_edge[0] > right_edge[2] + 80


def halves(graph: Graph) -> list[tuple[Link, dict[str, float]]]:
    """Return the prompts of both halves: before blue, before yellow."""
    return [([POSITIVE, 0], LEFT), (green(graph), RIGHT)]


def test_a_range_of_the_whole_run_changes_nothing(host: Host, graph: Graph) -> None:
    whole = with_range(graph, [POSITIVE, 0], 0.0, 1.0)
    first, second = (with_range(graph, [POSITIVE, 0], *ends) for ends in ((0, 0.5), (0.5, 1)))
    runs = [sampled(graph, text) for text in (whole, combined(graph, first, second))]
    one, two, plain = latents(host, graph, *runs, [STAGE_C, 0])
    assert apart(one, plain) == 0
    assert apart(two, plain) < 1e-5


def test_a_prompt_of_the_second_half_leaves_the_first_half_of_the_run(
    host: Host, graph: Graph
) -> None:
    """The first half of a run with another prompt from its middle on is the plain run's."""
    first = with_range(graph, [POSITIVE, 0], 0.0, 0.6)
    switched = combined(graph, first, with_range(graph, green(graph), 0.6, 1.0))
    euler = add(graph, "KSamplerSelect", sampler_name="euler")
    runs = []
    for end in (0.5, 0.0):
        steps = add(graph, "WuerstchenTimes", steps=4, times="uniform", start=1.0, end=end)
        for text in (switched, [POSITIVE, 0]):
            given = {"model": [PRIOR, 0], "positive": text, "negative": [NEGATIVE, 0]}
            guider = add(graph, "CFGGuider", **given, cfg=4.0)
            runs.append(core_sample(graph, guider, euler, steps, [EMPTY, 0], 5))
    half, half_plain, whole, whole_plain = latents(host, graph, *runs)
    assert apart(half, half_plain) == 0
    assert apart(whole, whole_plain) > 0.01


def test_an_area_beyond_the_latent_is_refused_in_words(host: Host, graph: Graph) -> None:
    area = {"width": 64, "height": 64, "x": 64, "y": 0, "strength": 1.0}
    put(
        graph,
        STAGE_C,
        positive=add(graph, "ConditioningSetArea", conditioning=[POSITIVE, 0], **area),
    )
    message = host.run(graph).message
    assert "8 columns from row 0, column 8, the latent 6 rows and 6 columns" in message
    assert "ConditioningSetAreaPercentage" in message
    left = again(graph, graph[STAGE_C]["inputs"]["positive"][0], x=0)
    put(graph, STAGE_C, positive=left)
    assert "has 8 rows and 8 columns from row 0, column 0" in host.run(graph).message
