"""Low rank: a linear layer as two narrow ones in a row, by the singular value decomposition of its weights."""

import torch
from torch import Tensor, nn

from labkit.compression.layers import block_linears
from labkit.compression.sizes import grain
from labkit.model.factored import LowRank
from labkit.model.linear import Linear
from labkit.model.transformer import Transformer


@torch.no_grad()
def factors(weight: Tensor, energy: float) -> tuple[Tensor, Tensor] | None:
    """Two matrices whose product comes closest to `weight` at the least rank that keeps the energy.

    Args:
        weight: [out, in].
        energy: share of the squared singular values to keep, 0 to 1.

    Returns:
        down [rank, in] and up [out, rank], of equal size (each holds the root of the singular values), in the dtype of
        the weight; None where they would hold no fewer numbers than the matrix. The rank is rounded up to a multiple
        that kernels take. Source: Eckart and Young 1936.
    """
    out_features, in_features = weight.shape
    u, values, v = torch.linalg.svd(weight.float(), full_matrices=False)
    kept = values.square().cumsum(0) / values.square().sum()
    unit = grain(len(values))
    rank = -(-(int((kept < energy).sum()) + 1) // unit) * unit
    if rank * (in_features + out_features) >= in_features * out_features:
        return None
    root = values[:rank].sqrt()
    return (root[:, None] * v[:rank]).to(weight.dtype), (u[:, :rank] * root).to(weight.dtype)


def all_factors(model: Transformer, energy: float) -> dict[str, Tensor]:
    """`factors` of the blocks' linear layers where they are smaller: NAME.down and NAME.up of each."""
    found: dict[str, Tensor] = {}
    for name, layer in block_linears(model).items():
        pair = factors(layer.weight, energy)
        if pair is not None:
            found[f"{name}.down"], found[f"{name}.up"] = pair
    return found


def factorize(model: Transformer, found: dict[str, Tensor]) -> None:
    """Put `LowRank` in place of every layer of which `all_factors` found a pair; biases stay where they are added."""
    for name, layer in block_linears(model).items():
        if f"{name}.down" in found:
            up = _linear(found[f"{name}.up"])
            up.bias = layer.bias
            model.set_submodule(name, LowRank(_linear(found[f"{name}.down"]), up))


def _linear(weight: Tensor) -> Linear:
    layer = Linear(0, 0)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.out_features, layer.in_features = weight.shape
    return layer
