"""Products, attention and norms on a CPU, each against PyTorch's own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuerstchen import arithmetic, memory
from wuerstchen.arithmetic import (
    HALVES,
    HAS_ONEDNN,
    ONEDNN,
    ROWS,
    attend,
    linear,
    multiplies,
    norm_over_map,
    packing,
    product,
    takes_onednn,
)
from wuerstchen.layers import to_map, to_rows
from wuerstchen.memory import memory_left
from wuerstchen.placement import Placement

from .peers import error, mean_error, normal

CPU = torch.device("cpu")
BY_ONEDNN = ONEDNN or (torch.float32,)  # which every processor's knows, be it slower


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have oneDNN multiply, whatever the processor."""
    if not HAS_ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(arithmetic, "ONEDNN", BY_ONEDNN)


@pytest.fixture(params=["oneDNN", "PyTorch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have oneDNN multiply, and then PyTorch by itself."""
    if request.param == "oneDNN":
        request.getfixturevalue("onednn")
    else:
        monkeypatch.setattr(arithmetic, "ONEDNN", ())


@pytest.mark.usefixtures("onednn")
def test_products_on_the_cpu_are_asked_of_onednn_unless_gradients_are() -> None:
    x, weight = normal(2, 3), normal(4, 3)
    assert takes_onednn(x, weight)
    assert not takes_onednn(x.double(), weight.double())
    assert not takes_onednn(x.to("meta"), weight.to("meta"))
    assert not takes_onednn(x, weight.requires_grad_())
    with torch.no_grad():
        assert takes_onednn(x, weight)


@pytest.mark.usefixtures("either")
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


@pytest.mark.usefixtures("either")
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


@pytest.mark.usefixtures("either")
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


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("dtype", BY_ONEDNN)
def test_packed_weights_multiply_alike_and_are_dropped(dtype: torch.dtype) -> None:
    layer = nn.Linear(96, 200).to(dtype).requires_grad_(False)
    x, few, plus = (normal(2, 9, count).to(dtype) for count in (96, 64, 200))

    def results() -> list[Tensor]:
        some = linear(layer, few, columns=slice(64), plus=plus)
        return [linear(layer, x), linear(layer, x, activate=True), linear(layer, x[:1]), some]

    plain = results()
    assert mean_error(plain[-1], few @ layer.weight[:, :64].T + layer.bias + plus) < 0.01
    with packing(nn.Sequential(layer), dtype):
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


@pytest.mark.usefixtures("either")
def test_weights_in_half_precision_are_cast_once_in_a_run_of_float32() -> None:
    layer = Placement(offload="layer").ops.Linear(96, 200).bfloat16().requires_grad_(False)
    x, casts = normal(9, 96), []
    plain, fetch = linear(layer, x), layer.fetch
    layer.fetch = lambda like: casts.append(like.dtype) or fetch(like)
    with packing(nn.Sequential(layer), torch.float32):
        for _ in range(3):
            assert error(linear(layer, x), plain) < 1e-6
    assert casts == [torch.float32]
    assert error(linear(layer, x), plain) < 1e-6
    assert len(casts) == 2


def test_where_memory_is_short_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_left() > 0
    layer = nn.Linear(96, 200, dtype=torch.bfloat16).requires_grad_(False)
    for dtype in (torch.bfloat16, torch.float32):
        twice = 2 * dtype.itemsize * layer.weight.numel()
        for left, packs in ((twice + 1, True), (twice, False)):
            monkeypatch.setattr(arithmetic, "memory_left", lambda left=left: left)
            with packing(nn.Sequential(layer), dtype):
                assert hasattr(layer, "packed") == packs
    small = Placement(quantize="int8")
    lean = small.settle(nn.Sequential(small.ops.Linear(96, 200)))
    with packing(lean, torch.float32):
        assert not hasattr(lean[0], "packed")


def test_a_cpu_multiplies_in_float32_and_in_what_onednn_knows_or_nobody_asks() -> None:
    assert multiplies(torch.float32, CPU)
    for dtype, asked in HALVES.items():
        assert multiplies(dtype, CPU) == getattr(torch.ops.mkldnn, asked)()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HALVES, torch.float16, "_not_in_this_pytorch")
        assert multiplies(torch.float16, CPU)


@pytest.mark.usefixtures("onednn")
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


def test_a_channel_of_zeros_has_finite_gradients() -> None:
    x = normal(1, 3, 4, 6)
    x[..., 0] = 0
    norm_over_map(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_hook_before_a_layer_is_called() -> None:
    x, hooked = torch.randn(3, 6), nn.Linear(6, 4).requires_grad_(False)
    hooked.register_forward_pre_hook(lambda layer, given: (2 * given[0],))
    assert error(linear(hooked, x), nn.functional.linear(2 * x, hooked.weight, hooked.bias)) < 1e-6


@pytest.mark.usefixtures("either")
def test_a_part_of_a_layer_is_packed_in_each_precision() -> None:
    layer = nn.Linear(96, 200).requires_grad_(False)
    x = torch.randn(9, 96)
    with packing(nn.Sequential(layer), torch.float32):
        for dtype in (torch.float32, torch.bfloat16):
            some = linear(layer, x[:, :64].to(dtype), columns=slice(64))
            assert some.dtype == dtype
