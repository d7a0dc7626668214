"""Native kernels for the CPU: `native.c`, compiled once for this machine by the C compiler that it has.

Where there is no compiler, or it fails, the kernels are not usable and `native().reason` says why.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from labkit.core.errors import LabkitError
from labkit.core.paths import cache_folder

_SOURCE = Path(__file__).with_suffix(".c")
# no -fopenmp: the source takes the threads of the OpenMP runtime that torch loaded, whichever that is
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 60
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


@dataclass(frozen=True)
class Native:
    """The compiled kernels, or the reason why there are none."""

    library: ctypes.CDLL | None
    compiler: str
    reason: str = ""


@cache
def native() -> Native:
    """The kernels of this machine; compiles on the first use ever, later processes load what it left."""
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return Native(None, "", f"no C compiler found ({', '.join(_COMPILERS)})")
    try:
        return Native(_load(_compiled(compiler)), compiler)
    except subprocess.CalledProcessError as error:
        return Native(None, compiler, f"{compiler} failed: {_complaint(error.stderr)}")
    except subprocess.TimeoutExpired:
        return Native(None, compiler, f"{compiler} took more than {_TIMEOUT_S} s")
    except (OSError, AttributeError, LabkitError) as error:  # no place to write, or no OpenMP runtime to link against
        return Native(None, compiler, _complaint(str(error)))


def _compiled(compiler: str) -> Path:
    """The shared object of this source, compiler and processor; appears by one rename."""
    source = _SOURCE.read_bytes()
    binary = os.stat(compiler)
    made_from = repr((_FLAGS, os.path.realpath(compiler), binary.st_size, binary.st_mtime_ns, _processor()))
    folder = cache_folder() / "native"
    library = folder / f"{hashlib.sha256(source + made_from.encode()).hexdigest()[:32]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch, library.name)
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
            built.replace(library)
    return library


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.machine() + platform.processor() + features


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.labkit_int8.argtypes = [_POINTER] * 4 + [_LONG] * 3 + [_INT] * 2
    library.labkit_int4.argtypes = [_POINTER] * 5 + [_LONG] * 4 + [_INT] * 2
    library.labkit_unpack4.argtypes = [_POINTER] * 4 + [_LONG] * 3 + [_INT]
    library.labkit_unpack4.restype = None
    return library


def _complaint(text: str) -> str:
    """The line that says what went wrong: the first with an error, else the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")


def pack4(codes: Tensor) -> Tensor:
    """Two codes a byte: uint8 [out, in] in 0 … 15 → [out, in / 2], `in` padded to 64; see native.c."""
    rows, columns = codes.shape
    padded = torch.nn.functional.pad(codes, (0, -columns % 64), value=8).view(rows, -1, 2, 16)
    return (padded[:, :, 0] | (padded[:, :, 1] << 4)).view(rows, -1)


def multiply8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x [rows, in] times (codes · scale)ᵀ, in fp32 or x's bf16; codes int8 [out, in], scales bf16 [out]."""
    out_features, in_features = codes.shape
    x = _prepared(x)
    y = torch.empty(len(x), out_features, dtype=x.dtype)
    status = _library().labkit_int8(
        y.data_ptr(),
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        len(x),
        out_features,
        in_features,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return _checked(y, status)


def multiply4(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """x [rows, in] times ((codes - 8) · scale + zero)ᵀ; codes from `pack4`, scales and zeros bf16 [out, in / group]."""
    out_features, in_features = len(codes), x.shape[1]
    x = _prepared(x)
    y = torch.empty(len(x), out_features, dtype=x.dtype)
    status = _library().labkit_int4(
        y.data_ptr(),
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        zeros.data_ptr(),
        len(x),
        out_features,
        in_features,
        in_features // scales.shape[1],
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return _checked(y, status)


def unpacked4(codes: Tensor, scales: Tensor, zeros: Tensor, *, in_features: int) -> Tensor:
    """(codes - 8) · scale + zero as bf16 [out, in]; arguments as those of `multiply4`."""
    weight = torch.empty(len(codes), in_features, dtype=torch.bfloat16)
    _library().labkit_unpack4(
        weight.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        zeros.data_ptr(),
        len(codes),
        in_features,
        in_features // scales.shape[1],
        torch.get_num_threads(),
    )
    return weight


def _library() -> ctypes.CDLL:
    library = native().library
    assert library is not None
    return library


def _prepared(x: Tensor) -> Tensor:
    return (x if x.dtype in (torch.float32, torch.bfloat16) else x.float()).contiguous()


def _checked(y: Tensor, status: int) -> Tensor:
    if status:
        raise MemoryError("no memory for the activations of a native kernel")
    return y
