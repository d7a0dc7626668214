"""Placement: the weights of a model that is not packed yet, on another device."""

import copy

import torch
from torch import nn

from labkit.model.linear import KernelLayer, QuantizedLinear
from labkit.model.transformer import Transformer


def move(module: nn.Module, device: str) -> None:
    """Move all weights, tensor by tensor; of layers that are packed already those stay that `pack` laid out."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device)
    for layer in _quantized(module):
        layer.codes, layer.scales = layer.codes.to(device), layer.scales.to(device)
        layer.zeros = None if layer.zeros is None else layer.zeros.to(device)
        layer.device_type = torch.device(device).type


def twin(model: Transformer, device: str) -> Transformer:
    """The same model on another device; what is there already is shared."""
    memo: dict[int, object] = {}
    for layer in _quantized(model):
        parts = (layer.codes, layer.scales, layer.zeros)
        memo |= {id(part): part.to(device) for part in parts if part is not None}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data.to(device), requires_grad=False)
    made = copy.deepcopy(model, memo)
    for layer in _quantized(made):
        layer.device_type = torch.device(device).type
    return made


def is_plain(module: nn.Module) -> bool:
    """Whether weights of all layers are in tensors of labkit's own, which can be moved."""
    return all(layer.library == "labkit" for layer in module.modules() if isinstance(layer, KernelLayer))


def _quantized(module: nn.Module) -> list[QuantizedLinear]:
    return [layer for layer in module.modules() if isinstance(layer, QuantizedLinear)]
