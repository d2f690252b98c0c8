"""Every example workflow in a running ComfyUI: it paints on the first try and keeps its promise."""

import itertools
from io import BytesIO
from typing import Any

import pytest

from .graphs import Graph, example, fresh, linked, named, pictures, put
from .server import ROOT, Host, Outcome, pixels

pytestmark = pytest.mark.host

PICTURES = {  # how many, and their height and width
    "text_to_image": (1, 256, 256),
    "stage_b_seeds": (3, 256, 256),
    "ksampler": (1, 256, 256),
    "save_and_resume": (1, 256, 256),
    "image_to_image": (2, 256, 256),
    "inpainting": (2, 256, 384),
    "outpainting": (1, 256, 384),
    "interpolation": (8, 256, 256),
    "many_prompts": (6, 256, 256),
    "large_picture": (1, 768, 1024),
}
FILM = "SaveAnimatedWEBP"
BLOCK, HALF, SEAM = 32, 192, 16  # pixels; half of a picture painted anew on its right


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
    count, *size = PICTURES[name]
    assert [pixels(image).shape for image in images] == count * [(*size, 3)]


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


def test_a_picture_painted_over_keeps_what_the_prompt_leaves_out(host: Host) -> None:
    graph = example("image_to_image")
    over, again = (seen(pixels(image)) for image in paint(host, graph).images)
    assert (over.colour, over.shape, over.background) == ("red", "triangle", "yellow")
    assert (again.colour, again.shape, again.background) == ("blue", "square", "yellow")
    assert (over.place, again.place) == ("left", "left")
    put(graph, named(graph, "WuerstchenStageCSampler"), denoise=1.0)
    assert seen(pixels(paint(host, graph).images[0])).background != "yellow"


def test_inpainting_keeps_the_left_half_and_paints_the_right_half_anew(host: Host) -> None:
    before, after = (pixels(image) for image in paint(host, example("inpainting")).images)
    assert (before[:, :HALF] == after[:, :HALF]).all()
    assert seen(before[:, HALF:]) is None
    shown = seen(after[:, HALF:])
    assert (shown.colour, shown.shape, shown.background) == ("yellow", "triangle", "blue")


def test_outpainting_keeps_the_picture_and_goes_on_without_a_seam(host: Host) -> None:
    graph = example("outpainting")
    drawn = [linked(graph, named(graph, "ImagePadForOutpaint"), "image"), 0]
    before, after = pictures(host, graph, drawn, [named(graph, "WuerstchenKeepPixels"), 0])
    assert (before == after[:, :HALF]).all()
    assert abs(after[:, HALF : HALF + SEAM] - before[0, 0]).max() < 40
    shown = seen(after[:, HALF:])
    assert (shown.colour, shown.shape, shown.background) == ("red", "circle", "white")


def test_interpolation_leads_from_the_first_prompt_to_the_last(host: Host) -> None:
    graph = example("interpolation")
    frames = [pixels(image) for image in paint(host, without_film(graph)).images]
    shown = [seen(frame) for frame in frames]
    assert {(one.colour, one.shape, one.background) for one in shown} == {
        ("blue", "triangle", "yellow")
    }
    assert (shown[0].size, shown[0].place) == ("large", "centre")
    assert (shown[-1].size, shown[-1].place) == ("small", "right")
    apart = [abs(coarse(one) - coarse(other)).mean() for one, other in itertools.pairwise(frames)]
    assert max(apart) < 0.7 * abs(coarse(frames[0]) - coarse(frames[-1])).mean()


def without_film(graph: Graph) -> Graph:
    """Return a graph that saves its pictures one by one only."""
    return {name: node for name, node in graph.items() if node["class_type"] != FILM}


def test_interpolation_makes_a_film_of_its_pictures(host: Host) -> None:
    from PIL import Image

    graph = example("interpolation")
    end = named(graph, FILM)
    put(graph, end, filename_prefix=f"film{next(fresh)}")
    (film,) = host.run(needed(graph, end)).images
    assert Image.open(BytesIO(film)).n_frames == PICTURES["interpolation"][0]


def test_every_line_of_many_prompts_becomes_its_picture(host: Host) -> None:
    graph = example("many_prompts")
    lines = graph[named(graph, "PrimitiveStringMultiline")]["inputs"]["value"].splitlines()
    for line, image in zip(lines, paint(host, graph).images, strict=True):
        shown = seen(pixels(image))
        assert f"{shown.size} {shown.colour} {shown.shape}" in line
        assert f"on a {shown.background} background" in line


def test_a_large_picture_in_tiles_is_nearly_the_whole_one(host: Host) -> None:
    graph = example("large_picture")
    tiled = pixels(paint(host, graph).images[0])
    for kind in ("WuerstchenStageBDecode", "WuerstchenStageADecode"):
        assert graph[named(graph, kind)]["inputs"]["tile_size"] == 512
        put(graph, named(graph, kind), tile_size=0)
    whole = pixels(paint(host, graph).images[0])
    assert 0 < abs(coarse(tiled) - coarse(whole)).mean() < 2
