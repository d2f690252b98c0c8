"""The blocks that the networks share, each against a plain formula or torch's own layer."""

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuerstchen import arithmetic, memory
from wuerstchen.arithmetic import (
    ONEDNN,
    ROWS,
    attend,
    linear,
    norm_over_map,
    packing,
    product,
    takes_onednn,
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
from wuerstchen.memory import memory_left
from wuerstchen.placement import Placement

from .peers import error, mean_error, normal, random_weights, share_weights


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


@pytest.mark.skipif(not ONEDNN, reason="oneDNN does not know this processor, or is not there")
def test_products_on_the_cpu_are_asked_of_onednn_unless_gradients_are() -> None:
    x, weight = normal(2, 3), normal(4, 3)
    assert takes_onednn(x, weight)
    assert not takes_onednn(x.double(), weight.double())
    assert not takes_onednn(x.to("meta"), weight.to("meta"))
    assert not takes_onednn(x, weight.requires_grad_())
    with torch.no_grad():
        assert takes_onednn(x, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [12, 20])
def test_a_product_is_the_formula_with_any_strides_and_leaves_its_inputs(
    dtype: torch.dtype, columns: int
) -> None:
    x, weight = normal(2, 5, 7, 12).to(dtype), normal(24, columns).to(dtype)[:, -12:]
    bias, plus = normal(24).to(dtype), to_rows(normal(2, 24, 5, 7)).to(dtype)
    before = [tensor.clone() for tensor in (x, weight, bias, plus)]
    y = x @ weight.T
    assert error(product(x, weight), y) < 1e-6
    assert error(product(x, weight, bias), y + bias) < 1e-6
    assert error(product(x, weight, bias, activate=True), F.gelu(y + bias)) < 1e-6
    assert error(product(x, weight, bias, plus=plus), y + bias + plus) < 1e-6
    assert error(product(to_rows(to_map(x).contiguous()), weight, plus=plus), y + plus) < 1e-6
    assert all(map(torch.equal, before, (x, weight, bias, plus)))


def test_a_layer_is_multiplied_with_the_weights_that_it_gives_at_that_moment() -> None:
    class Doubled(nn.Linear):
        def fetch(self, like: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * self.weight.to(like), 2 * self.bias.to(like)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, *self.fetch(x))

    x = normal(3, 6)
    for layer in (nn.Linear(6, 4), Doubled(6, 4)):
        layer.requires_grad_(False)
        assert error(linear(layer, x), layer(x)) < 1e-6
        layer.weight = nn.Parameter(normal(4, 6), requires_grad=False)
        assert error(linear(layer, x), layer(x)) < 1e-6
        assert error(linear(layer, x, activate=True), F.gelu(layer(x))) < 1e-6


def test_what_others_put_around_a_layer_counts() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x, twice, hooked, replaced = normal(3, 6), Adapted(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)
    hooked.register_forward_hook(lambda layer, given, y: 2 * y)
    plain = nn.Linear.forward
    replaced.forward = lambda x: 2 * plain(replaced, x)
    for layer in (twice, hooked, replaced):
        layer.requires_grad_(False)
        assert error(linear(layer, x), 2 * plain(layer, x)) < 1e-6


@pytest.mark.skipif(not ONEDNN, reason="oneDNN does not know this processor, or is not there")
@pytest.mark.parametrize("dtype", ONEDNN)
def test_packed_weights_multiply_alike_and_are_dropped(dtype: torch.dtype) -> None:
    layer = nn.Linear(96, 200).to(dtype).requires_grad_(False)
    x, few, plus = (normal(2, 9, count).to(dtype) for count in (96, 64, 200))

    def results() -> list[Tensor]:
        some = linear(layer, few, columns=slice(64), plus=plus)
        return [linear(layer, x), linear(layer, x, activate=True), linear(layer, x[:1]), some]

    plain = results()
    assert mean_error(plain[-1], few @ layer.weight[:, :64].T + layer.bias + plus) < 0.01
    with packing(nn.Sequential(layer)):
        for _ in range(2):
            apart = [error(*pair) for pair in zip(results(), plain, strict=True)]
            assert max(apart) < 1e-6  # to the last bit, but in old versions of PyTorch
        assert sorted(w.shape[1] for w, _ in layer.packed.values() if w.is_mkldnn) == [64, 96]
    assert not hasattr(layer, "packed")
    layer.weight.mul_(2)
    assert error(linear(layer, x), layer(x)) < 1e-2


def test_a_container_counts_its_own_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "/sys/fs/cgroup/memory.max": "3000000\n",
        "/sys/fs/cgroup/memory.current": "2500000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1\nactive_file 100000\ninactive_file 200000\n",
    }

    def there(file: str) -> Path:
        path = tmp_path / file.replace("/", "_")
        if file in texts:
            path.write_text(texts[file])
        return path

    monkeypatch.setattr(memory, "Path", there)
    assert memory_left() == 800_000
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory_left() == 8_192_000
    texts.clear()
    (tmp_path / "_proc_meminfo").unlink()
    assert memory_left() == 0


def test_where_memory_is_short_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_left() > 0
    layer = nn.Linear(96, 200).requires_grad_(False)
    for left, packs in ((2 * layer.weight.nbytes + 1, True), (2 * layer.weight.nbytes, False)):
        monkeypatch.setattr(arithmetic, "memory_left", lambda left=left: left)
        with packing(nn.Sequential(layer)):
            assert hasattr(layer, "packed") == packs
    small = Placement(quantize="int8")
    lean = small.settle(nn.Sequential(small.ops.Linear(96, 200)))
    with packing(lean):
        assert not hasattr(lean[0], "packed")


@pytest.mark.parametrize(("own", "tokens"), [(7, 1), (7, 5), (2 * ROWS + 3, 90)])
def test_attention_on_the_cpu_is_that_of_pytorch(
    own: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "WORTHWHILE", 0)
    monkeypatch.setattr(arithmetic, "SCORES", 90 * ROWS)
    q, k, v = normal(2, 3, own, 8), normal(2, 3, tokens, 8) * 3, normal(2, 3, tokens, 8)
    assert error(attend(q, k, v), F.scaled_dot_product_attention(q, k, v)) < 1e-6


def test_attention_on_the_cpu_is_no_less_exact_in_bfloat16_than_that_of_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arithmetic, "WORTHWHILE", 0)
    inputs = [normal(4, 3, length, 16).bfloat16() for length in (30, 80, 80)]
    truth = F.scaled_dot_product_attention(*(part.double() for part in inputs))
    ours, torchs = attend(*inputs), F.scaled_dot_product_attention(*inputs)
    assert ours.dtype == torch.bfloat16
    assert mean_error(ours, truth) <= 1.1 * mean_error(torchs, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_over_a_map_of_many_bands_is_that_of_pytorch(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "BAND", 6 * 1000)
    x = normal(2, 41, 53, 6).to(dtype)
    wanted = torch.linalg.vector_norm(x.double(), dim=(1, 2), keepdim=True)
    assert norm_over_map(x).dtype == torch.float32
    assert error(norm_over_map(x), wanted) < 1e-6


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
    with packing(block) if packs else nullcontext():
        ours = [gradient(leaf) for leaf in leaves]
    monkeypatch.setattr(arithmetic, "ONEDNN", ())
    for found, leaf in zip(ours, leaves, strict=True):
        assert error(found, gradient(leaf)) < 1e-5
        assert found.abs().max() > 0


def test_a_channel_of_zeros_has_finite_gradients() -> None:
    x = normal(1, 3, 4, 6)
    x[..., 0] = 0
    norm_over_map(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


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


def test_a_hook_before_a_layer_is_called() -> None:
    x, hooked = torch.randn(3, 6), nn.Linear(6, 4).requires_grad_(False)
    hooked.register_forward_pre_hook(lambda layer, given: (2 * given[0],))
    assert error(linear(hooked, x), nn.functional.linear(2 * x, hooked.weight, hooked.bias)) < 1e-6


def test_a_part_of_a_layer_is_packed_in_each_precision() -> None:
    from wuerstchen.arithmetic import ONEDNN, packing

    if len(ONEDNN) < 2:
        pytest.skip("one precision")
    layer = nn.Linear(96, 200).requires_grad_(False)
    x = torch.randn(9, 96)
    with packing(nn.Sequential(layer)):
        for dtype in ONEDNN:
            some = linear(layer, x[:, :64].to(dtype), columns=slice(64))
            assert some.dtype == dtype
