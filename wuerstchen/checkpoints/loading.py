"""File or repository -> placed network: read, recognise, rename, load strictly.

A source is a weights file (the published layout or the authors'), a component folder, a pipeline
folder, a Hub name or a blend of such. Networks are built without memory and take over the file's
memory-mapped tensors: nothing is held twice. Every key must fit.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..checks import check_choice
from ..placement import Placement
from . import files, sources
from .blending import blended
from .configs import blocks, config_from_entries, config_from_shapes, summary
from .files import CheckpointError, Weights, first_line
from .notation import parse_blend
from .recognise import KINDS, compare, published_names, recognise, wrong_kind


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
    cast_in_place(found.tensors, placement.dtype, copy=placement.copies)
    filled.load_state_dict(found.tensors, assign=True)
    return placement.settle(filled.eval().requires_grad_(False))


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
    """Return the tensors of the network `kind` in `source`.

    Raises:
        CheckpointError: if it is not there, or damaged.
        ValueError: if the kind is unknown.
    """
    check_choice("kind", kind, list(KINDS))
    path = sources.locate(source, KINDS[kind].folder)
    for weights in (candidates := files.read(path)):
        if recognise(weights.shapes).kind == kind:
            return interpret(weights, kind)
    raise CheckpointError(wrong_kind(candidates[0].place, candidates[0].shapes, kind))


def find_only(source: str | Path) -> Found:
    """Return the tensors of the one network in `source`.

    Raises:
        CheckpointError: if there are several, or none that is known.
    """
    path = sources.resolve(source)
    if path.is_dir() and sources.is_pipeline(path):
        folders = ", ".join(str(file.parent) for file in sources.component_files(path))
        raise CheckpointError(
            f"{source}: expected one network, found a pipeline; say which kind to convert, or give "
            f"one of its component folders: {folders or 'none of them here'}"
        )
    file = sources.locate(source, "")
    candidates = files.read(file)
    known = {kind: w for w in candidates if (kind := recognise(w.shapes).kind) is not None}
    if len(known) > 1:
        raise CheckpointError(
            f"{file}: expected one network, found {', '.join(known)}; say which kind to convert"
        )
    if not known:
        raise CheckpointError(wrong_kind(candidates[0].place, candidates[0].shapes, None))
    return interpret(next(iter(known.values())), next(iter(known)))


def interpret(weights: Weights, kind: str) -> Found:
    """Return the tensors under published names, and the config from file or shapes.

    Raises:
        CheckpointError: from a ValueError, if names, shapes and config do not fit together.
    """
    try:
        tensors = published_names(weights.tensors)
        if weights.config is None:
            config = config_from_shapes(kind, replace(weights, tensors=tensors).shapes)
        else:
            config = config_from_entries(kind, weights.config)
        if (asked := blocks(config)) > (held := len(tensors)):
            raise ValueError(f"config asks for {asked} blocks, but there are {held} tensors")
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{weights.place}: expected {KINDS[kind].name}, but {first_line(error)}; give a "
            "component folder whose config.json fits"
        ) from error
    return Found(place=weights.place, path=weights.path, kind=kind, config=config, tensors=tensors)


def built(found: Found, ops: Any, kind_of: type[Any] | None = None) -> nn.Module:
    """Return the network without memory; the found tensors are sure to fit.

    Raises:
        CheckpointError: if the config cannot be built, or asks for other tensors.
    """
    entry = KINDS[found.kind]
    try:
        with torch.device("meta"), SkipInit():
            network: nn.Module = (kind_of or entry.network)(found.config, ops=ops)
            plain = entry.network(found.config)  # other layers may show weights once loaded only
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error.__context__, (KeyboardInterrupt, SystemExit)):
            raise error.__context__ from None  # it came where PyTorch cleans up
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


def cast_in_place(tensors: dict[str, Tensor], dtype: torch.dtype, copy: bool = False) -> None:
    """Give floating point tensors a precision, one at a time: never all of them twice in memory.

    `copy`: also those that have it already, which may lie in their file.
    """
    for key, tensor in tensors.items():
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        tensors[key] = tensor.to(kind, copy=copy)
