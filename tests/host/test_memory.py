"""The host's memory manager and our networks, in a running ComfyUI."""

import time
from typing import Any

import pytest

from .graphs import DECODER, PRIOR, STAGE_A, STAGE_B, STAGE_C, put, save_latent, save_picture
from .server import Host, pixels

pytestmark = pytest.mark.host

RUNS, SETTLED = 20, 8  # runs, and after how many the process has all that it needs
GROWTH = 60e6  # bytes; the networks in float32 are 31e6 in all, kept once more in each run


def test_twenty_runs_with_changing_settings_keep_nothing(host: Host, graph: Any) -> None:
    psutil = pytest.importorskip("psutil")
    sizes = []
    for i in range(RUNS):
        put(graph, STAGE_C, seed=300 + i, times="uniform", steps=2 + i % 3, guidance=1.0 + i % 4)
        put(graph, STAGE_B, seed=i, steps=1 + i % 3)
        put(graph, PRIOR, weight_dtype=("fp32", "bf16")[i % 2])
        put(graph, DECODER, weight_dtype=("fp32", "bf16")[i // 2 % 2])
        assert host.run(graph).message == ""
        sizes.append((len(host.get("probe")["loaded"]), memory_of(psutil, host)))
    held = [loaded for loaded, _ in sizes]
    assert max(held[SETTLED:]) <= max(held[:SETTLED])
    assert max(size for _, size in sizes[SETTLED:]) < sizes[SETTLED][1] + GROWTH


def memory_of(psutil: Any, host: Host) -> int:
    """Return the bytes that the server's process holds."""
    size: int = psutil.Process(host.process.pid).memory_info().rss
    return size


def test_unloading_gives_everything_back(host: Host, graph: Any) -> None:
    put(graph, STAGE_C, seed=330)
    host.run(graph)
    assert {"Model"} <= set(host.get("probe")["loaded"])
    host.post("free", {"unload_models": True, "free_memory": True})
    end = time.monotonic() + 60
    while host.get("probe")["loaded"] and time.monotonic() < end:
        time.sleep(0.5)
    assert host.get("probe")["loaded"] == []
    assert host.run(graph).message == ""


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp16", "fp8_e4m3fn"])
def test_less_precision_paints_nearly_the_same(host: Host, graph: Any, weight_dtype: str) -> None:
    put(graph, STAGE_C, seed=340)
    levels = []
    for name in ("fp32", weight_dtype):
        put(graph, PRIOR, weight_dtype=name)
        put(graph, DECODER, weight_dtype=name)
        save_picture(graph, [STAGE_A, 0])
        levels.append(pixels(host.run(graph).images[-1]))
    difference = abs(levels[0] - levels[1]).mean()
    assert difference < 6
    assert difference > 0 or weight_dtype == "fp16"  # the bundled weights are halves already


def test_forced_to_float32_the_host_paints_as_if_asked_for_it(start: Any, graph: Any) -> None:
    server = start("--force-fp32")
    latents = []
    for name in ("default", "fp32"):
        put(graph, PRIOR, weight_dtype=name)
        put(graph, DECODER, weight_dtype=name)
        save_latent(graph, [STAGE_B, 0])
        latents.append(server.run(graph).latents[-1])
    server.stop()
    assert latents[0].equal(latents[1])
