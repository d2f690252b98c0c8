"""What the benchmark measures with: rounds of timed calls, the roof, memory, operations.

The machine may be busy with something else. So the calls of all contestants take turns, in every
round the roof is measured beside them, and ratios are taken within a round.
"""

import ctypes
import gc
import os
import platform
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wuerstchen.allocator import kept_memory
from wuerstchen.arithmetic import HAS_ONEDNN
from wuerstchen.placement import DTYPES, Placement

Call = Callable[[], Any]
MOST = 15  # rounds
COMPILED = ("stage_c", "stage_b", "stage_a", "whole")  # parts, if that is asked


@dataclass
class Row:
    """What was measured of one task; times in seconds, one entry per round, `peak` in bytes.

    `flops` are those of ours and theirs (0 where nothing is counted), `roof` operations per second.
    """

    part: str
    what: str
    device: str
    dtype: str
    peer: str = "diffusers"
    compiled: bool = False  # ours
    size: int = 0
    batch: int = 1
    times: dict[str, list[float]] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    roof: list[float] = field(default_factory=list)
    error: float | None = None
    load: float = 0.0
    note: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from others."""
        place = self.device, self.dtype, self.compiled
        return (self.part, self.what, *place, self.peer, self.size, self.batch)

    @property
    def title(self) -> str:
        """What was done, and whether ours was compiled for it."""
        return self.what + (", ours compiled" if self.compiled else "")

    def seconds(self, who: str) -> float:
        """Return the median time of a contestant."""
        return median(self.times[who])

    def ratios(self, who: str = "theirs") -> list[float]:
        """Return, round by round, how many times as long as ours a contestant took."""
        return [a / b for a, b in zip(self.times[who], self.times["ours"], strict=True)]

    @property
    def line(self) -> str:
        """A line to follow the run by."""
        place = f" {self.size}² × {self.batch}" if self.size else ""
        times = ", ".join(f"{who} {short(self.seconds(who))} s" for who in self.times)
        ratio = f", ratio {median(self.ratios()):.2f}" if "theirs" in self.times else ""
        share = f", {median(self.shares('ours')):.0%} of the roof" if self.flops else ""
        return f"{self.title}{place}: {times}{ratio}{share}{self.note and ', ' + self.note}"

    def shares(self, who: str) -> list[float]:
        """Return, round by round, a contestant's share of the roof; [] where there is none."""
        rounds = zip(self.times[who], self.roof, strict=True) if self.flops.get(who) else ()
        return [self.flops[who] / s / top for s, top in rounds]


def short(number: float) -> str:
    """Return a number with three digits, or as a whole one."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


class Bench:
    """Device, precision and patience of a run."""

    def __init__(self, words: Namespace) -> None:
        """Take the words of the command line, and prepare the process for them.

        A row ends after `seconds`, and `rounds` at least; `compile` names whose networks are
        compiled. `processor_time` counts what this process worked, not what the clock says: for one
        thread on a machine that others use too.
        """
        torch.set_num_threads(words.threads)
        torch.set_grad_enabled(False)
        torch.backends.cudnn.allow_tf32 = False  # else float32 is not what it says
        self.words, self.device = words, torch.device(words.device)
        self.dtype_name, self.dtype = words.dtype, DTYPES[words.dtype]
        self.placement = Placement(device=self.device, dtype=self.dtype)
        self.clock = time.process_time if words.processor_time else time.perf_counter
        self.name = device_name(self.device) + (", processor time" if words.processor_time else "")
        self.product, self.product_flops, self.products = fastest_product(self)

    def row(
        self, part: str, what: str, size: int = 0, batch: int = 1, peer: str = "diffusers"
    ) -> Row:
        """Return a row of this device and precision without figures."""
        compiled = "ours" in self.words.compile and part in COMPILED
        return Row(part, what, self.name, self.dtype_name, peer, compiled, size, batch)

    def time(self, call: Call) -> float:
        """Return the seconds of one call, to the end of what it started on the device."""
        self.wait()
        start = self.clock()
        call()
        self.wait()
        return self.clock() - start

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, call: Call) -> int:
        """Return the bytes that a call needs at most, above what is there when it begins."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            call()
            return torch.cuda.max_memory_allocated(self.device) - before
        reset = Path("/proc/self/clear_refs")
        if not reset.exists():
            return 0
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")
        before = resident("VmRSS")
        call()
        return resident("VmHWM") - before

    def race(
        self,
        row: Row,
        contestants: dict[str, Call],
        *,
        kept: Collection[str] = (),
        again: bool = False,
    ) -> Row:
        """Fill in times, memory and the roof: contestants in turn until the time is up.

        The first call of each, which measures memory, is not timed.

        Args:
            row: to be filled in.
            contestants: what they do, by name.
            kept: those of them that keep the memory they free, as our runs do.
            again: whether each turn is two calls, the second of which is timed: a step of many.
        """

        def memory(who: str) -> AbstractContextManager[None]:
            return kept_memory(self.device) if who in kept else nullcontext()

        for who, call in contestants.items():
            with memory(who):
                row.peak[who] = self.peak(call)
            row.times[who] = []
        row.load = os.getloadavg()[0]
        end = time.monotonic() + self.words.seconds
        while len(row.roof) < self.words.rounds or (
            len(row.roof) < MOST and time.monotonic() < end
        ):
            turn = 1 if len(row.roof) % 2 else -1
            for who in list(contestants)[::turn]:
                with memory(who):
                    if again:
                        contestants[who]()
                    row.times[who].append(self.time(contestants[who]))
            row.roof.append(self.product_flops / min(self.time(self.product) for _ in range(3)))
        return row


def resident(entry: str) -> int:
    """Return an entry of /proc/self/status in bytes."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[entry].split()[0]) * 1024


def device_name(device: torch.device) -> str:
    """Return the name of the device and, of a CPU, the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{(models or [platform.processor()])[0]}, {threads} thread{'s' * (threads > 1)}"


def fastest_product(bench: Bench) -> tuple[Call, float, dict[str, float]]:
    """Return a matrix product, its operations, and how many per second each kind of it reaches.

    On a CPU PyTorch has two libraries for it and does not take the faster one: the roof is that.
    """
    n = 8192 if bench.device.type == "cuda" else 2048
    numbers = (torch.randn(n, n, device=bench.device) for _ in range(2))
    a, b = (each.to(bench.placement.precision) for each in numbers)
    kinds: dict[str, Call] = {"plain product": lambda: a @ b}
    if bench.device.type == "cpu" and HAS_ONEDNN:
        product = torch.ops.mkldnn._linear_pointwise
        kept = torch.ops.mkldnn._reorder_linear_weight(b, n)
        kinds["oneDNN product"] = lambda: product(a, b, None, "none", [], "")
        kinds["oneDNN product, packed"] = lambda: product(a, kept, None, "none", [], "")
    flops = 2.0 * n**3
    speeds = {name: flops / min(bench.time(call) for _ in range(6)) for name, call in kinds.items()}
    return kinds[max(speeds, key=lambda name: speeds[name])], flops, speeds


def operations(call: Call) -> float:
    """Return the floating point operations of products, convolutions and attention in a call.

    Give it networks and inputs on the meta device: then nothing is calculated.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def to_meta(inputs: Iterable[Tensor]) -> list[Tensor]:
    """Return tensors of the same shapes without content."""
    return [x.to("meta") for x in inputs]
