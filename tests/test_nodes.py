"""The graph nodes, read from the source: what must hold without a host."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NODES = sorted((ROOT / "nodes").glob("*.py"))
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
LONGEST_EXECUTE = 8
LARGEST_THUMBNAIL = 60_000
NOTES = {"Note", "MarkdownNote"}  # known to the frontend only
HOST_MODELS = {"comfy", "latent_preview"}


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def node_classes() -> list[ast.ClassDef]:
    """Return the classes that the host shows as nodes."""
    bodies = [node for file in NODES for node in parse(file).body]
    classes = [node for node in bodies if isinstance(node, ast.ClassDef)]
    return [node for node in classes if "define_schema" in method_names(node)]


def method_names(node: ast.ClassDef) -> set[str]:
    return {part.name for part in node.body if isinstance(part, ast.FunctionDef)}


def method(node: ast.ClassDef, name: str) -> ast.FunctionDef:
    return next(f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == name)


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    found = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    return [call for call in found if ast.unparse(call.func).endswith(name)]


def keywords(call: ast.Call) -> dict[str | None, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords}


def node_ids() -> set[str]:
    schemas = [call for node in node_classes() for call in calls(node, "io.Schema")]
    return {ast.literal_eval(keywords(schema)["node_id"]) for schema in schemas}


def load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_eighteen_nodes_have_literal_ids() -> None:
    assert len(node_ids()) == len(node_classes()) == 18


@pytest.mark.parametrize("node", node_classes(), ids=lambda node: node.name)
def test_execute_is_short(node: ast.ClassDef) -> None:
    body = method(node, "execute").body
    assert body[-1].end_lineno is not None
    assert body[-1].end_lineno - body[0].lineno < LONGEST_EXECUTE


@pytest.mark.parametrize("file", NODES, ids=lambda file: file.name)
def test_only_the_adapter_touches_the_models_of_the_host(file: Path) -> None:
    tree = list(ast.walk(parse(file)))
    names = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names}.isdisjoint(HOST_MODELS)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_an_example_is_the_graph_that_the_host_tests_run(file: Path) -> None:
    shown, run = load(file), load(ROOT / "tests" / "workflows" / file.name)
    nodes = [node for node in shown["nodes"] if node["type"] not in NOTES]
    kinds = {str(node["id"]): node["type"] for node in nodes}
    assert kinds == {key: node["class_type"] for key, node in run.items()}
    assert {kind for kind in kinds.values() if kind.startswith("Wuerstchen")} <= node_ids()
    slots = {node["id"]: [slot["name"] for slot in node["inputs"]] for node in nodes}
    links = {
        (str(to), slots[to][slot]): [str(of), out] for _, of, out, to, slot, _ in shown["links"]
    }
    inputs = {
        (key, name): value for key, node in run.items() for name, value in node["inputs"].items()
    }
    assert links == {place: value for place, value in inputs.items() if isinstance(value, list)}
    for node in nodes:
        values = [v for (key, _), v in inputs.items() if key == str(node["id"])]
        given = [value for value in values if not isinstance(value, list) and value != "fixed"]
        linked = [slot for slot in node["inputs"] if "widget" in slot and slot["link"] is not None]
        kept = [value for value in node["widgets_values"] if value != "fixed"]
        assert len(kept) == len(given) + len(linked)  # a linked widget keeps its value beside it
        rest = iter(kept)
        assert all(value in rest for value in given)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_an_example_says_whose_its_nodes_are_and_has_a_picture(file: Path) -> None:
    for node in load(file)["nodes"]:
        if node["type"] not in NOTES:
            pack = "wuerstchen-nodes" if node["type"] in node_ids() else "comfy-core"
            assert node["properties"] == {"cnr_id": pack, "Node name for S&R": node["type"]}
    assert file.with_suffix(".jpg").stat().st_size < LARGEST_THUMBNAIL
