"""`wuerstchen info`: what the networks in a file or repository are."""

from dataclasses import dataclass
from pathlib import Path

from . import files, sources
from .configs import summary
from .files import CheckpointError, Weights, first_line
from .loading import interpret
from .notation import parse_blend
from .recognise import KINDS, recognise

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


def describe(source: str | Path) -> list[Description]:
    """Return what each network in `source` is, a model's name or one of its parts.

    A Hub name is looked up in the cache only.

    Raises:
        CheckpointError: if the source is missing or damaged, or a blend.
        ValueError: if it is a blend that is written wrongly.
    """
    if parse_blend(source) is not None:
        raise CheckpointError(
            f"{source}: expected one checkpoint, found a blend; give one of its parts, or write it "
            "to a file first with wuerstchen convert"
        )
    found: list[Description] = []
    for file in (file for home in sources.homes(source) for file in weights_files(home)):
        checksum = files.sha256(file)
        found += [described(weights, checksum) for weights in files.read(file)]
    return found


def weights_files(source: str | Path) -> list[Path]:
    """Return the files of a file, a folder or a cached Hub name.

    Raises:
        CheckpointError: if there are none.
    """
    folders = ["", *(entry.folder for entry in KINDS.values())]  # the root and those of a pipeline
    path = sources.resolve(source, folders=folders, download=False)
    paths = sources.component_files(path)
    if not paths:
        raise CheckpointError(
            f"{source}: expected a weights file, a component folder or a pipeline folder, found "
            f"{sources.listing(path)}; give one that holds weights"
        )
    return paths


def described(weights: Weights, checksum: str) -> Description:
    """Return what one network in a file is."""
    what, tensors = recognise(weights.shapes), weights.tensors
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    return Description(
        kind=what.kind,
        name=what.name,
        path=weights.path,
        part=weights.part,
        layout=what.layout,
        dtypes=tuple(sorted(dtypes)),
        parameters=sum(t.numel() for key, t in tensors.items() if not key.endswith(BUFFERS)),
        bytes=weights.path.stat().st_size,
        sha256=checksum,
        config=config_in_words(weights, what.kind) if what.kind else "",
    )


def config_in_words(weights: Weights, kind: str) -> str:
    """Return the sizes of a network, or why it cannot run here."""
    try:
        return summary(interpret(weights, kind).config)
    except CheckpointError as error:
        return f"none that runs here: {first_line(error.__cause__ or error)}"
