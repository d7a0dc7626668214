"""Every kernel against the dequantized product; joined layers against their parts."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.compression.rounding import round_groups, round_rows
from labkit.model import choice, kernels
from labkit.model.kernels import KERNELS, round_activations, round_to_float8
from labkit.model.linear import Linear, QuantizedLinear, finish, joined, relocate, touch
from labkit.model.native import build


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler."""
    monkeypatch.setattr(build, "native", lambda: build.Native(None, "", "none"))


def quantized(
    bits: int, *, activation_bits: int = 16, rows: int = 96, columns: int = 128, seed: int = 0
) -> QuantizedLinear:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if bits == 8:
        codes, scales = round_rows(weight)
        return QuantizedLinear(codes, scales, None, bits=8, activation_bits=activation_bits)
    return QuantizedLinear(*round_groups(weight, 32), bits=4, activation_bits=activation_bits)


BY_NAME = {kernel.name: kernel for kernel in KERNELS}
WEIGHT_ONLY = ("native_int8", "native_int4", "int8pack", "int4pack", "int4pack_cuda", "dequantize8", "dequantize4")
ROUNDING = (("native_int8_int8", 8), ("int_mm", 8), ("dequantize8", 8), ("native_int4_int8", 4), ("dequantize4", 4))
FLOAT8 = ("scaled_mm", "dequantize_float8")


def test_every_kernel_of_codes_is_tested_below() -> None:
    of_others = {"native_float", "torch", "csr", "semi_structured", "torchao_16", "torchao_8"}
    assert set(BY_NAME) - of_others == {*WEIGHT_ONLY, *(name for name, _ in ROUNDING), *FLOAT8}


@pytest.mark.parametrize("num_rows", [1, 3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_a_kernel_multiplies_by_the_dequantized_matrix(
    request: pytest.FixtureRequest, name: str, dtype: torch.dtype, num_rows: int
) -> None:
    kernel, bits = BY_NAME[name], 8 if "8" in name else 4
    if not kernel.name.startswith("native"):
        request.getfixturevalue("no_native")  # or it would take the place of the other int4 kernels
    # an odd number of rows keeps a layer away from the int4 kernels, so that the fallback takes it
    layer = quantized(bits, rows=90 if kernel.name == "dequantize4" else 96)
    if not kernel.is_usable(layer):
        pytest.skip(f"{kernel.name} runs elsewhere")
    expected_weight = layer.dequantized()
    layer.pack()
    x = torch.randn(num_rows, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = x.float() @ expected_weight.T
    actual = kernel.multiply(layer, x)
    assert actual.dtype == dtype
    error = (actual.float() - expected).norm() / expected.norm()
    assert error < 6e-3  # bf16 keeps 8 bits


@pytest.mark.parametrize("num_rows", [1, 3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "bits"), ROUNDING)
def test_a_kernel_of_rounded_activations_multiplies_their_whole_numbers(
    request: pytest.FixtureRequest, name: str, bits: int, dtype: torch.dtype, num_rows: int
) -> None:
    kernel = BY_NAME[name]
    if not kernel.name.startswith("native"):
        request.getfixturevalue("no_native")
    # an odd number of rows keeps a layer away from the kernels that are not the fallback
    layer = quantized(bits, activation_bits=8, rows=91 if kernel.dequantizes else 96)
    if not kernel.is_usable(layer):
        pytest.skip(f"{kernel.name} runs elsewhere")
    expected_weight = layer.dequantized()
    layer.pack()
    x = torch.randn(num_rows, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
    codes, scales = round_activations(x)
    expected = (codes * scales) @ expected_weight.T
    actual = kernel.multiply(layer, x)
    assert actual.dtype == dtype
    limit = 1e-5 if dtype is torch.float32 else 6e-3
    assert (actual.float() - expected).norm() / expected.norm() < limit


def in_float8(*, rows: int = 96, columns: int = 128, seed: int = 0, device: str = "cpu") -> QuantizedLinear:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(device)
    codes, scales = round_to_float8(weight)
    return QuantizedLinear(codes, scales.squeeze(1), None, bits=8, activation_bits=8)


@pytest.mark.parametrize("num_rows", [1, 3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FLOAT8)
def test_a_kernel_of_small_floats_multiplies_both_sides_rounded(name: str, dtype: torch.dtype, num_rows: int) -> None:
    layer, x = in_float8(), torch.randn(num_rows, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    codes, scales = round_to_float8(x)
    expected = (codes.float() * scales) @ layer.dequantized().T
    layer.packed = {name: BY_NAME[name].pack(layer)}  # torch has the product on a CPU, too, where it is slow
    actual = BY_NAME[name].multiply(layer, x)
    assert actual.dtype == dtype
    assert (actual.float() - expected).norm() / expected.norm() < 6e-3


def test_small_floats_are_multiplied_on_a_cpu_by_the_fallback_alone() -> None:
    layer = in_float8()
    layer.pack()
    assert list(layer.packed) == ["dequantize_float8"]
    assert layer.num_bytes == 96 * 128 + 4 * 96


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_rows", [1, 3, 70])
def test_tensor_cores_multiply_small_floats(num_rows: int) -> None:
    layer = in_float8(device="cuda")
    weight = layer.dequantized()
    layer.pack()
    assert list(layer.packed) == ["scaled_mm"]
    x = torch.randn(num_rows, 128, device="cuda", dtype=torch.bfloat16)
    codes, scales = round_to_float8(x)
    expected = (codes.float() * scales) @ weight.T
    assert (layer(x).float() - expected).norm() / expected.norm() < 6e-3


def test_small_floats_keep_four_bits_of_every_weight_and_all_of_the_largest() -> None:
    weight = torch.randn(64, 256) * torch.logspace(-6, 6, 64)[:, None]
    weight[3] = 0
    codes, scales = round_to_float8(weight)
    rounded = codes.float() * scales
    largest = weight.abs().amax(1)
    torch.testing.assert_close(rounded.abs().amax(1), largest)
    is_normal = weight.abs() > largest[:, None] / 448 * 2**-6
    assert ((rounded - weight).abs() <= weight.abs() * (2**-4 + 1e-6))[is_normal].all()
    assert rounded[3].eq(0).all()
    assert rounded.isfinite().all()


def test_integers_and_small_floats_are_not_joined() -> None:
    assert joined([in_float8(), quantized(8, activation_bits=8)]) is None
    whole = joined([in_float8(seed=1), in_float8(seed=2)])
    assert isinstance(whole, QuantizedLinear)
    assert whole.is_float8
    assert torch.equal(whole.dequantized()[96:], in_float8(seed=2).dequantized())


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_activations_is_part_of_a_layers_scheme(bits: int) -> None:
    assert joined([quantized(bits), quantized(bits, activation_bits=8)]) is None
    whole = joined([quantized(bits, activation_bits=8, seed=seed) for seed in (1, 2)])
    assert whole is not None
    assert whole.activation_bits == 8
    whole.pack()
    assert not {"native_int8", "native_int4", "int8pack", "int4pack"} & set(whole.packed)


def test_eight_bits_err_by_at_most_half_a_step() -> None:
    weight = torch.randn(64, 256)
    codes, scales = round_rows(weight)
    step = scales.float()[:, None]
    inside = codes.abs() < 127  # bf16 scales round down at times, and then the largest weights are clipped
    assert ((codes * step - weight).abs() <= step / 2 + 1e-6)[inside].all()
    assert inside.float().mean() > 0.9


def test_shrunk_ranges_never_err_more_than_the_full_range(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(32, 128) ** 3

    def error() -> torch.Tensor:
        codes, scales, zeros = round_groups(weight, 32)
        return (QuantizedLinear(codes, scales, zeros, bits=4).dequantized() - weight).square().view(32, 4, 32).sum(-1)

    best = error()
    monkeypatch.setattr("labkit.compression.rounding.SHRINKS", (1.0,))
    full = error()
    assert (best <= full + 1e-9).all()
    assert best.sum() < 0.95 * full.sum()


@pytest.mark.parametrize("bits", [8, 4])
def test_joined_layers_give_their_outputs_side_by_side(bits: int) -> None:
    parts = [quantized(bits, rows=rows, seed=rows) for rows in (64, 32, 32)]
    x = torch.randn(2, 5, 128)
    expected = torch.cat([x @ part.dequantized().T for part in parts], dim=-1)
    whole = joined(parts)
    assert isinstance(whole, QuantizedLinear)
    whole.pack()
    assert torch.allclose(whole(x), expected, atol=0.02 * expected.abs().max().item())


def test_joined_float_layers_keep_their_biases() -> None:
    parts = [Linear(8, rows, bias=True) for rows in (3, 5)]
    for part in parts:
        torch.nn.init.normal_(part.weight)
        assert part.bias is not None
        torch.nn.init.normal_(part.bias)
    x = torch.randn(4, 8)
    whole = joined(parts)
    assert whole is not None
    assert torch.allclose(whole(x), torch.cat([part(x) for part in parts], -1), atol=1e-6)


def test_layers_of_different_kinds_are_not_joined() -> None:
    assert joined([quantized(8), quantized(4)]) is None
    assert joined([Linear(128, 4), quantized(8)]) is None


def test_the_choice_of_kernel_is_made_once_for_a_shape_and_recorded(fresh_choices: Path) -> None:
    first, second = quantized(8, seed=1), quantized(8, seed=2)
    first.pack(), second.pack()
    for layer in (first, second):
        layer(torch.randn(3, 128))
        layer(torch.randn(4, 128))  # 3 and 4 rows share the power of two
    assert [(shape.bits, shape.rows) for shape in choice.CHOICES] == [(8, 4)]
    (chosen,) = choice.CHOICES.values()
    assert chosen.seconds > 0
    assert {rows: kernel.name for rows, kernel in second.kernels.items()} == {3: chosen.kernel, 4: chosen.kernel}


def test_relocated_weights_are_equal_elsewhere_and_what_was_shared_stays_shared() -> None:
    model = torch.nn.ModuleDict({"a": quantized(8), "b": quantized(4), "c": Linear(128, 5), "d": Linear(128, 5)})
    torch.nn.init.normal_(model["c"].weight)
    finish(model)
    model["d"].weight = torch.nn.Parameter(model["c"].weight, requires_grad=False)
    x = torch.randn(3, 128)
    before = [layer(x) for layer in model.values()]
    places = {tensor.data_ptr() for layer in model.values() for tensors in layer.packed.values() for tensor in tensors}
    places.add(model["c"].weight.data_ptr())
    relocate(model)
    now = {tensor.data_ptr() for layer in model.values() for tensors in layer.packed.values() for tensor in tensors}
    assert model["c"].weight.data_ptr() == model["d"].weight.data_ptr()
    assert len(now) + 1 == len(places)
    assert model["c"].weight.data_ptr() not in places
    for old, layer in zip(before, model.values(), strict=True):
        torch.testing.assert_close(layer(x), old)


def test_packed_layers_take_the_bytes_of_their_bits() -> None:
    for bits, expected in ((8, 96 * 128 + 96 * 2), (4, 96 * 64 + 2 * 2 * 96 * 4)):
        layer = quantized(bits)
        layer.pack()
        assert layer.num_bytes == expected


@pytest.mark.usefixtures("no_native")
def test_without_the_private_operators_the_fallback_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has", lambda name: False)
    for bits in (8, 4):
        layer = quantized(bits)
        weight = layer.dequantized()
        layer.pack()
        assert list(layer.packed) == [f"dequantize{bits}"]
        x = torch.randn(2, 128)
        assert torch.allclose(layer(x), x @ weight.T, atol=2e-2)


def test_rows_that_a_kernel_of_torch_would_read_past_are_kept_from_it() -> None:
    layer = quantized(8, columns=24)
    weight = layer.dequantized()
    layer.pack()
    assert "int8pack" not in layer.packed
    x = torch.randn(2, 24)
    assert torch.allclose(layer(x), x @ weight.T, atol=2e-2)


def test_all_weights_are_read_once_they_are_finished() -> None:
    model = torch.nn.ModuleDict({"a": quantized(8), "b": quantized(4), "c": Linear(128, 5)})
    torch.nn.init.normal_(model["c"].weight)
    finish(model)
    packed = {tensor.data_ptr() for layer in model.values() for tensors in layer.packed.values() for tensor in tensors}
    read: set[int] = set()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            read.add(args[0].data_ptr())
            return func(*args, **(kwargs or {}))

    with Watching():
        touch(model)
    assert read >= {model["c"].weight.data_ptr(), *packed}
    assert len(packed) >= 4
