"""Every example workflow in a running ComfyUI: it paints on the first try and keeps its promise."""

import itertools
from typing import Any

import pytest

from .graphs import Graph, example, fresh, put
from .server import ROOT, Host, Outcome, pixels

pytestmark = pytest.mark.host

PICTURES = {
    "text_to_image": 1,
    "stage_b_seeds": 3,
    "ksampler": 1,
    "save_and_resume": 1,
    "inpainting": 2,
}
BLOCK, KEPT, HALF = 32, 96, 128  # pixels; inpainting keeps the left half but for its seam


def needed(graph: Graph, name: str) -> Graph:
    """Return the part of a graph that ends in the node `name`."""
    links = [value for value in graph[name]["inputs"].values() if isinstance(value, list)]
    before = [needed(graph, source) for source, _ in links]
    return {key: part[key] for part in before for key in part} | {name: graph[name]}


def ends(graph: Graph, kind: str) -> list[str]:
    """Return the nodes of a kind."""
    return [name for name, node in graph.items() if node["class_type"] == kind]


def paint(host: Host, graph: Graph) -> Outcome:
    """Return the outcome of a graph whose pictures get names that no run had."""
    for name in ends(graph, "SaveImage"):
        put(graph, name, filename_prefix=f"example{next(fresh)}")
    outcome = host.run(graph)
    assert outcome.message == ""
    return outcome


def coarse(levels: Any) -> Any:
    """Return the mean levels of blocks, in which details do not show."""
    rows, columns = levels.shape[0] // BLOCK, levels.shape[1] // BLOCK
    return levels.reshape(rows, BLOCK, columns, BLOCK, 3).mean((1, 3))


def pairs(outcome: Outcome) -> list[Any]:
    """Return all pairs of the pictures of an outcome."""
    return list(itertools.combinations(map(pixels, outcome.images), 2))


def seen(levels: Any) -> Any:
    """Return what a picture shows, in the words of the bundled model's world."""
    from wuerstchen.training.judge import judge

    return judge(levels.astype("uint8"))


def test_every_example_is_listed_here() -> None:
    for folder in ("example_workflows", "tests/workflows"):
        assert {file.stem for file in (ROOT / folder).glob("*.json")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_an_example_paints_its_pictures(host: Host, name: str) -> None:
    graph = example(name)
    for end in ends(graph, "SaveLatent"):
        host.run(needed(graph, end))
    images = [
        image
        for end in ends(graph, "SaveImage")
        for image in paint(host, needed(graph, end)).images
    ]
    assert [pixels(image).shape for image in images] == PICTURES[name] * [(256, 256, 3)]


def test_seeds_of_stage_b_change_details_but_not_the_composition(host: Host) -> None:
    graph = example("stage_b_seeds")
    for name in ends(graph, "WuerstchenTextEncode"):
        put(graph, name, text="")  # so that the noise of Stage C alone says what is where
    for one, other in pairs(paint(host, graph)):
        assert abs(one - other).max() > 60
        assert abs(coarse(one) - coarse(other)).mean() < 5
    (empty,), (copies,) = ends(graph, "WuerstchenEmptyLatent"), ends(graph, "RepeatLatentBatch")
    put(graph, empty, batch=3)
    put(graph, copies, amount=1)
    compositions = pairs(paint(host, graph))
    assert max(abs(coarse(one) - coarse(other)).mean() for one, other in compositions) > 20


def test_another_seed_of_stage_b_does_not_run_stage_c_again(host: Host) -> None:
    graph = example("stage_b_seeds")
    paint(host, graph)
    (stage_b,) = ends(graph, "WuerstchenStageBDecode")
    put(graph, stage_b, seed=1000)
    kinds = [graph[name]["class_type"] for name in paint(host, graph).ran]
    assert kinds == ["WuerstchenStageBDecode", "WuerstchenStageADecode", "SaveImage"]


def test_the_samplers_of_the_host_paint_what_the_prompt_asks_for(host: Host) -> None:
    graph = example("ksampler")
    outcome = paint(host, graph)
    assert len(ends(graph, "KSampler")) == 2
    shown = seen(pixels(outcome.images[0]))
    assert (shown.colour, shown.shape, shown.background) == ("yellow", "cross", "purple")
    assert (shown.size, shown.place) == ("large", "centre")


def test_a_saved_composition_becomes_the_picture_that_it_would_have_become(host: Host) -> None:
    graph = example("save_and_resume")
    (saved,), (end,) = ends(graph, "SaveLatent"), ends(graph, "SaveImage")
    host.run(needed(graph, saved))
    resumed = paint(host, needed(graph, end)).images[0]
    assert not ends(needed(graph, end), "WuerstchenStageCSampler")
    (stage_b,) = ends(graph, "WuerstchenStageBDecode")
    put(graph, stage_b, latent=graph[saved]["inputs"]["samples"])
    at_once = paint(host, needed(graph, end)).images[0]
    assert (pixels(resumed) == pixels(at_once)).all()


def test_inpainting_keeps_the_left_half_and_paints_the_right_half_anew(host: Host) -> None:
    before, after = (pixels(image) for image in paint(host, example("inpainting")).images)
    assert abs(before - after)[:, :KEPT].mean() < 3
    assert seen(before[:, HALF:]) is None
    shown = seen(after[:, HALF:])
    assert (shown.colour, shown.shape, shown.background) == ("yellow", "square", "blue")
