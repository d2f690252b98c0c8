"""The rules of the house, read from the source: floors, imports, prints, docstrings."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wuerstchen

HOUSE = Path(wuerstchen.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
ROOMS = [file for file in FILES if file.stem != "__init__"]
NODES = sorted((HOUSE.parent / "nodes").rglob("*.py"))

FLOORS = {
    "__main__": 11,
    "training": 11,
    "command_line.painting": 10,
    "pipeline": 9,
    "orders": 8,
    "checkpoints.converting": 7,
    "checkpoints.info": 7,
    "stages": 7,
    "towers": 7,
    "checkpoints.loading": 6,
    "lora.merging": 6,
    "checkpoints.configs": 5,
    "command_line.manifest": 5,
    "lora.files": 5,
    "checkpoints.recognise": 4,
    "command_line.parsing": 4,
    "compiling": 4,
    "prompt_files": 4,
    "canvas": 3,
    "checkpoints.sources": 3,
    "command_line.options": 3,
    "command_line.pictures": 3,
    "compressor": 3,
    "stage_a": 3,
    "stage_b": 3,
    "stage_c": 3,
    "text": 3,
    "text_encoder": 3,
    "tiling": 3,
    "checkpoints.blending": 2,
    "cuda_graphs": 2,
    "layers": 2,
    "lora.peft": 2,
    "placement": 2,
    "samplers": 2,
    "settings": 2,
    "stage_checks": 2,
    "arithmetic": 1,
    "checkpoints.files": 1,
    "interpolation": 1,
    "lora.names": 1,
    "sampling": 1,
    "sizes": 1,
    "weighting": 1,
    "allocator": 0,
    "checkpoints.notation": 0,
    "checks": 0,
    "memory": 0,
    "pixels": 0,
    "writing": 0,
}
# methods whose meaning is fixed by the class or protocol that asks for them
TOLD_ELSEWHERE = {
    "forward": "torch.nn.Module",
    "error": "argparse.ArgumentParser",
    "draw": "training.loop.Task",
    "losses": "training.loop.Task",
    "look": "training.loop.Task",
}
# transformers brings the last three
THIRD_PARTY = {"torch", "numpy", "PIL", "safetensors", "transformers"}
THIRD_PARTY |= {"huggingface_hub", "tokenizers", "tqdm"}
HOST = {"comfy", "comfy_api", "comfy_extras", "execution", "folder_paths", "nodes"}


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def name_of(file: Path) -> str:
    return file.relative_to(HOUSE).as_posix()


def room_of(file: Path) -> str:
    """Return the room of a file; all of the training is one."""
    parts = file.relative_to(HOUSE).with_suffix("").parts
    return "training" if parts[0] == "training" else ".".join(parts)


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms of the package that a file imports, wherever in the file."""
    folder = file.relative_to(HOUSE).parent.parts
    names = set()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = [*folder[: len(folder) + 1 - node.level], *filter(None, [node.module])]
            names |= {".".join(home), *(".".join([*home, alias.name]) for alias in node.names)}
    return names & set(FLOORS)


def imported_packages(file: Path) -> Iterator[str]:
    """Yield the top-level names of what a file imports absolutely."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def calls(file: Path) -> set[str]:
    """Return the source of what a file calls: `print`, `torch.cuda.is_available`, `x.half`."""
    nodes = ast.walk(parse(file))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def attributes(file: Path) -> set[str]:
    """Return the names that a file takes from objects and modules."""
    nodes = list(ast.walk(parse(file)))
    taken = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return taken | {
        alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield public functions and classes, and methods that are not told elsewhere."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [*tree.body, *(part for body in classes for part in body.body)]:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if node in tree.body or node.name not in TOLD_ELSEWHERE:
            yield node


def raised_in(node: ast.AST) -> Iterator[str]:
    """Yield the names of the errors that a function raises by itself."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
            yield ast.unparse(part.exc.func)
        yield from raised_in(part)


@pytest.mark.parametrize(
    "file", [*FILES, *NODES], ids=lambda file: file.relative_to(HOUSE.parent).as_posix()
)
def test_a_public_function_tells_what_it_raises(file: Path) -> None:
    for node in public_definitions(parse(file)):
        if isinstance(node, ast.FunctionDef):
            told = ast.get_docstring(node) or ""
            errors = {error for error in raised_in(node) if error.endswith("Error")}
            assert not {error for error in errors if error not in told}, node.name


def test_every_room_stands_on_a_floor_and_every_floor_has_its_rooms() -> None:
    assert {room_of(file) for file in ROOMS} == set(FLOORS)


def test_the_readmes_map_shows_every_room_on_its_floor() -> None:
    readme = (HOUSE.parent / "README.md").read_text(encoding="utf-8")
    rows = readme.split("\nwuerstchen/\n")[1].split("\nnodes/")[0].splitlines()
    shown, folder = {}, ""
    for row in rows:
        folder = folder if row.startswith("    ") else "".join(re.findall(r"^  (\w+)/ +[a-z]", row))
        found = re.findall(r"(\w+)(?:\.py|/) +(\d+)\b", row)
        shown |= {f"{folder}.{name}".strip("."): int(floor) for name, floor in found}
    assert shown == FLOORS


@pytest.mark.parametrize("file", ROOMS, ids=name_of)
def test_imports_go_down_only(file: Path) -> None:
    room = room_of(file)
    for other in imported_rooms(file):
        assert FLOORS[other] < FLOORS[room], f"{room} must not import {other}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_inside_the_package_are_relative(file: Path) -> None:
    assert "wuerstchen" not in set(imported_packages(file))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_the_allowed_packages_are_imported_and_never_the_host(file: Path) -> None:
    packages = set(imported_packages(file))
    assert packages.isdisjoint(HOST)
    assert packages <= THIRD_PARTY | set(sys.stdlib_module_names)


@pytest.mark.parametrize("file", [f for f in FILES if f.stem != "__main__"], ids=name_of)
def test_nothing_prints_or_exits_outside_the_command_line(file: Path) -> None:
    assert calls(file).isdisjoint({"print", "sys.exit", "exit", "quit"})


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_except_is_bare(file: Path) -> None:
    handlers = [node for node in ast.walk(parse(file)) if isinstance(node, ast.ExceptHandler)]
    assert all(handler.type is not None for handler in handlers)


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.stem not in ("placement", "cuda_graphs")], ids=name_of
)
def test_device_and_precision_are_chosen_in_placement_only(file: Path) -> None:
    """Training may halve what it saves and may train under autocast."""
    forbidden = {"cuda"} if room_of(file) == "training" else {"cuda", "half", "autocast"}
    assert attributes(file).isdisjoint(forbidden)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_room_and_every_public_name_has_a_docstring(file: Path) -> None:
    assert ast.get_docstring(parse(file))
    definitions = public_definitions(parse(file))
    assert [node.name for node in definitions if not ast.get_docstring(node)] == []


def test_type_checkers_know_the_public_names_from_where_they_are() -> None:
    door = parse(HOUSE / "__init__.py")
    known = {
        alias.asname: node.module
        for node in ast.walk(door)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert known == wuerstchen.ROOMS


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import wuerstchen", ("torch", "transformers", "PIL", "diffusers", "numpy")),
        ("import wuerstchen.__main__", ("torch", "transformers", "PIL", "diffusers")),
        ("import wuerstchen.pipeline", ("transformers", "PIL", "diffusers")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, absent: tuple[str, ...]) -> None:
    program = f"import sys; {statement}; print(sorted(set({absent!r}) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=HOUSE.parent,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(wuerstchen, name) is not None for name in wuerstchen.__all__)
    assert set(wuerstchen.__all__) <= set(dir(wuerstchen))
    with pytest.raises(AttributeError, match="no attribute 'Sausage'"):
        _ = wuerstchen.Sausage  # type: ignore[attr-defined]
