"""A file that is damaged, no weights, or a program is refused in one line, and nothing in it is run."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.checkpoints.recognise import KINDS

from .checkpoint_files import FP32, SMALLEST, message, prior_file, refused, smallest_state


def test_empty_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).touch()
        assert "found an empty file; download it again" in refused(tmp_path / name)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "old.pt"])
def test_file_that_is_cut_short_is_refused(tmp_path: Path, name: str, share: float) -> None:
    file = tmp_path / name
    if name == "a.safetensors":
        save_file(smallest_state(), file)
    else:
        torch.save(
            {"state_dict": smallest_state()}, file, _use_new_zipfile_serialization=name == "a.pt"
        )
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    text = refused(file)
    assert "damaged" in text
    assert "cut short" in text
    assert text.endswith("download it again")


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>404</html>", bytes(99)]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    assert "damaged" in refused(file)


def test_zeros_that_a_download_left_are_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(bytes(2**16))
    text = message(load_network, tmp_path / "a.pt", "stage_c", FP32)
    assert "found one that is damaged or cut short" in text


def test_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "expected one of .safetensors, .sft, .bin, .pt, .pth, .ckpt, found '.gguf'" in refused(
        tmp_path / "a.gguf"
    )


def test_a_file_that_cannot_be_mapped_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap 6000000103 bytes: Cannot allocate memory (12)")

    source = prior_file(tmp_path)
    monkeypatch.setattr("safetensors.safe_open", full)
    text = message(describe, source)
    assert text.startswith(f"{source}: there is no room to map it into memory (unable to mmap 6000")


def test_safetensors_of_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    assert "unknown dtype" in refused(tmp_path / "a.safetensors")


def safetensors_file(path: Path, dtype: str, shape: list[int], size: int) -> Path:
    """Write a file of one tensor, "a", of which the header says anything."""
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    return path


def test_a_size_beyond_those_of_pytorch_is_refused(tmp_path: Path) -> None:
    assert "damaged" in refused(
        safetensors_file(tmp_path / "a.safetensors", "F32", [2**64 - 1, 0], 0)
    )


def test_numbers_of_four_bits_are_refused(tmp_path: Path) -> None:
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this PyTorch has no numbers of four bits")
    file = safetensors_file(tmp_path / "a.safetensors", "F4", [2, 4], 4)
    assert "found a (torch.float4" in refused(file)


class Code:
    """Pickles as a call that makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, old_format: bool
) -> None:
    content = {"state_dict": smallest_state(), "extra": Code(tmp_path / "trace")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old_format)
    text = refused(tmp_path / "a.pt")
    assert "refused, since it could run code" in text
    assert "mkdir" in text
    assert "safetensors" in text
    assert not (tmp_path / "trace").exists()


def test_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(KINDS["stage_c"].network(SMALLEST["stage_c"]), tmp_path / "a.pt")
    assert "refused, since it could run code" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"epoch": 3}, {}])
def test_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "expected " in refused(tmp_path / "a.pt")


def test_a_torchscript_program_is_refused_unread(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    text = message(load_network, tmp_path / "a.pt", "stage_c", FP32)
    assert "found a TorchScript program; refused, since reading it could run code" in text


def test_an_archive_of_old_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "sys_info").write_bytes(b"code")
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        archive.add(tmp_path / "sys_info")
    text = message(load_network, tmp_path / "a.pt", "stage_c", FP32)
    assert "refused, since reading it could run code" in text


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, None])
def test_an_archive_of_old_with_a_damaged_header_is_refused(
    tmp_path: Path, size: bytes | None
) -> None:
    text = b"30 GNU.sparse.map=abc\n"
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, len(text)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size is not None:  # more than any file has
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    file = tarfile.TarInfo("b").tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.pt").write_bytes(bytes(header) + text + bytes(512 - len(text)) + file)
    assert "damaged or cut short" in refused(tmp_path / "a.pt")


def test_an_archive_whose_list_of_entries_is_damaged_is_refused(tmp_path: Path) -> None:
    torch.save(smallest_state(), tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data.replace(b"PK\x01\x02", bytes(4), 1))
    text = message(load_network, tmp_path / "a.pt", "stage_c", FP32)
    assert "found one that is damaged or cut short" in text


def odd_tensors() -> dict[str, Tensor]:
    whole = torch.ones(64, 64)
    return {
        "sparse": whole.to_sparse(),
        "without numbers": whole.to("meta"),
        "one number": torch.ones(1).expand(64, 64),
    }


@pytest.mark.parametrize("name", odd_tensors())
def test_tensors_without_all_their_numbers_are_refused(tmp_path: Path, name: str) -> None:
    torch.save(smallest_state() | {"cond_mapper.2.weight": odd_tensors()[name]}, tmp_path / "a.pt")
    text = refused(tmp_path / "a.pt")
    assert "repeated or missing), found cond_mapper.2.weight (torch.float32" in text


def test_names_and_numbers_of_tensors_far_beyond_any_model_are_refused(tmp_path: Path) -> None:
    file = prior_file(tmp_path, {"prior." * 10_000: torch.ones(1)})
    assert "found a name of 60000 characters" in refused(file)
    torch.save(smallest_state() | {"a" * 501: 1}, tmp_path / "a.pt")
    assert "found a name of 501 characters" in refused(tmp_path / "a.pt")
    save_file({str(i): torch.ones(0) for i in range(20_001)}, file)
    assert "expected at most 20000 tensors" in refused(file)
