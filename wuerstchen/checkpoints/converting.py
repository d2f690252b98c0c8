"""`wuerstchen convert`: a network of any source -> one safetensors file in the published layout."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..writing import appearing
from .files import METADATA_CONFIG, METADATA_KIND, CheckpointError, first_line
from .loading import Found, built, cast_in_place, find
from .recognise import KINDS, shortened


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
        METADATA_KIND: found.kind,
        METADATA_CONFIG: json.dumps(asdict(found.config)),
    }
    write(found, out, metadata)


def finite_keys(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of tensors whose every number is finite."""
    return {
        key
        for key, tensor in tensors.items()
        # PyTorch cannot ask numbers of 8 bits
        if bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())
    }


def write(found: Found, out: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        CheckpointError: if it cannot be written.
    """
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
