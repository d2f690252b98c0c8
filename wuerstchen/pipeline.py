"""Prompt -> picture: the stages and the constants between them.

    prompt ─text towers→ features ─Stage C→ semantic latent ─Stage B→ VQ latent ─Stage A→ pixels

`Wuerstchen.paint` goes the whole way; each arrow is also a method of its own. What these methods
return is float32 and on the CPU: a latent can be saved, edited and decoded later, on another device
or in another precision. Settings and order of draws are those of diffusers' Würstchen pipelines, so
that the same generator gives the same picture.

Shapes: N images, L tokens, D features of a token, h w semantic cells, H W cells of the VQ latent
(four pixels each).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from .checkpoints import load_network, load_text_tower
from .files import CheckpointError, is_pipeline, parsed, resolve
from .lora import Loras
from .placement import Placement, place
from .samplers import SAMPLERS
from .sampling import (
    add_noise,
    chosen_times,
    draw_noise,
    from_published,
    generators,
    guided,
    in_turn,
    to_published,
    uniform_times,
    within,
)
from .settings import Settings, cells, check_choice, vq_cells
from .stage_a import StageA
from .stage_b import StageB
from .stage_c import StageC
from .text import TextTower

if TYPE_CHECKING:
    from PIL.Image import Image

NATIVE_SIZE = 1024
MINI = Path(__file__).parent / "mini"
PRIOR_FOLDER, DECODER_FOLDER = "wuerstchen-prior", "wuerstchen"


class Texts(NamedTuple):
    """Features of prompts for Stage C and for Stage B, each (N, L, D)."""

    prior: Tensor
    decoder: Tensor


class Order(NamedTuple):
    """One image to paint: features of its prompt and of what to lead away from, and how."""

    text: Texts
    unwanted: Texts
    settings: Settings

    @property
    def alike(self) -> Any:
        """What the images that are painted at once have in common."""
        lengths = [part.shape[1] for texts in (self.text, self.unwanted) for part in texts]
        return replace(self.settings, negative="", seed=0, decoder_seed=None), tuple(lengths)


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

    def __post_init__(self) -> None:
        self.loras = Loras(self.stage_c, self.prior_text.network)

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
            changes: fields of `Settings`, in place of those in `settings`.

        Raises:
            ValueError: if there is no prompt or a setting is out of its range.
        """
        wanted = [prompts] if isinstance(prompts, str) else list(prompts)
        if not wanted:
            raise ValueError("at least one prompt is needed, got none")
        if settings is None or isinstance(settings, Settings):
            settings = [settings or Settings()] * len(wanted)
        if len(settings) != len(wanted):
            raise ValueError(f"one setting per prompt, got {len(settings)} for {len(wanted)}")
        orders = self._orders(wanted, [replace(one, **changes) for one in settings])
        groups: dict[Any, list[int]] = {}
        for i, order in enumerate(orders):
            groups.setdefault(order.alike, []).append(i)
        painted: dict[int, Image] = {}
        for members in groups.values():
            images = self._paint_alike([orders[i] for i in members])
            painted |= dict(zip(members, images, strict=True))
        return [painted[i] for i in range(len(orders))]

    def _orders(self, prompts: Sequence[str], settings: Sequence[Settings]) -> "list[Order]":
        """Return an order per image, in their order, with each text read once."""
        found: list[Order] = []
        asked = zip(prompts, settings, strict=True)
        known = self._texts([(t, s.weighting) for prompt, s in asked for t in (prompt, s.negative)])
        for prompt, s in zip(prompts, settings, strict=True):
            texts, unwanted = known[prompt, s.weighting], known[s.negative, s.weighting]
            width, height = s.width or self.native_size, s.height or self.native_size
            for i in range(s.batch):
                later = None if s.decoder_seed is None else s.decoder_seed + i
                alone = replace(
                    s, seed=s.seed + i, decoder_seed=later, batch=1, width=width, height=height
                )
                found.append(Order(texts, unwanted, alone))
        return found

    def _texts(self, asked: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Texts]:
        """Return the features of texts with their weighting, each read once."""
        found = {}
        for weighting in dict.fromkeys(weighting for _, weighting in asked):
            texts = list(dict.fromkeys(text for text, other in asked if other == weighting))
            towers = (self.prior_text, self.decoder_text)
            features = [tower.encode_each(texts, weighting) for tower in towers]
            for text, prior, decoder in zip(texts, *features, strict=True):
                found[text, weighting] = Texts(prior, decoder)
        return found

    def _paint_alike(self, orders: "Sequence[Order]") -> "list[Image]":
        """Return the images of orders that differ in texts and seeds only."""
        s = orders[0].settings
        size = (s.width or self.native_size, s.height or self.native_size)
        rows = generators([order.settings.seed for order in orders])
        semantic = self.sample_semantic(
            torch.cat([order.text.prior for order in orders]),
            rows,
            size,
            unwanted=torch.cat([order.unwanted.prior for order in orders]),
            steps=s.steps,
            sampler=s.sampler,
            guidance=s.guidance,
            rescale=s.guidance_rescale,
            interval=(s.guidance_start, s.guidance_end),
        )
        for i, order in enumerate(orders):
            if order.settings.decoder_seed is not None:
                (rows[i],) = generators([order.settings.decoder_seed])
        vq = self.sample_vq(
            semantic,
            torch.cat([order.text.decoder for order in orders]),
            rows,
            unwanted=torch.cat([order.unwanted.decoder for order in orders]),
            steps=s.decoder_steps,
            sampler=s.decoder_sampler,
            guidance=s.decoder_guidance,
        )
        return to_images(self.decode_pixels(vq), size)

    def load_lora(self, source: str | Path, strength: float = 1.0) -> None:
        """Merge a LoRA into Stage C and its text tower, beside those that are there.

        Args:
            source: weights file, folder or Hub name, in any of the formats of `lora`.
            strength: any finite number; 1 is as trained.

        Raises:
            CheckpointError: if the source is missing or damaged, or is no LoRA for this prior.
            ValueError: if the strength is not finite.
        """
        self.loras.add(source, strength)

    def unload_loras(self) -> None:
        """Take all LoRAs out again; every weight is what it was, to the last bit."""
        self.loras.clear()

    def encode_text(self, prompts: Sequence[str], weighting: str = "comfy") -> Texts:
        """Return the features of prompts of the same number of chunks by both text towers."""
        return Texts(
            self.prior_text.encode(prompts, weighting), self.decoder_text.encode(prompts, weighting)
        )

    @torch.no_grad()
    def sample_semantic(
        self,
        text: Tensor,
        rows: Sequence[torch.Generator],
        size: tuple[int, int] | None = None,
        *,
        unwanted: Tensor | None = None,
        steps: int | None = None,
        sampler: str = "ddpm",
        guidance: float = 4.0,
        rescale: float = 0.0,
        interval: tuple[float, float] = (1.0, 0.0),
        latent: Tensor | None = None,
        start: float = 1.0,
        end: float = 0.0,
        fresh: bool = True,
    ) -> Tensor:
        """Return semantic latents (N, 16, h, w) as Stage B takes them, 42 z - 1 (Stage C).

        Args:
            text: features for Stage C, (N, L, D) or (1, L, D).
            rows: N generators on the CPU; each is left where Stage B goes on.
            size: width and height in pixels; None is that of `latent`, else the native size.
            unwanted: features to lead away from, as `text`; None is the empty prompt.
            steps: evenly spaced; None is the published list of 29, of which a part may be taken.
            sampler: one of `SAMPLERS`.
            guidance: above 1 leads away from `unwanted`.
            rescale: share of guidance's result that keeps the contrast of no guidance, 0 to 1.
            interval: first and last time that is guided.
            latent: what to paint over, (N or 1, 16, h, w), as this method returns it.
            start: first time, 1 = noise; below 1 it shows through how `latent` was.
            end: last time; above 0 the latent is left noisy, for a run that starts there.
            fresh: False for a `latent` that a run left noisy at `start`.

        Raises:
            ValueError: if a side, the steps, the times, the sampler or the rows are out of range.
        """
        check_choice("sampler", sampler, list(SAMPLERS))
        times = chosen_times(steps, start, end)
        width, height = size or (self.native_size, self.native_size)
        shape = (self.stage_c.config.c_in, cells(height).semantic, cells(width).semantic)
        if latent is not None:
            shape = (latent.shape[1], latent.shape[2], latent.shape[3])
        features = self._conditions(self.prior_text, text, unwanted, guidance, len(rows))
        x = draw_noise(rows, shape, self.placement.device)
        if latent is not None:
            x = entered(latent, x, start, fresh)
        with self.placement.running(self.stage_c):
            step, prepare = self.stage_c.step, self.stage_c.prepare
            denoise = in_turn([partial(step, constants=prepare(part)) for part in features])
            if guidance > 1:
                denoise = guided(denoise, guidance, rescale)
            if guidance > 1 and interval != (1.0, 0.0):
                alone = partial(step, constants=prepare(features[0][: len(rows)]))
                denoise = within(*interval, denoise, alone)
            z = self._diffuse("Stage C", SAMPLERS[sampler](denoise, x, times, rows), times)
        return to_published(z).cpu()

    @torch.no_grad()
    def sample_vq(
        self,
        semantic: Tensor,
        text: Tensor,
        rows: Sequence[torch.Generator],
        *,
        unwanted: Tensor | None = None,
        steps: int = 12,
        sampler: str = "ddpm",
        guidance: float = 0.0,
    ) -> Tensor:
        """Return VQ latents (N, 4, H, W) for semantic latents (N, 16, h, w) (Stage B).

        Args:
            semantic: from `sample_semantic`; h and w are multiples of 3.
            text: features for Stage B, (N, L, D) or (1, L, D).
            rows: N generators on the CPU.
            unwanted: features to lead away from, as `text`; None is the empty prompt.
            steps: evenly spaced.
            sampler: one of `SAMPLERS`.
            guidance: above 1 leads away from `unwanted` and from a semantic latent of zeros.

        Raises:
            ValueError: if h or w, the steps, the sampler or the rows are out of their range.
        """
        check_choice("sampler", sampler, list(SAMPLERS))
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
            step, prepare = self.stage_b.step, self.stage_b.prepare
            shares = zip(features, semantic.chunk(len(features)), strict=True)
            denoise = in_turn(
                [partial(step, constants=prepare(*share, (height, width))) for share in shares]
            )
            if guidance > 1:
                denoise = guided(denoise, guidance)
            x = draw_noise(rows, (self.stage_b.config.c_in, height, width), self.placement.device)
            times = uniform_times(steps)
            return self._diffuse("Stage B", SAMPLERS[sampler](denoise, x, times, rows), times).cpu()

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
    ) -> list[Tensor]:
        """Return features as a network takes them: (n, L, D), with guidance also the unwanted.

        Both are one tensor (2 n, L, D) if they are of one length, else two.
        """
        if len(text) not in (1, n):
            raise ValueError(f"one generator per text, got {n} for {len(text)}")
        parts = [text]
        if guidance > 1:
            parts.append(tower.encode([""]) if unwanted is None else unwanted)
        parts = [
            part.expand(n, -1, -1).to(self.placement.device, self.placement.dtype) for part in parts
        ]
        together = len({part.shape[1] for part in parts}) == 1
        return [torch.cat(parts)] if together else parts

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


def entered(latent: Tensor, noise: Tensor, start: float, fresh: bool) -> Tensor:
    """Return z at time `start` of a latent 42 z - 1, mixed with `noise` unless it is not `fresh`.

    Raises:
        ValueError: if the latent is not one for each row.
    """
    if latent.ndim != 4 or len(latent) not in (1, len(noise)):
        raise ValueError(f"one latent per generator, got {len(latent)} for {len(noise)}")
    z = from_published(latent.to(noise)).expand_as(noise)
    return add_noise(z, noise, torch.full((len(noise),), start)) if fresh else z


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
