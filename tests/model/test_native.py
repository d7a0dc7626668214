"""Native kernels: how they are built, and what the general test of kernels does not reach."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from labkit.model import native
from labkit.model.linear import KERNELS
from labkit.optimizations.quantize import round_groups, round_rows
from tests.model.test_linear import quantized

NAMES = {"native_int8", "native_int4"}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path)
    native.native.cache_clear()
    yield tmp_path
    native.native.cache_clear()


@pytest.fixture
def compiled() -> None:
    if native.native().library is None:
        pytest.skip(native.native().reason)


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(native.shutil, "which", lambda name: str(path))


def is_usable() -> bool:
    return any(kernel.is_usable(quantized(bits)) for kernel in KERNELS if kernel.name in NAMES for bits in (8, 4))


def test_without_a_compiler_the_kernels_are_not_usable(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert "no C compiler" in native.native().reason
    assert not is_usable()


def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(fresh, "echo note: hello >&2; echo native.c:1: error: broken >&2; exit 1", monkeypatch)
    assert native.native().reason.endswith("failed: native.c:1: error: broken")
    assert not is_usable()
    assert not list(fresh.glob("native/*"))


def test_a_compiler_that_hangs_is_given_up(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(fresh, "exec sleep 60", monkeypatch)
    monkeypatch.setattr(native, "_TIMEOUT_S", 0.1)
    assert "more than 0.1 s" in native.native().reason


def test_a_file_that_is_no_library_is_not_usable(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(fresh, 'for last; do :; done; echo nothing > "$last"', monkeypatch)
    assert native.native().library is None
    assert native.native().reason


@pytest.mark.usefixtures("compiled")
def test_a_second_process_loads_what_the_first_compiled(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.native().library is not None
    native.native.cache_clear()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert native.native().library is not None
    assert len(list(fresh.glob("native/*"))) == 1


@pytest.mark.usefixtures("compiled")
def test_there_is_one_openmp_runtime_in_the_process() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    before = {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line.split()[-1]}
    weight = torch.ones(512, 512)
    native.multiply8(torch.ones(1, 512), *round_rows(weight))
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
    actual = native.multiply8(x, codes, scales).float()
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
    packed = native.pack4(codes), scales, zeros
    x = torch.randn(num_rows, columns, generator=generator).to(dtype)
    expected = x.float() @ weight.T
    actual = native.multiply4(x, *packed).float()
    assert (actual - expected).norm() / expected.norm() < (4e-3 if dtype == torch.bfloat16 else 1e-6)
    assert torch.equal(native.unpacked4(*packed, in_features=columns), weight.bfloat16())


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
            y4 = native.multiply4(x, native.pack4(codes4), scales4, zeros4)
            results.append((native.multiply8(x, *round_rows(weight)), y4))
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
    for y in (native.multiply8(x, *round_rows(weight)), native.multiply4(x, native.pack4(codes), scales, zeros)):
        assert not y[1].isfinite().any()
        assert y[[0, 2]].isfinite().all()
