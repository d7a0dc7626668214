import dataclasses
import json

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


def test_gpu_facts_come_from_nvidia_smi(monkeypatch):
    answers = {"name,driver_version": "NVIDIA H200, 570.86\nNVIDIA H200, 570.86\n", "memory.total": "143771\n143771\n"}
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module, "_run", lambda command: answers[command[1].removeprefix("--query-gpu=")])
    module._gpu.cache_clear()
    try:
        assert module._gpu() == ("NVIDIA H200", 143771 * 2**20, "570.86")
    finally:
        module._gpu.cache_clear()


@pytest.mark.parametrize(
    ("answer", "capability"), [("9.0\n9.0\n", 9.0), ("12.0\n", 12.0), ("[N/A]\n", None), ("", None)]
)
def test_compute_capability_is_that_of_the_first_gpu(monkeypatch, answer, capability):
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    monkeypatch.setattr(module, "_run", lambda command: answer)
    module.compute_capability.cache_clear()
    try:
        assert module.compute_capability() == capability
    finally:
        module.compute_capability.cache_clear()


def test_a_containers_limits_count(monkeypatch, tmp_path):
    for name, text in {"memory.max": "1000000\n", "memory.current": "400000\n", "cpu.max": "150000 100000\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    assert free_memory_bytes() == 600_000
    assert usable_cores() == 1


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
