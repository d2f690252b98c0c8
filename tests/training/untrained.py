"""The task of each part on untrained networks, with batches small enough for a test."""

import numpy as np
import pytest
import torch
from torch import nn

from wuerstchen.training import decoder, prior, text, vqgan
from wuerstchen.training.data import SIZES
from wuerstchen.training.decoder import DecoderTask, StageBTask
from wuerstchen.training.loop import Plan, Task
from wuerstchen.training.prior import PriorTask, Stock
from wuerstchen.training.shapes import random_scene
from wuerstchen.training.text import TextTask
from wuerstchen.training.vqgan import StageATask

CPU = torch.device("cpu")
QUIET = Plan(steps=4, lr=1e-3, look_every=100, save_every=100, warm_up=1)
BATCHES = (
    (vqgan, "BATCH"),
    (text, "BATCH"),
    (prior, "BATCH"),
    (decoder, "WINDOWS"),
    (decoder, "WHOLES"),
)


def make_batches_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, constant in BATCHES:
        monkeypatch.setattr(module, constant, 4)


def task(name: str, device: torch.device = CPU) -> Task:
    """Return the task of a part, every network in it untrained."""
    if name == "stage_a":
        return StageATask(device)
    if name == "text":
        return TextTask(device)
    whole = prior_task(random_stock(), device)
    if name == "stage_b":
        return StageBTask(whole.decoder)
    return whole.decoder if name == "decoder" else whole


def prior_task(stock: Stock, device: torch.device = CPU) -> PriorTask:
    """Return the task of Stage C, which has all other networks in it."""
    towers = TextTask(device).towers
    alone = DecoderTask(StageATask(device).stage_a, towers["decoder"], device)
    return PriorTask(alone, towers["prior"], stock)


def random_stock() -> Stock:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(4)]
    return [(torch.randn(4, 16, 6, 6), scenes) for _ in SIZES]


@torch.no_grad()
def stir(network: nn.Module) -> None:
    """Let no weight be zero that may become another."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(0.02 * torch.randn_like(parameter))
