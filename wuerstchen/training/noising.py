"""What the losses of Stages B and C share: when noise is added, how precisely it is predicted, and how
much an error counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..arithmetic import multiplies
from ..sampling import alpha_bar


def early_times(n: int) -> Tensor:
    """Return random times (n,) in [0, 1], dense towards 1: what a picture shows is decided early.

    In near-pure noise only the condition tells the network anything; later the noisy input does.
    """
    return 1 - torch.rand(n).square()


def importance(t: Tensor, floor: float) -> Tensor:
    """Return what the noise's squared error at times t (n,) counts, (n, 1, 1, 1).

    It counts by what it is in what was noised, but in near-pure noise no more than 1 / `floor`.
    """
    alpha = alpha_bar(t).view(-1, 1, 1, 1)
    return (1 - alpha) / (alpha + floor)


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Run networks in bfloat16 where that is faster and as good."""
    backends = [SDPBackend.MATH] if device.type == "cpu" else list(SDPBackend.__members__.values())
    # On the CPU the backward pass of fused attention takes twice as long in bfloat16.
    faster = multiplies(torch.bfloat16, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=faster), sdpa_kernel(backends):
        yield
