"""What a running ComfyUI knows of the nodes: their interface, help pages, translations, examples.

After a change that only appends, renew the snapshot from a running host, with the root as folder:

    python -c "from tests.host.test_interface import renew; renew('http://127.0.0.1:8188')"
"""

import json
import urllib.request
from typing import Any

import pytest

from .conftest import Start
from .server import ROOT, Host

pytestmark = pytest.mark.host

SNAPSHOT = ROOT / "tests" / "golden" / "node_interface.json"
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
LANGUAGES = ("de", "es", "fr", "it", "ja", "ko", "ru", "zh")
BUNDLED = "mini (bundled)"
FOLDER = "wuerstchen-nodes"
KEPT = ("default", "min", "max", "step", "control_after_generate", "multiline", "options")


def interface(nodes: dict[str, Any]) -> dict[str, Any]:
    """Return what a saved workflow relies on, from a host's object_info."""
    return {name: node_interface(nodes[name]) for name in nodes if name.startswith("Wuerstchen")}


def node_interface(node: dict[str, Any]) -> dict[str, Any]:
    """Return the interface of one node, inputs and outputs in the host's order."""
    sockets = [
        socket(name, *node["input"][group][name], optional=group == "optional")
        for group, names in node["input_order"].items()
        for name in names
    ]
    ends = zip(node["output_name"], node["output"], strict=True)
    return {
        "display_name": node["display_name"],
        "category": node["category"],
        "inputs": sockets,
        "outputs": [{"name": name, "type": kind} for name, kind in ends],
    }


def socket(name: str, kind: str, details: dict[str, Any], *, optional: bool) -> dict[str, Any]:
    """Return one input. Files follow the bundled model in a list; they are the user's."""
    kept = {key: details[key] for key in KEPT if key in details}
    if kept.get("options", [])[:1] == [BUNDLED]:
        kept["options"] = [BUNDLED]
    return {"id": name, "type": kind, "optional": optional, **kept}


def renew(address: str) -> None:
    """Write the snapshot from the ComfyUI at `address`."""
    with urllib.request.urlopen(f"{address}/object_info", timeout=60) as answer:
        found = interface(json.loads(answer.read()))
    text = json.dumps(found, indent=2, ensure_ascii=False)
    SNAPSHOT.write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def host(start: Start) -> Host:
    """A server with the pack in a folder of plain letters: from others ComfyUI serves no files."""
    return start(pack=FOLDER)


@pytest.fixture(scope="module")
def nodes(host: Host) -> dict[str, Any]:
    """Our nodes in the host's own words."""
    answer = host.get("object_info")
    return {name: node for name, node in answer.items() if name.startswith("Wuerstchen")}


def test_the_running_nodes_have_the_interface_of_the_snapshot(nodes: dict[str, Any]) -> None:
    assert interface(nodes) == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_every_running_node_input_and_output_is_explained(nodes: dict[str, Any]) -> None:
    for node in nodes.values():
        groups = node["input"].values()
        tips = [details.get("tooltip") for group in groups for _, details in group.values()]
        assert all([node["description"], *tips, *node["output_tooltips"]]), node["name"]
        assert len(node["output_tooltips"]) == len(node["output"])


def test_the_host_serves_the_help_page_of_every_node(host: Host, nodes: dict[str, Any]) -> None:
    for name in nodes:
        page = host.get(f"extensions/{FOLDER}/docs/{name}.md")
        assert page == (ROOT / "nodes" / "web" / "docs" / f"{name}.md").read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_hands_out_the_translations(host: Host, language: str) -> None:
    told = host.get("i18n")[language]
    for name in ("main", "nodeDefs"):
        file = ROOT / "locales" / language / f"{name}.json"
        ours = json.loads(file.read_text(encoding="utf-8"))
        assert ours.items() <= (told if name == "main" else told[name]).items()


def test_the_host_lists_every_example(host: Host) -> None:
    assert EXAMPLES
    listed = host.get("api/workflow_templates")[FOLDER]
    assert sorted(listed) == [file.stem for file in EXAMPLES]


def test_the_host_serves_the_examples_and_their_pictures(host: Host) -> None:
    where = f"api/workflow_templates/{FOLDER}"
    for file in EXAMPLES:
        assert host.get(f"{where}/{file.name}") == json.loads(file.read_text(encoding="utf-8"))
    for picture in EXAMPLES[0].parent.glob("*.jpg"):
        assert host.get(f"{where}/{picture.name}") == picture.read_bytes()
