"""A weights file -> named tensors, as the file names them.

Tensors are memory-mapped: reading a file of gigabytes costs neither time nor memory until a tensor
is used. Nothing from a file is ever executed: safetensors holds no code, and of a pickle only plain
data is accepted (`torch.load` with `weights_only`).
"""

import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SAFE = (".safetensors", ".sft")
SUFFIXES = (*SAFE, ".bin", ".pt", ".pth", ".ckpt")
# A component's weights, the preferred first.
ENDINGS = (".safetensors", ".fp16.safetensors", ".bin")
COMPONENT_FILES = tuple(
    stem + ending
    for ending in ENDINGS
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
)
# Entries of a training file that hold a state dict. Averaged weights first: they are the model.
PARTS = ("ema_state_dict", "state_dict", "effnet_state_dict")
# What the keys of the network begin with in a ComfyUI checkpoint, which holds more than it.
CHECKPOINT_PREFIX = "model.diffusion_model."
METADATA_KIND, METADATA_CONFIG = "wuerstchen.kind", "wuerstchen.config"
BAR_FROM_BYTES = 200 * 10**6
MOST_TENSORS, LONGEST_NAME = 20_000, 500  # several times those of any model known
PACKED = {getattr(torch, "float4_e2m1fn_x2", None)}  # two numbers in a byte: PyTorch only stores it


class CheckpointError(ValueError):
    """A file that cannot be used. One line: path, what was expected, what was found, what to do."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The named tensors of one network in a file.

    `part` is the entry of the file that holds them ("" for the whole file), `config` the sizes
    written in the file or in the config.json of its folder, None where there are none, `numbers`
    what stands among the tensors as a plain number, such as the alpha of a LoRA.
    """

    path: Path
    part: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name."""
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}

    @property
    def place(self) -> str:
        """Path and part, for messages."""
        return f"{self.path} [{self.part}]" if self.part else str(self.path)


def read(path: Path) -> list[Weights]:
    """Return every network's tensors in a weights file.

    Raises:
        CheckpointError: if it is a folder, empty, damaged, of an unknown format, or would run code.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: expected a weights file, found a folder; give a file in it")
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(
            f"{path}: expected one of {', '.join(SUFFIXES)}, found {path.suffix or 'no suffix'!r}"
        )
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {first_line(error)}") from error
    if is_empty:
        raise CheckpointError(f"{path}: expected weights, found an empty file; download it again")
    found = read_safetensors(path) if path.suffix.lower() in SAFE else read_pickle(path)
    for weights in found:
        check_plain(weights)
    return found


def check_plain(weights: Weights) -> None:
    """Refuse what no network's file holds, as it may take for ever, or more memory than the file.

    Raises:
        CheckpointError: for far more tensors, or longer names, than any model has, and for tensors
            whose numbers are not all in the file.
    """
    count, longest = len(weights.tensors), max(map(len, [*weights.tensors, *weights.numbers, ""]))
    odd = next((key for key, tensor in weights.tensors.items() if not is_plain(tensor)), None)
    if count > MOST_TENSORS:
        found = f"{count} tensors"
    elif longest > LONGEST_NAME:
        found = f"a name of {longest} characters"
    elif odd is not None:
        tensor = weights.tensors[odd]
        found = f"{odd} ({tensor.dtype}, {tensor.layout}, on {tensor.device})"
    else:
        return
    raise CheckpointError(
        f"{weights.place}: expected at most {MOST_TENSORS} tensors with short names and plain "
        f"numbers (not sparse, packed, repeated or missing), found {found}; take the weights as published"
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds each of its numbers, in a precision that can be computed with."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype not in PACKED
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def refuse_unmapped(path: Path, error: BaseException) -> None:
    """Tell a machine without room for a file from a damaged file.

    Raises:
        CheckpointError: if `error` says that the file cannot be mapped into memory.
    """
    words = r"mmap|map view|file mapping|allocate memory|paging file|error:? <?1455"
    if isinstance(error, MemoryError) or re.search(words, str(error)):
        raise CheckpointError(
            f"{path}: there is no room to map it into memory ({first_line(error)}); close programs "
            "or raise this process's limit of memory"
        ) from error


def read_safetensors(path: Path) -> list[Weights]:
    """Return the tensors of a .safetensors file.

    Raises:
        CheckpointError: if it is damaged, or there is no room for it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, RuntimeError, MemoryError) as error:
        refuse_unmapped(path, error)
        raise CheckpointError(  # a size may be beyond PyTorch's, too
            f"{path}: expected a whole safetensors file, found one that is damaged, cut short or "
            f"of an unknown dtype ({first_line(error)}); download it again"
        ) from error
    ending = METADATA_CONFIG
    written = next(
        (key for key, t in tensors.items() if key.endswith(ending) and is_plain(t)), None
    )
    config: dict[str, Any] | None
    if METADATA_CONFIG in metadata:
        config = parsed(metadata[METADATA_CONFIG], path)
    elif written is not None:  # a graph can write tensors alone
        config = parsed(tensors.pop(written).byte().numpy().tobytes(), path)
    else:
        config = config_beside(path)
    inner = {key: t for key, t in tensors.items() if key.startswith(CHECKPOINT_PREFIX)}
    rest = {key: t for key, t in tensors.items() if key not in inner}
    parts = {CHECKPOINT_PREFIX[:-1]: inner, "": rest} if inner and rest else {"": tensors}
    return [Weights(path=path, part=name, tensors=t, config=config) for name, t in parts.items()]


def read_pickle(path: Path) -> list[Weights]:
    """Return the state dicts of a file that `torch.save` wrote.

    Raises:
        CheckpointError: if it is damaged, would run code, or there is no room for it.
    """
    entries = archived(path)
    if program := program_in(path, entries):
        raise CheckpointError(
            f"{path}: expected a PyTorch file with plain tensors, found {program}; refused, since "
            "reading it could run code: take a safetensors file"
        )
    mapped = bool(entries) and all(e.compress_type == zipfile.ZIP_STORED for e in entries)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can raise anything
        named = r"(GLOBAL|unsupported class|unrecognized function) (\S+)"
        if refused := re.search(named, str(error)):
            raise CheckpointError(
                f"{path}: expected plain tensors, found a pickle that names {refused[2]}; refused, "
                "since it could run code: take a safetensors file, or have its tensors saved as "
                "one (safetensors.torch.save_file) by someone who trusts it"
            ) from error
        refuse_unmapped(path, error)
        raise damaged(path, error) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: expected named tensors, found a {type(loaded).__name__}")
    parts = {name: loaded[name] for name in PARTS if isinstance(loaded.get(name), Mapping)} or {
        "": loaded
    }
    config = config_beside(path)
    return [
        Weights(
            path=path,
            part=name,
            tensors={str(key): value for key, value in part.items() if isinstance(value, Tensor)},
            config=config,
            numbers={str(key): value for key, value in part.items() if type(value) in (int, float)},
        )
        for name, part in parts.items()
    ]


def archived(path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of a zip archive, none of any other file."""
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception as error:  # a damaged archive can raise anything, too
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that breaks off or was overwritten."""
    return CheckpointError(
        f"{path}: expected a whole PyTorch file, found one that is damaged or cut short "
        f"({first_line(error)}); download it again"
    )


def program_in(path: Path, entries: Sequence[zipfile.ZipInfo]) -> str:
    """Return the format of a file in which PyTorch before 2.6 ignores `weights_only`, "" for others."""
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        return "a TorchScript program"
    try:
        with tarfile.open(path, "r:") as archive:
            has_files = archive.next() is not None
    except (tarfile.TarError, OSError):
        return ""
    except Exception as error:  # a damaged header can raise anything, too
        raise damaged(path, error) from error
    return "an archive as PyTorch wrote it before 2017" if has_files else ""


def config_beside(path: Path) -> dict[str, Any] | None:
    """Return config.json of the folder, if the file is named like a component's weights."""
    config = path.with_name("config.json")
    if path.name not in COMPONENT_FILES or not config.is_file():
        return None
    return parsed(config.read_bytes(), config)


def parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in `text`, which comes from `path`.

    Raises:
        CheckpointError: if it is none.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: expected a JSON object, found {first_line(error)}"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(entries).__name__}")
    return entries


def sha256(path: Path) -> str:
    """Return the file's checksum, with a progress bar if the file is large."""
    from tqdm import tqdm

    size, digest = path.stat().st_size, hashlib.sha256()
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=size < BAR_FROM_BYTES)
    with path.open("rb") as file, bar:
        while chunk := file.read(2**20):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Return what an error says, on one line of at most 160 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
