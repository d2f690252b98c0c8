"""Memory that lasts from step to step.

A step frees what the next one needs again. On Linux, glibc hands large blocks back to the system at
once, which clears every page before it lends it anew: up to a tenth of a step on two cores, and an
eighth to a quarter of Stage A. In a run they are kept. Elsewhere nothing is changed.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

IS_GLIBC = platform.libc_ver()[0] == "glibc"
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # as malloc.h numbers what mallopt sets
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}  # no block on its own, and none handed back
# what glibc itself arrives at once a block of 32 MiB has been freed
USUAL = {MMAP_MAX: 2**16, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Have a CPU's memory that is freed in this block used again in it, and handed back at its end.

    The whole process allocates so for as long, other threads, too.
    """
    if device.type != "cpu" or not IS_GLIBC:
        yield
        return
    libc = ctypes.CDLL(None)
    allocate(libc, KEEPING)
    try:
        yield
    finally:
        allocate(libc, USUAL)
        libc.malloc_trim(0)


def allocate(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    """Have the C library allocate by these options."""
    for option, value in options.items():
        libc.mallopt(option, value)
