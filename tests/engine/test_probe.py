"""The probe of a step: every phase that was met, at its own shape."""

from collections import Counter
from dataclasses import replace

import pytest

from labkit.core.workload import WorkloadSpec
from labkit.engine.engine import Engine
from labkit.engine.executor import StepShape
from labkit.engine.probe import kinds, probe, typical
from tests.engine.conftest import MakeEngine

SPEC = WorkloadSpec("probe", "offline", prompt_tokens=24, new_tokens=4, num_requests=1)


def served(engine: Engine, *, batch: int = 1) -> Engine:
    engine.serve(engine.prepare(replace(SPEC, num_requests=batch).draw(0)))
    return engine


def test_the_typical_shape_is_the_one_met_most_in_the_middle() -> None:
    shapes = Counter({StepShape(1, 1, 9): 1, StepShape(5, 1, 9): 4, StepShape(7, 1, 9): 2})
    assert typical(shapes) == StepShape(5, 1, 9)


def test_steps_of_a_few_kinds_are_told_apart_and_those_of_many_are_not() -> None:
    shapes = Counter({StepShape(1, 1, 8): 5, StepShape(1, 1, 9): 1, StepShape(5, 1, 9): 2})
    assert kinds(shapes) == {StepShape(1, 1, 8): 0.75, StepShape(5, 1, 9): 0.25}
    assert kinds(Counter({StepShape(n, 1, n): 1 for n in range(1, 100)})) == {StepShape(50, 1, 50): 1.0}


def test_the_time_of_layers_is_the_mean_over_the_steps_that_were_met(make_engine: MakeEngine) -> None:
    engine = served(make_engine("kv_cache"))
    one, prompt = StepShape(1, 1, 26), StepShape(24, 1, 24)

    def step_s(shapes: dict[StepShape, int]) -> float:
        return probe(engine.executor, Counter(shapes), sampler=engine.config.sampler, emulated=())["step_s"]

    assert step_s({one: 1}) != step_s({prompt: 1})
    assert step_s({one: 1, prompt: 3}) == pytest.approx(0.25 * step_s({one: 1}) + 0.75 * step_s({prompt: 1}))


@pytest.mark.parametrize(
    "recipe",
    [
        "kv_cache",
        "kv_cache(dtype='int8')",
        "kv_cache + precision + quantize(activations='int8')",
        "kv_cache + speculative",
        "kv_cache + speculative(draft='half')",
    ],
)
def test_every_phase_of_the_cost_is_timed(make_engine: MakeEngine, recipe: str) -> None:
    engine = served(make_engine(recipe))
    before = engine.cache.num_bytes if engine.cache else 0
    found = engine.facts()["kernels_by_phase"]
    assert set(found) == set(engine.cost(SPEC).phases)
    for phase in found.values():
        assert phase["step_s"] > 0
        assert phase["between_s"] > 0
    assert engine.cache is not None
    assert engine.cache.num_bytes == before  # timed on a cache of its own


def test_a_batch_is_timed_as_one(make_engine: MakeEngine) -> None:
    engine = served(make_engine("kv_cache + static_batching(size=3)"), batch=3)
    assert typical(engine.executor.shapes["prefill"]) == StepShape(24, 3, 24)
    assert typical(engine.executor.shapes["decode"]) == StepShape(1, 3, 26)
    assert engine.facts()["kernels_by_phase"]["prefill"]["between_s"] > 0


def test_nothing_is_known_of_an_engine_that_has_served_nothing(make_engine: MakeEngine) -> None:
    assert make_engine("kv_cache").facts()["kernels_by_phase"] == {}


def test_without_a_cache_decoding_computes_the_context_again(make_engine: MakeEngine) -> None:
    engine = served(make_engine(""))
    assert typical(engine.executor.shapes["decode"]) == StepShape(26, 1, 26)
    assert engine.facts()["kernels_by_phase"]["decode"]["between_s"] > 0
