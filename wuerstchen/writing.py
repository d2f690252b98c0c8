"""Files that appear under their names only when all of them is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside `path`; what is still there when the block ends is removed.

    Raises:
        OSError: of the block, with the name `path`.
    """
    # short, since the longest names are as long as names may be
    part = path.with_name(f".{crc32(os.fsencode(path.name)):08x}.{os.getpid()}.part")
    try:
        yield part
    except OSError as error:  # of a full disk it does not say where, else it names the part
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside `path`; what is there gets this name when the block ends.

    If the block fails, or nothing can be renamed, nothing is left behind.

    Raises:
        OSError: if it cannot be renamed.
    """
    with unfinished(path) as part:
        yield part
        part.replace(path)
