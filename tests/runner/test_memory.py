"""What a recipe will need."""

import pytest

from labkit.core.recipe import Recipe
from labkit.core.workload import WORKLOADS
from labkit.model.source import sizes_of
from labkit.runner.memory import recipe_need


def held_bytes(recipe: str) -> int:
    config = sizes_of("llama-1b")
    assert config is not None
    return recipe_need(Recipe.parse(recipe), config, WORKLOADS["chat"], device="cpu").held_bytes


def test_a_draft_of_the_models_own_layers_needs_a_cache_and_another_model_its_weights_too() -> None:
    draft = sizes_of("llama-125m")
    assert draft is not None
    plain, half, other = (
        held_bytes(f"precision + kv_cache{more}")
        for more in ("", " + speculative(draft='half')", " + speculative(draft='llama-125m')")
    )
    assert 0 < half - plain < 8 * 2**20
    assert 2 * draft.num_parameters < other - plain < 2.1 * draft.num_parameters


def test_ranks_need_a_process_each_and_an_embedding_where_they_share_every_layer() -> None:
    config = sizes_of("llama-1b")
    assert config is not None
    plain, tensor, pipeline = (
        held_bytes(f"precision + kv_cache{more}")
        for more in (
            "",
            " + tensor_parallel(num=4, oversubscribe=True)",
            " + pipeline_parallel(num=4, oversubscribe=True)",
        )
    )
    embedding = 2 * config.vocab_size * config.hidden_size
    process = (pipeline - plain - embedding) / 3  # a tied head is on another rank than the embedding
    assert 100 * 2**20 < process < 1000 * 2**20
    assert tensor - plain == pytest.approx(4 * embedding + 3 * process, rel=1e-6)
