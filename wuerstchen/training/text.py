"""Training the text towers: what CLIP's own training does for the published ones.

Before a tower conditions a stage it learns to tell the attributes of a scene apart, read by linear
heads at the end token and at padding, since the stages attend to all of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import captions
from .mini import STAGE_B, STAGE_C, text_encoder, tokenizer
from .shapes import COLOURS, PLACES, SHAPES, SIZES, Scene, random_scene

BATCH, POSITIONS = 64, 3
NOTHING = "nothing"
QUESTIONS = {
    "background": tuple(COLOURS),
    **{
        f"{attribute}{i}": (*options, NOTHING)
        for i in (1, 2)
        for attribute, options in (
            ("colour", COLOURS),
            ("shape", SHAPES),
            ("size", SIZES),
            ("place", PLACES),
        )
    },
}


class Tower(nn.Module):
    """A text tower with its tokenizer and, for training, a linear head per question."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.words = tokenizer()
        self.network = text_encoder(width, layers, self.words)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(options)) for name, options in QUESTIONS.items()}
        )

    def read(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return features (N, 77, D) and the lengths (N,) of the prompts in tokens."""
        tokens = self.words(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).to(next(self.network.parameters()).device)
        mask = tokens["attention_mask"].bool()
        return self.network(tokens["input_ids"], mask), mask.sum(dim=1)

    def question_loss(self, features: Tensor, lengths: Tensor, scenes: list[Scene]) -> Tensor:
        """Return the mean cross entropy of all questions at the end token and random paddings."""
        truth = {name: right.to(features.device) for name, right in answers(scenes).items()}
        losses = []
        for i in range(POSITIONS):
            spots = lengths - 1 if i == 0 else random_spots(lengths, features.shape[1])
            read = features[torch.arange(len(scenes)), spots]
            losses += [
                F.cross_entropy(head(read), truth[name]) for name, head in self.heads.items()
            ]
        return torch.stack(losses).mean()


class TextBatch(NamedTuple):
    """Scenes and a caption for each."""

    scenes: list[Scene]
    prompts: list[str]


class TextTask:
    """Both towers at once."""

    name = "text"
    ground: Sequence[nn.Module] = ()

    def __init__(self, device: torch.device) -> None:
        widths = {"prior": STAGE_C.c_cond, "decoder": STAGE_B.clip_embd}
        self.towers = {name: Tower(width, layers=2) for name, width in widths.items()}
        self.networks = nn.ModuleDict(self.towers).to(device)

    @staticmethod
    def draw(rng: np.random.Generator, progress: float) -> TextBatch:
        scenes = [random_scene(rng) for _ in range(BATCH)]
        return TextBatch(scenes, captions(scenes, rng))

    def losses(self, drawn: TextBatch, progress: float) -> dict[str, Tensor]:
        return {
            name: tower.question_loss(*tower.read(drawn.prompts), drawn.scenes)
            for name, tower in self.towers.items()
        }

    @torch.no_grad()
    def look(self, folder: Path, step: int) -> dict[str, float]:
        rng = np.random.default_rng(1)
        scenes = [random_scene(rng, held_out=True) for _ in range(256)]
        prompts, truth = captions(scenes, rng), answers(scenes)
        figures = {}
        for name, tower in self.towers.items():
            features, lengths = tower.read(prompts)
            read = features[torch.arange(len(scenes)), random_spots(lengths, features.shape[1])]
            for question in ("background", "colour1", "shape1", "size1", "place1"):
                right = tower.heads[question](read).argmax(1).cpu() == truth[question]
                figures[f"{name}_{question}"] = float(right.float().mean())
        return figures


def answers(scenes: list[Scene]) -> dict[str, Tensor]:
    """Return the right option (N,) of every question; of two things, the left or upper is the first."""
    told = []
    for scene in scenes:
        things = sorted(scene.things, key=lambda thing: thing.place in ("right", "bottom"))
        words = {"background": scene.background}
        for i in (1, 2):
            thing = things[i - 1] if len(things) >= i else None
            for attribute in ("colour", "shape", "size", "place"):
                words[f"{attribute}{i}"] = getattr(thing, attribute) if thing else NOTHING
        told.append(words)
    return {
        name: torch.tensor([options.index(words[name]) for words in told])
        for name, options in QUESTIONS.items()
    }


def random_spots(lengths: Tensor, total: int) -> Tensor:
    """Return a random position (N,) from each prompt's end token to the last padding."""
    share = torch.rand(len(lengths), device=lengths.device)
    spots = (lengths - 1 + share * (total + 1 - lengths)).long()
    return spots.clamp(max=total - 1)  # the largest share is rounded up to 1
