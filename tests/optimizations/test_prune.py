"""Prune through the engine: what binds, what it states, what it keeps between processes, what may follow it."""

from pathlib import Path

import pytest
import torch

from labkit.core.errors import UsageError
from labkit.core.workload import WorkloadSpec
from labkit.engine.engine import Engine
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from labkit.runner.memory import recipe_need

SPEC = WorkloadSpec("prune", "offline", prompt_tokens=12, new_tokens=6, num_requests=3)


def build(recipe: str, model: str, folder: Path) -> Engine:
    return build_engine(bind(recipe), model=model, device="cpu", cache_folder=folder)


def outputs(engine: Engine) -> list[tuple[int, ...]]:
    return [request.output_ids for request in engine.serve(engine.prepare(SPEC.draw(0))).requests]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune(sparsity=1.0)", "prune: knob sparsity is 1.0; allowed: numbers from 0 to 0.99"),
        ("prune(pattern='head')", "unknown value of prune's knob pattern 'head'; allowed: channel, layer, unstruc"),
        ("prune(score='taste')", "unknown value of prune's knob score 'taste'; allowed: activation, magnitude"),
        ("prune(recover_steps=10001)", "prune: knob recover_steps is 10001; allowed: whole numbers from 0 to 10000"),
        (
            "prune(pattern='2:4')",
            "prune(sparsity=0.3, pattern='2:4') was asked for; 2:4 keeps two of four weights; allowed: sparsity=0.5",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["channel", "layer", "unstructured", "2:4"])
@pytest.mark.parametrize("score", ["activation", "magnitude"])
def test_a_pruned_model_decodes_with_a_cache_as_without(
    tiny_model: str, tmp_path: Path, pattern: str, score: str
) -> None:
    recipe = f"prune(sparsity=0.5, pattern='{pattern}', score='{score}')"
    plain, cached = (build(recipe + rest, tiny_model, tmp_path) for rest in ("", " + kv_cache + static_batching"))
    assert outputs(plain) == outputs(cached) != outputs(build("", tiny_model, tmp_path))


@pytest.mark.parametrize("pattern", ["channel", "layer"])
def test_no_sparsity_and_recovery_of_nothing_leave_the_model_alone(
    tiny_model: str, tmp_path: Path, pattern: str
) -> None:
    recipe = f"prune(sparsity=0, pattern='{pattern}', recover_steps=3)"
    assert outputs(build(recipe, tiny_model, tmp_path)) == outputs(build("", tiny_model, tmp_path))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("pattern", ["channel", "unstructured"])
def test_what_is_left_can_be_quantized(tiny_model: str, tmp_path: Path, pattern: str, bits: int) -> None:
    pruned = build(f"prune(pattern='{pattern}')", tiny_model, tmp_path)
    rounded = build(f"prune(pattern='{pattern}') + quantize(bits={bits})", tiny_model, tmp_path)
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        expected, actual = pruned.model(tokens), rounded.model(tokens).float()
    assert (actual - expected).norm() / expected.norm() < (0.05 if bits == 8 else 0.35)


def test_statistics_and_recovery_are_worked_out_once(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = "prune(recover_steps=2)"
    first = outputs(build(recipe, tiny_model, tmp_path))
    assert sorted(path.name.partition("-")[0] for path in tmp_path.glob("*.safetensors")) == [
        "activations",
        "recovered",
    ]

    def never(*_: object) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr("labkit.compression.recovery.recover", never)
    monkeypatch.setattr("labkit.compression.statistics.input_norms", never)
    assert outputs(build(recipe, tiny_model, tmp_path)) == first
    assert outputs(build("prune(score='magnitude')", tiny_model, tmp_path)) != first


def test_recovery_works_where_gradients_are_off(tiny_model: str, tmp_path: Path) -> None:
    expected = outputs(build("prune(recover_steps=2)", tiny_model, tmp_path / "plain"))
    with torch.inference_mode():
        engine = build("prune(recover_steps=2)", tiny_model, tmp_path / "inference")
        assert not any(parameter.requires_grad for parameter in engine.model.parameters())
        assert outputs(engine) == expected


def test_the_cost_after_building_is_that_of_the_model_that_was_built(tiny_model: str, tmp_path: Path) -> None:
    whole, half = (
        build(recipe, tiny_model, tmp_path).cost(SPEC).phases["decode"]
        for recipe in ("kv_cache", "prune(sparsity=0.5, pattern='layer') + kv_cache")
    )
    head = 4 * 320 * 64
    assert half.bytes_by_kind["weights"] - head == (whole.bytes_by_kind["weights"] - head) / 2
    assert half.bytes_by_kind["kv_cache"] == whole.bytes_by_kind["kv_cache"] / 2


def test_zeros_are_fewer_bytes_only_where_rows_are_compressed(tiny_model: str, tmp_path: Path) -> None:
    def weights(recipe: str) -> float:
        return build(recipe, tiny_model, tmp_path).cost(SPEC).phases["decode"].bytes_by_kind["weights"]

    head = 320 * 64
    dense = weights("")
    assert weights("prune(pattern='unstructured', sparsity=0.4)") == dense
    assert weights("prune(pattern='2:4', sparsity=0.5)") == dense
    assert weights("prune(pattern='unstructured', sparsity=0.75)") - 4 * head == (dense - 4 * head) / 2
    assert weights("prune(pattern='unstructured', sparsity=0.75) + precision") == dense / 2


def test_memory_is_planned_for_the_training_and_for_rows_beside_the_matrix(tiny_model: str) -> None:
    from labkit.model.source import open_model

    config = open_model(tiny_model).config

    def need(recipe: str) -> tuple[int, int]:
        found = recipe_need(bind(recipe).recipe, config, SPEC, device="cpu")
        return found.held_bytes, found.building_bytes

    whole = need("")
    trained, pruned = need("prune(recover_steps=5)"), need("prune")
    assert trained[0] == pruned[0] < whole[0]
    assert trained[1] - pruned[1] == 5 * 4 * config.num_parameters
    sparse = need("prune(pattern='unstructured', sparsity=0.75)")
    assert sparse[0] - whole[0] == 2 * config.num_linear_parameters
