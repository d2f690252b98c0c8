"""Many pictures in one batch: paths between prompts and latents, prompts by the line and from files."""

from typing import Any

import pytest

from .graphs import (
    EMPTY,
    NEGATIVE,
    POSITIVE,
    POSITIVE_B,
    PROMPT,
    QUICK,
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
    put,
    save_picture,
    without_ends,
)
from .server import Host, pixels

pytestmark = pytest.mark.host

GREEN = "a small green star on a yellow background"
RING = "a large white ring on a black background"
LONG = "a large red circle on a blue background and " * 9 + "a small green star"
FRAMES = 4
SIZE = {"width": 256, "height": 256}


def frame(graph: Graph, latent: Link, number: int) -> Link:
    """Add one latent of a batch."""
    return add(graph, "LatentFromBatch", samples=latent, batch_index=number, length=1)


def image_levels(host: Host, graph: Graph, image: Link) -> list[Any]:
    """Return the levels of all pictures at a link."""
    asked = without_ends(graph)
    save_picture(asked, image)
    outcome = host.run(asked)
    assert outcome.message == ""
    return [pixels(one) for one in outcome.images]


def prompt_path(graph: Graph) -> Link:
    """Let the graph paint a path between two prompts with one noise; return its pictures."""
    for stage, text in ((STAGE_C, POSITIVE), (STAGE_B, POSITIVE_B)):
        ends = {"conditioning_a": [text, 0], "conditioning_b": again(graph, text, text=GREEN)}
        path = add(graph, "WuerstchenInterpolatePrompts", **ends, frames=FRAMES)
        put(graph, stage, positive=path)
    put(graph, EMPTY, batch=FRAMES, **SIZE)
    fixed = add(graph, "LatentBatchSeedBehavior", samples=[EMPTY, 0], seed_behavior="fixed")
    put(graph, STAGE_C, latent=fixed)
    return [STAGE_A, 0]


def test_a_path_between_prompts_is_the_packages(host: Host, quick: Any, package: Any) -> None:
    theirs = image_levels(host, quick, prompt_path(quick))
    ours = package.interpolate([PROMPT, GREEN], FRAMES, **SIZE, **QUICK)
    assert len(theirs) == FRAMES
    for one, other in zip(theirs, ours, strict=True):
        assert abs(one - levels_of(other)).max() <= 2


def test_a_path_between_latents_is_the_arc_with_one_noise(host: Host, quick: Any) -> None:
    from wuerstchen.interpolation import interpolate
    from wuerstchen.sampling import from_published, to_published

    ends = [STAGE_C, 0], again(quick, STAGE_C, positive=again(quick, POSITIVE, text=GREEN))
    given = {"latent_a": ends[0], "latent_b": ends[1], "frames": FRAMES}
    path = add(quick, "WuerstchenInterpolateLatents", **given)
    first, last, all_of_it = latents(host, quick, *ends, path)
    assert (all_of_it[0] == first[0]).all()
    assert (all_of_it[-1] == last[0]).all()
    arc = to_published(interpolate([from_published(first), from_published(last)], FRAMES, dims=3))
    assert apart(all_of_it, arc) < 1e-6
    assert apart(all_of_it[1:2], first + (last - first) / (FRAMES - 1)) > 0.01
    decoded = again(quick, STAGE_B, latent=path)
    alone = again(quick, STAGE_B, latent=ends[1])
    batch, single = latents(host, quick, decoded, alone)
    assert batch.shape == (FRAMES, 4, 64, 64)
    assert apart(batch[-1:], single) < 1e-4


def test_a_path_from_one_of_a_batch_has_the_noise_of_that_one(host: Host, quick: Any) -> None:
    put(quick, EMPTY, batch=3)
    ends = [frame(quick, [STAGE_C, 0], number) for number in (2, 0)]
    path = add(quick, "WuerstchenInterpolateLatents", latent_a=ends[0], latent_b=ends[1], frames=2)
    alone, both = latents(host, quick, *(again(quick, STAGE_B, latent=x) for x in (ends[0], path)))
    assert apart(both[:1], alone) < 1e-4


def test_a_path_needs_two_stops_of_one_kind(host: Host, quick: Any) -> None:
    three = again(quick, EMPTY, batch=3)
    given = {"latent_a": [STAGE_C, 0], "latent_b": three, "frames": FRAMES}
    path = add(quick, "WuerstchenInterpolateLatents", **given)
    put(quick, STAGE_B, latent=path)
    assert "a path leads from one latent to one, got 3" in host.run(quick).message
    put(quick, path[0], latent_b=again(quick, EMPTY, width=384))
    assert "what lies along a path must be of one shape" in host.run(quick).message
    put(quick, path[0], latent_b=[STAGE_B, 0])
    put(quick, STAGE_B, latent=[STAGE_C, 0])
    put(quick, STAGE_A, latent=path)
    assert "connect the output of Würstchen Stage C Sampler" in host.run(quick).message
    put(quick, STAGE_A, latent=[STAGE_B, 0])
    ends = {"conditioning_a": [POSITIVE, 0], "conditioning_b": again(quick, POSITIVE, text=LONG)}
    prompts = add(quick, "WuerstchenInterpolatePrompts", **ends, frames=FRAMES)
    put(quick, STAGE_C, positive=prompts)
    assert "what lies along a path must be of one shape" in host.run(quick).message


def lines(graph: Graph, name: str, text: str) -> Link:
    """Add a prompt per line in place of a prompt."""
    clip = graph[name]["inputs"]["clip"]
    return add(graph, "WuerstchenTextEncodeLines", clip=clip, text=text)


def test_every_line_is_the_picture_that_it_gets_alone(host: Host, quick: Any, package: Any) -> None:
    prompts = [PROMPT, GREEN, RING]
    text = f"  {prompts[0]}\n\n{prompts[1]}\n{prompts[2]}  \n"
    positive = lines(quick, POSITIVE, text)
    put(quick, STAGE_C, positive=positive)
    put(quick, STAGE_B, positive=lines(quick, POSITIVE_B, text))
    put(quick, EMPTY, batch=output(positive, 1), **SIZE)
    theirs = image_levels(host, quick, [STAGE_A, 0])
    assert len(theirs) == 3
    for i, (prompt, picture) in enumerate(zip(prompts, theirs, strict=True)):
        seeds = {name: QUICK[name] + i for name in ("seed", "decoder_seed")}
        (ours,) = package.paint(prompt, **SIZE, **{**QUICK, **seeds})
        assert abs(picture - levels_of(ours)).max() <= 2


def test_lines_of_several_lengths_are_refused_with_the_line(host: Host, quick: Any) -> None:
    put(quick, STAGE_C, positive=lines(quick, POSITIVE, f"{PROMPT}\n\n{LONG}"))
    message = host.run(quick).message
    assert "got 77 tokens in line 1 and 154 in line 3" in message
    put(quick, STAGE_C, positive=lines(quick, POSITIVE, " \n"))
    assert "text must hold a prompt per line, got none" in host.run(quick).message


FILES = {
    "two.txt": f"{PROMPT}\n\n{GREEN}\n",
    "two.csv": f'prompt,negative,seed\n"{PROMPT}",,5\n"{GREEN}",red,7\n',
    "two.jsonl": f'{{"prompt": "{PROMPT}", "seed": 5, "batch": 2}}\n"{GREEN}"\n',
}
WANTED = {
    "two.txt": [(PROMPT, "", 0), (GREEN, "", 0)],
    "two.csv": [(PROMPT, "", 5), (GREEN, "red", 7)],
    "two.jsonl": [(PROMPT, "", 5), (PROMPT, "", 6), (GREEN, "", 0)],
}


def by_file(host: Host, graph: Graph, name: str) -> None:
    """Let the graph paint the prompts of a file."""
    (host.base / "input" / name).write_text(FILES[name], encoding="utf-8")
    loader = add(graph, "WuerstchenLoadPrompts", file=name)
    for text in (POSITIVE, POSITIVE_B):
        put(graph, text, text=loader)
    put(graph, NEGATIVE, text=output(loader, 1))
    put(graph, EMPTY, **SIZE)
    for stage in (STAGE_C, STAGE_B):
        put(graph, stage, seed=output(loader, 2))


@pytest.mark.parametrize("name", FILES)
def test_every_prompt_of_a_file_is_painted_with_its_own_seed(
    host: Host, quick: Any, package: Any, name: str
) -> None:
    by_file(host, quick, name)
    theirs = image_levels(host, quick, [STAGE_A, 0])
    assert len(theirs) == len(WANTED[name])
    for (prompt, negative, seed), picture in zip(WANTED[name], theirs, strict=True):
        own = {**QUICK, "seed": seed, "decoder_seed": seed, "negative": negative}
        (ours,) = package.paint(prompt, **SIZE, **own)
        assert abs(picture - levels_of(ours)).max() <= 2


def test_a_changed_file_is_read_again(host: Host, quick: Any) -> None:
    by_file(host, quick, "two.txt")
    before = image_levels(host, quick, [STAGE_A, 0])
    (host.base / "input" / "two.txt").write_text(RING, encoding="utf-8")
    after = image_levels(host, quick, [STAGE_A, 0])
    assert (len(before), len(after)) == (2, 1)


def test_a_wrong_file_is_refused_with_its_line(host: Host, quick: Any) -> None:
    by_file(host, quick, "two.csv")
    file = host.base / "input" / "two.csv"
    file.write_text("prompt,colour\nx,red\n", encoding="utf-8")
    message = host.run(quick).message.strip()
    assert "two.csv: line 2: a setting must be one of" in message
    assert "\n" not in message
