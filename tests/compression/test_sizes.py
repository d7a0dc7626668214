"""Sizes after pruning, against figures worked out by hand."""

from dataclasses import replace

import pytest

from labkit.compression.sizes import grain, pruned_config
from labkit.core.errors import UsageError
from labkit.model.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=32, num_layers=10, num_heads=12, num_kv_heads=4, head_dim=8, intermediate_size=1024,
    max_positions=64,
)  # fmt: skip


@pytest.mark.parametrize("pattern", ["channel", "layer", "unstructured", "2:4"])
def test_no_sparsity_changes_no_size(pattern: str) -> None:
    odd = replace(CONFIG, intermediate_size=101)
    assert pruned_config(odd, 0, pattern) == odd


@pytest.mark.parametrize(("sparsity", "heads", "neurons"), [(0.3, 8, 704), (0.5, 8, 512), (0.6, 4, 416), (0.99, 4, 32)])
def test_channels_go_in_equal_numbers_from_each_group(sparsity: float, heads: int, neurons: int) -> None:
    assert pruned_config(CONFIG, sparsity, "channel") == replace(CONFIG, num_heads=heads, intermediate_size=neurons)


def test_where_a_group_has_one_head_both_go() -> None:
    found = pruned_config(replace(CONFIG, num_kv_heads=12), 0.25, "channel")
    assert (found.num_heads, found.num_kv_heads) == (9, 9)
    assert pruned_config(replace(CONFIG, num_heads=1, num_kv_heads=1), 0.9, "channel").num_heads == 1


@pytest.mark.parametrize(("width", "sparsity", "kept"), [(128, 0.3, 96), (64, 0.3, 48), (48, 0.9, 16), (6, 0.9, 6)])
def test_small_widths_are_cut_in_small_steps(width: int, sparsity: float, kept: int) -> None:
    assert pruned_config(replace(CONFIG, intermediate_size=width), sparsity, "channel").intermediate_size == kept
    assert kept % grain(width) == 0 or kept == width


@pytest.mark.parametrize(("sparsity", "kept"), [(0.04, 10), (0.3, 7), (0.99, 1)])
def test_layers_go_whole_and_one_stays(sparsity: float, kept: int) -> None:
    assert pruned_config(CONFIG, sparsity, "layer") == replace(CONFIG, num_layers=kept)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_leave_the_sizes(pattern: str) -> None:
    assert pruned_config(CONFIG, 0.5, pattern) is CONFIG


def test_rows_that_cannot_be_split_into_fours_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        pruned_config(replace(CONFIG, intermediate_size=1022), 0.5, "2:4")
    assert str(caught.value) == (
        "pattern '2:4' was asked for, which keeps two of each four weights of a row; intermediate_size of this model "
        "is 1022, allowed: multiples of 4; remedy: another pattern"
    )
