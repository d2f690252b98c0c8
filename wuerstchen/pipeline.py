"""Prompt -> picture: all stages of one model, one after the other.

`Wuerstchen.paint` goes the whole way. Pictures to paint over, paths between prompts and prompts with
settings of their own all become `orders`, one per image; what can be painted at once is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .canvas import Canvas, canvas_for, canvas_key
from .checkpoints.files import CheckpointError
from .checkpoints.loading import load_network
from .checkpoints.sources import (
    PUBLISHED_COMPRESSOR,
    compressor_of,
    is_whole,
    native_size,
    published_pair,
)
from .compiling import check_compiler, compile_blocks
from .compressor import Compressor
from .interpolation import frame_positions
from .orders import Order, mixed, paired
from .pixels import to_images
from .placement import Placement, Quantize, place
from .sampling import generators
from .settings import Settings
from .stage_a import StageA
from .stage_b import StageB
from .stage_c import StageC
from .stages import Stages, TextFeatures
from .towers import load_text_tower

if TYPE_CHECKING:
    from PIL.Image import Image


class Wuerstchen(Stages):
    """A model, ready to paint; for one thread at a time, unless its weights stay on the device."""

    @classmethod
    def load(
        cls,
        model: str | Path = "mini",
        prior: str | Path | None = None,
        decoder: str | Path | None = None,
        stage_a: str | Path | None = None,
        compressor: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        offload: str = "none",
        quantize: str = "none",
        compile: bool = False,
        progress: bool = True,
    ) -> "Wuerstchen":
        """Return a model, loaded and placed.

        Args:
            model: "mini" (bundled), "v2" (published, from the Hub) or a folder that holds the
                folders `wuerstchen-prior` and `wuerstchen` in the published layout.
            prior: another source for Stage C: a folder, a Hub name, a file or a blend of such,
                "a*0.5+b*0.5". What it does not hold (a bare network has no text tower) comes from
                `model`.
            decoder: another source for Stage B and Stage A, likewise.
            stage_a: another source for Stage A alone.
            compressor: another source for the compressor, which pictures to paint over need. With
                the published decoder it is the published one, from the Hub.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps", or such a device of PyTorch's.
            dtype: "auto" (fp32 on the CPU, else fp16), "fp32", "fp16" or "bf16", of the weights; a
                CPU without products in it computes in fp32.
            offload: "none", "stage" or "layer", see `placement`.
            quantize: "none", or "int8" to keep the weights of Stages C and B in 8 bits, which changes
                pictures a little.
            compile: whether PyTorch compiles the networks' blocks when they first run, and a
                CUDA device repeats their steps by itself (not with "layer").
            progress: whether to show a bar per stage on stderr.

        Raises:
            ValueError: if the device is not there, a word is unknown or nothing can be compiled.
            CheckpointError: if a source is missing, broken or something else.
        """
        placement = place(str(device), dtype, offload)
        if compile:
            check_compiler(placement.device)
        prior = published_pair(model)[0] if prior is None else prior
        decoder = published_pair(model)[1] if decoder is None else decoder
        quantized = replace(placement, quantize=cast(Quantize, quantize))
        stage_c = cast(StageC, load_network(prior, "stage_c", quantized))
        stage_b = cast(StageB, load_network(decoder, "stage_b", quantized))
        prior_home = prior if is_whole(prior) else published_pair(model)[0]
        decoder_home = decoder if is_whole(decoder) else published_pair(model)[1]
        stages = cls(
            prior_text=load_text_tower(prior_home, placement, of_prior=True),
            stage_c=stage_c,
            decoder_text=load_text_tower(decoder_home, placement),
            stage_b=stage_b,
            stage_a=cast(StageA, load_network(stage_a or decoder_home, "stage_a", placement)),
            compressor_loader=partial(read_compressor, compressor, decoder_home, placement),
            placement=placement,
            native_size=native_size(prior_home),
            progress=progress,
            cuda_graphs=compile,
        )
        if compile:
            for network in (stages.stage_c, stages.stage_b, stages.stage_a):
                compile_blocks(network)
        return stages

    def paint(
        self,
        prompts: str | Sequence[str],
        settings: Settings | Sequence[Settings] | None = None,
        **changes: Any,
    ) -> "list[Image]":
        """Return the images of the first prompt, then those of the next.

        What can be painted at once is: images of one size, with the same steps and texts of the
        same length. Image i of a prompt is the one that it gets alone with seed + i.

        Args:
            prompts: one or several.
            settings: how to paint, for all or for each of them.
            changes: fields of `Settings` (width, steps, seed and others), in place of those there.

        Raises:
            OSError: if an image or a mask is not there.
            ValueError: if there is no prompt, a setting is out of its range, or an image or mask
                cannot be used.
        """
        return self._painted(self._orders(paired(prompts, settings, changes)))

    def interpolate(
        self,
        prompts: str | Sequence[str],
        frames: int,
        settings: Settings | Sequence[Settings] | None = None,
        **changes: Any,
    ) -> "list[Image]":
        """Return `frames` images along the path from the first prompt through each to the last.

        The features of two prompts are interpolated and, where they have images, the semantic
        latents, too; all other settings are the first's. Give images a strength of 0 to see pure
        decodes.

        Args:
            prompts: stops of the path, or one prompt for several images.
            frames: at least 2; the first is the first stop, the last the last.
            settings: how to paint, for all or for each of them; `batch` images are painted at once.
            changes: fields of `Settings` (width, steps, seed and others), in place of those there.

        Raises:
            OSError: as `paint`.
            ValueError: as `paint`; also if there are fewer than two stops or frames, or stops that
                differ in size or in the length of their texts, or are painted in part.
        """
        return list(self.walk(prompts, frames, settings, **changes))

    def walk(
        self,
        prompts: str | Sequence[str],
        frames: int,
        settings: Settings | Sequence[Settings] | None = None,
        **changes: Any,
    ) -> "Iterator[Image]":
        """Yield the images of `interpolate` as they are painted.

        Raises:
            OSError: as `interpolate`, when the first image is asked for; so also ValueError.
        """
        asked = paired(prompts, settings, changes)
        at_once = asked[0][1].batch
        stops = self._orders([(prompt, replace(s, batch=1)) for prompt, s in asked])
        if any(stop.settings.mask is not None or any(stop.settings.outpaint) for stop in stops):
            raise ValueError("a path leads between whole images; give it no mask and no outpaint")
        if len({(stop.size, stop.shapes) for stop in stops}) > 1:
            raise ValueError(
                "the stops of a path must be of one size, all or none of them with an image, and "
                "their texts of one length"
            )
        way = list(frame_positions(len(stops), frames))
        for first in range(0, frames, at_once):
            some = [
                mixed(stops[i], stops[i + 1], share) for i, share in way[first : first + at_once]
            ]
            yield from self._painted([one._replace(settings=stops[0].settings) for one in some])

    def _orders(self, asked: Sequence[tuple[str, Settings]]) -> list[Order]:
        """Return an order per image, in their order, with each text and each picture read once."""
        known = self._texts([(t, s.weighting) for prompt, s in asked for t in (prompt, s.negative)])
        different = {canvas_key(s): s for _, s in asked}
        canvases = {key: self._canvas(s) for key, s in different.items()}
        orders: list[Order] = []
        for prompt, s in asked:
            texts, negative = known[prompt, s.weighting], known[s.negative, s.weighting]
            canvas, semantic = canvases[canvas_key(s)]
            alone = [self._sized(s, canvas).alone(i) for i in range(s.batch)]
            orders += [Order(texts, negative, one, canvas, semantic) for one in alone]
        return orders

    def _canvas(self, s: Settings) -> tuple[Canvas | None, Tensor | None]:
        """Return what is painted over and its semantic latent, if anything is."""
        if s.image is None:
            return None, None
        canvas = canvas_for(s)
        return canvas, self.encode_semantic(canvas.pixels)

    def _sized(self, s: Settings, canvas: Canvas | None) -> Settings:
        """Return settings with the size that an image will have, before it is outpainted."""
        if canvas is None:
            return replace(
                s, width=s.width or self.native_size, height=s.height or self.native_size
            )
        return s.sized(*canvas.size)

    def _texts(self, asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], TextFeatures]:
        """Return the features of texts with their weighting, each read once."""
        found = {}
        for weighting in dict.fromkeys(weighting for _, weighting in asked):
            texts = list(dict.fromkeys(text for text, other in asked if other == weighting))
            towers = (self.prior_text, self.decoder_text)
            features = [tower.encode_each(texts, weighting) for tower in towers]
            for text, prior, decoder in zip(texts, *features, strict=True):
                found[text, weighting] = TextFeatures(prior, decoder)
        return found

    def _painted(self, orders: Sequence[Order]) -> "list[Image]":
        """Return the image of each order; those that are alike are painted at once."""
        groups: dict[Any, list[int]] = {}
        for i, order in enumerate(orders):
            groups.setdefault(order.batch_key, []).append(i)
        painted: dict[int, Image] = {}
        for members in groups.values():
            images = self._paint_alike([orders[i] for i in members])
            painted |= dict(zip(members, images, strict=True))
        return [painted[i] for i in range(len(orders))]

    def _paint_alike(self, orders: Sequence[Order]) -> "list[Image]":
        """Return the images of orders that differ in texts, seeds and pictures only."""
        s = orders[0].settings
        rngs = generators([order.settings.seed for order in orders])
        semantic = self._semantic(orders, rngs)
        for i, order in enumerate(orders):
            if order.settings.decoder_seed is not None:
                (rngs[i],) = generators([order.settings.decoder_seed])
        vq = self.sample_vq(
            semantic,
            torch.cat([order.text.decoder for order in orders]),
            rngs,
            negative=torch.cat([order.negative.decoder for order in orders]),
            steps=s.decoder_steps,
            sampler=s.decoder_sampler,
            guidance=s.decoder_guidance,
            tile=s.tile,
        )
        pixels = self.decode_pixels(vq, s.tile)
        images = []
        for order, row in zip(orders, pixels, strict=True):
            canvas, one = order.canvas, row[None]
            images += to_images(one if canvas is None else canvas.keep(one, s.feather), order.size)
        return images

    def _semantic(self, orders: Sequence[Order], rngs: Sequence[torch.Generator]) -> Tensor:
        """Return the semantic latents of orders that are alike."""
        s = orders[0].settings
        run = partial(
            self.sample_semantic,
            torch.cat([order.text.prior for order in orders]),
            rngs,
            negative=torch.cat([order.negative.prior for order in orders]),
            steps=s.steps,
            sampler=s.sampler,
            guidance=s.guidance,
            rescale=s.guidance_rescale,
            interval=(s.guidance_start, s.guidance_end),
        )
        if orders[0].canvas is None:
            return run(orders[0].size)
        known = torch.cat([cast(Tensor, order.semantic) for order in orders])
        if s.effective_strength == 0:
            return known
        masks = [cast(Canvas, order.canvas).cells(*known.shape[2:]) for order in orders]
        return run(latent=known, start=s.effective_strength, mask=torch.cat(masks))


def read_compressor(
    source: str | Path | None, decoder: str | Path, placement: Placement
) -> Compressor:
    """Return the compressor in `source`, or the decoder's own.

    Raises:
        CheckpointError: if there is none.
    """
    chosen = source or compressor_of(decoder)
    try:
        return cast(Compressor, load_network(chosen, "compressor", placement))
    except CheckpointError as error:
        if chosen != decoder:
            raise
        raise CheckpointError(
            f"{decoder} comes without a compressor, which pictures to paint over need; give one as "
            f"compressor (published: {PUBLISHED_COMPRESSOR})"
        ) from error
