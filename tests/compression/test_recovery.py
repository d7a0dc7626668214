"""Recovery brings a pruned model nearer to the whole one, and touches nothing it should not."""

from collections.abc import Callable

import pytest
import torch

from labkit.compression.pruning import prune
from labkit.compression.recovery import BATCH, divergence, rate, recover, twin
from labkit.model.config import ModelConfig
from labkit.model.transformer import Transformer

MakeModel = Callable[[ModelConfig], Transformer]

STEPS = 30


@pytest.fixture
def lessons() -> torch.Tensor:
    return torch.randint(0, 50, (STEPS * BATCH, 12), generator=torch.Generator().manual_seed(2))


def pruned_beside_whole(model: Transformer, pattern: str) -> tuple[Transformer, Transformer]:
    whole = twin(model)
    prune(model, sparsity=0.5, pattern=pattern, statistics=None)
    return model, whole


def fill(model: Transformer, tensors: dict[str, torch.Tensor]) -> None:
    assert set(tensors) == {name for name, _ in model.named_parameters()}
    for name, tensor in tensors.items():
        model.get_parameter(name).data = tensor


@pytest.mark.parametrize("pattern", ["channel", "layer", "unstructured", "2:4"])
def test_training_brings_text_not_seen_nearer_to_the_whole_model(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor, lessons: torch.Tensor, pattern: str
) -> None:
    pruned, whole = pruned_beside_whole(make_model(config), pattern)
    before = divergence(pruned, whole, tokens)
    fill(pruned, recover(pruned, whole, lessons))
    assert divergence(pruned, whole, tokens) < 0.9 * before


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_what_was_zero_stays_zero(
    make_model: MakeModel, config: ModelConfig, lessons: torch.Tensor, pattern: str
) -> None:
    pruned, whole = pruned_beside_whole(make_model(config), pattern)
    trained = recover(pruned, whole, lessons[: 4 * BATCH])
    for name, parameter in pruned.named_parameters():
        assert torch.equal(trained[name] == 0, parameter == 0)
        assert not torch.equal(trained[name], parameter)


@pytest.mark.parametrize("pattern", ["channel", "layer"])
def test_neither_model_changes_and_the_outcome_is_the_same_again(
    make_model: MakeModel, config: ModelConfig, lessons: torch.Tensor, pattern: str
) -> None:
    pruned, whole = pruned_beside_whole(make_model(config), pattern)
    before = [parameter.clone() for model in (pruned, whole) for parameter in model.parameters()]
    first, second = (recover(pruned, whole, lessons[: 2 * BATCH]) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    after = [parameter for model in (pruned, whole) for parameter in model.parameters()]
    assert all(torch.equal(old, new) and not new.requires_grad for old, new in zip(before, after, strict=True))


def test_it_trains_where_gradients_were_switched_off(
    make_model: MakeModel, config: ModelConfig, lessons: torch.Tensor
) -> None:
    pruned, whole = pruned_beside_whole(make_model(config), "channel")
    expected = recover(pruned, whole, lessons[:BATCH])
    with torch.inference_mode():
        pruned, whole = pruned_beside_whole(make_model(config), "channel")
        trained = recover(pruned, whole, lessons[:BATCH].clone())
    assert all(torch.equal(expected[name], trained[name]) for name in expected)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert rates[9] == 1.0 == max(rates)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert rate(0, 1) == 1.0
