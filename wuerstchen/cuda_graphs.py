"""A network's step as a CUDA graph.

A step launches about a thousand kernels; at small sizes a fast GPU is done with each before the next
is launched. Every step of a run launches the same ones on other numbers, so they are captured once and
replayed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Any], Tensor]  # latents, their times, constants -> noise


class CapturedStep:
    """A step for one run, whose shapes and constants stay those of the first call.

    The first call runs as usual, so that all kernels are loaded. The second is captured, which only
    records its kernels; from then on the graph is replayed.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.warm = False
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, t: Tensor, constants: Any) -> Tensor:
        """Return the noise that `step` predicts in `x` at the times `t`."""
        if not self.warm:
            self.warm = True
            return self.step(x, t, constants)
        if self.replay is None:
            self.x, self.t = x.clone(), t.clone()
            call = partial(self.step, self.x, self.t, constants)
            self.replay, self.noise = capture(call, x.device)
        self.x.copy_(x)
        self.t.copy_(t)
        self.replay()
        return self.noise.clone()


def capture(call: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Return what replays all that `call` launches on a CUDA device, and the tensor that it fills.

    What `call` reads must stay where it is.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = call()
    return graph.replay, result
