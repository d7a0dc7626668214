"""A pruned model is the whole one without the parts that matter least, and nothing else has changed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from labkit.compression.layers import block_linears
from labkit.compression.pruning import Statistics, prune
from labkit.compression.sizes import pruned_config
from labkit.compression.statistics import block_influences, input_norms
from labkit.model.config import ModelConfig
from labkit.model.transformer import Transformer

MakeModel = Callable[[ModelConfig], Transformer]

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=32, num_layers=1, num_heads=6, num_kv_heads=2, head_dim=8, intermediate_size=64,
    max_positions=64,
)  # fmt: skip

scores = pytest.mark.parametrize("score", ["activation", "magnitude"])


def statistics(model: Transformer, tokens: torch.Tensor, pattern: str, score: str) -> Statistics | None:
    if score == "magnitude":
        return None
    return block_influences(model, tokens) if pattern == "layer" else input_norms(model, tokens)


def kept_rows(whole: torch.Tensor, pruned: torch.Tensor) -> list[int]:
    """Where the rows of `pruned` stood in `whole`."""
    return [int((whole == row).all(dim=1).nonzero()) for row in pruned]


@scores
@pytest.mark.parametrize("pattern", ["channel", "layer"])
def test_no_sparsity_is_the_whole_model(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor, pattern: str, score: str
) -> None:
    model = make_model(config)
    expected = model(tokens)
    prune(model, sparsity=0.0, pattern=pattern, statistics=statistics(model, tokens, pattern, score))
    assert model.config == config
    assert torch.equal(model(tokens), expected)


@scores
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_without_channels_it_computes_what_the_whole_model_does_with_them_silent(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor, score: str, sparsity: float
) -> None:
    model, silenced = make_model(config), make_model(config)
    prune(model, sparsity=sparsity, pattern="channel", statistics=statistics(model, tokens, "channel", score))
    for whole, narrow in zip(silenced.layers, model.layers, strict=True):
        inputs = kept_rows(whole.self_attn.q_proj.weight, narrow.self_attn.q_proj.weight)
        neurons = kept_rows(whole.mlp.gate_proj.weight, narrow.mlp.gate_proj.weight)
        for layer, kept in ((whole.self_attn.o_proj, inputs), (whole.mlp.down_proj, neurons)):
            assert 0 < len(kept) < layer.in_features
            layer.weight[:, sorted(set(range(layer.in_features)) - set(kept))] = 0
    torch.testing.assert_close(model(tokens), silenced(tokens))


def test_the_config_describes_what_is_left(make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor) -> None:
    for pattern in ("channel", "layer"):
        model = make_model(config)
        prune(model, sparsity=0.4, pattern=pattern, statistics=None)
        assert model.config == pruned_config(config, 0.4, pattern) != config
        described = Transformer(model.config, device="meta")
        assert {name: p.shape for name, p in described.named_parameters()} == {
            name: p.shape for name, p in model.named_parameters()
        }
        for layer in block_linears(model).values():
            assert layer.weight.shape == (layer.out_features, layer.in_features)
            assert layer.weight.is_contiguous()


@scores
def test_heads_and_neurons_that_add_least_go(make_model: MakeModel, tokens: torch.Tensor, score: str) -> None:
    from_each_group, neurons = (1, 5), range(8, 24)
    model = make_model(CONFIG)
    whole = make_model(CONFIG).layers[0]
    attention, block = model.layers[0].self_attn, model.layers[0].mlp
    attention.o_proj.weight.view(32, 6, 8)[:, list(from_each_group)] *= 0.01
    block.down_proj.weight[:, list(neurons)] *= 0.01
    prune(model, sparsity=0.25, pattern="channel", statistics=statistics(model, tokens, "channel", score))
    assert kept_rows(whole.mlp.up_proj.weight, block.up_proj.weight) == [*range(8), *range(24, 64)]
    rows = kept_rows(whole.self_attn.q_proj.weight, attention.q_proj.weight)
    assert rows == [row for row in range(48) if row // 8 not in from_each_group]


def test_a_large_weight_that_never_meets_an_input_goes_by_activation_only(make_model: MakeModel) -> None:
    for score, survives in (("activation", False), ("magnitude", True)):
        model = make_model(CONFIG)
        layer = model.layers[0].mlp.up_proj
        layer.weight[:, 3] = 10.0
        silent = {name: torch.ones(layer.in_features) for name, layer in block_linears(model).items()}
        silent["layers.0.mlp.up_proj"][3] = 0.0
        prune(model, sparsity=0.5, pattern="unstructured", statistics=silent if score == "activation" else None)
        assert bool((layer.weight[:, 3] == 10.0).all()) == survives


def test_single_weights_go_by_row_with_activations_and_by_matrix_without(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor
) -> None:
    for score in ("activation", "magnitude"):
        model, whole = make_model(config), block_linears(make_model(config))
        norms = statistics(model, tokens, "unstructured", score)
        prune(model, sparsity=0.25, pattern="unstructured", statistics=norms)
        for name, layer in block_linears(model).items():
            is_zero = layer.weight == 0
            assert torch.equal(layer.weight[~is_zero], whole[name].weight[~is_zero])
            scores = whole[name].weight.abs() * (1 if norms is None else norms[name])
            for row, gone in zip(scores, is_zero, strict=True) if norms is not None else ((scores, is_zero),):
                assert gone.sum() == row.numel() / 4
                assert row[gone].max() <= row[~gone].min()


@scores
def test_of_each_four_neighbours_the_two_that_matter_stay(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor, score: str
) -> None:
    model, whole = make_model(config), block_linears(make_model(config))
    norms = statistics(model, tokens, "2:4", score)
    prune(model, sparsity=0.5, pattern="2:4", statistics=norms)
    for name, layer in block_linears(model).items():
        scores = whole[name].weight.abs() * (1 if norms is None else norms[name])
        is_kept = layer.weight.view(-1, 4) != 0
        assert (is_kept.sum(dim=1) == 2).all()
        fours = scores.view(-1, 4)
        assert (fours.where(is_kept, torch.inf).amin(1) >= fours.where(~is_kept, 0).amax(1)).all()


@scores
def test_the_block_that_adds_least_goes_and_the_others_close_ranks(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor, score: str
) -> None:
    model, whole = make_model(config), make_model(config)
    for parameter in model.layers[1].parameters():
        parameter.mul_(0.01)
    prune(model, sparsity=0.3, pattern="layer", statistics=statistics(model, tokens, "layer", score))
    assert model.config == replace(config, num_layers=2)
    assert [block.self_attn.index for block in model.layers] == [0, 1]
    for left, block in zip((0, 2), model.layers, strict=True):
        assert torch.equal(block.mlp.up_proj.weight, whole.layers[left].mlp.up_proj.weight)
