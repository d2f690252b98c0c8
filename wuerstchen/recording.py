"""A network's step recorded as a CUDA graph, which the device repeats by itself.

A step asks for about a thousand operations; a fast GPU is done with a small picture's before the next
is asked for. Within a run every step asks for the same ones with other numbers, so it is enough to
ask once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Any], Tensor]  # latents, their times, constants -> noise


class RecordedStep:
    """A step for one run, whose shapes and constants stay those of the first call.

    The first call is as ever, so that all kernels are there. The second is recorded, which is to ask
    and not to calculate; from then on the recording is repeated.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.called = False
        self.repeat: Callable[[], None] | None = None

    def __call__(self, x: Tensor, t: Tensor, constants: Any) -> Tensor:
        """Return the noise that `step` predicts in `x` at the times `t`."""
        if not self.called:
            self.called = True
            return self.step(x, t, constants)
        if self.repeat is None:
            self.x, self.t = x.clone(), t.clone()
            ask = partial(self.step, self.x, self.t, constants)
            self.repeat, self.noise = record(ask, x.device)
        self.x.copy_(x)
        self.t.copy_(t)
        self.repeat()
        return self.noise.clone()


def record(call: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Return what repeats all that `call` asks of a CUDA device, and the tensor that it then fills.

    What `call` reads must stay where it is.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = call()
    return graph.replay, result
