"""The C sources of this folder, compiled once for this machine by the C compiler that it has.

Where there is no compiler, or it fails, the kernels are not usable and `native().reason` says why.
"""

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.core.errors import LabkitError
from labkit.core.machine import C_COMPILERS, c_compiler
from labkit.core.paths import cache_folder

_SOURCES = tuple(
    Path(__file__).with_name(f"{name}.c")
    for name in ("attention", "products", "integers", "rows", "recurrence", "largest", "program")  # longest first
)
_HEADERS = tuple(Path(__file__).with_name(name) for name in ("vectors.h", "product.h", "kernels.h"))
# no -fopenmp: the sources take the threads of the OpenMP runtime that torch loaded, whichever that is
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fPIC")
_TIMEOUT_S = 180  # five are enough, but not on a machine with much else to do
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float

SIGNATURES = {
    "labkit_float": [_POINTER] * 3 + [_LONG] * 3 + [_INT] * 2,
    "labkit_int8": [_POINTER] * 4 + [_LONG] * 3 + [_INT] * 2,
    "labkit_int4": [_POINTER] * 5 + [_LONG] * 4 + [_INT] * 2,
    "labkit_int8_int8": [_POINTER] * 4 + [_LONG] * 3 + [_INT] * 2,
    "labkit_int4_int8": [_POINTER] * 5 + [_LONG] * 4 + [_INT] * 2,
    "labkit_rms_norm": [_POINTER] * 3 + [_LONG] * 2 + [_FLOAT] + [_INT] * 2,
    "labkit_swiglu": [_POINTER] * 2 + [_LONG] * 2 + [_INT] * 2,
    "labkit_add": [_POINTER] * 3 + [_LONG] * 3 + [_INT] * 2,
    "labkit_rotate": [_POINTER] * 3 + [_LONG] * 6 + [_INT] * 2,
    "labkit_attend": [_POINTER] * 10 + [_LONG] * 9 + [_INT] * 2,
    "labkit_recur": [_POINTER] * 6 + [_LONG] * 5 + [_INT] * 2,
    "labkit_largest": [_POINTER] * 3 + [_LONG] * 3 + [_INT],
}
"""Arguments of the kernels, the last of which is the number of threads, in the order of `enum kernel` in program.c."""

Call = tuple[str, *tuple[Any, ...]]
"""A kernel's name and its arguments but for the threads; tensors stand for their addresses, None for NULL."""


@dataclass(frozen=True)
class Native:
    """The compiled kernels, or the reason why there are none."""

    library: ctypes.CDLL | None
    compiler: str
    reason: str = ""


@cache
def native() -> Native:
    """The kernels of this machine; compiles on the first use ever, later processes load what it left."""
    compiler = c_compiler()
    if compiler is None:
        return Native(None, "", f"no C compiler found ({', '.join(C_COMPILERS)})")
    try:
        return Native(_load(_compiled(compiler)), compiler)
    except subprocess.CalledProcessError as error:
        return Native(None, compiler, f"{compiler} failed: {_complaint(error.stderr)}")
    except subprocess.TimeoutExpired:
        return Native(None, compiler, f"{compiler} took more than {_TIMEOUT_S} s")
    except (OSError, AttributeError, LabkitError) as error:  # no place to write, or no OpenMP runtime to link against
        return Native(None, compiler, _complaint(str(error)))


@cache
def source_digest() -> str:
    """Identifies the sources."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (*_SOURCES, *_HEADERS))).hexdigest()


def _compiled(compiler: str) -> Path:
    """The shared object of these sources, compiler and processor; appears by one rename."""
    binary = os.stat(compiler)
    made_from = repr((_FLAGS, os.path.realpath(compiler), binary.st_size, binary.st_mtime_ns, _processor()))
    folder = cache_folder() / "native"
    library = folder / f"{hashlib.sha256((source_digest() + made_from).encode()).hexdigest()[:32]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPool(os.cpu_count()) as pool:
            built = Path(scratch, library.name)
            objects = pool.map(partial(_object, compiler, Path(scratch)), _SOURCES, chunksize=1)
            _run(compiler, "-shared", *objects, "-o", str(built))
            built.replace(library)
    return library


def _object(compiler: str, folder: Path, source: Path) -> str:
    """Compile one source."""
    target = str(folder / f"{source.stem}.o")
    _run(compiler, *_FLAGS, "-c", str(source), "-o", target)
    return target


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)


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
    for name, types in (*SIGNATURES.items(), ("labkit_replay", [_POINTER, _LONG, _INT])):
        function = getattr(library, name)
        function.argtypes = types
        function.restype = _INT
    return library


def _complaint(text: str) -> str:
    """The line that says what went wrong: the first with an error, else the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")


def library() -> ctypes.CDLL:
    """The kernels, where it is known that there are some."""
    found = native().library
    assert found is not None
    return found


def call(name: str, *arguments: Any) -> None:
    """Call a kernel; see `Call`.

    Raises:
        MemoryError: none is left for the kernel's copy of the activations.
    """
    values = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
    if getattr(library(), name)(*values, torch.get_num_threads()):
        raise MemoryError("no memory for the activations of a native kernel")


def has_kernels(*, device: str, dtype: torch.dtype) -> bool:
    """Whether native kernels take activations of this device and dtype here."""
    return device == "cpu" and dtype in (torch.float32, torch.bfloat16) and native().library is not None
