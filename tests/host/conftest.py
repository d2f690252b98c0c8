"""One running ComfyUI for all tests of a session, driven as its frontend drives it.

    COMFYUI_DIR=/path/to/ComfyUI pytest -m host

COMFYUI_PYTHON names the host's Python where it is not the one that runs pytest.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .graphs import DECODER_SEED, SEED, STAGE_B, STAGE_C, STEPS, example, put
from .server import PACK, Host

Start = Callable[..., Host]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The host's folder."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip("no ComfyUI: run COMFYUI_DIR=/path/to/ComfyUI pytest -m host")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def start(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """What starts a server with options of the host's command line, the pack in a folder `pack`."""
    pytest.importorskip("aiohttp", reason="run with the host's Python, which has aiohttp")
    started: list[Host] = []

    def started_with(*options: str, pack: str = PACK) -> Host:
        base = tmp_path_factory.mktemp("base")
        started.append(Host(checkout, base, *options, pack=pack))
        started[-1].wait()
        return started[-1]

    try:
        yield started_with
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="session")
def host(start: Start) -> Host:
    """The server that most tests share."""
    return start("--preview-method", "auto")


@pytest.fixture(scope="session")
def package() -> Any:
    """The package with the bundled model, to compare with."""
    from wuerstchen import Wuerstchen

    return Wuerstchen.load(device="cpu", progress=False)


@pytest.fixture
def graph() -> Any:
    """The plainest graph: from a prompt to a picture."""
    return example("text_to_image")


@pytest.fixture
def quick(graph: Any) -> Any:
    """The plainest graph with few steps and the seeds `SEED` and `DECODER_SEED`."""
    put(graph, STAGE_C, times="uniform", steps=STEPS, seed=SEED)
    put(graph, STAGE_B, steps=STEPS, seed=DECODER_SEED)
    return graph
