"""The networks one by one, ours beside diffusers' with the same weights: a text, a step, a decoding.

Outputs are compared before anything is timed, at time 0, which every precision holds exactly.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wuerstchen import StageA, StageAConfig, StageB, StageBConfig, StageC, StageCConfig
from wuerstchen.arithmetic import packing
from wuerstchen.checkpoints.sources import MINI
from wuerstchen.compiling import compile_blocks
from wuerstchen.cuda_graphs import CapturedStep
from wuerstchen.sampling import denoiser, guided, published_times
from wuerstchen.sizes import cells
from wuerstchen.text import TextTower
from wuerstchen.text_encoder import TextEncoder, TextEncoderConfig

from . import test_stage_a, test_stage_b, test_stage_c, test_text_encoder
from .bench_tools import Bench, Call, Row, operations, to_meta
from .peers import in_dtype, mean_error, on_meta

TOLERANCE = {"fp32": 1e-4, "bf16": 0.3, "fp16": 0.1}  # of the mean difference
TOWERS = {"bigG": TextEncoderConfig(), "H": test_text_encoder.H}
GUIDANCE = 4.0
STEPS = {"Stage C, guided step": len(published_times()) - 1, "Stage B, step": 12}
FIRST, FIRST_STEPS = 2, ", first two"  # steps of a run, before what was captured is repeated

Shapes = Sequence[tuple[int, int]]


def text(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Yield the text towers on a prompt and the empty prompt, which diffusers reads in turn."""
    from transformers import AutoTokenizer

    # any vocabulary will do for random weights
    tokenizer = AutoTokenizer.from_pretrained(MINI / "wuerstchen-prior" / "tokenizer")
    prompts = ["a large red circle", ""]
    for name, config in TOWERS.items():
        weights = shared(bench, test_text_encoder.make_weights(config))
        network = test_text_encoder.make(config, weights, ops=bench.placement.ops)
        tower = TextTower(network, tokenizer, bench.placement)
        peer = test_text_encoder.make_peer(config, weights)
        peer.to(bench.device)  # the numbers of the positions are none of the weights

        def theirs(peer: Any = peer) -> Tensor:
            read = partial(tokenizer, padding="max_length", max_length=77, return_tensors="pt")
            tokens = [read(prompt).to(bench.device) for prompt in prompts]
            found = [peer(one.input_ids, one.attention_mask) for one in tokens]
            return torch.cat([one.last_hidden_state for one in found]).float().cpu()

        row = bench.row("text", f"text tower {name}", batch=len(prompts))
        empty = on_meta(TextEncoder, config)
        count = operations(partial(empty, *to_meta(test_text_encoder.make_inputs(config, 5, 2))))
        row.flops = {"ours": count, "theirs": count}
        yield compare(bench, row, partial(tower.encode, prompts), theirs)
        del weights, network, tower, peer, theirs
        gc.collect()


def stage_c(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Yield Stage C's guided step, and its preparation."""
    config = StageCConfig()
    weights = shared(bench, test_stage_c.make_weights(config))
    ours = ready(bench, test_stage_c.make(config, weights, ops=bench.placement.ops))
    theirs = test_stage_c.make_peer(config, weights)
    fast = compiled(bench, theirs)
    empty, empty_peer = on_meta(StageC, config), on_meta(type(theirs), **theirs.config)
    for size, n in shapes:
        side = cells(size).semantic
        pairs = test_stage_c.make_inputs(config, 2 * n, side, side)
        x, t, features = (part.to(bench.device) for part in pairs)
        x, t = x[:n], torch.zeros_like(t[:n])
        half = [part.to(bench.dtype) for part in (x, t, features)]
        features = features.to(bench.placement.precision)

        def peer(network: Any, x: Tensor, t: Tensor, features: Tensor) -> Tensor:
            wanted, unwanted = network(torch.cat([x, x]), torch.cat([t, t]), features).chunk(2)
            return torch.lerp(unwanted, wanted, GUIDANCE)

        row = bench.row("stage_c", "Stage C, guided step", size, n)
        many, times, long = to_meta(pairs)
        kept = empty.prepare(long)
        row.flops["ours"] = operations(partial(empty.step, many, times, kept))
        row.flops["theirs"] = operations(partial(empty_peer, many, times, long))
        constants = ours.prepare(features)

        def run(x: Tensor = x, constants: Any = constants) -> Call:
            denoise = guided(denoiser(step_of(bench, ours), constants), GUIDANCE)
            return partial(denoise, x, 0.0)

        with packing(ours, bench.placement.precision):
            yield compare(
                bench,
                row,
                run(),
                partial(peer, theirs, *half),
                partial(peer, fast, *half) if fast is not None else None,
            )
            if captures(bench):
                yield first_steps(bench, row, run)
        row = bench.row("stage_c", "Stage C, preparation", size, n, peer="")
        row.flops["ours"] = operations(partial(empty.prepare, long))
        yield bench.race(row, {"ours": partial(ours.prepare, features)})


def stage_b(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Yield Stage B's step, which is not guided, and its preparation."""
    config = StageBConfig()
    weights = shared(bench, test_stage_b.make_weights(config))
    ours = ready(bench, test_stage_b.make(config, weights, ops=bench.placement.ops))
    theirs = test_stage_b.make_peer(config, weights)
    test_stage_b.build_peer.cache_clear()
    fast = compiled(bench, theirs)
    empty, empty_peer = on_meta(StageB, config), on_meta(type(theirs), **theirs.config)
    for size, n in shapes:
        side = cells(size).vq
        inputs = test_stage_b.make_inputs(config, n, side, side)
        x, t, features, effnet = (part.to(bench.device) for part in inputs)
        t = torch.zeros_like(t)
        half = [part.to(bench.dtype) for part in (x, t, effnet, features)]
        features = features.to(bench.placement.precision)
        row = bench.row("stage_b", "Stage B, step", size, n)
        many, times, long, narrow = to_meta(inputs)
        kept = empty.prepare(long, narrow, (side, side))
        row.flops["ours"] = operations(partial(empty.step, many, times, kept))
        row.flops["theirs"] = operations(partial(empty_peer, many, times, narrow, long))
        prepare = partial(ours.prepare, features, effnet, (side, side))
        given = x, t, prepare()

        def run(given: tuple[Any, ...] = given) -> Call:
            return partial(step_of(bench, ours), *given)

        with packing(ours, bench.placement.precision):
            yield compare(
                bench,
                row,
                run(),
                partial(theirs, *half),
                partial(fast, *half) if fast is not None else None,
            )
            if captures(bench):
                yield first_steps(bench, row, run)
        row = bench.row("stage_b", "Stage B, preparation", size, n, peer="")
        row.flops["ours"] = operations(partial(empty.prepare, long, narrow, (side, side)))
        yield bench.race(row, {"ours": prepare})


def stage_a(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Yield Stage A's decoding, one by one as the pipeline does."""
    config = StageAConfig()
    weights = shared(bench, test_stage_a.make_weights(config))
    ours = ready(bench, test_stage_a.make(config, weights, ops=bench.placement.ops))
    theirs = test_stage_a.make_peer(config, weights)
    empty = on_meta(StageA, config)
    for size, n in shapes:
        latent = test_stage_a.make_inputs(config, n, size, size)[1]
        x = latent.to(bench.device, bench.placement.precision)
        scaled = x.to(bench.dtype) * config.scale_factor

        def decode(x: Tensor) -> Tensor:
            return torch.cat([ours.decode(row[None]) for row in x])

        def peer(scaled: Tensor) -> Tensor:
            return theirs.decode(scaled).sample

        row = bench.row("stage_a", "Stage A, decoding", size, n)
        count = operations(partial(empty.decode, *to_meta([latent])))
        row.flops = {"ours": count, "theirs": count}
        with packing(ours, bench.placement.precision):
            yield compare(bench, row, partial(decode, x), partial(peer, scaled))


def compare(bench: Bench, row: Row, ours: Call, theirs: Call, compiled: Call | None = None) -> Row:
    """Return the row with its times, after a look at whether all outputs are the same.

    Steps are timed as those of a run, one after another. What is compiled may be captured on the way,
    so then there is a second look. diffusers' compiled network is left out if it fails.

    Raises:
        ValueError: if outputs differ.
    """
    contestants = {"ours": ours, "theirs": theirs}
    if compiled is not None:
        try:
            compiled()
            contestants["compiled"] = compiled
        except Exception as error:  # of any kind: what a compiler raises is passed on as it is
            row.note = f"not compiled: {type(error).__name__}"
    check(bench, row, contestants)
    bench.race(row, contestants, kept=["ours"], again=row.what in STEPS)
    if bench.words.compile:
        check(bench, row, contestants)
    return row


def check(bench: Bench, row: Row, contestants: dict[str, Call]) -> None:
    """Note how far the contestants' outputs are from diffusers', if that is further than noted.

    Raises:
        ValueError: if they differ by more than their precision.
    """
    truth = contestants["theirs"]().float()
    others = [call for who, call in contestants.items() if who != "theirs"]
    row.error = max(row.error or 0.0, *(mean_error(call(), truth) for call in others))
    if row.error > TOLERANCE[bench.dtype_name]:
        raise ValueError(f"{row.what}: outputs must be equal, they differ by {row.error:.1e}")


def shared(bench: Bench, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the precision and on the device of the run."""
    return {key: x.to(bench.device) for key, x in in_dtype(weights, bench.dtype).items()}


def compiled(bench: Bench, network: Any) -> Any:
    """Return a network compiled as diffusers' documentation of Würstchen says, if that is asked."""
    if "diffusers" not in bench.words.compile:
        return None
    return torch.compile(network, mode="reduce-overhead", fullgraph=True)


def ready(bench: Bench, network: Any) -> Any:
    """Return a network of ours, its blocks compiled if that is asked."""
    if "ours" in bench.words.compile:
        compile_blocks(network)
    return network


def captures(bench: Bench) -> bool:
    """Whether our steps are captured: they are compiled, and the device can."""
    return "ours" in bench.words.compile and bench.placement.can_capture


def step_of(bench: Bench, network: Any) -> Any:
    """Return the step of a network of ours for one run, captured if that is asked and can be."""
    return CapturedStep(network.step) if captures(bench) else network.step


def first_steps(bench: Bench, row: Row, run: Callable[[], Call]) -> Row:
    """Return the row of a run's first two steps, the second of which is captured.

    Args:
        bench: measures.
        row: that of the steps that follow.
        run: begins a run and returns its step.
    """

    def begin() -> None:
        step = run()
        for _ in range(FIRST):
            step()

    first = bench.row(row.part, row.what + FIRST_STEPS, row.size, row.batch, peer="")
    first.flops["ours"] = FIRST * row.flops["ours"]
    return bench.race(first, {"ours": begin})
