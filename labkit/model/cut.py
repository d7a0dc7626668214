"""Cut: parts of a model's layers, and layers as plain data that another process can make them of again.

A matrix is cut between its rows (a part yields some of the outputs) or between its columns (a part takes some of the
inputs and yields a summand of all outputs). Source: Shoeybi et al. 2019, Megatron-LM.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from labkit.core.errors import UsageError
from labkit.model.factored import LowRank
from labkit.model.linear import KernelLayer, Linear, QuantizedLinear

Facts = dict[str, Any]


def span(num: int, rank: int, world: int, *, unit: int = 1) -> range:
    """What a rank has of `num` things in whole units, as even as they go; earlier ranks take what is left over."""
    units, rest = divmod(num, unit)
    share, more = divmod(units, world)
    start = rank * share + min(rank, more)
    stop = start + share + (rank < more)
    return range(start * unit, stop * unit + (rest if rank == world - 1 else 0))


def outputs_of(layer: nn.Module, index: Tensor) -> nn.Module:
    """The part of a layer that yields these of its outputs. Of two factors the second is cut."""
    if isinstance(layer, Linear):
        return float_layer(layer.weight[index], None if layer.bias is None else layer.bias[index])
    if isinstance(layer, QuantizedLinear):
        return _quantized(
            layer,
            layer.codes[index],
            layer.scales[index],
            None if layer.zeros is None else layer.zeros[index],
            None if layer.bias is None else _frozen(layer.bias[index]),
        )
    down, up = _factors(layer)
    return LowRank(down, _cut(outputs_of(up, index)))


def inputs_of(layer: nn.Module, columns: range) -> nn.Module:
    """The part of a layer without bias that takes these of its inputs; the sum over parts is the layer's output.

    A group of weights with one scale that a cut would divide becomes smaller groups of the same scale.
    """
    part = slice(columns.start, columns.stop)
    if isinstance(layer, Linear):
        return float_layer(layer.weight[:, part].clone(), None)
    if isinstance(layer, QuantizedLinear):
        if layer.zeros is None:
            return _quantized(layer, layer.codes[:, part].clone(), layer.scales, None, None)
        group = math.gcd(layer.group_size, columns.start, columns.stop)
        groups = slice(columns.start // group, columns.stop // group)
        scales, zeros = (
            tensor.repeat_interleave(layer.group_size // group, dim=1)[:, groups].clone()
            for tensor in (layer.scales, layer.zeros)
        )
        return _quantized(layer, layer.codes[:, part].clone(), scales, zeros, None)
    down, up = _factors(layer)
    return LowRank(_cut(inputs_of(down, columns)), up)


def group_size(layer: nn.Module) -> int:
    """Neighbouring inputs that share a scale, so that cuts may leave them together."""
    return layer.group_size if isinstance(layer, QuantizedLinear) and layer.zeros is not None else 1


def float_layer(weight: Tensor, bias: Tensor | None) -> Linear:
    """A float layer around weights that are there already."""
    layer = Linear(0, 0)
    layer.out_features, layer.in_features = weight.shape
    layer.weight = _frozen(weight)
    layer.bias = None if bias is None else _frozen(bias)
    return layer


def described(module: nn.Module) -> tuple[Facts, list[Tensor]]:
    """What `made` needs to know of a layer, and its tensors. Anything with one weight, as a norm, is that weight.

    Raises:
        UsageError: a layer of another library, whose weights cannot be looked into.
    """
    if isinstance(module, QuantizedLinear):
        tensors = {"codes": module.codes, "scales": module.scales, "zeros": module.zeros, "bias": module.bias}
        kind: Facts = {"kind": "quantized", "bits": module.bits, "activation_bits": module.activation_bits}
    elif isinstance(module, Linear):
        tensors, kind = {"weight": module.weight, "bias": module.bias}, {"kind": "float"}
    elif isinstance(module, LowRank):
        parts = [described(part) for part in _factors(module)]
        return {"kind": "factors", "parts": [facts for facts, _ in parts]}, [t for _, some in parts for t in some]
    elif isinstance(weight := getattr(module, "weight", None), Tensor):
        tensors, kind = {"weight": weight}, {"kind": "weight"}
    else:
        raise _opaque(module)
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    shapes = [[name, str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in kept.items()]
    return {**kind, "tensors": shapes}, list(kept.values())


def empty_tensors(facts: Facts) -> Iterator[Tensor]:
    """Room for the tensors that `described` told of, in its order."""
    for part in facts.get("parts", ()):
        yield from empty_tensors(part)
    for _, dtype, *shape in facts.get("tensors", ()):
        yield torch.empty(shape, dtype=getattr(torch, dtype))


def made(facts: Facts, tensors: Iterator[Tensor]) -> nn.Module | nn.Parameter:
    """The layer again; of a module with one weight that weight."""
    if facts["kind"] == "factors":
        down, up = (_cut(made(part, tensors)) for part in facts["parts"])
        return LowRank(down, up)
    named = {name: next(tensors) for name, *_ in facts["tensors"]}
    if facts["kind"] == "weight":
        return _frozen(named["weight"])
    if facts["kind"] == "float":
        return float_layer(named["weight"], named.get("bias"))
    bias = named.get("bias")
    return QuantizedLinear(
        named["codes"],
        named["scales"],
        named.get("zeros"),
        bits=facts["bits"],
        activation_bits=facts["activation_bits"],
        bias=None if bias is None else _frozen(bias),
    )


def _quantized(
    like: QuantizedLinear, codes: Tensor, scales: Tensor, zeros: Tensor | None, bias: nn.Parameter | None
) -> QuantizedLinear:
    return QuantizedLinear(codes, scales, zeros, bits=like.bits, activation_bits=like.activation_bits, bias=bias)


def _factors(layer: nn.Module) -> tuple[KernelLayer, KernelLayer]:
    if not isinstance(layer, LowRank):
        raise _opaque(layer)
    return layer.down, layer.up


def _cut(layer: nn.Module | nn.Parameter) -> KernelLayer:
    assert isinstance(layer, KernelLayer)
    return layer


def _opaque(layer: nn.Module) -> UsageError:
    library = getattr(layer, "library", type(layer).__name__)
    return UsageError(
        f"a model was to be split between ranks, its layers are {library}'s own, which cannot be cut; "
        "allowed: floats and labkit's integers; remedy: quantize(kernel='fastest')"
    )


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
