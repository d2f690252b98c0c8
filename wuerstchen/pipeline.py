"""Prompt -> picture: the stages and the constants between them.

    prompt ─text towers→ features ─Stage C→ semantic latent ─Stage B→ VQ latent ─Stage A→ pixels

`Wuerstchen.paint` goes the whole way; each arrow is also a method of its own. What these methods
return is float32 and on the CPU: a latent can be saved, edited and decoded later, on another device
or in another precision. Settings and order of draws are those of diffusers' Würstchen pipelines, so
that the same generator gives the same picture.

Shapes: N images, L tokens, D features of a token, h w semantic cells, H W cells of the VQ latent
(four pixels each).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from .checkpoints import load_network, load_text_tower
from .files import CheckpointError, is_pipeline, parsed, resolve
from .placement import Placement, place
from .sampling import Denoiser, ddpm, draw_noise, generators, guided, published_times, uniform_times
from .settings import Settings, cells, vq_cells
from .stage_a import StageA
from .stage_b import StageB
from .stage_c import StageC
from .text import TextTower

if TYPE_CHECKING:
    from PIL.Image import Image

NATIVE_SIZE = 1024
LATENT_SCALE, LATENT_SHIFT = 42.0, 1.0
MINI = Path(__file__).parent / "mini"
PRIOR_FOLDER, DECODER_FOLDER = "wuerstchen-prior", "wuerstchen"


class Texts(NamedTuple):
    """Features of prompts for Stage C and for Stage B, each (N, L, D)."""

    prior: Tensor
    decoder: Tensor


@dataclass(kw_only=True, repr=False, eq=False)
class Wuerstchen:
    """The stages of one model, ready to paint."""

    prior_text: TextTower
    stage_c: StageC
    decoder_text: TextTower
    stage_b: StageB
    stage_a: StageA
    placement: Placement
    native_size: int = NATIVE_SIZE
    progress: bool = True

    @classmethod
    def load(
        cls,
        model: str | Path = "mini",
        prior: str | Path | None = None,
        decoder: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "none",
        progress: bool = True,
    ) -> "Wuerstchen":
        """Return a model, loaded and placed.

        Args:
            model: "mini" (bundled), "v2" (published, from the Hub) or a folder that holds the
                folders `wuerstchen-prior` and `wuerstchen` in the published layout.
            prior: another source for Stage C: a folder, a Hub name or a file. What it does not hold
                (a bare network has no text tower) comes from `model`.
            decoder: another source for Stage B and Stage A, likewise.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            dtype: "auto" (fp32 on the CPU, else fp16), "fp32", "fp16" or "bf16".
            offload: "none", "stage" or "layer", see `placement`.
            progress: whether to show a bar per stage on stderr.

        Raises:
            ValueError: if the device is not there or a word is unknown.
            CheckpointError: if a source is missing, broken or something else.
        """
        placement = place(device, dtype, offload)
        prior = published_pair(model)[0] if prior is None else prior
        decoder = published_pair(model)[1] if decoder is None else decoder
        stage_c = cast(StageC, load_network(prior, "stage_c", placement))
        stage_b = cast(StageB, load_network(decoder, "stage_b", placement))
        prior_home = prior if is_whole(prior) else published_pair(model)[0]
        decoder_home = decoder if is_whole(decoder) else published_pair(model)[1]
        loaded = cls(
            prior_text=TextTower(*load_text_tower(prior_home, placement), placement),
            stage_c=stage_c,
            decoder_text=TextTower(*load_text_tower(decoder_home, placement), placement),
            stage_b=stage_b,
            stage_a=cast(StageA, load_network(decoder_home, "stage_a", placement)),
            placement=placement,
            native_size=native_size(prior_home),
            progress=progress,
        )
        check_fit(loaded)
        return loaded

    def paint(
        self, prompts: str | Sequence[str], settings: Settings | None = None, **changes: Any
    ) -> "list[Image]":
        """Return the images of the first prompt, then those of the next.

        All are painted at once. Image i of a prompt is the one that it gets alone with seed + i.

        Args:
            prompts: one or several.
            settings: how to paint.
            changes: fields of `Settings`, in place of those in `settings`.

        Raises:
            ValueError: if there is no prompt or a setting is out of its range.
        """
        wanted = [prompts] if isinstance(prompts, str) else list(prompts)
        if not wanted:
            raise ValueError("at least one prompt is needed, got none")
        s = replace(settings or Settings(), **changes)
        size = (s.width or self.native_size, s.height or self.native_size)
        features = self.encode_text([*wanted, s.negative])
        text_c, text_b = (part[:-1].repeat_interleave(s.batch, dim=0) for part in features)
        unwanted_c, unwanted_b = (part[-1:] for part in features)
        rows = generators([s.seed + i for i in range(s.batch)] * len(wanted))
        semantic = self.sample_semantic(
            text_c, rows, size, unwanted=unwanted_c, steps=s.steps, guidance=s.guidance
        )
        if s.decoder_seed is not None:
            rows = generators([s.decoder_seed + i for i in range(s.batch)] * len(wanted))
        vq = self.sample_vq(
            semantic,
            text_b,
            rows,
            unwanted=unwanted_b,
            steps=s.decoder_steps,
            guidance=s.decoder_guidance,
        )
        return to_images(self.decode_pixels(vq), size)

    def encode_text(self, prompts: Sequence[str]) -> Texts:
        """Return the features of `prompts` by both text towers."""
        return Texts(self.prior_text.encode(prompts), self.decoder_text.encode(prompts))

    @torch.no_grad()
    def sample_semantic(
        self,
        text: Tensor,
        rows: Sequence[torch.Generator],
        size: tuple[int, int] | None = None,
        *,
        unwanted: Tensor | None = None,
        steps: int | None = None,
        guidance: float = 4.0,
    ) -> Tensor:
        """Return semantic latents (N, 16, h, w) as Stage B takes them, 42 z - 1 (Stage C).

        Args:
            text: features for Stage C, (N, L, D) or (1, L, D).
            rows: N generators on the CPU; each is left where Stage B goes on.
            size: width and height in pixels; None is the native size.
            unwanted: features to lead away from, as `text`; None is the empty prompt.
            steps: evenly spaced; None is the published list of 29.
            guidance: above 1 leads away from `unwanted`.

        Raises:
            ValueError: if a side, the steps or the rows are out of their range.
        """
        width, height = size or (self.native_size, self.native_size)
        shape = (self.stage_c.config.c_in, cells(height).semantic, cells(width).semantic)
        times = published_times() if steps is None else uniform_times(steps)
        features = self._conditions(self.prior_text, text, unwanted, guidance, len(rows))
        with self.placement.running(self.stage_c):
            step = partial(self.stage_c.step, constants=self.stage_c.prepare(features))
            z = self._diffuse("Stage C", step, shape, times, guidance, rows)
        return (z * LATENT_SCALE - LATENT_SHIFT).cpu()

    @torch.no_grad()
    def sample_vq(
        self,
        semantic: Tensor,
        text: Tensor,
        rows: Sequence[torch.Generator],
        *,
        unwanted: Tensor | None = None,
        steps: int = 12,
        guidance: float = 0.0,
    ) -> Tensor:
        """Return VQ latents (N, 4, H, W) for semantic latents (N, 16, h, w) (Stage B).

        Args:
            semantic: from `sample_semantic`; h and w are multiples of 3.
            text: features for Stage B, (N, L, D) or (1, L, D).
            rows: N generators on the CPU.
            unwanted: features to lead away from, as `text`; None is the empty prompt.
            steps: evenly spaced.
            guidance: above 1 leads away from `unwanted` and from a semantic latent of zeros.

        Raises:
            ValueError: if h or w, the steps or the rows are out of their range.
        """
        if len(semantic) != len(rows):
            raise ValueError(
                f"one generator per semantic latent, got {len(rows)} for {len(semantic)}"
            )
        height, width = (vq_cells(side) for side in semantic.shape[2:])
        features = self._conditions(self.decoder_text, text, unwanted, guidance, len(rows))
        semantic = semantic.to(self.placement.device, torch.float32)
        if guidance > 1:
            semantic = torch.cat([semantic, torch.zeros_like(semantic)])
        with self.placement.running(self.stage_b):
            step = partial(
                self.stage_b.step,
                constants=self.stage_b.prepare(features, semantic, (height, width)),
            )
            shape = (self.stage_b.config.c_in, height, width)
            return self._diffuse("Stage B", step, shape, uniform_times(steps), guidance, rows).cpu()

    @torch.no_grad()
    def decode_pixels(self, vq: Tensor) -> Tensor:
        """Return pixels (N, 3, 4 H, 4 W) in [0, 1] of VQ latents (N, 4, H, W) (Stage A).

        Images are decoded one by one: a wide map at pixel resolution is most of what they need.
        """
        pixels = []
        with self.placement.running(self.stage_a), self._bar("Stage A", len(vq)) as bar:
            for row in vq.to(self.placement.device, self.placement.dtype):
                decoded = self.stage_a.decode(row[None])
                pixels.append(decoded.float().clamp(0, 1).cpu())
                bar.update()
        return torch.cat(pixels)

    def _conditions(
        self, tower: TextTower, text: Tensor, unwanted: Tensor | None, guidance: float, n: int
    ) -> Tensor:
        """Return features (n, L, D), or (2 n, L, D) with guidance, as a network takes them."""
        if len(text) not in (1, n):
            raise ValueError(f"one generator per text, got {n} for {len(text)}")
        parts = [text]
        if guidance > 1:
            parts.append(tower.encode([""]) if unwanted is None else unwanted)
        features = torch.cat([part.expand(n, -1, -1) for part in parts])
        return features.to(self.placement.device, self.placement.dtype)

    def _diffuse(
        self,
        title: str,
        denoise: Denoiser,
        shape: tuple[int, ...],
        times: Tensor,
        guidance: float,
        rows: Sequence[torch.Generator],
    ) -> Tensor:
        """Return latents (N, *shape) from noise, with a bar that counts the steps."""
        denoise = guided(denoise, guidance) if guidance > 1 else denoise
        x = draw_noise(rows, shape, self.placement.device)
        with self._bar(title, len(times) - 1) as bar:
            for latent in ddpm(denoise, x, times, rows):
                x = latent
                bar.update()
        return x

    def _bar(self, title: str, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(desc=title, total=total, disable=not self.progress)


def published_pair(model: str | Path) -> tuple[str | Path, str | Path]:
    """Return the sources of prior and decoder that `model` stands for.

    Raises:
        CheckpointError: if it is a folder that does not hold both.
    """
    if model == "v2":
        return "warp-ai/wuerstchen-prior", "warp-ai/wuerstchen"
    folder = MINI if model == "mini" else Path(model).expanduser()
    pair = folder / PRIOR_FOLDER, folder / DECODER_FOLDER
    missing = " and ".join(
        f"{part.name}/model_index.json" for part in pair if not is_pipeline(part)
    )
    if missing:
        raise CheckpointError(
            f"{folder}: expected mini, v2 or a folder that holds {PRIOR_FOLDER} and "
            f"{DECODER_FOLDER} in the published layout, but {missing} is not "
            "there; a single network is given as prior or decoder"
        )
    return pair


def is_whole(source: str | Path) -> bool:
    """Whether `source` is a repository with all parts of its pipeline, and not one bare network."""
    return is_pipeline(resolve(source))


def native_size(source: str | Path) -> int:
    """Return the side in pixels that a prior is for: its index's `native_size`, else 1024."""
    index = resolve(source) / "model_index.json"
    return int(parsed(index.read_bytes(), index).get("native_size", NATIVE_SIZE))


def check_fit(model: Wuerstchen) -> None:
    """Refuse stages that do not fit together.

    Raises:
        CheckpointError: with both sizes.
    """
    b, c = model.stage_b.config, model.stage_c.config
    pairs = {
        "the prior takes features of the text of": (c.c_cond, model.prior_text.width),
        "the decoder takes features of the text of": (b.clip_embd, model.decoder_text.width),
        "the decoder takes a semantic latent of": (b.effnet_embd, c.c_in),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise CheckpointError(
                f"{what} {expected} channels, but the other part has {found}; parts of different "
                "models do not mix: give the model that they belong to (for the published ones, v2)"
            )


def to_images(pixels: Tensor, size: tuple[int, int] | None = None) -> "list[Image]":
    """Return images of pixels (N, 3, H, W) in [0, 1], cropped from the middle to `size`.

    Args:
        pixels: from `Wuerstchen.decode_pixels`.
        size: width and height in pixels; None is all of the picture.

    Raises:
        ValueError: if `size` is larger than the picture.
    """
    from PIL import Image

    rows, columns = pixels.shape[2:]
    width, height = size or (columns, rows)
    if width > columns or height > rows:
        raise ValueError(f"size must be at most {columns}×{rows}, got {width}×{height}")
    top, left = (rows - height) // 2, (columns - width) // 2
    cropped = pixels[:, :, top : top + height, left : left + width]
    levels = (cropped.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in levels]
