"""The trained model in files: published units and layout, which others read too."""

from pathlib import Path

import torch

from wuerstchen.pipeline import Wuerstchen
from wuerstchen.placement import Placement
from wuerstchen.towers import load_text_tower
from wuerstchen.training.export import export, to_published_units
from wuerstchen.training.prior import PriorTask


def test_published_units_change_nothing_that_stage_b_paints(whole: PriorTask) -> None:
    compressor, stage_b = whole.decoder.compressor, whole.decoder.stage_b
    pixels = torch.rand(2, 3, 192, 192)
    x, t, features = torch.randn(2, 4, 64, 64), torch.tensor([0.3, 0.9]), torch.randn(2, 77, 64)
    whole.decoder.networks.eval()
    with torch.no_grad():
        z = compressor(pixels)
        before = stage_b(x, t, features, z)
        to_published_units(compressor, stage_b)
        raw = compressor(pixels)
        after = stage_b(x, t, features, raw)
    torch.testing.assert_close(raw, 42 * z - 1, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * float(before.abs().max()))


def test_a_trained_model_is_written_in_the_published_layout_and_paints(
    whole: PriorTask, tmp_path: Path
) -> None:
    export(whole, tmp_path)
    model = Wuerstchen.load(tmp_path, device="cpu", progress=False)
    (image,) = model.paint("a small red ring", steps=2, decoder_steps=1, width=128, height=128)
    assert image.size == (128, 128)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 16_000_000


def test_transformers_reads_the_text_encoders_that_were_written(
    whole: PriorTask, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, CLIPTextModel

    export(whole, tmp_path)
    for folder in ("wuerstchen-prior", "wuerstchen"):
        home = tmp_path / folder
        network = CLIPTextModel.from_pretrained(home / "text_encoder", dtype=torch.float32)
        tokens = AutoTokenizer.from_pretrained(home / "tokenizer")(
            ["a small red ring"], padding="max_length", return_tensors="pt"
        )
        with torch.no_grad():
            theirs = network(tokens.input_ids, tokens.attention_mask).last_hidden_state
        ours = load_text_tower(home, Placement()).encode(["a small red ring"])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
