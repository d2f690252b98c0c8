"""File or repository -> placed network: read, recognise, rename, load strictly.

A source is a weights file (the published layout or the authors'), a component folder, a pipeline
folder, a Hub name or a blend of such. Networks are built without memory and take over the file's
memory-mapped tensors: nothing is held twice. Every key must fit.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import files
from .blending import blended
from .configs import blocks, config_from_entries, config_from_shapes, summary
from .files import CheckpointError, Weights, first_line
from .notation import parse_blend
from .placement import Placement
from .recognise import (
    KINDS,
    compare,
    published_names,
    recognise,
    shortened,
    wrong_kind,
)
from .writing import appearing

BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "position_ids")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `wuerstchen info` tells of one network in a file.

    `kind` is None for a network that is none of `KINDS`, `part` the entry of the file that holds
    it, `bytes` the size of the whole file, `config` the sizes that differ from the published model.
    """

    kind: str | None
    name: str
    path: Path
    part: str
    layout: str
    dtypes: tuple[str, ...]
    parameters: int
    bytes: int
    sha256: str
    config: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A network's tensors under published names, and the config they fit."""

    place: str
    path: Path
    kind: str
    config: Any
    tensors: dict[str, Tensor]


def load_network(
    source: str | Path, kind: str, placement: Placement, network: type[nn.Module] | None = None
) -> nn.Module:
    """Return one network with its weights, ready to run, at the place where it rests.

    Args:
        source: weights file, component folder, pipeline folder, Hub name such as
            `warp-ai/wuerstchen-prior`, or a blend such as "a.safetensors*0.5+b.safetensors*0.5".
        kind: one of `KINDS`.
        placement: precision, layer classes and resting place.
        network: class to build, with the parameters of the kind's own; None is that one.

    Raises:
        CheckpointError: if the source is missing, damaged, of another network, or would run code,
            or if the parts of a blend differ in shapes.
        ValueError: if `kind` is unknown, or the shares of a blend do not add up to 1.
    """
    found = find(source, kind, placement.dtype)
    filled = built(found, placement.ops, network)
    cast_in_place(found.tensors, placement.dtype)
    filled.load_state_dict(found.tensors, assign=True)
    return placement.settle(filled.eval().requires_grad_(False))


def describe(source: str | Path) -> list[Description]:
    """Return what each network in `source` is. A Hub name is looked up in the cache only.

    Raises:
        CheckpointError: if the source is missing or damaged, or a blend.
    """
    if parse_blend(source) is not None:
        raise CheckpointError(
            f"{source}: expected one checkpoint, found a blend; give one of its parts, or write it "
            "to a file first with wuerstchen convert"
        )
    path = files.resolve(source, folders=published_folders(), download=False)
    paths = files.component_files(path)
    if not paths:
        raise CheckpointError(
            f"{source}: expected a weights file, a component folder or a pipeline folder, found "
            f"{files.listing(path)}; give one that holds weights"
        )
    return [description for file in paths for description in described(file)]


def convert(
    source: str | Path, out: Path, dtype: torch.dtype | None = None, kind: str | None = None
) -> None:
    """Write one network as one safetensors file in the published layout, its config within.

    Args:
        source: as for `load_network`.
        out: path of the new file, replaced if it exists; its name ends in .safetensors.
        dtype: precision of the new file; None keeps each tensor's, of a blend those of its first.
        kind: which network to take, one of `KINDS`; needed only where a source holds several.

    Raises:
        CheckpointError: if the source cannot be used or holds several networks, has numbers beyond
            `dtype`, or `out` cannot be written.
        ValueError: as `load_network`.
    """
    if out.suffix != ".safetensors" or out.is_dir() or not out.absolute().parent.is_dir():
        raise CheckpointError(
            f"{out}: expected a file name ending in .safetensors, in a folder that exists"
        )
    if dtype is not None and not dtype.is_floating_point:
        raise CheckpointError(
            f"{out}: dtype must be a floating point type such as torch.float16, got {dtype}"
        )
    found = find(source, kind, dtype)
    built(found, nn)
    if dtype is not None:
        before = finite_keys(found.tensors)
        cast_in_place(found.tensors, dtype)
        if lost := sorted(before - finite_keys(found.tensors)):
            raise CheckpointError(
                f"{found.place}: expected numbers that {dtype} can hold, found larger ones in "
                f"{shortened(lost)}; take bf16 or fp32"
            )
    metadata = {
        "format": "pt",
        files.METADATA_KIND: found.kind,
        files.METADATA_CONFIG: json.dumps(asdict(found.config)),
    }
    write(found, out, metadata)


def find(source: str | Path, kind: str | None, dtype: torch.dtype | None) -> Found:
    """Return the tensors of the network `kind` in `source`, None for the only one.

    Those of a blend are new and of `dtype`, None for that of the first part's.
    """
    terms = parse_blend(source)
    if terms is None:
        return find_only(source) if kind is None else find_kind(source, kind)
    parts = [find(part, kind, dtype) for part, _ in terms]
    shares = [share for _, share in terms]
    tensors = [(part.place, part.tensors, share) for part, share in zip(parts, shares, strict=True)]
    return replace(parts[0], place=str(source), tensors=blended(tensors, dtype))


def find_kind(source: str | Path, kind: str) -> Found:
    """Return the tensors of the network `kind` in `source`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    path = files.locate(source, KINDS[kind].folder)
    for weights in (candidates := files.read(path)):
        if recognise(weights.shapes).kind == kind:
            return interpret(weights, kind)
    raise refusal(candidates[0], kind)


def find_only(source: str | Path) -> Found:
    """Return the tensors of the one network in `source`."""
    path = files.resolve(source)
    if path.is_dir() and files.is_pipeline(path):
        folders = (
            ", ".join(str(file.parent) for file in files.component_files(path))
            or "none of them here"
        )
        raise CheckpointError(
            f"{source}: expected one network, found a pipeline; say which kind to convert, or give "
            f"one of its component folders: {folders}"
        )
    file = files.locate(source, "")
    candidates = files.read(file)
    known = {kind: w for w in candidates if (kind := recognise(w.shapes).kind) is not None}
    if len(known) > 1:
        raise CheckpointError(
            f"{file}: expected one network, found {', '.join(known)}; say which kind to convert"
        )
    if not known:
        raise refusal(candidates[0], None)
    return interpret(next(iter(known.values())), next(iter(known)))


def refusal(weights: Weights, kind: str | None) -> CheckpointError:
    """Return the error for a file that is not the network `kind`, or none of ours at all."""
    return CheckpointError(
        wrong_kind(weights.place, weights.shapes, recognise(weights.shapes), kind)
    )


def interpret(weights: Weights, kind: str) -> Found:
    """Return the tensors under published names, and the config from file or shapes."""
    try:
        tensors = published_names(weights.tensors)
        if weights.config is None:
            config = config_from_shapes(
                kind, {key: tuple(tensor.shape) for key, tensor in tensors.items()}
            )
        else:
            config = config_from_entries(kind, weights.config)
        if (asked := blocks(config)) > len(tensors):
            raise ValueError(
                f"config asks for {asked} blocks, but there are {len(tensors)} tensors"
            )
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{weights.place}: expected {KINDS[kind].name}, but {first_line(error)}; give a "
            "component folder whose config.json fits"
        ) from error
    return Found(place=weights.place, path=weights.path, kind=kind, config=config, tensors=tensors)


def built(found: Found, ops: Any, kind_of: type[Any] | None = None) -> nn.Module:
    """Return the network without memory; the found tensors are sure to fit."""
    entry = KINDS[found.kind]
    try:
        with torch.device("meta"), SkipInit():
            network: nn.Module = (kind_of or entry.network)(found.config, ops=ops)
            plain = entry.network(found.config)  # other layers may show weights once loaded only
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{found.place}: expected {entry.name}, but its config asks for sizes that cannot be "
            f"({first_line(error)}); give a whole file and its own config.json"
        ) from error
    differences = compare(plain.state_dict(), found.tensors)
    if differences:
        raise CheckpointError(
            f"{found.place}: expected {entry.name} with {summary(found.config)}, found it with "
            f"{differences}; give a whole file and its own config.json (published: "
            f"{entry.repository})"
        )
    return network


class SkipInit(TorchFunctionMode):
    """Builds layers without drawing their first numbers, for which PyTorch loads its compiler."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(call, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return call(*args, **kwargs)


def published_folders() -> list[str]:
    """Return the folders that may hold networks: the root and those of a pipeline."""
    return ["", *(entry.folder for entry in KINDS.values())]


def described(path: Path) -> list[Description]:
    """Return what each network in one file is."""
    checksum, size = files.sha256(path), path.stat().st_size
    descriptions = []
    for weights in files.read(path):
        what = recognise(weights.shapes)
        tensors = weights.tensors
        descriptions.append(
            Description(
                kind=what.kind,
                name=what.name,
                path=path,
                part=weights.part,
                layout=what.layout,
                dtypes=tuple(
                    sorted(
                        {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
                    )
                ),
                parameters=sum(
                    t.numel() for key, t in tensors.items() if not key.endswith(BUFFERS)
                ),
                bytes=size,
                sha256=checksum,
                config=config_in_words(weights, what.kind) if what.kind else "",
            )
        )
    return descriptions


def config_in_words(weights: Weights, kind: str) -> str:
    """Return the sizes of a network, or why they do not do here."""
    try:
        return summary(interpret(weights, kind).config)
    except CheckpointError as error:
        return f"none that runs here: {first_line(error.__cause__ or error)}"


def finite_keys(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of tensors whose every number is finite."""
    return {
        key
        for key, tensor in tensors.items()
        # PyTorch cannot ask numbers of 8 bits
        if bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())
    }


def cast_in_place(tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Give floating point tensors a precision, one at a time: never all of them twice in memory."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[key] = tensor.to(dtype)


def write(found: Found, out: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    prefix = KINDS[found.kind].prefix
    tensors: dict[str, Tensor] = {}
    starts: set[int] = set()
    for key, tensor in found.tensors.items():
        shares = tensor.data_ptr() in starts  # memory, which safetensors refuses
        starts.add(tensor.data_ptr())
        tensors[prefix + key] = tensor.clone() if shares else tensor.contiguous()
    try:
        with appearing(out) as part:
            save_file(tensors, part, metadata)
            shutil.copymode(found.path, part)  # safetensors lets only the owner read
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{out}: could not be written ({first_line(error)}); nothing was left behind, make "
            "room or choose another folder"
        ) from error
