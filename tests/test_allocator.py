"""What a run frees serves the run again, and goes back to the system after it."""

import json

import pytest

from wuerstchen.allocator import IS_GLIBC

from .processes import printed

pytestmark = pytest.mark.skipif(not IS_GLIBC, reason="only glibc is told what to keep")

# how many of 32 blocks of 64 MiB, one after another, the system lends anew
LENT = """
import resource, torch
from torch import nn
from wuerstchen.allocator import kept_memory
from wuerstchen.placement import Placement

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def lent(times):
    before = pages()
    for _ in range(times):
        torch.ones(2**24)
    return pages() - before

one = lent(1)
with {block}:
    print(lent(32) / one)
"""

# MiB that are lent to the process: before a block, in it when all but the last numbers are freed, after it
HELD = """
import json, torch
from pathlib import Path
from wuerstchen.allocator import kept_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

found = [held()]
with kept_memory(torch.device("cpu")):
    many = [torch.ones(2**20) for _ in range(64)]
    last = torch.ones(2**20)
    del many
    found.append(held())
found.append(held())
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "block", ["kept_memory(torch.device('cpu'))", "Placement().running(nn.Linear(2, 2))"]
)
def test_memory_that_is_freed_in_a_run_is_used_again(block: str) -> None:
    assert float(printed(LENT.format(block=block))) < 12


def test_a_run_on_another_device_changes_nothing() -> None:
    assert float(printed(LENT.format(block="kept_memory(torch.device('meta'))"))) > 24


def test_after_a_run_its_memory_goes_back() -> None:
    before, within, after = json.loads(printed(HELD))
    assert within - before > 250
    assert after - before < 16
