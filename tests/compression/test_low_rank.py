"""Two factors stand for a matrix, as well as the energy asked for, and only where they are smaller."""

from collections.abc import Callable

import pytest
import torch

from labkit.compression.layers import block_linears
from labkit.compression.low_rank import all_factors, factorize, factors
from labkit.compression.sizes import grain
from labkit.model.config import ModelConfig
from labkit.model.factored import LowRank
from labkit.model.transformer import Transformer, fuse

MakeModel = Callable[[ModelConfig], Transformer]


def decaying(rows: int, columns: int, *, power: float) -> torch.Tensor:
    """A matrix whose singular values fall off like 1 / index^power."""
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(rows, min(rows, columns), generator=generator))
    v, _ = torch.linalg.qr(torch.randn(columns, min(rows, columns), generator=generator))
    return u * torch.arange(1, u.shape[1] + 1) ** -power @ v.T


@pytest.mark.parametrize("shape", [(256, 128), (128, 256), (96, 96)])
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_the_energy_asked_for_is_kept_at_the_least_rank(shape: tuple[int, int], energy: float) -> None:
    weight = decaying(*shape, power=1.5)
    pair = factors(weight, energy)
    assert pair is not None
    down, up = pair
    rank = len(down)
    assert (down.shape, up.shape) == ((rank, shape[1]), (shape[0], rank))
    assert rank % grain(min(shape)) == 0
    assert (up @ down - weight).square().sum() <= (1 - energy) * weight.square().sum() * (1 + 1e-4)
    values = torch.linalg.svdvals(weight).square()
    fewer = rank - grain(min(shape))
    assert values[:fewer].sum() < energy * values.sum()
    torch.testing.assert_close(up.norm(), down.norm())  # neither is left with small numbers that rounding would lose


def test_factors_that_are_not_smaller_are_not_made() -> None:
    assert factors(torch.eye(64), 0.9) is None
    assert factors(decaying(64, 64, power=1.5), 1.0) is None


def low_rank_model(make_model: MakeModel, config: ModelConfig) -> Transformer:
    """A model in which down_proj and up_proj of every block are of rank 16 and the others are not."""
    model = make_model(config)
    for name, layer in block_linears(model).items():
        if name.endswith(("down_proj", "up_proj")):
            u, values, v = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u[:, :16] * values[:16] @ v[:16])
    return model


def test_a_model_of_low_rank_computes_the_same_with_fewer_weights(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor
) -> None:
    model = low_rank_model(make_model, config)
    expected, before = model(tokens), sum(parameter.numel() for parameter in model.parameters())
    factorize(model, all_factors(model, 0.999))
    for block in model.layers:
        assert isinstance(block.mlp.down_proj, LowRank)
        assert not isinstance(block.mlp.gate_proj, LowRank)
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=1e-4)


def test_fusing_leaves_factors_alone(make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor) -> None:
    model = low_rank_model(make_model, config)
    factorize(model, all_factors(model, 0.999))
    expected = model(tokens)
    fuse(model)
    for block in model.layers:
        assert block.self_attn.qkv_proj is not None
        assert block.mlp.gate_up_proj is None  # of two kinds
        assert isinstance(block.mlp.up_proj, LowRank)
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)
