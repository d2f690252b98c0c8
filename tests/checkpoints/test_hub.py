"""Names on the Hub, asked of a small Hub on this machine: what they stand for, what is fetched."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from wuerstchen.checkpoints.sources import PUBLISHED_COMPRESSOR

from ..conftest import write_json
from ..processes import printed
from .checkpoint_files import TINY, component

COMMIT = "0" * 40


def etag(address: str) -> str:
    return sha256(address.encode()).hexdigest()


class Handler(SimpleHTTPRequestHandler):
    """Answers from a folder whose paths are the Hub's addresses."""

    unknown = False

    def send_error(self, *what: Any) -> None:
        self.unknown = True
        super().send_error(*what)

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        if self.unknown:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("ETag", f'"{etag(self.path)}"')
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub(root: Path) -> Iterator[str]:
    """Run a Hub for the length of a block and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def publish(root: Path, name: str, folder: Path) -> None:
    """Put a folder on the Hub as a repository."""
    files = f"{name}/resolve/{COMMIT}"
    shutil.copytree(folder, root / files)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in names]}
    tree = [
        {"type": "file", "path": file, "size": size, "oid": etag(f"/{files}/{file}")}
        for file, size in names.items()
    ]
    api = root / "api" / "models" / name
    write_json(api / "revision" / "main", about)
    write_json(api / "tree" / COMMIT, tree)


def asked(root: Path, code: str, home: Path, *words: str | Path) -> list[str]:
    """Return the lines that a program prints which knows this Hub and has an empty cache."""
    with hub(root) as address:
        environment = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return printed(code, *words, **environment, NO_PROXY="*").splitlines()


PUBLISHED = """
import sys
from wuerstchen import Wuerstchen

for model in ("v2", sys.argv[1]):
    model = Wuerstchen.load(model, device="cpu", progress=False)
    networks = (model.prior_text.network, model.stage_c, model.decoder_text.network)
    networks += (model.stage_b, model.stage_a, model.compressor)
    print([sum(float(w.double().sum()) for w in part.parameters()) for part in networks])
"""


def test_v2_is_the_published_pair_and_its_compressor(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    root, decoder = tmp_path / "root", tmp_path / "wuerstchen"
    shutil.copytree(twins[0] / "wuerstchen", decoder)
    shutil.move(decoder / "efficient_net", tmp_path / "compressor")
    publish(root, "warp-ai/wuerstchen-prior", twins[0] / "wuerstchen-prior")
    publish(root, "warp-ai/wuerstchen", decoder)
    publish(root, PUBLISHED_COMPRESSOR, tmp_path / "compressor")
    found, wanted = asked(root, PUBLISHED, tmp_path / "home", twins[0])
    assert found == wanted


FETCHED = """
from wuerstchen import load_network
from wuerstchen.placement import Placement

for name in ("owner/plain", "owner/fp16", "owner/old"):
    print(load_network(name, "stage_c", Placement()).config)
"""
STEM = "diffusion_pytorch_model"


def test_of_weights_in_several_formats_the_best_alone_are_fetched(tmp_path: Path) -> None:
    held = {
        "plain": [f"{STEM}.safetensors", f"{STEM}.fp16.safetensors", f"{STEM}.bin"],
        "fp16": [f"{STEM}.fp16.safetensors", f"{STEM}.bin"],
        "old": [f"{STEM}.bin"],
    }
    for name, files in held.items():
        folder = component(tmp_path / name, "stage_c", files[0])
        for worse in files[1:]:
            (folder / worse).write_bytes(b"never fetched")
        publish(tmp_path / "root", f"owner/{name}", folder)
    lines = asked(tmp_path / "root", FETCHED, tmp_path / "home")
    assert lines == [str(TINY["stage_c"])] * len(held)
    for name, files in held.items():
        cached = tmp_path / "home" / "hub" / f"models--owner--{name}" / "snapshots" / COMMIT
        assert {path.name for path in cached.iterdir()} == {"config.json", files[0]}


ABSENT = """
from wuerstchen import CheckpointError, load_network
from wuerstchen.placement import Placement

try:
    load_network("owner/absent", "stage_c", Placement())
except CheckpointError as error:
    print(error)
"""


def test_a_name_that_the_hub_does_not_know_is_spelled_wrong(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (line,) = asked(tmp_path / "root", ABSENT, tmp_path / "home")
    assert line.startswith("owner/absent: ")
    assert line.endswith("found neither (or a private one); check the spelling")


OFFLINE = """
from wuerstchen import CheckpointError, load_network, load_text_tower
from wuerstchen.placement import Placement

for name in ("owner/prior", "owner/pipeline"):
    print(load_network(name, "stage_c", Placement()).config)
for call in (
    lambda: load_network("owner/absent", "stage_c", Placement()),
    lambda: load_network("owner/pipeline", "stage_b", Placement()),
    lambda: load_text_tower("owner/prior", Placement()),
):
    try:
        call()
    except CheckpointError as error:
        print(error)
"""


def test_hub_names_come_from_the_cache_when_offline(tmp_path: Path) -> None:
    for name, inside in (("prior", ""), ("pipeline", "prior")):
        repository = tmp_path / "hub" / f"models--owner--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        component(repository / "snapshots" / ("0" * 40) / inside, "stage_c")
    (repository / "snapshots" / ("0" * 40) / "model_index.json").write_text("{}")
    lines = printed(OFFLINE, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)).splitlines()
    assert lines[:2] == [str(TINY["stage_c"])] * 2
    assert lines[2].startswith("owner/absent: ")
    assert "HF_HUB_OFFLINE" in lines[2]
    assert "expected weights in its folder decoder, found prior" in lines[3]
    assert "expected a pipeline with folders text_encoder" in lines[4]
    assert len(lines) == 5


def test_info_downloads_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "root", "owner/plain", component(tmp_path / "plain", "stage_c"))
    code = "from wuerstchen.__main__ import main; print(main(['info', 'owner/plain']))"
    assert asked(tmp_path / "root", code, tmp_path / "home") == ["2"]
    assert not list((tmp_path / "home").rglob("*.safetensors"))
