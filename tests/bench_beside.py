"""Parts of the benchmark beside the stages: a cold start, loading, and the same picture by SDXL."""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import test_stage_c
from .bench_tools import Bench, Row, operations
from .peers import in_dtype, on_meta

ROOT = Path(__file__).resolve().parent.parent
SDXL_SIZE, SDXL_STEPS = 1024, 50


def cold(bench: Bench) -> Iterator[Row]:
    """Yield imports and the first picture of the bundled model, each from a fresh process."""
    model = ROOT / "wuerstchen" / "mini"
    ours = (
        "from wuerstchen import Wuerstchen; "
        "Wuerstchen.load(device='cpu', progress=False).paint('a large red circle', seed=1)"
    )
    theirs = (
        "from pathlib import Path; from tests import peers; from wuerstchen import Settings; "
        "from wuerstchen.sampling import published_times; "
        f"pipes = peers.pipelines(Path({str(model)!r})); "
        "s = Settings(seed=1, width=256, height=256); "
        "peers.paint_with(pipes, 'a large red circle', s, published_times().tolist())"
    )
    for what, mine, other, peer in (
        ("import wuerstchen", "import wuerstchen", "import torch", "import torch"),
        (
            "import its pipeline",
            "from wuerstchen import Wuerstchen",
            "import torch",
            "import torch",
        ),
        ("first picture of mini", ours, theirs, "diffusers"),
    ):
        row = bench.row("cold", what, peer=peer)
        contestants = {"ours": partial(fresh, mine), "theirs": partial(fresh, other)}
        bench.race(row, contestants)
        row.peak, row.roof = {}, []
        yield row


def fresh(program: str) -> None:
    """Run a program in a new interpreter."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def load(bench: Bench) -> Iterator[Row]:
    """Yield loading Stage C, each number of it looked at once, from a disk with an empty cache."""
    from wuerstchen.checkpoints.loading import load_network

    config = test_stage_c.StageCConfig()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = in_dtype(test_stage_c.make_weights(config), bench.dtype)
        peer = test_stage_c.make_peer(config, weights)
        kind = type(peer)
        peer.save_pretrained(folder, max_shard_size="100GB")
        del peer, weights
        (file,) = folder.glob("*.safetensors")
        os.sync()

        def ours() -> None:
            look_at(load_network(folder, "stage_c", bench.placement))

        def theirs() -> None:
            network = kind.from_pretrained(folder, torch_dtype=bench.dtype)
            look_at(network.to(bench.device))

        def plain() -> None:
            buffer = bytearray(2**24)
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

        for peer_name, call in (("one plain read", plain), ("diffusers", theirs)):
            row = bench.row("load", "load Stage C", peer=peer_name)
            row.times, reads = {"ours": [], "theirs": []}, {}
            for _ in range(3):
                for who, task in (("ours", ours), ("theirs", call)):
                    forget(file)
                    before = bytes_read()
                    row.times[who].append(bench.time(task))
                    reads[who] = (bytes_read() - before) / file.stat().st_size
                    gc.collect()
            row.note = ", ".join(f"{who} read {n:.2f} × the file" for who, n in reads.items())
            yield row


def look_at(network: nn.Module) -> None:
    """Use every weight once, so that a mapped file is read."""
    for tensor in network.state_dict().values():
        tensor.sum()


def forget(file: Path) -> None:
    """Have the system drop what it keeps of a file in memory."""
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """Return the bytes that this process has had read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


@torch.no_grad()
def sdxl(bench: Bench, ours: dict[int, Row]) -> Iterator[Row]:
    """Yield whole 1024² pictures per batch size beside SDXL's: 50 guided steps and its VAE.

    Args:
        bench: measures.
        ours: rows of whole pictures of 1024², by batch.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = filled(UNet2DConditionModel, bench, **UNET)
    steps = {n: step(bench, unet, n) for n in ours}
    del unet
    gc.collect()
    vae = filled(AutoencoderKL, bench, **VAE)
    for n, mine in ours.items():
        z = torch.randn(
            n, 4, SDXL_SIZE // 8, SDXL_SIZE // 8, device=bench.device, dtype=bench.dtype
        )
        decoding = bench.row("sdxl", "SDXL, decoding", SDXL_SIZE, n, peer="")
        decoding.flops["ours"] = operations(
            lambda z=z: on_meta(AutoencoderKL, **VAE).to(z.dtype).decode(z.to("meta"))
        )
        yield steps[n]
        yield bench.race(decoding, {"ours": lambda z=z: vae.decode(z)})
        row = bench.row("sdxl", "whole picture", SDXL_SIZE, n, peer="SDXL")
        row.compiled = mine.compiled
        parts = ((SDXL_STEPS, steps[n]), (1, decoding))
        theirs = sum(count * part.seconds("ours") for count, part in parts)
        row.times = {"ours": [mine.seconds("ours")], "theirs": [theirs]}
        row.flops = {
            "ours": mine.flops["ours"],
            "theirs": sum(count * part.flops["ours"] for count, part in parts),
        }
        row.roof = mine.roof[:1]
        yield row


def step(bench: Bench, unet: Any, n: int) -> Row:
    """Return one guided step of SDXL's UNet for `n` pictures."""
    side = SDXL_SIZE // 8

    def inputs(device: Any) -> tuple[Any, ...]:
        like = {"device": device, "dtype": bench.dtype}
        more = {"text_embeds": torch.ones(2 * n, 1280, **like)}
        more["time_ids"] = torch.full((2 * n, 6), float(SDXL_SIZE), **like)
        text = torch.ones(2 * n, 77, 2048, **like)
        return torch.ones(2 * n, 4, side, side, **like), torch.ones((), device=device), text, more

    def run(network: Any, x: Any, t: Any, text: Any, more: Any) -> Any:
        return network(x, t, encoder_hidden_states=text, added_cond_kwargs=more)

    row = bench.row("sdxl", "SDXL, guided step", SDXL_SIZE, n, peer="")
    empty = on_meta(type(unet), **UNET).to(bench.dtype)
    row.flops["ours"] = operations(partial(run, empty, *inputs("meta")))
    return bench.race(row, {"ours": partial(run, unet, *inputs(bench.device))}, again=True)


def filled(kind: Any, bench: Bench, **config: Any) -> Any:
    """Return a network with random weights; its outputs are compared with nothing."""
    network = on_meta(kind, **config).to(bench.dtype).to_empty(device=bench.device)
    for tensor in network.state_dict().values():
        tensor.uniform_(-0.02, 0.02)
    return network.requires_grad_(False)


UNET = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
}
