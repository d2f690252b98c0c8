"""What fails during a run ends in one line and leaves no half-written file: memory, disks, signals."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wuerstchen import Wuerstchen

from ..processes import program, surroundings
from .calls import PROMPT, QUICK, Capture, names, refused


def test_too_little_memory_is_said_with_what_needs_less(
    paint: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Capture
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(Wuerstchen, "paint", exhausted)
    line = refused(lambda: paint(PROMPT), tmp_path, capfd)
    assert "too little memory for --device cpu; smaller are --offload stage" in line


@pytest.mark.parametrize(
    "said",
    [
        "MPS backend out of memory",
        "DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Invalid buffer size: 18.00 GiB",
    ],
)
def test_too_little_memory_to_load_is_said_likewise(
    paint: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: Capture,
    said: str,
) -> None:
    def exhausted(**_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Wuerstchen, "load", exhausted)
    assert "too little memory" in refused(lambda: paint(PROMPT), tmp_path, capfd)


def test_another_error_of_pytorch_is_not_taken_for_it(
    paint: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Wuerstchen, "load", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        paint(PROMPT)


def test_an_error_without_words_has_its_name(
    paint: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Capture
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Wuerstchen, "paint", exhausted)
    assert refused(lambda: paint(PROMPT), tmp_path, capfd) == "wuerstchen: error: MemoryError\n"


def test_a_disk_that_is_full_leaves_no_half_written_file(tiny: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    words = [PROMPT, *QUICK, "--model", str(tiny), "--device", "cpu", "--output", "out"]
    ran = subprocess.run(
        [sys.executable, "-m", "wuerstchen", *words],
        cwd=tmp_path,
        env=surroundings(),
        preexec_fn=fill,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == "wuerstchen: error: out/00000.png: File too large"
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert names(tmp_path / "out") == []


def test_ctrl_c_ends_in_one_line_and_status_130(
    paint: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Wuerstchen, "paint", interrupted)
    assert paint(PROMPT) == 130
    assert capfd.readouterr().err == "wuerstchen: interrupted\n"
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_sigterm_leaves_no_half_written_file(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from wuerstchen import __main__; from wuerstchen.writing import appearing\n"
        "def command(words):\n"
        "    with appearing(Path('a.png')) as part:\n"
        "        part.write_text('half'); os.kill(os.getpid(), signal.SIGTERM)\n"
        "__main__.command = command; sys.exit(__main__.main())"
    )
    assert program(code, folder=tmp_path).returncode == 143
    assert names(tmp_path) == []
