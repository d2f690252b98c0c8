"""The blocks that the networks share, each against a plain formula or torch's own layer."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from wuerstchen import arithmetic
from wuerstchen.arithmetic import (
    packing,
)
from wuerstchen.layers import (
    AttnBlock,
    BatchNorm2d,
    GlobalResponseNorm,
    ResBlock,
    Share,
    TimestepBlock,
    layer_norm_2d,
    time_embedding,
    to_map,
    to_rows,
)

from .peers import error, normal, random_weights, share_weights


def fill(network: nn.Module) -> None:
    share_weights(random_weights(network.state_dict()), network)


def test_global_response_norm_is_the_formula_of_convnext_v2() -> None:
    norm = GlobalResponseNorm(12)
    fill(norm)
    x = normal(2, 5, 7, 12)
    energy = x.square().sum(dim=(1, 2), keepdim=True).sqrt()
    relative = energy / (energy.mean(dim=3, keepdim=True) + 1e-6)
    assert torch.allclose(norm(x), norm.gamma * (x * relative) + norm.beta + x, atol=1e-6)


def test_global_response_norm_sums_energies_beyond_the_range_of_half_precision() -> None:
    """4096 squares of 16 are 2²⁰, where half precision ends at 65504."""
    norm = GlobalResponseNorm(4).half()
    with torch.no_grad():
        norm.gamma.fill_(1)
    x = torch.full((1, 64, 64, 4), 16.0, dtype=torch.float16)
    assert torch.allclose(norm(x), torch.full_like(x, 32.0))


@pytest.mark.parametrize("c_r", [64, 17])
def test_the_time_embedding_is_sines_then_cosines_of_10000_t(c_r: int) -> None:
    times, half = [0.0, 0.25, 2 / 3, 1.0], c_r // 2
    frequencies = [math.exp(-math.log(10000) * i / (half - 1)) for i in range(half)]
    wanted = [
        [function(10000 * t * f) for function in (math.sin, math.cos) for f in frequencies]
        + [0.0] * (c_r % 2)
        for t in times
    ]
    # float32 holds an angle of 10⁴ to about 5e-4
    assert torch.allclose(time_embedding(torch.tensor(times), c_r), torch.tensor(wanted), atol=1e-3)


@pytest.mark.peer
@pytest.mark.parametrize("c_r", [64, 17])
def test_the_time_embedding_is_bit_for_bit_that_of_diffusers(c_r: int) -> None:
    pytest.importorskip("diffusers")
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_prior import WuerstchenPrior

    peer = WuerstchenPrior(c=8, c_cond=8, c_r=c_r, depth=1, nhead=1)
    t = torch.linspace(0, 1, 101)
    assert torch.equal(time_embedding(t, c_r), peer.gen_r_embedding(t))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_time_embedding_is_float32_for_times_of_any_precision(dtype: torch.dtype) -> None:
    assert time_embedding(torch.ones(1, dtype=dtype), 8).dtype == torch.float32


@pytest.mark.parametrize("is_training", [False, True])
def test_batch_norm_equals_torchs(is_training: bool) -> None:
    ours, torchs = BatchNorm2d(6, eps=1e-3), nn.BatchNorm2d(6, eps=1e-3)
    weights = random_weights(ours.state_dict())
    for norm in (ours, torchs):
        norm.load_state_dict(weights)
        norm.train(is_training)
    x = normal(3, 6, 5, 4) * 3
    assert torch.allclose(ours(x), torchs(x), atol=1e-6)
    assert torch.allclose(ours.running_mean, torchs.running_mean)
    assert torch.allclose(ours.running_var, torchs.running_var)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_norm_keeps_the_dtype_of_the_map(dtype: torch.dtype) -> None:
    norm = BatchNorm2d(6).eval()
    fill(norm)
    x = normal(3, 6, 5, 4).to(dtype)
    assert norm(x).dtype == dtype
    assert torch.equal(norm(x), norm(x.float()).to(dtype))


def test_layer_norm_2d_gives_each_position_mean_0_and_variance_1() -> None:
    y = layer_norm_2d(normal(2, 64, 5, 7) * 3 + 2)
    assert torch.allclose(y.mean(dim=1), torch.zeros(2, 5, 7), atol=1e-6)
    assert torch.allclose(y.var(dim=1, unbiased=False), torch.ones(2, 5, 7), atol=1e-5)


def test_the_timestep_block_scales_and_shifts() -> None:
    block = TimestepBlock(6, 8)
    fill(block)
    x, t = normal(2, 6, 5, 7), normal(2, 8)
    scale, shift = block.mapper(t)[:, :6, None, None], block.mapper(t)[:, 6:, None, None]
    assert torch.allclose(block(x, t), x * (1 + scale) + shift, atol=1e-6)


def test_attention_equals_softmax_over_own_and_text_tokens() -> None:
    block = AttnBlock(24, 10, 3)
    fill(block)
    x, text = normal(2, 24, 4, 5), normal(2, 7, 10)
    own = layer_norm_2d(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([own, block.kv_mapper(text)], dim=1)
    project = block.attention
    heads = []
    for part in torch.arange(24).split(8):
        q, k, v = project.to_q(own), project.to_k(tokens), project.to_v(tokens)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5).softmax(dim=2)
        heads.append(weights @ v[..., part])
    wanted = x + project.to_out(torch.cat(heads, dim=2)).transpose(1, 2).reshape(x.shape)
    assert error(block(x, block.prepare(text)), wanted) < 1e-6


def test_res_block_takes_the_skip_after_its_norm() -> None:
    block = ResBlock(6, c_skip=3)
    fill(block)
    x, skip = normal(2, 6, 5, 7), normal(2, 3, 5, 7) * 100
    y = torch.cat([layer_norm_2d(block.depthwise(x)), skip], dim=1)
    assert error(block(x, skip=skip), x + to_map(block.channelwise(to_rows(y)))) < 1e-6


def test_channels_last_memory_gives_the_numbers_of_contiguous_memory() -> None:
    block, attention, norm = ResBlock(16), AttnBlock(16, 10, 2), BatchNorm2d(16).eval()
    for module in (block, attention, norm):
        fill(module)
    x, text = normal(2, 16, 6, 9), attention.prepare(normal(2, 7, 10))
    last = x.contiguous(memory_format=torch.channels_last)
    assert x.stride() != last.stride()
    for run in (block, norm, lambda y: attention(y, text)):
        assert error(run(last), run(x)) < 1e-6


def test_rows_and_maps_are_views_of_each_other() -> None:
    x = normal(2, 3, 4, 5)
    assert torch.equal(to_map(to_rows(x)), x)
    assert to_rows(x).shape == (2, 4, 5, 3)
    assert to_rows(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("packs", [False, True])
def test_each_gradient_alone_is_pytorchs(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of oneDNN has none, be it a weight's, a bias's or that of what is added."""
    block = ResBlock(16, c_skip=8)
    fill(block)
    x, features = normal(1, 16, 3, 4), normal(1, 3, 4, 2)
    share = [features, normal(64, 2), normal(64)]
    leaves = [*block.parameters(), x, *share]

    def gradient(leaf: Tensor) -> Tensor:
        leaf.requires_grad_(True)
        y = block(x, skip=None, share=Share(*share))
        (found,) = torch.autograd.grad(y.square().sum(), leaf)
        leaf.requires_grad_(False)
        return found

    block.requires_grad_(False)
    with packing(block, torch.float32) if packs else nullcontext():
        ours = [gradient(leaf) for leaf in leaves]
    monkeypatch.setattr(arithmetic, "ONEDNN", ())
    for found, leaf in zip(ours, leaves, strict=True):
        assert error(found, gradient(leaf)) < 1e-5
        assert found.abs().max() > 0


def test_the_way_with_gradients_gives_the_numbers_of_the_way_without() -> None:
    block, attention = ResBlock(16), AttnBlock(16, 10, 2)
    for module in (block, attention):
        fill(module)
        module.requires_grad_(True)
    x, text = normal(2, 16, 6, 9), normal(2, 7, 10)
    for module, run in (
        (block, lambda: block(x)),
        (attention, lambda: attention(x, attention.prepare(text))),
    ):
        y = run()
        y.square().sum().backward()
        assert all(weight.grad.abs().max() > 0 for weight in module.parameters())
        with torch.no_grad():
            assert error(run(), y.detach()) < 1e-6
