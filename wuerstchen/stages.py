"""The stages of one model, each a method.

    prompt ─text towers→ features ─Stage C→ semantic latent ─Stage B→ VQ latent ─Stage A→ pixels

What they return is float32 and on the CPU: a latent can be saved, edited and decoded later, on
another device or in another precision. Order of draws is that of diffusers' Würstchen pipelines, so
that the same generator gives the same picture.

Shapes: N images, L tokens, D features of a token, h w semantic cells, H W cells of the VQ latent
(four pixels each).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor

from .checkpoints.files import CheckpointError
from .checkpoints.sources import NATIVE_SIZE
from .checks import check_choice
from .compressor import Compressor, prepare_pixels
from .cuda_graphs import CapturedStep
from .lora.merging import Loras
from .placement import Placement
from .samplers import SAMPLERS
from .sampling import (
    PLAIN,
    Denoiser,
    add_noise,
    chosen_times,
    denoiser,
    draw_noise,
    guided,
    in_turn,
    keeping,
    to_published,
    uniform_times,
    within,
)
from .sizes import VQ_PIXELS, cells, vq_cells
from .stage_a import StageA
from .stage_b import StageB
from .stage_c import StageC
from .stage_checks import check_features, check_fit, check_pixels, finite, known_z
from .text import TextTower
from .tiling import cover, cut, decode_tiled, tiled

Arguments = ParamSpec("Arguments")


def inferring(method: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Return a method that runs without PyTorch's bookkeeping and returns a tensor like any other."""

    @wraps(method)
    def run(*given: Arguments.args, **named: Arguments.kwargs) -> Tensor:
        with torch.inference_mode():
            found = method(*given, **named)
        return found.clone()

    return run


class TextFeatures(NamedTuple):
    """Features of prompts for Stage C and for Stage B, each (N, L, D)."""

    prior: Tensor
    decoder: Tensor


@dataclass(kw_only=True, repr=False, eq=False)
class Stages:
    """The stages of one model; the compressor is loaded when a picture is first encoded.

    With `cuda_graphs` the steps of Stages C and B are captured where that is possible, except in
    windows, each of which would keep memory of its own.
    """

    prior_text: TextTower
    stage_c: StageC
    decoder_text: TextTower
    stage_b: StageB
    stage_a: StageA
    compressor_loader: Callable[[], Compressor]
    placement: Placement
    native_size: int = NATIVE_SIZE
    progress: bool = True
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        check_fit(self)
        self.loras = Loras(self.stage_c, self.prior_text.network)

    @cached_property
    def compressor(self) -> Compressor:
        """The network that makes semantic latents of pictures.

        Raises:
            CheckpointError: if the model comes without one, or it does not fit.
        """
        compressor = self.compressor_loader()
        made, taken = compressor.config.c_latent, self.stage_b.config.effnet_embd
        if made != taken:
            raise CheckpointError(
                f"the compressor makes a semantic latent of {made} channels, the decoder takes "
                f"{taken}; give the compressor that this decoder was trained with"
            )
        return compressor

    def load_lora(self, source: str | Path, strength: float = 1.0) -> None:
        """Merge a LoRA into Stage C and its text tower, beside those that are there.

        Args:
            source: weights file, folder or Hub name, in any of the formats of `lora`.
            strength: any finite number; 1 is as trained.

        Raises:
            CheckpointError: if the source is missing or damaged, or is no LoRA for this prior.
            ValueError: if the strength is not finite, or too great for the weights' precision.
        """
        self.loras.add(source, strength)

    def unload_loras(self) -> None:
        """Take all LoRAs out again; every weight is what it was, to the last bit."""
        self.loras.clear()

    def encode_text(self, prompts: str | Sequence[str], weighting: str = "comfy") -> TextFeatures:
        """Return the features of prompts of the same number of chunks by both text towers.

        Raises:
            ValueError: if the numbers of chunks differ, or the weighting is unknown.
        """
        return TextFeatures(
            self.prior_text.encode(prompts, weighting), self.decoder_text.encode(prompts, weighting)
        )

    @inferring
    def encode_semantic(self, pixels: Tensor) -> Tensor:
        """Return the semantic latents (N, 16, h, w), 42 z - 1, of pictures (the compressor).

        Args:
            pixels: (N, 3, H, W), floats in [0, 1]; H and W are multiples of 128.

        Raises:
            CheckpointError: if the model has no compressor.
            ValueError: if they are other numbers, or a side is not a multiple of 128.
        """
        check_pixels(pixels)
        with self.placement.running(self.compressor):
            prepared = prepare_pixels(pixels).to(self.placement.device, self.placement.precision)
            latent: Tensor = self.compressor(prepared)
        return latent.float().cpu()

    @inferring
    def sample_semantic(
        self,
        text: Tensor,
        rngs: Sequence[torch.Generator],
        size: tuple[int, int] | None = None,
        *,
        negative: Tensor | None = None,
        steps: int | None = None,
        sampler: str = "ddpm",
        guidance: float = 4.0,
        rescale: float = 0.0,
        interval: tuple[float, float] = (1.0, 0.0),
        latent: Tensor | None = None,
        start: float = 1.0,
        end: float = 0.0,
        fresh: bool = True,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return semantic latents (N, 16, h, w) as Stage B takes them, 42 z - 1 (Stage C).

        Args:
            text: features for Stage C, (N, L, D) or (1, L, D).
            rngs: N generators on the CPU; each is left in the state from which Stage B goes on.
            size: width and height in pixels; None is that of `latent`, else the native size.
            negative: features to lead away from, as `text`; None is the empty prompt.
            steps: evenly spaced; None is the published list of 29, of which a part may be taken.
            sampler: one of `SAMPLERS`.
            guidance: above 1 leads away from `negative`.
            rescale: share of guidance's result that keeps the contrast of no guidance, 0 to 1.
            interval: first and last time that is guided.
            latent: what to paint over, (N or 1, 16, h, w), as this method returns it.
            start: first time, 1 = noise; below 1 the result keeps something of `latent`.
            end: last time; above 0 the latent is left noisy, for a run that starts there.
            fresh: False for a `latent` that a run left noisy at `start`.
            mask: share of each cell of `latent` that is painted anew, (N or 1, 1, h, w) in [0, 1];
                where it is 0 the result is `latent`.

        Raises:
            ValueError: if a side, the steps, the times, the sampler or the generators are out of range,
                `mask` and `latent` do not fit together, or the latent is beyond the precision.
        """
        check_choice("sampler", sampler, list(SAMPLERS))
        times = chosen_times(steps, start, end)
        if mask is not None and (latent is None or not fresh):
            raise ValueError("a mask needs a clean latent, of which it keeps a part; give latent")
        if latent is None and (start < 1 or not fresh):
            raise ValueError(f"a run from time {start} begins with a latent; give latent")
        width, height = size or (self.native_size, self.native_size)
        sides = (cells(height).semantic, cells(width).semantic)
        if latent is not None and size is None:
            sides = (latent.shape[-2], latent.shape[-1])
        shape = (self.stage_c.config.c_in, *sides)
        features = self._conditions(self.prior_text, text, negative, guidance, len(rngs))
        x = draw_noise(rngs, shape, self.placement.device)
        known = None if latent is None else known_z(latent, mask, x)
        if known is not None:
            x = add_noise(known, x, torch.full((len(x),), start, **PLAIN)) if fresh else known
        with self.placement.running(self.stage_c):
            denoise = self._prior_denoiser(features, guidance, rescale, interval)
            if known is not None and mask is not None:
                mask = mask.to(x)
                denoise = keeping(denoise, known, mask)
            z = self._diffuse("Stage C", SAMPLERS[sampler](denoise, x, times, rngs), times)
            if known is not None and mask is not None and end == 0:
                z = torch.lerp(known, z, mask)  # the last step leaves a trace of noise everywhere
        return finite(to_published(z).cpu(), "Stage C", self.placement.precision)

    @inferring
    def sample_vq(
        self,
        semantic: Tensor,
        text: Tensor,
        rngs: Sequence[torch.Generator],
        *,
        negative: Tensor | None = None,
        steps: int = 12,
        sampler: str = "ddpm",
        guidance: float = 0.0,
        tile: int | None = None,
    ) -> Tensor:
        """Return VQ latents (N, 4, H, W) for semantic latents (N, 16, h, w) (Stage B).

        Args:
            semantic: from `sample_semantic`; h and w are multiples of 3.
            text: features for Stage B, (N, L, D) or (1, L, D).
            rngs: N generators on the CPU.
            negative: features to lead away from, as `text`; None is the empty prompt.
            steps: evenly spaced.
            sampler: one of `SAMPLERS`.
            guidance: above 1 leads away from `negative` and from a semantic latent of zeros.
            tile: side in pixels of the windows that each step is done in; None is the whole.

        Raises:
            ValueError: if h or w, the steps, the sampler, the generators or the tile are out of range,
                or the latent is beyond the precision.
        """
        check_choice("sampler", sampler, list(SAMPLERS))
        if len(semantic) != len(rngs):
            raise ValueError(
                f"one generator per semantic latent, got {len(rngs)} for {len(semantic)}"
            )
        size = vq_cells(semantic.shape[2]), vq_cells(semantic.shape[3])
        features = self._conditions(self.decoder_text, text, negative, guidance, len(rngs))
        semantic = semantic.to(self.placement.device, torch.float32)
        if guidance > 1:
            semantic = torch.cat([semantic, torch.zeros_like(semantic)])
        with self.placement.running(self.stage_b):
            denoise = self._decoder_denoiser(features, semantic, size, tile)
            if guidance > 1:
                denoise = guided(denoise, guidance)
            x = draw_noise(rngs, (self.stage_b.config.c_in, *size), self.placement.device)
            times = uniform_times(steps)
            vq = self._diffuse("Stage B", SAMPLERS[sampler](denoise, x, times, rngs), times)
        return finite(vq.cpu(), "Stage B", self.placement.precision)

    @inferring
    def decode_pixels(self, vq: Tensor, tile: int | None = None) -> Tensor:
        """Return pixels (N, 3, 4 H, 4 W) in [0, 1] of VQ latents (N, 4, H, W) (Stage A).

        Images are decoded one by one: a wide map at pixel resolution is most of what they need.

        Args:
            vq: from `sample_vq`.
            tile: side in pixels of what is decoded at once; the pixels are those of the whole.

        Raises:
            ValueError: if the tile is too small, or the pixels are beyond the precision.
        """
        pixels = []
        with self.placement.running(self.stage_a), self._bar("Stage A", len(vq)) as bar:
            for row in vq.to(self.placement.device, self.placement.precision):
                if tile is None:
                    decoded = self.stage_a.decode(row[None])
                else:
                    decoded = decode_tiled(self.stage_a, row[None], tile)
                shown = decoded.float().clamp(0, 1).cpu()
                pixels.append(finite(shown, "Stage A", self.placement.precision))
                bar.update()
        return torch.cat(pixels)

    def _conditions(
        self, tower: TextTower, text: Tensor, negative: Tensor | None, guidance: float, n: int
    ) -> list[Tensor]:
        """Return features as a network takes them: (n, L, D), with guidance also the negative.

        Both are one tensor (2 n, L, D) if they are of one length, else two.
        """
        parts = [text]
        if guidance > 1:
            parts.append(tower.encode([""]) if negative is None else negative)
        for part in parts:
            check_features(part, tower.width, n)
        where = self.placement.device, self.placement.precision
        parts = [part.expand(n, -1, -1).to(*where) for part in parts]
        together = len({part.shape[1] for part in parts}) == 1
        return [torch.cat(parts)] if together else parts

    def _prior_denoiser(
        self,
        features: Sequence[Tensor],
        guidance: float,
        rescale: float,
        interval: tuple[float, float],
    ) -> Denoiser:
        """Return Stage C's denoiser, guided at the times of `interval`."""
        network = self.stage_c
        denoise = self._denoiser(network, [network.prepare(part) for part in features])
        if guidance <= 1:
            return denoise
        led = guided(denoise, guidance, rescale)
        if interval == (1.0, 0.0):
            return led
        positive = features[0][: sum(map(len, features)) // 2]
        return within(*interval, led, self._denoiser(network, [network.prepare(positive)]))

    def _decoder_denoiser(
        self, features: Sequence[Tensor], semantic: Tensor, size: tuple[int, int], tile: int | None
    ) -> Denoiser:
        """Return Stage B's denoiser, without guidance, in windows of `tile` pixels if that is given."""
        network = self.stage_b
        shares = zip(features, semantic.chunk(len(features)), strict=True)
        constants = [network.prepare(*share, size) for share in shares]
        if tile is None:
            return self._denoiser(network, constants)
        windows = cover(size, tile // VQ_PIXELS, multiple=network.config.granularity)
        denoisers = [
            in_turn([denoiser(network.step, cut(one, size, window)) for one in constants])
            for window in windows
        ]
        return tiled(windows, denoisers)

    def _denoiser(self, network: StageC | StageB, constants: Sequence[Any]) -> Denoiser:
        """Return the denoiser of a network; each of `constants` is for an equal share of the batch."""
        captures = self.cuda_graphs and self.placement.can_capture
        steps = [CapturedStep(network.step) if captures else network.step for _ in constants]
        return in_turn([denoiser(*pair) for pair in zip(steps, constants, strict=True)])

    def _diffuse(self, title: str, states: Iterator[Tensor], times: Tensor) -> Tensor:
        """Return a sampler's last latent, with a bar that counts the steps."""
        with self._bar(title, len(times) - 1) as bar:
            for latent in states:
                x = latent
                bar.update()
        return x

    def _bar(self, title: str, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(desc=title, total=total, disable=not self.progress)
