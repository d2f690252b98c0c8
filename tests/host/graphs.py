"""Graphs in API form: {id: {"class_type", "inputs"}}, where a link is [id, output]."""

import itertools
import json
from typing import Any

from .server import ROOT

Graph = dict[str, Any]
Link = list[Any]

# Nodes of the graph text_to_image.
PRIOR, DECODER, POSITIVE, NEGATIVE, POSITIVE_B, EMPTY = "1", "2", "3", "4", "5", "6"
STAGE_C, STAGE_B, STAGE_A, SAVE = "7", "8", "9", "10"

fresh = itertools.count(100)


def example(name: str) -> Graph:
    """Return the graph of an example workflow."""
    file = ROOT / "tests" / "workflows" / f"{name}.json"
    graph: Graph = json.loads(file.read_text(encoding="utf-8"))
    return graph


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


def save_picture(graph: Graph, image: Link) -> Link:
    """Save a picture under a name that no run had, since a cached node saves nothing."""
    return add(graph, "SaveImage", images=image, filename_prefix=f"picture{next(fresh)}")


def save_latent(graph: Graph, latent: Link) -> Link:
    """Save a latent under a name that no run had."""
    return add(graph, "SaveLatent", samples=latent, filename_prefix=f"latent{next(fresh)}")
