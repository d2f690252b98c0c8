"""Real files of tiny networks, in every layout that is read."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wuerstchen import Wuerstchen
from wuerstchen.checkpoints import KINDS, load_network, recognise
from wuerstchen.compressor import CompressorConfig, Stage
from wuerstchen.configs import config_from_entries
from wuerstchen.converting import convert
from wuerstchen.files import METADATA_CONFIG
from wuerstchen.info import describe
from wuerstchen.placement import Placement
from wuerstchen.recognise import PREFIXES, Recognised
from wuerstchen.stage_a import StageAConfig
from wuerstchen.stage_b import StageBConfig
from wuerstchen.stage_c import StageCConfig
from wuerstchen.text_encoder import TextEncoderConfig
from wuerstchen.towers import load_text_tower

GOLDEN = Path(__file__).parent / "golden"
FP32, FP16 = Placement(), Placement(dtype=torch.float16)
TINY: dict[str, Any] = {
    "stage_a": StageAConfig(
        bottleneck_blocks=3, embed_dim=16, latent_channels=3, num_vq_embeddings=32
    ),
    "stage_b": StageBConfig(
        c_in=3,
        c_out=3,
        c_r=16,
        c_cond=48,
        c_hidden=(32, 64, 128),
        nhead=(-1, 1, 2),
        blocks=(1, 2, 1),
        level_config=("CT", "CTA", "CTA"),
        inject_effnet=(False, True, True),
        effnet_embd=5,
        clip_embd=40,
    ),
    "stage_c": StageCConfig(c_in=5, c=64, c_cond=32, c_r=16, depth=3, nhead=1),
    "compressor": CompressorConfig(
        c_latent=5,
        c_stem=8,
        stages=tuple(Stage(fused=i < 2, expand=2, stride=2, c=8, layers=1) for i in range(4)),
        c_head=16,
    ),
    "text_encoder": TextEncoderConfig(
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=1,
        vocab_size=20,
        max_position_embeddings=9,
    ),
}
PUBLISHED_KEYS = {
    "stage_a": "vqgan",
    "stage_b": "decoder",
    "stage_c": "prior",
    "compressor": "effnet",
}
STAGES = ("stage_a", "stage_b", "stage_c")
WRAPPERS = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "prior.",
    "decoder.",
    "vqgan.",
    "_orig_mod.",
    "module._orig_mod.prior.",
    "text_model.",
)


def random_state(kind: str) -> dict[str, Tensor]:
    """Return random weights of the tiny network under its own names."""
    generator = torch.Generator().manual_seed(7)
    state = KINDS[kind].network(TINY[kind]).state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = torch.rand(tensor.shape, generator=generator) + 0.1
        else:
            state[key] = torch.tensor(3)
    return state


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state under the authors' names (the other way from what the package does)."""
    renamed = {}
    for key, tensor in state.items():
        key = key.replace("vquantizer.embedding", "vquantizer.codebook").replace(
            "to_out.0", "attn.out_proj"
        )
        block, q, end = key.partition("to_q.")
        if q:
            tensor = torch.cat([state[f"{block}{name}.{end}"] for name in ("to_q", "to_k", "to_v")])
            key = f"{block}attn.in_proj_{end}"
        if "to_k." not in key and "to_v." not in key:
            renamed[key] = tensor
    return renamed


def assert_holds(
    network: nn.Module, state: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    loaded = network.state_dict()
    assert list(loaded) == list(state)
    for key, tensor in state.items():
        wanted = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert loaded[key].dtype == wanted.dtype, key
        assert torch.equal(loaded[key], wanted), key
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def component(folder: Path, kind: str, name: str = "diffusion_pytorch_model.safetensors") -> Path:
    """Write a component folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "X", **asdict(TINY[kind])}))
    write = save_file if name.endswith(".safetensors") else torch.save
    write(random_state(kind), folder / name)
    return folder


@pytest.mark.parametrize("kind", PUBLISHED_KEYS)
def test_published_networks_have_exactly_the_published_keys_and_shapes(kind: str) -> None:
    lines = (GOLDEN / f"keys_{PUBLISHED_KEYS[kind]}.txt").read_text().splitlines()
    published = {
        key: (json.loads(shape), dtype) for key, shape, dtype in (x.split("\t") for x in lines)
    }
    with torch.device("meta"):
        state = KINDS[kind].network().state_dict()
    assert {key: (list(t.shape), str(t.dtype)) for key, t in state.items()} == published
    what = recognise({key: tuple(shape) for key, (shape, _) in published.items()})
    assert what == Recognised(kind=kind, layout="diffusers", name=KINDS[kind].name)


@pytest.mark.parametrize("kind", [*STAGES, "text_encoder"])
def test_published_sizes_are_read_off_the_published_shapes(kind: str) -> None:
    from wuerstchen.configs import config_from_shapes

    with torch.device("meta"):
        state = KINDS[kind].network().state_dict()
    config = config_from_shapes(kind, {key: tuple(t.shape) for key, t in state.items()})
    assert config == KINDS[kind].config()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin",
    ],
)
def test_component_folder_gives_its_network(tmp_path: Path, kind: str, name: str) -> None:
    network = load_network(component(tmp_path / "x", kind, name), kind, FP32)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_folder_gives_the_network_in_its_published_folder(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    component(tmp_path / KINDS[kind].folder, kind)
    assert_holds(load_network(str(tmp_path), kind, FP32), random_state(kind))


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("text_encoder", "diffusers"), *product(STAGES, ("diffusers", "original"))],
)
def test_single_file_gives_its_network_with_sizes_read_off_the_shapes(
    tmp_path: Path, kind: str, prefix: str, layout: str
) -> None:
    state = original(random_state(kind)) if layout == "original" else random_state(kind)
    file = tmp_path / "some.safetensors"
    save_file({prefix + key: tensor for key, tensor in state.items()}, file)
    network = load_network(file, kind, FP32)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind))
    assert describe(file)[0].layout == layout


def test_every_known_wrapper_is_taken_off_above() -> None:
    assert set(PREFIXES) <= set(WRAPPERS)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", STAGES)
def test_authors_file_gives_its_network(tmp_path: Path, kind: str, old_format: bool) -> None:
    part = "ema_state_dict" if kind == "stage_c" else "state_dict"
    content = {part: original(random_state(kind)), "effnet_state_dict": {}, "step": 5}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old_format)
    network = load_network(tmp_path / "a.pt", kind, FP32)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind))


def test_a_converted_text_tower_has_the_published_keys(tmp_path: Path) -> None:
    source, out = component(tmp_path / "x", "text_encoder"), tmp_path / "out.safetensors"
    convert(source, out)
    assert all(key.startswith("text_model.") for key in load_file(out))
    network = load_network(out, "text_encoder", FP32)
    assert network.config == TINY["text_encoder"]
    assert_holds(network, random_state("text_encoder"))


def test_averaged_weights_are_preferred_to_those_being_trained(tmp_path: Path) -> None:
    trained = {key: tensor * 0 for key, tensor in random_state("stage_c").items()}
    torch.save(
        {"state_dict": trained, "ema_state_dict": random_state("stage_c")}, tmp_path / "a.ckpt"
    )
    assert_holds(load_network(tmp_path / "a.ckpt", "stage_c", FP32), random_state("stage_c"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_networks_come_in_the_dtype_of_the_placement(
    tmp_path: Path, stored: torch.dtype, dtype: torch.dtype
) -> None:
    state = {
        k: t.to(stored) if t.is_floating_point() else t for k, t in random_state("stage_a").items()
    }
    save_file(state, tmp_path / "a.safetensors")
    network = load_network(tmp_path / "a.safetensors", "stage_a", Placement(dtype=dtype))
    assert_holds(network, state, dtype)


def test_layers_are_those_of_the_placement(tmp_path: Path) -> None:
    placement = Placement(offload="layer")
    network = load_network(component(tmp_path / "x", "stage_c"), "stage_c", placement)
    assert type(network.projection) is placement.ops.Conv2d


def test_old_spellings_of_configs_are_understood(tmp_path: Path) -> None:
    prior = component(tmp_path / "prior", "stage_c")
    entries = {"_class_name": "Prior", "latent_size": [12, 12], **asdict(TINY["stage_c"])}
    (prior / "config.json").write_text(json.dumps(entries))
    assert load_network(prior, "stage_c", FP32).config == TINY["stage_c"]
    vqgan = component(tmp_path / "vqgan", "stage_a")
    entries = {
        "levels": 2,
        "bottleneck_blocks": 3,
        "c_hidden": 16,
        "c_latent": 3,
        "codebook_size": 32,
    }
    (vqgan / "config.json").write_text(json.dumps({**entries, "scale_factor": 1}))
    config = load_network(vqgan, "stage_a", FP32).config
    assert config == StageAConfig(**{**asdict(TINY["stage_a"]), "scale_factor": 1.0})


def test_a_weights_file_given_by_itself_takes_the_config_beside_it(tmp_path: Path) -> None:
    folder = component(tmp_path / "x", "compressor")
    file = folder / "diffusion_pytorch_model.safetensors"
    assert load_network(file, "compressor", FP32).config == TINY["compressor"]


@pytest.mark.peer
@pytest.mark.parametrize("safe", [True, False])
def test_what_diffusers_saves_is_loaded(tmp_path: Path, safe: bool) -> None:
    peers = pytest.importorskip("diffusers.pipelines.deprecated.wuerstchen")
    names = {
        "stage_a": "PaellaVQModel",
        "stage_b": "WuerstchenDiffNeXt",
        "stage_c": "WuerstchenPrior",
    }
    (tmp_path / "model_index.json").write_text("{}")
    for kind, name in names.items():
        entries = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(TINY[kind]).items()}
        peer = getattr(peers, name)(**entries)
        peer.load_state_dict(random_state(kind))
        peer.save_pretrained(tmp_path / KINDS[kind].folder, safe_serialization=safe)
    for kind in names:
        network = load_network(tmp_path, kind, FP32)
        assert network.config == TINY[kind]
        assert_holds(network, random_state(kind))


@pytest.mark.peer
def test_a_network_of_stable_cascade_is_named() -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes: dict[str, Any] = {
        "timestep_ratio_embedding_dim": 16,
        "patch_size": 1,
        "conditioning_dim": 32,
        "block_out_channels": (32,),
        "num_attention_heads": (2,),
        "down_num_layers_per_block": (1,),
        "up_num_layers_per_block": (1,),
        "down_blocks_repeat_mappers": (1,),
        "up_blocks_repeat_mappers": (1,),
        "block_types_per_layer": (("SDCascadeResBlock",),),
        "clip_text_pooled_in_channels": 16,
    }
    with torch.device("meta"):
        prior = diffusers.StableCascadeUNet(
            **sizes, clip_text_in_channels=16, clip_image_in_channels=16
        )
        decoder = diffusers.StableCascadeUNet(
            **sizes, effnet_in_channels=16, pixel_mapper_in_channels=3
        )
    assert recognise({k: tuple(t.shape) for k, t in prior.state_dict().items()}).name.startswith(
        "the prior of Stable"
    )
    name = recognise({k: tuple(t.shape) for k, t in decoder.state_dict().items()}).name
    assert name.startswith("the decoder of Stable Cascade")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_converted_file_is_the_same_network_with_its_config_in_it(
    tmp_path: Path, kind: str, dtype: torch.dtype | None
) -> None:
    source, out = component(tmp_path / "x", kind), tmp_path / "out.safetensors"
    convert(source, out, dtype)
    placement = Placement(dtype=dtype or torch.float32)
    network = load_network(out, kind, placement)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind), placement.dtype)
    with safe_open(out, "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert file.metadata()["wuerstchen.kind"] == kind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "x"]


def test_both_networks_of_the_authors_decoder_file_can_be_converted(tmp_path: Path) -> None:
    with torch.device("meta"):
        full = KINDS["compressor"].network().state_dict()
    effnet = {
        key: torch.zeros(t.shape, dtype=t.dtype).half()
        if t.dim()
        else t.new_zeros((), device="cpu")
        for key, t in full.items()
    }
    torch.save(
        {"state_dict": original(random_state("stage_b")), "effnet_state_dict": effnet},
        tmp_path / "b.pt",
    )
    convert(tmp_path / "b.pt", tmp_path / "b.safetensors", kind="stage_b")
    convert(tmp_path / "b.pt", tmp_path / "e.safetensors", kind="compressor")
    assert_holds(load_network(tmp_path / "b.safetensors", "stage_b", FP32), random_state("stage_b"))
    assert load_network(tmp_path / "e.safetensors", "compressor", FP16).config == CompressorConfig()
    assert [d.kind for d in describe(tmp_path / "b.pt")] == ["stage_b", "compressor"]


def test_a_file_can_be_converted_onto_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(original(random_state("stage_c")), file)
    convert(file, file, torch.float16)
    assert_holds(load_network(file, "stage_c", FP16), random_state("stage_c"), torch.float16)


def test_a_description_tells_what_a_pipeline_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    component(tmp_path / "decoder", "stage_b")
    vqgan = component(tmp_path / "vqgan", "stage_a") / "diffusion_pytorch_model.safetensors"
    decoder, description = describe(tmp_path)
    assert (decoder.kind, decoder.name, decoder.layout) == (
        "stage_b",
        "Stage B (the decoder)",
        "diffusers",
    )
    network = KINDS["stage_a"].network(TINY["stage_a"])
    assert description.parameters == sum(p.numel() for p in network.parameters())
    assert description.bytes == vqgan.stat().st_size
    assert description.path == vqgan
    assert description.dtypes == ("float32", "int64")
    assert description.sha256 == sha256(vqgan.read_bytes()).hexdigest()
    assert "embed_dim 16" in description.config
    assert "levels" not in description.config


MEMORY = """
import resource, sys, torch
from wuerstchen.checkpoints import load_network
from wuerstchen.placement import Placement

def private():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

dtype = getattr(torch, sys.argv[2])
load_network(sys.argv[3], "stage_c", Placement(dtype=dtype))
peak, own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, private()
network = load_network(sys.argv[1], "stage_c", Placement(dtype=dtype))
sum(float(p.view(-1)[::512].float().sum()) for p in network.parameters())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak, private() - own)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_loading_keeps_the_weights_in_memory_only_once(tmp_path: Path) -> None:
    config = StageCConfig(c=1024, depth=4, nhead=16)
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in KINDS["stage_c"].network(config).state_dict().items()}
    state = {key: torch.ones(shape) for key, shape in shapes.items()}
    save_file(state, tmp_path / "big.safetensors")
    torch.save({"ema_state_dict": original(state)}, tmp_path / "big.pt")
    save_file(random_state("stage_c"), tmp_path / "small.safetensors")
    size = (tmp_path / "big.safetensors").stat().st_size / 1024
    assert size > 190_000
    peak, private = run(
        MEMORY, tmp_path / "big.safetensors", "float32", tmp_path / "small.safetensors"
    ).split()
    assert int(peak) < 1.3 * size
    assert int(private) < 0.1 * size
    # a cast copy is half as large; the file's own pages are the system's to drop
    _, private = run(MEMORY, tmp_path / "big.pt", "float16", tmp_path / "small.safetensors").split()
    assert int(private) < 0.65 * size


def run(script: str, *words: str | Path, **environment: str) -> str:
    """Return what a script prints in a process of its own."""
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def text_tower(folder: Path) -> Any:
    """Write a pipeline folder with a tiny text tower and tokenizer; return the tower."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from wuerstchen.training.mini import tokenizer_of

    words = {
        "a</w>": 0,
        "cat</w>": 1,
        "c": 2,
        "at</w>": 3,
        "<|startoftext|>": 4,
        "<|endoftext|>": 5,
    }
    tokenizer = tokenizer_of(words, [("c", "at</w>")])
    tokenizer.save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=6,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=5,
    )
    torch.manual_seed(3)
    tower: Any = CLIPTextModel(config).eval()
    tower.save_pretrained(folder / "text_encoder")
    return tower


@pytest.mark.parametrize("file", ["as saved", "model.safetensors", "pytorch_model.bin"])
def test_text_tower_and_tokenizer_are_loaded(tmp_path: Path, file: str) -> None:
    tower = text_tower(tmp_path)
    saved = tmp_path / "text_encoder" / "model.safetensors"
    if file != "as saved":
        state = {
            f"text_model.{key.removeprefix('text_model.')}": t
            for key, t in load_file(saved).items()
        }
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        saved.unlink()
        if file.endswith(".bin"):
            torch.save(state, saved.with_name(file))
        else:
            save_file(state, saved, {"format": "pt"})
    loaded = load_text_tower(tmp_path, FP32)
    prompts = ["a cat", ""]
    batch = loaded.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
    assert batch.input_ids.shape == (2, 77)
    assert batch.input_ids[0, 0] == 4
    assert batch.attention_mask.sum(dim=1).tolist()[1] == 2
    with torch.no_grad():
        wanted = tower(**batch).last_hidden_state
    torch.testing.assert_close(loaded.encode(prompts), wanted, rtol=0, atol=1e-5)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    half = load_text_tower(tmp_path, FP16).network
    assert {p.dtype for p in half.parameters()} == {torch.float16}


def test_a_compressed_archive_has_the_same_tensors(tmp_path: Path) -> None:
    state = random_state("stage_c")
    torch.save(state, tmp_path / "stored.pt")
    with ZipFile(tmp_path / "stored.pt") as stored, ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in stored.namelist():
            archive.writestr(name, stored.read(name), ZIP_DEFLATED)
    loaded = load_network(tmp_path / "a.pt", "stage_c", FP32).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_tensors_that_share_memory_are_loaded_and_converted(tmp_path: Path) -> None:
    state = random_state("stage_c")
    first, second = "blocks.0.channelwise.0.weight", "blocks.3.channelwise.0.weight"
    state[second] = state[first]
    whole = torch.cat([state[f"blocks.2.attention.to_{name}.weight"] for name in "qkv"])
    views = dict(zip("qkv", whole.chunk(3), strict=True))
    state |= {f"blocks.2.attention.to_{name}.weight": view for name, view in views.items()}
    torch.save(state, tmp_path / "a.pt")
    assert_holds(load_network(tmp_path / "a.pt", "stage_c", FP32), state)
    convert(tmp_path / "a.pt", tmp_path / "out.safetensors")
    assert_holds(load_network(tmp_path / "out.safetensors", "stage_c", FP32), state)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_are_converted(tmp_path: Path, stored: torch.dtype) -> None:
    state = {key: tensor.to(stored) for key, tensor in random_state("stage_c").items()}
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", torch.float16)
    network = load_network(tmp_path / "out.safetensors", "stage_c", FP16)
    assert_holds(network, {key: tensor.half() for key, tensor in state.items()}, torch.float16)


def test_the_published_compressor_has_a_config_of_other_words() -> None:
    entries = {"_class_name": "EfficientNetEncoder", "c_latent": 16, "c_cond": 1280}
    config = config_from_entries("compressor", {**entries, "effnet": "efficientnet_v2_s"})
    assert config == CompressorConfig()


def test_averaged_weights_of_diffusers_training_have_their_config(tmp_path: Path) -> None:
    folder = component(tmp_path / "prior_ema", "stage_c")
    config = json.loads((folder / "config.json").read_text())
    averaging = {"decay": 0.9999, "min_decay": 0.0, "power": 2 / 3, "optimization_step": 10}
    (folder / "config.json").write_text(json.dumps(config | averaging))
    assert load_network(folder, "stage_c", FP32).config == TINY["stage_c"]


def test_weights_saved_as_the_variant_fp16_are_found(tmp_path: Path) -> None:
    folder = component(tmp_path / "a", "stage_c", "diffusion_pytorch_model.fp16.safetensors")
    assert load_network(folder, "stage_c", FP32).config == TINY["stage_c"]


def test_prior_and_decoder_may_lie_in_one_pipeline_as_diffusers_saves_them(
    tmp_path: Path, tiny: Path
) -> None:
    prior, decoder, joined = tiny / "wuerstchen-prior", tiny / "wuerstchen", tmp_path / "joined"
    shutil.copytree(decoder, joined)
    for name in ("prior", "text_encoder", "tokenizer"):
        shutil.copytree(prior / name, joined / f"prior_{name}")
    settings = {"seed": 3, "width": 128, "height": 128, "steps": 2, "decoder_steps": 2}
    pictures = [
        Wuerstchen.load(model, device="cpu", progress=False).paint("a cat", **settings)[0]
        for model in (tiny, joined)
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_each_tower_of_a_joined_pipeline_has_its_own_tokenizer(tmp_path: Path, tiny: Path) -> None:
    base, joined = tmp_path / "base", tmp_path / "joined"
    shutil.copytree(tiny, base)
    config = base / "wuerstchen" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 20}))
    shutil.copytree(base / "wuerstchen", joined)
    for name in ("prior", "text_encoder", "tokenizer"):
        shutil.copytree(base / "wuerstchen-prior" / name, joined / f"prior_{name}")
    found = [
        Wuerstchen.load(m, device="cpu", progress=False).encode_text(["a star"])
        for m in (base, joined)
    ]
    assert torch.equal(found[0].prior, found[1].prior)
    assert torch.equal(found[0].decoder, found[1].decoder)


def test_a_config_beside_a_file_of_any_name_is_not_its_own(tmp_path: Path) -> None:
    save_file(random_state("stage_c"), tmp_path / "some.safetensors")
    (tmp_path / "config.json").write_text('{"model": "another"}')
    assert load_network(tmp_path / "some.safetensors", "stage_c", FP32).config == TINY["stage_c"]


def test_what_comfyui_saves_is_loaded(tmp_path: Path) -> None:
    sizes = torch.tensor(list(json.dumps(asdict(TINY["stage_c"])).encode()), dtype=torch.uint8)
    saved = {**random_state("stage_c"), METADATA_CONFIG: sizes}
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in saved.items()}
    for others in ({}, {"first_stage_model.x": torch.ones(1), "conditioner.y": torch.ones(1)}):
        save_file(tensors | others, tmp_path / "a.safetensors")
        network = load_network(tmp_path / "a.safetensors", "stage_c", FP32)
        assert network.config == TINY["stage_c"]
        assert_holds(network, random_state("stage_c"))


def test_models_may_lie_at_home(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny))
    assert Wuerstchen.load("~", device="cpu", progress=False).native_size == 256
    assert describe("~/wuerstchen/vqgan")[0].kind == "stage_a"


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    file = tmp_path / "A.SAFETENSORS"
    save_file(random_state("stage_c"), file)
    assert_holds(load_network(file, "stage_c", FP32), random_state("stage_c"))


def test_averaged_weights_say_how_they_were_averaged(tmp_path: Path) -> None:
    folder = component(tmp_path / "prior_ema", "stage_c")
    config = json.loads((folder / "config.json").read_text())
    averaging = {
        "decay": 0.9999,
        "min_decay": 0.0,
        "power": 2 / 3,
        "optimization_step": 10,
        "inv_gamma": 1.0,
        "update_after_step": 0,
        "use_ema_warmup": False,
    }
    (folder / "config.json").write_text(json.dumps(config | averaging))
    assert load_network(folder, "stage_c", FP32).config == TINY["stage_c"]


@pytest.mark.parametrize(
    ("kind", "changes"), [("stage_b", {"kernel_size": 5}), ("stage_a", {"levels": 3})]
)
def test_kernel_and_levels_are_read_off_the_tensors(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    from wuerstchen.recognise import KINDS

    config = replace(TINY[kind], **changes)
    save_file(KINDS[kind].network(config).state_dict(), tmp_path / "a.safetensors")
    assert load_network(tmp_path / "a.safetensors", kind, FP32).config == config


def test_a_converted_file_is_for_whom_its_source_is(tmp_path: Path) -> None:
    source = component(tmp_path / "x", "stage_a")
    (source / "diffusion_pytorch_model.safetensors").chmod(0o640)
    convert(source, tmp_path / "out.safetensors")
    assert oct((tmp_path / "out.safetensors").stat().st_mode & 0o777) == "0o640"


def test_a_whole_model_is_described_by_its_name_or_folder(tiny: Path) -> None:
    networks = {"stage_c", "stage_b", "stage_a"}
    assert networks <= {one.kind for one in describe(tiny)}
    assert networks | {"compressor"} <= {one.kind for one in describe("mini")}
