import dataclasses
import json
import os

import pytest

from labkit.core import machine as module
from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import emulated_dtypes, free_memory_bytes, machine, usable_cores


def test_machine_knows_its_cores_memory_and_libraries():
    here = machine()
    assert here.cpu
    assert here.num_cores == usable_cores() >= 1
    assert here.memory_bytes > 2**28
    assert {"python", "numpy", "torch"} <= here.versions.keys()


def test_machine_goes_to_json_with_its_fingerprint():
    fields = machine().to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields["fingerprint"] == machine().fingerprint


def test_fingerprint_changes_with_what_must_agree():
    here = machine()
    changes = {"host": "other", "driver": "1", "gpu": "other", "versions": {"torch": "0"}, "num_cores": 999}
    for key, value in changes.items():
        assert dataclasses.replace(here, **{key: value}).fingerprint != here.fingerprint, key


def test_fingerprint_ignores_the_commit():
    here = machine()
    assert dataclasses.replace(here, commit="abc", labkit="9").fingerprint == here.fingerprint


def test_the_host_is_not_named():
    import platform

    assert platform.node() not in json.dumps(machine().to_dict())


def test_unknown_device_is_refused_with_those_allowed():
    with pytest.raises(UsageError, match="unknown device 'tpu'; allowed: cpu, cuda"):
        machine("tpu")


def test_cuda_without_a_gpu_is_unavailable_in_one_line(monkeypatch):
    without = dataclasses.replace(machine(), gpu=None)
    monkeypatch.setattr(module, "_describe", lambda: without)
    with pytest.raises(Unavailable, match="no GPU") as caught:
        machine("cuda")
    assert "\n" not in str(caught.value)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi in PATH that answers a query by its fields, and keeps how it was asked."""

    def put(**answers):
        script = tmp_path / "bin" / "nvidia-smi"
        script.parent.mkdir(exist_ok=True)
        cases = "".join(f"*--query-gpu={name}\\ *) echo '{answer}' ;;\n" for name, answer in answers.items())
        script.write_text(f'#!/bin/sh\necho "$*" >> "{tmp_path}/asked"\ncase "$*" in\n{cases}esac\n')
        script.chmod(0o755)
        return tmp_path / "asked"

    cached = (module._describe, module._gpu, module.compute_capability)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for function in cached:
        function.cache_clear()
    yield put
    for function in cached:
        function.cache_clear()


H200 = {"name,driver_version": "NVIDIA H200, 570.86\nNVIDIA H200, 570.86", "memory.total": "143771\n143771"}
UNIFIED = {"name,driver_version": "NVIDIA GB10, 580.95", "memory.total": "[N/A]", "memory.free": "[N/A]"}


def test_gpu_facts_come_from_nvidia_smi(nvidia_smi):
    nvidia_smi(**H200, **{"memory.free": "100\n200"})
    here = machine("cuda")
    assert (here.gpu, here.gpu_memory_bytes, here.driver) == ("NVIDIA H200", 143771 * 2**20, "570.86")
    assert free_memory_bytes("cuda") == 100 * 2**20


def test_a_gpu_that_shares_the_cpus_memory_has_the_cpus(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi(**UNIFIED)
    for name in ("memory.max", "memory.current"):
        (tmp_path / name).write_text("1000000" if name == "memory.max" else "400000")
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    here = machine("cuda")
    assert (here.gpu, here.gpu_memory_bytes, here.driver) == ("NVIDIA GB10", None, "580.95")
    assert free_memory_bytes("cuda") == 600_000


@pytest.mark.parametrize(
    ("visible", "asked"),
    [
        (None, []),
        ("3,1", ["--id=3"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["--id=GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]),
        ("MIG-8932f937-d72c-4106-c12f-20bd9faed9f6", []),
        ("", []),
    ],
)
def test_the_gpu_that_cuda_will_use_is_the_one_described(nvidia_smi, monkeypatch, visible, asked):
    seen = nvidia_smi(**H200, **{"memory.free": "100"})
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    free_memory_bytes("cuda")
    lines = seen.read_text().splitlines()
    assert len(lines) == 3
    assert all(line.split()[2:] == asked for line in lines)


@pytest.mark.parametrize(("answer", "capability"), [("9.0\n9.0", 9.0), ("12.0", 12.0), ("[N/A]", None), ("", None)])
def test_compute_capability_is_that_of_the_first_gpu(nvidia_smi, answer, capability):
    nvidia_smi(compute_cap=answer)
    assert module.compute_capability() == capability


def test_a_containers_limits_count(monkeypatch, tmp_path):
    for name, text in {"memory.max": "1000000\n", "memory.current": "400000\n", "cpu.max": "150000 100000\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    assert free_memory_bytes() == 600_000
    assert usable_cores() == 1


def test_files_that_a_container_has_cached_are_not_used_memory(monkeypatch, tmp_path):
    stat = "anon 150000\nfile 250000\nshmem 30000\ninactive_anon 30000\nactive_file 20000\ninactive_file 200000\n"
    for name, text in {"memory.max": "1000000\n", "memory.current": "400000\n", "memory.stat": stat}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    assert free_memory_bytes() == 820_000


def test_free_memory_is_less_than_all_of_it():
    assert 0 < free_memory_bytes() < machine().memory_bytes


@pytest.mark.parametrize(
    ("isa", "emulated"),
    [
        (("avx2", "fma"), ("bf16", "fp16")),
        (("avx512_bf16", "avx512_vnni"), ("fp16",)),
        (("amx_bf16", "avx512_fp16"), ()),
        (("asimd", "asimdhp"), ("bf16",)),
        (("asimdhp", "bf16"), ()),
    ],
)
def test_a_dtype_without_an_instruction_of_its_own_is_emulated(isa, emulated):
    assert emulated_dtypes(isa) == emulated
