"""Graphs in API form: {id: {"class_type", "inputs"}}, where a link is [id, output]."""

import itertools
import json
from typing import Any

from .server import ROOT, Host, pixels

Graph = dict[str, Any]
Link = list[Any]

fresh = itertools.count(100)


def example(name: str) -> Graph:
    """Return the graph of an example workflow."""
    file = ROOT / "tests" / "workflows" / f"{name}.json"
    graph: Graph = json.loads(file.read_text(encoding="utf-8"))
    return graph


def named(graph: Graph, kind: str) -> str:
    """Return the name of the one node of a kind."""
    (name,) = (name for name, node in graph.items() if node["class_type"] == kind)
    return name


def linked(graph: Graph, name: str, wire: str) -> str:
    """Return the name of the node at an input."""
    source: str = graph[name]["inputs"][wire][0]
    return source


# Nodes of the graph text_to_image.
plainest = example("text_to_image")
PRIOR = named(plainest, "WuerstchenLoadPrior")
DECODER = named(plainest, "WuerstchenLoadDecoder")
EMPTY = named(plainest, "WuerstchenEmptyLatent")
STAGE_C = named(plainest, "WuerstchenStageCSampler")
STAGE_B = named(plainest, "WuerstchenStageBDecode")
STAGE_A = named(plainest, "WuerstchenStageADecode")
SAVE = named(plainest, "SaveImage")
POSITIVE, NEGATIVE = linked(plainest, STAGE_C, "positive"), linked(plainest, STAGE_C, "negative")
POSITIVE_B = linked(plainest, STAGE_B, "positive")

# The graph with few steps, and the settings of the package that paint the same.
STEPS, SEED, DECODER_SEED = 4, 1, 2
PROMPT = plainest[POSITIVE]["inputs"]["text"]
QUICK = {"steps": STEPS, "decoder_steps": STEPS, "seed": SEED, "decoder_seed": DECODER_SEED}


def add(graph: Graph, kind: str, **inputs: Any) -> Link:
    """Add a node and return its first output."""
    name = str(next(fresh))
    graph[name] = {"class_type": kind, "inputs": inputs}
    return [name, 0]


def output(link: Link, number: int) -> Link:
    """Return another output of a link's node."""
    return [link[0], number]


def put(graph: Graph, name: str, **inputs: Any) -> None:
    """Give a node other inputs."""
    graph[name]["inputs"].update(inputs)


def again(graph: Graph, name: str, **inputs: Any) -> Link:
    """Add a node like another one with other inputs."""
    return add(graph, graph[name]["class_type"], **{**graph[name]["inputs"], **inputs})


def save_picture(graph: Graph, image: Link) -> Link:
    """Save a picture under a name that no run had, since a cached node saves nothing."""
    return add(graph, "SaveImage", images=image, filename_prefix=f"picture{next(fresh)}")


def save_latent(graph: Graph, latent: Link) -> Link:
    """Save a latent under a name that no run had."""
    return add(graph, "SaveLatent", samples=latent, filename_prefix=f"latent{next(fresh)}")


def latents(host: Host, graph: Graph, *links: Link) -> list[Any]:
    """Return the latents at these links as tensors, by a run of what leads there only."""
    asked = without_ends(graph)
    for link in links:
        save_latent(asked, link)
    outcome = host.run(asked)
    assert outcome.message == ""
    return outcome.latents


def pictures(host: Host, graph: Graph, *links: Link) -> list[Any]:
    """Return the levels (H, W, 3) of the first picture at each of these links, likewise."""
    asked = without_ends(graph)
    for link in links:
        first = add(asked, "ImageFromBatch", image=link, batch_index=0, length=1)
        save_picture(asked, first)
    outcome = host.run(asked)
    assert outcome.message == ""
    return [pixels(image) for image in outcome.images]


def levels_of(image: Any) -> Any:
    """Return the levels (H, W, 3) of a picture of the package."""
    import numpy as np

    return np.asarray(image).astype(int)


def keep_picture(host: Host, name: str, levels: Any) -> str:
    """Write levels (H, W, 3 or 4) as a PNG into the host's input folder; return its name."""
    from PIL import Image

    Image.fromarray(levels.astype("uint8")).save(host.base / "input" / name)
    return name


def without_ends(graph: Graph) -> Graph:
    """Return the graph without the nodes that save."""
    return {name: node for name, node in graph.items() if not node["class_type"].startswith("Save")}


def core_sample(
    graph: Graph, guider: Link, sampler: Link, sigmas: Link, latent: Link, seed: int
) -> Link:
    """Add the host's sampler in parts and return its latent."""
    noise = add(graph, "RandomNoise", noise_seed=seed)
    parts = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
    return add(graph, "SamplerCustomAdvanced", **parts, latent_image=latent)


def apart(one: Any, other: Any) -> float:
    """Return how far two tensors are apart, as a share of the largest number in the second."""
    return float((one - other).abs().max() / other.abs().max())
