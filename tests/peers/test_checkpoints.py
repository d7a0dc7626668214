"""Checkpoints that transformers saved go through every technique."""

from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.core.workload import WorkloadSpec
from labkit.optimizations import CATALOG, Optimization, bind
from labkit.optimizations.build import build_engine
from tests.optimizations.test_catalog import with_partners

SPEC = WorkloadSpec("checkpoint", "offline", 40, new_tokens=5, num_requests=2)


@pytest.fixture(scope="session", params=["Llama", "Qwen3"])
def folder(request: pytest.FixtureRequest, save_checkpoint: Callable[..., Path]) -> str:
    """Of a checkpoint in which every technique finds something to do."""
    return str(save_checkpoint(request.param, hidden_size=128, intermediate_size=256, head_dim=32, vocab_size=320))


@pytest.mark.parametrize("kind", CATALOG, ids=lambda kind: kind.name)
def test_a_checkpoint_runs_under_every_technique(kind: type[Optimization], folder: str, tmp_path: Path) -> None:
    if lacking := [need.missing() for need in kind.needs if need.missing()]:
        pytest.skip(lacking[0])
    outputs = []
    for recipe in ("", with_partners(kind)):
        bound = bind(recipe)
        with bound.process():
            engine = build_engine(bound, model=folder, device="cpu", cache_folder=tmp_path)
            trace = engine.serve(engine.prepare(SPEC.draw(0)))
        outputs.append([request.output_ids for request in trace.requests])
        assert all(len(ids) == 5 for ids in outputs[-1])
    if kind.exact:
        assert outputs[0] == outputs[1]
