"""Machine: the computer a Run was measured on. Two Runs compare only where their machines' fingerprints agree."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from labkit.core.errors import Unavailable, UsageError

DEVICES = ("cpu", "cuda")
C_COMPILERS = ("cc", "gcc", "clang")
CPP_COMPILERS = ("g++", "clang++", "c++")

_LIBRARIES = ("numpy", "torch", "tensorflow", "transformers", "llama-cpp-python", "scikit-learn", "torchao", "gensim")
_ISA = re.compile(r"^(avx|avx2|fma|f16c|avx512.*|avx_vnni|amx_.*|asimd.*|sve.*|i8mm|bf16)$")
_NATIVE_ISA = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}
"""Extensions of which one has to be there for a processor to do arithmetic in a dtype."""
_NOT_COMPARED = ("commit", "labkit")
_GPU_ID = re.compile(r"\d+|GPU-[0-9a-f-]{36}")
"""Of what CUDA_VISIBLE_DEVICES may name, that which nvidia-smi knows, too: no part of a GPU (MIG)."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What can change a figure without the recipe changing.

    Attributes:
        host: a digest that tells hosts apart without naming them.
        num_cores: cores this process may use; num_physical_cores: those the machine has.
        isa: vector extensions, as the kernel names them. caches_bytes: by level, of one core or of those that share it.
        gpu, gpu_memory_bytes, driver: the first NVIDIA GPU that CUDA may use, None without one. Of one that shares the
            CPU's memory nvidia-smi tells none, and it is None, too.
        versions: of Python and the libraries that are installed.
        labkit, commit: version of labkit and its Git commit, '' outside a checkout; recorded, not compared.
    """

    host: str
    os: str
    cpu: str
    num_cores: int
    num_physical_cores: int | None
    isa: tuple[str, ...]
    caches_bytes: Mapping[str, int]
    memory_bytes: int
    gpu: str | None
    gpu_memory_bytes: int | None
    driver: str | None
    versions: Mapping[str, str]
    labkit: str = field(default="")
    commit: str = field(default="")

    @property
    def fingerprint(self) -> str:
        """Digest of every field that must agree for a comparable pair: all but labkit's own version and commit."""
        compared = {key: value for key, value in asdict(self).items() if key not in _NOT_COMPARED}
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the fingerprint."""
        return asdict(self) | {"isa": list(self.isa), "fingerprint": self.fingerprint}


def machine(device: str = "cpu") -> Machine:
    """Describe this machine and check that it has `device`.

    The GPU is part of the description whatever the device, so that Runs on CPU and GPU of one host compare.

    Raises:
        UsageError: the device is neither "cpu" nor "cuda".
        Unavailable: "cuda" on a machine without an NVIDIA GPU and driver.
    """
    if device not in DEVICES:
        raise UsageError.unknown("device", device, DEVICES)
    described = _describe()
    if device == "cuda" and described.gpu is None:
        raise Unavailable("device 'cuda' was asked for; nvidia-smi finds no GPU here; allowed: cpu")
    return described


def free_memory_bytes(device: str = "cpu") -> int:
    """Bytes that can still be allocated on `device`, within the limit of the container if there is one.

    Of a GPU whose memory nvidia-smi does not tell they are the CPU's, which such GPUs share.

    Raises:
        Unavailable: "cuda" on a machine without an NVIDIA GPU.
    """
    import psutil

    if device == "cuda":
        machine(device)
        if (free_bytes := _gpu_bytes("memory.free")) is not None:
            return free_bytes
    available = int(psutil.virtual_memory().available)
    limit = _cgroup_number("memory.max")
    used = _cgroup_number("memory.current")
    if limit is None or used is None:
        return available
    return max(0, min(available, limit - used + _evictable_bytes()))


@lru_cache(maxsize=1)
def compute_capability() -> float | None:
    """Of the first NVIDIA GPU that CUDA may use, as 8.9 for an Ada and 9.0 for a Hopper; None without one."""
    told = _query_gpu("compute_cap")
    return float(told) if told.replace(".", "", 1).isdigit() else None


def usable_cores() -> int:
    """Cores that affinity and the container's quota leave to this process."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        return max(1, min(allowed, int(quota) // int(period)))
    return allowed


def c_compiler() -> str | None:
    """Path of the C compiler that native kernels are compiled with; None where there is none."""
    return next((path for name in C_COMPILERS if (path := shutil.which(name))), None)


def cpp_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile writes code for; None where there is none."""
    return next((path for name in CPP_COMPILERS if (path := shutil.which(name))), None)


def emulated_dtypes(isa: Collection[str]) -> tuple[str, ...]:
    """Dtypes that a processor with these extensions stores but converts to fp32 for every operation."""
    return tuple(dtype for dtype, extensions in _NATIVE_ISA.items() if not set(extensions) & set(isa))


@lru_cache(maxsize=1)
def _describe() -> Machine:
    import psutil

    gpu, gpu_memory_bytes, driver = _gpu()
    memory_bytes = int(psutil.virtual_memory().total)
    cpuinfo = _read(Path("/proc/cpuinfo"))
    return Machine(
        host=_host(),
        os=f"{platform.system()} {platform.release()}",
        cpu=_cpu_field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        num_cores=usable_cores(),
        num_physical_cores=psutil.cpu_count(logical=False),
        isa=_isa(cpuinfo),
        caches_bytes=_caches(),
        memory_bytes=min(memory_bytes, _cgroup_number("memory.max") or memory_bytes),
        gpu=gpu,
        gpu_memory_bytes=gpu_memory_bytes,
        driver=driver,
        versions={"python": platform.python_version()} | _versions(_LIBRARIES),
        labkit=_versions(("labkit",)).get("labkit", ""),
        commit=_commit(),
    )


def _host() -> str:
    name = platform.node() + _read(Path("/etc/machine-id"))
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _cpu_field(cpuinfo: str, key: str) -> str:
    found = re.search(rf"^{key}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def _isa(cpuinfo: str) -> tuple[str, ...]:
    flags = _cpu_field(cpuinfo, "flags") or _cpu_field(cpuinfo, "Features")
    return tuple(sorted(flag for flag in set(flags.split()) if _ISA.match(flag)))


def _caches() -> dict[str, int]:
    """Data caches of core 0 by level, such as {"L1": 32768}; empty where the kernel does not tell."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = _read(index / "size").strip()
        if _read(index / "type").strip() != "Instruction" and size[:-1].isdigit():
            unit = {"K": 2**10, "M": 2**20}.get(size[-1], 1)
            caches[f"L{_read(index / 'level').strip()}"] = int(size[:-1]) * unit
    return caches


@lru_cache(maxsize=1)
def _gpu() -> tuple[str | None, int | None, str | None]:
    """Name, memory in bytes and driver of the GPU. Asked of nvidia-smi, so that no CUDA context is made."""
    name, _, driver = _query_gpu("name,driver_version").partition(", ")
    return (name, _gpu_bytes("memory.total"), driver) if driver else (None, None, None)


def _gpu_bytes(field_name: str) -> int | None:
    """A memory figure of the GPU; None where it is "[N/A]", or there is no GPU."""
    told = _query_gpu(field_name)
    return int(told) * 2**20 if told.isdigit() else None


def _query_gpu(field_names: str) -> str:
    """Fields of the first GPU that CUDA may use, '' where nvidia-smi finds none."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    chosen = [f"--id={first}"] if _GPU_ID.fullmatch(first) else []
    command = ["nvidia-smi", f"--query-gpu={field_names}", "--format=csv,noheader,nounits", *chosen]
    return _run(command).partition("\n")[0].strip()


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _commit() -> str:
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return ""
    return _run(["git", "-C", str(checkout), "rev-parse", "--quiet", "--verify", "HEAD"]).strip()


def _cgroup_number(name: str) -> int | None:
    """A figure of this container, None where it has none or no limit."""
    text = _read(_CGROUP / name).strip()
    return int(text) if text.isdigit() else None


def _evictable_bytes() -> int:
    """Cached files of this container: counted as used, and given back as soon as memory is wanted. No tmpfs."""
    found = re.findall(r"^(?:in)?active_file (\d+)$", _read(_CGROUP / "memory.stat"), re.MULTILINE)
    return sum(map(int, found))


def _run(command: list[str]) -> str:
    """Standard output of a command that may fail or hang; '' then, since what it tells is optional."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: Path) -> str:
    """Content of a file of the kernel, '' where this system has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
