"""Three readers whose machines, models and speeds have nothing in common."""

import pytest

from labkit.bench.ceilings import DATASHEETS, Ceilings
from labkit.core.cost import Cost
from labkit.core.machine import Machine
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import DecoderCost
from labkit.interview.reader import Reader
from labkit.model.config import ModelConfig

GIB = 2**30


def make_machine(num_cores: int, *, memory_gib: int, cache_mib: int, gpu: str | None = None) -> Machine:
    return Machine(
        host=f"host-{num_cores}",
        os="Linux",
        cpu=f"Example CPU with {num_cores} cores",
        num_cores=num_cores,
        num_physical_cores=num_cores,
        isa=("avx2",),
        caches_bytes={"L1": 32768, "L3": cache_mib * 2**20},
        memory_bytes=memory_gib * GIB,
        gpu=gpu,
        gpu_memory_bytes=80 * GIB if gpu else None,
        driver="1" if gpu else None,
        versions={},
    )


def make_sizes(layers: int, heads: int, kv_heads: int, head_dim: int, width: int, inner: int) -> ModelConfig:
    return ModelConfig(32_000, width, layers, heads, kv_heads, head_dim, inner, 4096)


def make_run(here: Machine, sizes: ModelConfig, *, device: str = "cpu", step_s: float, **changes: object) -> Run:
    spec = WorkloadSpec("chat", "single_stream", prompt_tokens=64, new_tokens=64)
    cost: Cost = DecoderCost(sizes, spec, is_cached=True, linear_bytes=2, head_bytes=2, dtype="bf16").phases()
    values = {"ttft_s": 7 * step_s, "tpot_s": step_s, "e2e_s": 70 * step_s, "output_tok_per_s": 0.9 / step_s}
    fields: dict[str, object] = {
        "id": "0123456789ab",
        "group": "group",
        "created_utc": "2030-01-02T03:04:05+00:00",
        "recipe": "precision + kv_cache",
        "workload": spec.to_dict(),
        "workload_hash": spec.hash,
        "model": {"name": "example", "num_parameters": sizes.num_parameters},
        "device": device,
        "machine": here.to_dict(),
        "effort": "quick",
        "metrics": {name: {"value": value} for name, value in (values | {"prefill_tok_per_s": 64 / step_s}).items()},
        "build": {"weights_bytes": 2 * sizes.num_parameters, "threads": here.num_cores},
        "cost": cost.to_dict(),
    }
    return Run(**{**fields, **changes})  # type: ignore[arg-type]


def measured(name: str, bytes_per_s: float, flops_per_s: float, dispatch_s: float) -> Ceilings:
    reads = ((2.0**20, 4 * bytes_per_s), (2.0**30, bytes_per_s))
    return Ceilings(name, "measured", reads, {"fp32": flops_per_s / 2, "bf16": flops_per_s}, dispatch_s)


LAPTOP, SERVER = (
    make_machine(4, memory_gib=16, cache_mib=8),
    make_machine(64, memory_gib=512, cache_mib=256),
)
GPU = make_machine(26, memory_gib=200, cache_mib=64, gpu="H100")
SMALL, MIDDLE, LARGE = (
    make_sizes(8, 6, 2, 64, 384, 1024),
    make_sizes(16, 32, 8, 64, 2048, 8192),
    make_sizes(32, 32, 32, 128, 4096, 11008),
)


def make_readers() -> dict[str, Reader]:
    h100 = measured("H100", DATASHEETS["H100"].bandwidth(2.0**31), DATASHEETS["H100"].flops("bf16"), 5e-6)
    return {
        "laptop": Reader.of(LAPTOP, make_run(LAPTOP, SMALL, step_s=9e-4), measured("laptop", 30e9, 2e11, 2e-6), SMALL),
        "server": Reader.of(
            SERVER, make_run(SERVER, MIDDLE, step_s=0.02), measured("server", 3e11, 4e12, 3e-6), MIDDLE
        ),
        "gpu": Reader.of(GPU, make_run(GPU, LARGE, device="cuda", step_s=0.006), h100, LARGE),
    }


READERS = make_readers()


@pytest.fixture(params=READERS, ids=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]
