"""Pictures as input: encoding, painting over, inpainting, outpainting, in a running ComfyUI."""

from typing import Any

import numpy as np
import pytest
import torch

from .graphs import (
    DECODER,
    POSITIVE,
    PROMPT,
    QUICK,
    STAGE_A,
    STAGE_B,
    STAGE_C,
    Graph,
    Link,
    add,
    again,
    apart,
    keep_picture,
    latents,
    levels_of,
    output,
    pictures,
    save_latent,
    without_ends,
)
from .server import Host

pytestmark = pytest.mark.host

BUNDLED = "mini (bundled)"
GREEN = "a small green star on a yellow background"
WIDTH, HEIGHT = 300, 257
HOLE = (slice(60, 150), slice(40, 200))  # rows and columns that are painted anew


@pytest.fixture(scope="module")
def drawn(host: Host) -> Any:
    """A picture (H, W, 4) whose alpha channel the host reads as a mask: 1 where it is clear."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    levels = np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, rows * 0 + 90], axis=2)
    alpha = np.full((HEIGHT, WIDTH, 1), 255)
    alpha[HOLE] = 0
    return np.concatenate([levels, alpha], axis=2)


@pytest.fixture
def image(host: Host, quick: Any, drawn: Any) -> Link:
    """The loader of the picture; its second output is the mask."""
    return add(quick, "LoadImage", image=keep_picture(host, "drawn.png", drawn))


def encoded(graph: Graph, image: Link, **mask: Link) -> Link:
    """Add the Stage C latent of a picture."""
    vae = add(graph, "WuerstchenLoadCompressor", compressor=BUNDLED, weight_dtype="fp32")
    return add(graph, "WuerstchenStageCEncode", image=image, vae=vae, **mask)


def kept(graph: Graph, painted: Link, original: Link, mask: Link, feather: int = 16) -> Link:
    """Add the original's pixels outside the mask."""
    given = {"painted": painted, "original": original, "mask": mask}
    return add(graph, "WuerstchenKeepPixels", **given, feather=feather)


def decoded(graph: Graph, latent: Link) -> Link:
    """Add the picture of a Stage C latent."""
    return again(graph, STAGE_A, latent=again(graph, STAGE_B, latent=latent))


def pillow(drawn: Any) -> Any:
    """Return the picture as the package takes it."""
    from PIL import Image

    return Image.fromarray(drawn[..., :3].astype("uint8"))


def test_the_compressor_does_not_go_by_tiles(host: Host, quick: Any, image: Link) -> None:
    vae = add(quick, "WuerstchenLoadCompressor", compressor=BUNDLED, weight_dtype="fp32")
    sizes = {"tile_size": 128, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    tiles = add(quick, "VAEEncodeTiled", pixels=image, vae=vae, **sizes)
    alone = without_ends(quick)
    add(alone, "SaveLatent", samples=tiles, filename_prefix="tiles")
    assert "the compressor sees a picture as a whole" in host.run(alone).message


def test_a_latent_of_a_picture_is_the_packages(
    host: Host, quick: Any, package: Any, image: Link, drawn: Any
) -> None:
    from wuerstchen.canvas import canvas_for
    from wuerstchen.settings import Settings

    ours = package.encode_semantic(canvas_for(Settings(image=pillow(drawn))).pixels)
    (theirs,) = latents(host, quick, encoded(quick, image))
    assert theirs.shape == (1, 16, 9, 9)
    assert apart(theirs, ours) < 1e-5


def test_a_picture_is_decoded_in_its_size_and_as_the_package_does(
    host: Host, quick: Any, package: Any, image: Link, drawn: Any
) -> None:
    (theirs,) = pictures(host, quick, decoded(quick, encoded(quick, image)))
    (ours,) = package.paint(PROMPT, image=pillow(drawn), strength=0.0, **QUICK)
    assert theirs.shape == (HEIGHT, WIDTH, 3)
    assert abs(theirs - levels_of(ours)).max() <= 2


def test_a_picture_painted_over_is_the_packages(
    host: Host, quick: Any, package: Any, image: Link, drawn: Any
) -> None:
    over = again(quick, STAGE_C, latent=encoded(quick, image), denoise=0.6)
    (theirs,) = pictures(host, quick, decoded(quick, over))
    (ours,) = package.paint(PROMPT, image=pillow(drawn), strength=0.6, **QUICK)
    assert theirs.shape == (HEIGHT, WIDTH, 3)
    assert abs(theirs - levels_of(ours)).max() <= 2


def test_pictures_of_a_batch_are_encoded_as_alone(host: Host, quick: Any, image: Link) -> None:
    turned = add(quick, "ImageInvert", image=image)
    both = add(quick, "ImageBatch", image1=image, image2=turned)
    links = (encoded(quick, both), encoded(quick, image), encoded(quick, turned))
    batch, first, second = latents(host, quick, *links)
    assert apart(batch[:1], first) < 1e-5
    assert apart(batch[1:], second) < 1e-5
    assert apart(first, second) > 0.1


def test_the_core_encoder_takes_the_compressor(host: Host, quick: Any, image: Link) -> None:
    vae = add(quick, "WuerstchenLoadCompressor", compressor=BUNDLED, weight_dtype="fp32")
    crop = {"width": 256, "height": 256, "x": 22, "y": 0}
    middle = add(quick, "ImageCrop", image=image, **crop)
    core = add(quick, "VAEEncode", pixels=image, vae=vae)  # crops to whole blocks by itself
    theirs, ours = latents(host, quick, core, encoded(quick, middle))
    assert theirs.shape == (1, 16, 6, 6)
    assert apart(theirs, ours) < 1e-6


def cells_of(hole: slice, side: int) -> slice:
    """Return the cells, 9 for 384 pixels, that a hole in the middle of them touches."""
    border = (384 - side) // 2
    return slice((border + hole.start) * 9 // 384, (border + hole.stop - 1) * 9 // 384 + 1)


def test_the_core_encoder_refuses_a_picture_below_a_block(
    host: Host, quick: Any, image: Link
) -> None:
    vae = add(quick, "WuerstchenLoadCompressor", compressor=BUNDLED, weight_dtype="fp32")
    sides = {"width": 100, "height": 200, "upscale_method": "area", "crop": "disabled"}
    small = add(quick, "ImageScale", image=image, **sides)
    asked = without_ends(quick)
    save_latent(asked, add(asked, "VAEEncode", pixels=small, vae=vae))
    assert "at least 128 pixels on each side; scale it up" in host.run(asked).message


@pytest.mark.parametrize("sampler", ["own", "core"])
def test_only_cells_under_the_mask_are_painted_anew(
    host: Host, quick: Any, image: Link, sampler: str
) -> None:
    before = encoded(quick, image, mask=output(image, 1))
    green = again(quick, POSITIVE, text=GREEN)
    after = again(quick, STAGE_C, latent=before, positive=green)
    if sampler == "core":
        wires = {n: quick[after[0]]["inputs"][n] for n in ("model", "positive", "negative")}
        numbers = {"seed": 5, "steps": 4, "cfg": 4.0, "denoise": 1.0}
        names = {"sampler_name": "euler", "scheduler": "simple"}
        after = add(quick, "KSampler", **wires, latent_image=before, **numbers, **names)
    known, painted = latents(host, quick, before, after)
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[cells_of(HOLE[0], HEIGHT), cells_of(HOLE[1], WIDTH)] = True
    changed = (painted - known).abs().amax((0, 1))
    assert changed[~inside].max() < 1e-4 * known.abs().max()
    assert changed[inside].min() > 1e-2


@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_an_inpainted_picture_is_the_packages(
    host: Host, quick: Any, package: Any, image: Link, drawn: Any, denoise: float
) -> None:
    from PIL import Image

    mask = output(image, 1)
    over = again(quick, STAGE_C, latent=encoded(quick, image, mask=mask), denoise=denoise)
    (theirs,) = pictures(host, quick, kept(quick, decoded(quick, over), image, mask))
    hole = Image.fromarray((255 - drawn[..., 3]).astype("uint8"))
    over_it = {"image": pillow(drawn), "mask": hole, "strength": denoise}
    (ours,) = package.paint(PROMPT, **over_it, **QUICK)
    assert abs(theirs - levels_of(ours)).max() <= 2


@pytest.mark.parametrize("feather", [0, 16])
def test_pixels_outside_the_mask_stay_to_the_last_level(
    host: Host, quick: Any, image: Link, drawn: Any, feather: int
) -> None:
    mask = output(image, 1)
    before = encoded(quick, image, mask=mask)
    green = again(quick, POSITIVE, text=GREEN)
    painted = decoded(quick, again(quick, STAGE_C, latent=before, positive=green))
    new, done = pictures(host, quick, painted, kept(quick, painted, image, mask, feather))
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[HOLE] = True
    original = drawn[..., :3]
    assert (done[~inside] == original[~inside]).all()
    middle = np.zeros((HEIGHT, WIDTH), bool)
    middle[60 + feather : 150 - feather, 40 + feather : 200 - feather] = True
    assert (done[middle] == new[middle]).all()
    assert abs(new[~inside] - original[~inside]).max() > 5
    edge = inside & ~middle
    low, high = np.minimum(new, original), np.maximum(new, original)
    assert (low[edge] <= done[edge] + 1).all()
    assert (done[edge] <= high[edge] + 1).all()


def test_a_picture_is_continued_beyond_its_edges(
    host: Host, quick: Any, image: Link, drawn: Any
) -> None:
    sides = {"left": 37, "top": 0, "right": 100, "bottom": 61, "feathering": 0}
    padded = add(quick, "ImagePadForOutpaint", image=image, **sides)
    mask = output(padded, 1)
    before = encoded(quick, padded, mask=mask)
    green = again(quick, POSITIVE, text=GREEN)
    painted = decoded(quick, again(quick, STAGE_C, latent=before, positive=green))
    new, done = pictures(host, quick, painted, kept(quick, painted, padded, mask))
    assert done.shape == (HEIGHT + 61, WIDTH + 137, 3)
    assert (done[:HEIGHT, 37 : 37 + WIDTH] == drawn[..., :3]).all()
    assert (done[-40:] == new[-40:]).all()
    assert (done[:, -80:] == new[:, -80:]).all()
    assert done[-40:].std() > 2  # not the grey of the padding


def test_what_does_not_fit_together_is_refused_in_one_line(
    host: Host, quick: Any, image: Link
) -> None:
    small = add(quick, "SolidMask", value=1.0, width=64, height=64)
    sizes = {"upscale_method": "area", "width": 100, "height": 100, "crop": "disabled"}
    tiny = add(quick, "ImageScale", image=image, **sizes)
    mask = output(image, 1)
    told = {
        "mask must be of the size of image, 300×257, got 64×64": encoded(quick, image, mask=small),
        "the width of the image must be a whole number of at least 128, got 100": encoded(
            quick, tiny
        ),
        "connect the VAE of Würstchen Load Compressor": add(
            quick, "WuerstchenStageCEncode", image=image, vae=[DECODER, 2]
        ),
    }
    for words, latent in told.items():
        assert refused(host, quick, decoded(quick, latent), words)
    kinds = {
        "original must be of the size of painted, 300×257, got 100×100": (image, tiny, mask),
        "mask must be of the size of painted, 300×257, got 64×64": (image, image, small),
    }
    for words, parts in kinds.items():
        assert refused(host, quick, kept(quick, *parts), words)


def refused(host: Host, graph: Graph, picture: Link, words: str) -> bool:
    """Whether the run of a picture ends with these words in one line."""
    alone = without_ends(graph)
    add(alone, "PreviewImage", images=picture)
    message = host.run(alone).message.strip()
    assert words in message
    return "\n" not in message
