"""Low rank through the engine: what it states once it is built, and what may follow it."""

from pathlib import Path

import pytest
import torch

from labkit.core.errors import UsageError
from labkit.core.workload import WorkloadSpec
from labkit.engine.engine import Engine
from labkit.model.factored import LowRank
from labkit.model.linear import KernelLayer, QuantizedLinear
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine

SPEC = WorkloadSpec("low rank", "offline", prompt_tokens=12, new_tokens=6, num_requests=3)


def build(recipe: str, model: str, folder: Path) -> Engine:
    return build_engine(bind(recipe), model=model, device="cpu", cache_folder=folder)


def test_energy_has_bounds() -> None:
    with pytest.raises(UsageError, match=r"low_rank: knob energy is 0\.0; allowed: numbers from 0\.1 to 1"):
        bind("low_rank(energy=0.0)")


def test_the_cost_counts_the_factors_that_were_made(tiny_model: str, tmp_path: Path) -> None:
    engine = build("low_rank(energy=0.5) + kv_cache", tiny_model, tmp_path)
    layers = [module for module in engine.model.layers.modules() if isinstance(module, KernelLayer)]
    weights = sum(layer.weight.numel() for layer in layers) + 320 * 64
    assert any(isinstance(module, LowRank) for module in engine.model.modules())
    assert engine.cost(SPEC).phases["decode"].bytes_by_kind["weights"] == 4 * weights
    assert weights < engine.source.config.num_linear_parameters + 320 * 64


def test_all_energy_is_the_whole_model(tiny_model: str, tmp_path: Path) -> None:
    whole, low_rank = (build(recipe, tiny_model, tmp_path) for recipe in ("", "low_rank(energy=1.0)"))
    assert whole.cost(SPEC) == low_rank.cost(SPEC)
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(whole.model(tokens), low_rank.model(tokens))


@pytest.mark.parametrize("bits", [8, 4])
def test_both_factors_are_quantized(tiny_model: str, tmp_path: Path, bits: int) -> None:
    recipes = ("low_rank(energy=0.5)", f"low_rank(energy=0.5) + quantize(bits={bits}) + kv_cache")
    plain, rounded = (build(recipe, tiny_model, tmp_path) for recipe in recipes)
    found = [module for module in rounded.model.modules() if isinstance(module, LowRank)]
    assert found
    assert all(isinstance(layer, QuantizedLinear) for module in found for layer in (module.down, module.up))
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        expected, actual = plain.model(tokens), rounded.model(tokens).float()
    assert (actual - expected).norm() / expected.norm() < (0.05 if bits == 8 else 0.35)


def test_a_pruned_model_can_be_factorized(tiny_model: str, tmp_path: Path) -> None:
    engine = build("prune + low_rank(energy=0.5) + kv_cache", tiny_model, tmp_path)
    assert engine.model.config.intermediate_size == 96
    assert engine.serve(engine.prepare(SPEC.draw(0))).num_outputs == 18
