"""Native kernels: how they are built, and what the general test of kernels does not reach."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from labkit.compression.rounding import round_groups, round_rows
from labkit.engine.cache import round_vectors
from labkit.model.kernels import KERNELS, round_activations
from labkit.model.native import attention, build, products, rows
from labkit.model.transformer import rotate
from tests.model.test_linear import quantized

NAMES = {"native_int8", "native_int4"}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path)
    build.native.cache_clear()
    yield tmp_path
    build.native.cache_clear()


@pytest.fixture
def compiled() -> None:
    found = build.native()
    if not found.compiler:
        pytest.skip(found.reason)
    assert found.library is not None, found.reason  # a source that does not compile is a failure, not a reason to skip


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(path))


def is_usable() -> bool:
    return any(kernel.is_usable(quantized(bits)) for kernel in KERNELS if kernel.name in NAMES for bits in (8, 4))


def test_without_a_compiler_the_kernels_are_not_usable(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C compiler" in build.native().reason
    assert not is_usable()


def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(fresh, "echo note: hello >&2; echo native.c:1: error: broken >&2; exit 1", monkeypatch)
    assert build.native().reason.endswith("failed: native.c:1: error: broken")
    assert not is_usable()
    assert not list(fresh.glob("native/*"))


def test_a_compiler_that_hangs_is_given_up(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(fresh, "exec sleep 60", monkeypatch)
    monkeypatch.setattr(build, "_TIMEOUT_S", 0.1)
    assert "more than 0.1 s" in build.native().reason


def test_a_file_that_is_no_library_is_not_usable(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(fresh, 'for last; do :; done; echo nothing > "$last"', monkeypatch)
    assert build.native().library is None
    assert build.native().reason


@pytest.mark.usefixtures("compiled")
def test_a_second_process_loads_what_the_first_compiled(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.native().library is not None
    build.native.cache_clear()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert build.native().library is not None
    assert len(list(fresh.glob("native/*"))) == 1


@pytest.mark.usefixtures("compiled")
def test_there_is_one_openmp_runtime_in_the_process() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    before = {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line.split()[-1]}
    weight = torch.ones(512, 512)
    products.int8(*round_rows(weight)).multiply(torch.ones(1, 512))
    after = {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line.split()[-1]}
    assert after == before


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [5, 64, 100, 129])
def test_eight_bits_of_any_size(columns: int, dtype: torch.dtype, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    codes, scales = round_rows(torch.randn(37, columns, generator=generator))
    x = torch.randn(num_rows, columns, generator=generator).to(dtype)
    expected = x.float() @ (codes * scales.float()[:, None]).T
    actual = products.int8(codes, scales).multiply(x).float()
    assert (actual - expected).norm() / expected.norm() < (4e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 9, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("columns", "group"), [(32, 32), (96, 32), (96, 96), (192, 64), (256, 128), (544, 32)])
def test_four_bits_of_any_size(columns: int, group: int, dtype: torch.dtype, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    codes, scales, zeros = round_groups(torch.randn(37, columns, generator=generator), group)
    groups = codes.float().view(37, -1, group) - 8
    weight = (groups * scales.float()[..., None] + zeros.float()[..., None]).flatten(1)
    x = torch.randn(num_rows, columns, generator=generator).to(dtype)
    expected = x.float() @ weight.T
    actual = multiply4(x, codes, scales, zeros).float()
    assert (actual - expected).norm() / expected.norm() < (4e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 6])
def test_the_number_of_threads_changes_no_bit(num_rows: int, dtype: torch.dtype) -> None:
    weight = torch.randn(530, 544)
    codes4, scales4, zeros4 = round_groups(weight, 32)
    x = torch.randn(num_rows, 544).to(dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            y4 = multiply4(x, codes4, scales4, zeros4)
            results.append((products.int8(*round_rows(weight)).multiply(x), y4))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_a_number_stays_so_in_its_row_only(dtype: torch.dtype, value: float) -> None:
    weight = torch.randn(32, 128)
    x = torch.randn(3, 128).to(dtype)
    x[1, 100] = value
    codes, scales, zeros = round_groups(weight, 32)
    for y in (products.int8(*round_rows(weight)).multiply(x), multiply4(x, codes, scales, zeros)):
        assert not y[1].isfinite().any()
        assert y[[0, 2]].isfinite().all()


def multiply4(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    packed = products.pack4(codes), products.pack_groups(scales), products.pack_groups(zeros)
    group = x.shape[-1] // scales.shape[1]
    return products.int4(*packed, out_features=len(codes), group=group).multiply(x)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("columns", [5, 32, 48, 100, 256])
@DTYPES
def test_floats_of_any_size(columns: int, dtype: torch.dtype, num_rows: int) -> None:
    x, weight = torch.randn(num_rows, 1, columns).to(dtype), torch.randn(37, columns).to(dtype)
    expected = x.double() @ weight.double().T
    assert relative_error(products.floats(weight).multiply(x), expected) < {torch.float32: 1e-6}.get(dtype, 4e-3)


@pytest.mark.usefixtures("compiled")
@DTYPES
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 3, 64), (7, 100), (3, 401, 100)])
def test_rms_norm_is_that_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
    expected = torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), 1e-5)
    torch.testing.assert_close(rows.rms_norm(x, weight, 1e-5), expected.to(dtype))
    strided = x.repeat_interleave(2, -1)[..., ::2]
    assert torch.equal(rows.rms_norm(strided, weight, 1e-5), rows.rms_norm(x, weight, 1e-5))


@pytest.mark.usefixtures("compiled")
@DTYPES
@pytest.mark.parametrize(("num_tokens", "width"), [(2, 5), (2, 16), (401, 100)])
def test_swiglu_is_that_of_torch(num_tokens: int, width: int, dtype: torch.dtype) -> None:
    gate_up = (30 * torch.randn(3, num_tokens, 2 * width)).to(dtype)
    gate_up[0, 0, 0], gate_up[0, 0, 1] = -1e4, 1e4  # beyond where an exponential of fp32 ends
    gate, up = gate_up.float().chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    actual = rows.swiglu(gate_up)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected.to(dtype), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


@pytest.mark.usefixtures("compiled")
@DTYPES
@pytest.mark.parametrize("batch_of_angles", [1, 3])
@pytest.mark.parametrize(("num_tokens", "width"), [(1, 64), (7, 10), (301, 32)])
def test_rotation_is_that_of_torch(num_tokens: int, width: int, batch_of_angles: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, num_tokens, 6, width).to(dtype)
    cos, sin = (torch.randn(batch_of_angles, num_tokens, 1, width).to(dtype) for _ in range(2))
    expected = torch.cat((rotate(x[:, :, :4].float(), cos.float(), sin.float()), x[:, :, 4:].float()), dim=2)
    rows.rotate(x[:, :, :4], cos, sin)
    assert x.dtype == dtype
    torch.testing.assert_close(x, expected.to(dtype))


@pytest.mark.usefixtures("compiled")
@DTYPES
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 2, 16), (6, 2, 64), (10, 2, 32), (7, 1, 128)])
def test_attention_of_one_token_is_that_of_torch(
    heads: int, kv_heads: int, width: int, window: int | None, dtype: torch.dtype
) -> None:
    """Sequences of unequal length in blocks out of order, beside the same worked out in double precision."""
    lengths, size = torch.tensor([0, 5, 150, 63]), 24
    tables = torch.randperm(40)[: 4 * 7].view(4, 7)
    stored = tuple(torch.randn(kv_heads, 40, size, width).to(dtype) for _ in range(2))
    qkv = torch.randn(4, 1, heads + 2 * kv_heads, width).to(dtype)
    cos, sin = (torch.randn(4, 1, 1, width).to(dtype) for _ in range(2))
    before = [tensor.clone() for tensor in stored]
    actual = attention.attend(qkv, (cos, sin), stored, tables, lengths, window=window)
    x = qkv.double()
    turned = x * cos.double() + x.roll(width // 2, -1) * sin.double()
    for b, (table, length) in enumerate(zip(tables, lengths.tolist(), strict=True)):
        at = table[length // size], length % size
        torch.testing.assert_close(stored[0][:, *at], turned[b, 0, heads : heads + kv_heads].to(dtype))
        assert torch.equal(stored[1][:, *at], qkv[b, 0, heads + kv_heads :])
        first = max(0, length + 1 - window) if window else 0
        keys, values = (tensor[:, table].flatten(1, 2)[:, first : length + 1].double()
                        .repeat_interleave(heads // kv_heads, 0) for tensor in stored)  # fmt: skip
        weights = ((turned[b, 0, :heads, None] * keys).sum(-1) / width**0.5).softmax(-1)
        expected = (weights[..., None] * values).sum(1)
        assert relative_error(actual[b, 0].view(heads, width), expected) < {torch.float32: 1e-6}.get(dtype, 5e-3)
        for tensor, old in zip(stored, before, strict=True):  # nothing else was touched
            old[:, *at] = tensor[:, *at]
    assert all(torch.equal(tensor, old) for tensor, old in zip(stored, before, strict=True))


@pytest.mark.usefixtures("compiled")
@DTYPES
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(6, 2, 64), (4, 4, 32)])
def test_attention_over_rounded_keys_and_values_is_that_over_what_they_stand_for(
    heads: int, kv_heads: int, width: int, dtype: torch.dtype
) -> None:
    keys, values = (torch.randn(kv_heads, 2, 100, width) for _ in range(2))  # two blocks of 100 tokens
    (key_codes, key_scales), (value_codes, value_scales) = round_vectors(keys), round_vectors(values)
    qkv = torch.randn(2, 1, heads + 2 * kv_heads, width).to(dtype)
    rotation = torch.ones(2, 1, 1, width).to(dtype), torch.zeros(2, 1, 1, width).to(dtype)
    stored = (key_codes, value_codes, key_scales, value_scales)
    actual = attention.attend(qkv, rotation, stored, torch.tensor([[0], [1]]), torch.tensor([70, 3]), window=None)
    for b, length in enumerate((70, 3)):
        new_keys, new_values = qkv[b, 0, heads : heads + kv_heads], qkv[b, 0, heads + kv_heads :]
        for codes, scales, new in ((key_codes, key_scales, new_keys), (value_codes, value_scales, new_values)):
            expected_codes, expected_scales = round_vectors(new)
            assert torch.equal(codes[:, b, length], expected_codes)  # stored on the way, as torch rounds
            torch.testing.assert_close(scales[:, b, length], expected_scales)
    as_floats = tuple(
        (codes * scales[..., None]) for codes, scales in ((key_codes, key_scales), (value_codes, value_scales))
    )
    q = qkv[:, :, :heads].double()
    for b, length in enumerate((70, 3)):
        all_keys, all_values = (
            part[:, b, : length + 1].double().repeat_interleave(heads // kv_heads, 0) for part in as_floats
        )
        weights = ((q[b, 0, :, None] * all_keys).sum(-1) / width**0.5).softmax(-1)
        expected = (weights[..., None] * all_values).sum(1)
        assert relative_error(actual[b, 0].view(heads, width), expected) < {torch.float32: 1e-6}.get(dtype, 5e-3)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 9, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(37, 5), (16, 64), (50, 103), (300, 256)])
def test_eight_by_eight_bits_of_any_size(rows: int, columns: int, dtype: torch.dtype, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    codes, scales = round_rows(torch.randn(rows, columns, generator=generator))
    x = torch.randn(num_rows, columns, generator=generator).to(dtype)
    x_codes, x_scales = round_activations(x)
    expected = (x_codes.double() @ codes.double().T) * x_scales * scales.double()
    packed = products.pack8_rounded(codes), products.pack_groups(scales[:, None])
    actual = products.int8_rounded(*packed, out_features=rows).multiply(x)
    assert relative_error(actual, expected) < (4e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rounded_activations_that_are_no_numbers_spoil_their_row_only(value: float) -> None:
    codes, scales = round_rows(torch.randn(32, 70))
    x = torch.randn(3, 70)
    x[1, 69] = value
    packed = products.pack8_rounded(codes), products.pack_groups(scales[:, None])
    y = products.int8_rounded(*packed, out_features=32).multiply(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.usefixtures("compiled")
def test_many_stored_tokens_are_shared_between_threads() -> None:
    stored = tuple(torch.randn(4, 30, 100, 64) for _ in range(2))
    tables, lengths = torch.randperm(30)[None], torch.tensor([2999])
    qkv, rotation = torch.randn(1, 1, 16, 64), (torch.ones(1, 1, 1, 64), torch.zeros(1, 1, 1, 64))
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(attention.attend(qkv, rotation, stored, tables, lengths, window=None))
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_other_dtypes_and_a_machine_without_compiler_are_left_to_torch(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not build.has_kernels(device="cpu", dtype=torch.float16)
    assert not build.has_kernels(device="cuda", dtype=torch.float32)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not build.has_kernels(device="cpu", dtype=torch.float32)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())
