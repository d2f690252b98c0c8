"""Pictures to paint over: sizes, borders, masks, soft edges, and what is refused."""

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wuerstchen import Settings, to_images
from wuerstchen.canvas import bordered, canvas_for, feathered
from wuerstchen.pixels import to_pixels


def random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def left_half(width: int, height: int) -> Image.Image:
    """A mask: white on the left."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    return mask


@pytest.mark.parametrize("size", [(128, 128), (129, 300), (256, 131)])
def test_the_picture_comes_back_from_its_canvas_to_the_last_bit(size: tuple[int, int]) -> None:
    image = random_picture(*size)
    canvas = canvas_for(Settings(image=image))
    assert not any(side % 128 for side in canvas.pixels.shape[2:])
    assert canvas.size == size
    assert np.array_equal(to_images(canvas.pixels, size)[0], image)


def test_a_border_repeats_the_edges() -> None:
    canvas = bordered(torch.rand(1, 3, 128, 130), torch.ones(1, 1, 128, 130))
    assert canvas.pixels.shape == (1, 3, 128, 256)
    assert torch.equal(canvas.pixels[..., :63], canvas.pixels[..., 63:64].expand(1, 3, 128, 63))


def test_a_size_that_is_asked_for_scales_and_crops() -> None:
    image = random_picture(300, 200)
    canvas = canvas_for(Settings(image=image, width=128, height=128))
    middle = image.crop((50, 0, 250, 200)).resize((128, 128), Image.Resampling.LANCZOS)
    difference = np.asarray(to_images(canvas.pixels, canvas.size)[0]).astype(int) - middle
    assert abs(difference).mean() < 1


def test_outside_the_mask_the_picture_is_kept_to_the_last_bit() -> None:
    image = random_picture(200, 140)
    canvas = canvas_for(Settings(image=image, mask=left_half(200, 140)))
    painted = torch.rand(1, 3, *canvas.pixels.shape[2:])
    for feather in (0, 8, 500):
        result = np.asarray(to_images(canvas.keep(painted, feather), canvas.size)[0])
        assert np.array_equal(result[:, 100:], np.asarray(image)[:, 100:])
        assert not np.array_equal(result[:, 50:90], np.asarray(image)[:, 50:90])


def test_an_edge_is_soft_only_within_the_mask_and_reaches_one() -> None:
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 10:30, 10:30] = 1
    soft = feathered(mask, 4)
    assert not soft[mask == 0].any()
    assert torch.allclose(soft[0, 0, 20, 10:16], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]))
    narrow = torch.zeros(1, 1, 40, 40)
    narrow[..., 20] = 1
    assert feathered(narrow, 8).max() == 1
    assert torch.equal(feathered(mask, 0), mask)


def test_a_cell_is_painted_anew_if_any_of_its_pixels_is() -> None:
    mask = torch.zeros(1, 1, 128, 256)
    mask[0, 0, 127, 130] = 0.1
    cells = bordered(torch.zeros(1, 3, 128, 256), mask).cells(3, 6)
    assert cells.nonzero().tolist() == [[0, 0, 2, 3]]
    assert cells.max() == 1


def test_outpainting_keeps_the_picture_and_masks_what_is_around() -> None:
    image = random_picture(128, 128)
    canvas = canvas_for(Settings(image=image, outpaint=(10, 0, 40, 20)))
    assert canvas.size == (178, 148)
    painted = torch.zeros_like(canvas.pixels)
    result = np.asarray(to_images(canvas.keep(painted, 0), canvas.size)[0])
    assert np.array_equal(result[:128, 10:138], image)
    assert not result[128:].any()
    assert not result[:, :10].any()


def test_strength_is_seven_tenths_and_one_for_a_part() -> None:
    image, mask = random_picture(128, 128), left_half(128, 128)
    assert Settings(image=image).effective_strength == 0.7
    assert Settings(image=image, mask=mask).effective_strength == 1
    assert Settings(image=image, outpaint=(0, 0, 0, 8)).effective_strength == 1
    assert Settings(image=image, mask=mask, strength=0.0).effective_strength == 0


def test_pictures_and_masks_of_any_mode_are_read(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(128 * 128, dtype=np.uint8).reshape(128, 128))
    path = tmp_path / "grey.png"
    grey.save(path)
    canvas = canvas_for(Settings(image=path, mask=str(path)))
    assert torch.equal(canvas.pixels[:, :1], canvas.mask)
    assert torch.equal(canvas.mask, to_pixels(grey))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "m.png"}, "give an image to paint over, or no mask"),
        ({"strength": 0.5}, "give an image to paint over, or no strength"),
        ({"strength": 0.0}, "give an image to paint over, or no strength"),
        ({"image": "a.png", "strength": 1.5}, "strength must be a number from 0 to 1, got 1.5"),
        ({"image": "a.png", "outpaint": (1, 2, 3)}, "outpaint must be pixels left, above, right"),
        ({"image": "a.png", "outpaint": (-1, 0, 0, 0)}, "each side of outpaint must be"),
        ({"image": "a.png", "feather": -1}, "feather must be a whole number of at least 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_pictures_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no picture")
    cut = tmp_path / "cut.png"
    random_picture(128, 128).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    for path in (text, cut):
        with pytest.raises(ValueError, match=f"{path}: expected a picture such as PNG"):
            canvas_for(Settings(image=path))
    with pytest.raises(FileNotFoundError):
        canvas_for(Settings(image=tmp_path / "none.png"))
    with pytest.raises(ValueError, match="the mask must be of the image's size, 128×128, got 64×"):
        canvas_for(Settings(image=random_picture(128, 128), mask=random_picture(64, 128)))
    with pytest.raises(ValueError, match="the width of the image must be"):
        canvas_for(Settings(image=random_picture(100, 128)))
    with pytest.raises(
        ValueError, match=r"the width of the image must be .* at least 128, got 100"
    ):
        canvas_for(Settings(image=random_picture(100, 128), outpaint=(100, 0, 100, 0)))
    for array in (np.zeros((128, 128)), np.zeros((128, 128, 4), np.uint8), np.zeros(9, np.uint8)):
        with pytest.raises(ValueError, match=r"an array as picture must be uint8, \(H, W\) or"):
            canvas_for(Settings(image=array))


def test_greys_of_16_bits_keep_their_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 128 * 128).reshape(128, 128)
    for name, kind in (("a.png", np.uint16), ("a.tif", np.int32)):
        Image.fromarray(ramp.astype(kind)).save(tmp_path / name)
        canvas = canvas_for(Settings(image=tmp_path / name, mask=tmp_path / name))
        for found in (canvas.mask[0, 0], *canvas.pixels[0]):
            assert abs(found.numpy() - ramp / 65535).max() < 0.51 / 255


def test_a_picture_is_turned_as_its_file_says_however_it_is_given(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    random_picture(128, 256).save(tmp_path / "a.png", exif=exif)
    by_name = canvas_for(Settings(image=tmp_path / "a.png"))
    opened = canvas_for(Settings(image=Image.open(tmp_path / "a.png")))
    assert by_name.size == opened.size == (256, 128)
    assert torch.equal(by_name.pixels, opened.pixels)


def test_arrays_are_pictures_and_masks() -> None:
    image, mask = random_picture(130, 128), left_half(130, 128)
    given = canvas_for(Settings(image=np.asarray(image), mask=np.asarray(mask)))
    wanted = canvas_for(Settings(image=image, mask=mask))
    assert torch.equal(given.pixels, wanted.pixels)
    assert torch.equal(given.mask, wanted.mask)


def test_a_mask_of_yes_and_no_is_one_of_white_and_black() -> None:
    image, mask = random_picture(130, 128), np.asarray(left_half(130, 128))
    given = canvas_for(Settings(image=image, mask=mask > 0))
    assert torch.equal(given.mask, canvas_for(Settings(image=image, mask=mask)).mask)
    with pytest.raises(
        ValueError, match="must be white, 255, where to paint, its largest level is 1"
    ):
        canvas_for(Settings(image=image, mask=mask // 255))


def test_a_wide_soft_edge_takes_no_longer_than_the_mask_is_wide() -> None:
    half, whole = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    half[..., :4] = 1
    start = time.monotonic()
    assert torch.equal(feathered(whole, 10**6), whole)
    soft = feathered(half, 10**6)
    assert torch.allclose(soft[0, 0, 0], torch.tensor([1, 0.75, 0.5, 0.25, 0, 0, 0, 0]))
    assert time.monotonic() - start < 1


def test_pictures_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (128, 128), "white").save(tmp_path / "a.png")
    assert canvas_for(Settings(image="~/a.png", mask="~/a.png")).size == (128, 128)


def test_levels_are_rounded() -> None:
    from wuerstchen import to_images

    pixels = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255]).expand(1, 3, 1, 4)
    assert np.asarray(to_images(pixels)[0])[0, :, 0].tolist() == [0, 0, 1, 255]


def test_a_mask_is_scaled_and_cropped_as_its_picture() -> None:
    grey = Image.effect_noise((300, 200), 80)
    canvas = canvas_for(Settings(image=grey, mask=grey, width=128, height=128))
    assert torch.equal(canvas.pixels[:, :1], canvas.mask)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pictures_and_masks_of_every_mode_are_read(mode: str) -> None:
    noise = Image.effect_noise((128, 128), 50)
    image = (noise if mode == "LA" else noise.convert("RGB")).convert(mode)
    canvas = canvas_for(Settings(image=image, mask=image))
    assert canvas.pixels.shape == (1, 3, 128, 128)
    assert canvas.mask.shape == (1, 1, 128, 128)
    assert 0 <= canvas.mask.min() < 0.5 < canvas.mask.max() <= 1


def test_masks_that_say_nothing_are_refused() -> None:
    image, drawn = random_picture(128, 128), Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    drawn.paste((255, 255, 255, 255), (0, 0, 64, 128))
    with pytest.raises(ValueError, match="a mask must be opaque, got one with transparent parts"):
        canvas_for(Settings(image=image, mask=drawn))
    black = Image.new("L", (128, 128))
    with pytest.raises(ValueError, match="the mask must be white somewhere"):
        canvas_for(Settings(image=image, mask=black))
    assert canvas_for(Settings(image=image, mask=black, outpaint=(0, 0, 128, 0))).mask.any()


@pytest.mark.parametrize("other", [torch.zeros(3, 128, 128), ["a.png"], BytesIO(b"x"), 5])
def test_what_is_no_picture_is_refused(other: Any) -> None:
    with pytest.raises(ValueError, match="a picture must be a path, a picture of Pillow's or a"):
        canvas_for(Settings(image=other))
