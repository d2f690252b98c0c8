"""What users keep or read of the nodes: saved workflows, help pages, translations.

`golden/node_interface.json` is what saved workflows hold: ids, the order of inputs and outputs, the
strings of lists. APPEND ONLY: a new input is optional, comes last and has a default that keeps old
graphs as they were; nothing is renamed, moved or removed. `renew` in `host/test_interface.py` writes
the file from a running host.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_nodes import NODES, calls, keywords, load, method, node_classes, parse

ROOT = Path(__file__).parent.parent
SNAPSHOT = load(ROOT / "tests" / "golden" / "node_interface.json")
SAVED = sorted((ROOT / "example_workflows").glob("*.json"))
QUEUED = sorted((ROOT / "tests" / "workflows").glob("*.json"))
DOCS = ROOT / "nodes" / "web" / "docs"
LANGUAGES = ("de", "es", "fr", "it", "ja", "ko", "ru", "zh")
WIDGETS = {"INT", "FLOAT", "STRING", "COMBO", "BOOLEAN"}
FILES = (["mini (bundled)"], [])  # lists that begin so go on with the user's files
ASSIGNED = [node for file in NODES for node in parse(file).body if isinstance(node, ast.Assign)]
CONSTANTS = {ast.unparse(node.targets[0]): node.value for node in ASSIGNED}
AFTER = {"type": "COMBO", "options": ["fixed", "increment", "decrement", "randomize"]}

Json = dict[str, Any]


# The nodes, as the source and as the snapshot has them.


def schemas() -> dict[str, ast.Call]:
    """Return the schema of each node."""
    found = [calls(method(node, "define_schema"), "io.Schema")[0] for node in node_classes()]
    return {text(keywords(schema)["node_id"]): schema for schema in found}


def sockets(schema: ast.Call, side: str) -> list[ast.Call]:
    """Return the inputs or outputs of a schema."""
    listed = keywords(schema)[side]
    assert isinstance(listed, ast.List)
    return [socket for socket in listed.elts if isinstance(socket, ast.Call)]


def text(value: ast.expr) -> str:
    """Return a text of a schema; some stand in a constant of their file, or are put together."""
    value = CONSTANTS.get(ast.unparse(value), value)
    if isinstance(value, ast.BinOp):
        return text(value.left) + text(value.right)
    return str(ast.literal_eval(value))


def named(socket: ast.Call) -> str:
    """Return what a socket is called: its display name, else its id."""
    return text(keywords(socket).get("display_name") or socket.args[0])


def kind(socket: ast.Call) -> str:
    """Return the type on the wire: io.Model.Input is a MODEL."""
    return ast.unparse(socket.func).split(".")[1].upper()


def texts(schema: ast.Call) -> Json:
    """Return the texts of a node as a translation has them."""
    ins, outs = sockets(schema, "inputs"), sockets(schema, "outputs")
    told = [{"name": named(s), "tooltip": text(keywords(s)["tooltip"])} for s in [*ins, *outs]]
    return {
        "display_name": text(keywords(schema)["display_name"]),
        "description": text(keywords(schema)["description"]),
        "inputs": {text(s.args[0]): entry for s, entry in zip(ins, told, strict=False)},
        "outputs": {str(i): entry for i, entry in enumerate(told[len(ins) :])},
    }


def inputs(node: str) -> Json:
    """Return the inputs of a node by id."""
    return {socket["id"]: socket for socket in SNAPSHOT[node]["inputs"]}


def widgets(node: str) -> list[Json]:
    """Return the widgets of a node; behind a seed the frontend puts what becomes of it."""
    return [
        widget
        for socket in SNAPSHOT[node]["inputs"]
        if socket["type"] in WIDGETS
        for widget in [socket, AFTER][: 2 if socket.get("control_after_generate") else 1]
    ]


def allowed(value: Any, widget: Json) -> bool:
    """Return whether a widget may have this value."""
    if widget["type"] in ("INT", "FLOAT"):
        return bool(widget["min"] <= value <= widget["max"])
    options = widget.get("options", [])
    return isinstance(value, str) and (options in FILES or value in options)


def test_the_schemas_have_the_interface_of_the_snapshot() -> None:
    for name, schema in schemas().items():
        ins, outs = sockets(schema, "inputs"), sockets(schema, "outputs")
        node = SNAPSHOT[name]
        for key in ("display_name", "category"):
            assert text(keywords(schema)[key]) == node[key]
        found = [(text(s.args[0]), kind(s), "optional" in keywords(s)) for s in ins]
        assert found == [(s["id"], s["type"], s["optional"]) for s in node["inputs"]]
        assert [(named(s), kind(s)) for s in outs] == [
            (s["name"], s["type"]) for s in node["outputs"]
        ]
    assert schemas().keys() == SNAPSHOT.keys()


# Workflows.


def ours(nodes: list[Json]) -> Iterator[Json]:
    """Yield our nodes of a saved workflow."""
    for node in nodes:
        if node["type"].startswith("Wuerstchen"):
            assert node["type"] in SNAPSHOT
            yield node


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_a_saved_workflow_fits_the_snapshot(file: Path) -> None:
    saved = load(file)
    for node in ours(saved["nodes"]):
        name, known = node["type"], inputs(node["type"])
        for socket in node["inputs"]:
            assert known[socket["name"]]["type"] == socket["type"]
        outputs = [{"name": s["name"], "type": s["type"]} for s in node["outputs"]]
        assert outputs == SNAPSHOT[name]["outputs"]
        values = node.get("widgets_values", [])
        appended = [widget for widget in widgets(name) if widget.get("optional")]
        assert 0 <= len(widgets(name)) - len(values) <= len(appended)
        assert all(map(allowed, values, widgets(name))), (name, values)


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_a_link_of_a_saved_workflow_joins_ends_of_its_type(file: Path) -> None:
    saved = load(file)
    nodes = {node["id"]: node for node in saved["nodes"]}
    for link, of, out, to, slot, wire in saved["links"]:
        source, goal = nodes[of]["outputs"][out], nodes[to]["inputs"][slot]
        assert {source["type"], goal["type"]} <= {wire, "*"}
        assert goal["link"] == link
        assert link in source["links"]


@pytest.mark.parametrize("file", QUEUED, ids=lambda file: file.stem)
def test_a_graph_in_api_form_fits_the_snapshot(file: Path) -> None:
    graph = load(file)
    nodes = {key: node for key, node in graph.items() if node["class_type"] in SNAPSHOT}
    for node in nodes.values():
        known, given = inputs(node["class_type"]), node["inputs"]
        assert given.keys() <= known.keys()
        assert {name for name in known if not known[name]["optional"]} <= given.keys()
        for name, value in given.items():
            if not isinstance(value, list):
                assert allowed(value, known[name])
            elif value[0] in nodes:
                ends = SNAPSHOT[nodes[value[0]]["class_type"]]["outputs"]
                assert ends[value[1]]["type"] == known[name]["type"]
    kinds = {node["class_type"] for node in graph.values()}
    assert {kind for kind in kinds if kind.startswith("Wuerstchen")} <= SNAPSHOT.keys()


# What is shipped.


def test_the_registry_package_leaves_out_what_does_not_run() -> None:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = {line.strip("/") for line in lines if not line.startswith("#")}
    assert {"tests", ".ci"} <= left_out
    assert all((ROOT / name).exists() for name in left_out)
    assert left_out.isdisjoint({"nodes", "wuerstchen", "locales", "example_workflows", "LICENSE"})


# Help pages.


def messages() -> str:
    """Return all texts in the source, one per line, with … for what is filled in."""
    files = [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "wuerstchen").rglob("*.py")]
    found = []
    for node in (node for file in files for node in ast.walk(parse(file))):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def section(page: Path, title: str) -> list[str]:
    """Return the items of a section of a help page; none where there is no such section."""
    parts = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = next((part.splitlines() for part in parts if part.startswith(title + "\n")), [])
    return [line for line in lines if line.startswith("- ")]


def test_every_node_and_nothing_else_has_a_help_page() -> None:
    assert {path.name for path in DOCS.iterdir()} == {f"{name}.md" for name in SNAPSHOT}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_help_page_speaks_of_inputs_and_options_that_there_are(page: Path) -> None:
    told = [name for item in section(page, "Inputs") for name in item.partition(":")[0].split(",")]
    assert {name.strip("-` ") for name in told} <= inputs(page.stem).keys()
    options = {o for s in SNAPSHOT[page.stem]["inputs"] for o in s.get("options", [])}
    bold = {b for item in section(page, "Inputs") for b in re.findall(r"\*\*(.+?)\*\*", item)}
    assert bold <= options


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_help_page_explains_messages_that_the_source_gives(page: Path) -> None:
    words = messages()
    for item in section(page, "If it fails"):
        quoted = re.findall(r"^- \*\*(.+?)\*\*: ", item)
        assert quoted, item
        assert quoted[0] in words


# Translations.


def leaves(entries: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the texts of a translation with the keys that lead to them."""
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from leaves(value, *path, key)
        else:
            yield (*path, key), value


def translation(language: str, name: str) -> Json:
    found: Json = load(ROOT / "locales" / language / f"{name}.json")
    return found


def english(name: str) -> Json:
    """Return what there is to translate; where nothing is, the frontend shows it as it is."""
    if name == "nodeDefs":
        return {node: texts(schema) for node, schema in schemas().items()}
    categories = {part for node in SNAPSHOT.values() for part in node["category"].split("/")}
    return {"nodeCategories": {part: part for part in categories - {"Würstchen"}}}


def test_there_are_eight_translations() -> None:
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == sorted(LANGUAGES)


@pytest.mark.parametrize("name", ["main", "nodeDefs"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_keys_of_the_schemas_and_no_empty_text(
    language: str, name: str
) -> None:
    told = translation(language, name)
    assert {path for path, _ in leaves(told)} == {path for path, _ in leaves(english(name))}
    for path, words in leaves(told):
        assert words.strip() == words != "", path
        assert not set(words) & set("{}|@"), path  # these are signs of the frontend's


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_names_nodes_as_it_translates_them(language: str) -> None:
    told = translation(language, "nodeDefs")
    names = [node["display_name"] for node in told.values()]
    for path, words in leaves(told):
        for quoted in re.findall(r"[„«“「]([^„«»“”「」]+)[“»”」]", words):
            assert any(quoted.strip() in name for name in names), (path, quoted)
