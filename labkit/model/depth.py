"""Depth: a shallower model made of some of another's layers, without a weight of its own.

Layers of a residual network refine what those before left, so a model without some of them still guesses much of what
the whole one says. Source: Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers.
"""

import copy
from dataclasses import replace
from typing import TypeVar

from torch import nn

from labkit.model.transformer import Block, Transformer

Module = TypeVar("Module", bound=nn.Module)


def shallow(model: Transformer, num_layers: int) -> Transformer:
    """A model of `num_layers` of the layers of a finished one, spread evenly, from the first to the last."""
    last = model.config.num_layers - 1
    step = last / (num_layers - 1) if num_layers > 1 else 0.0
    made = _shared(model)
    made.config = replace(model.config, num_layers=num_layers)
    made.layers = nn.ModuleList(_renumbered(model.layers[round(step * index)], index) for index in range(num_layers))
    return made


def _renumbered(block: nn.Module, index: int) -> Block:
    """The same layer at another index of a cache."""
    assert isinstance(block, Block)
    made = _shared(block)
    made.self_attn = _shared(block.self_attn)
    made.self_attn.index = index
    return made


def _shared(module: Module) -> Module:
    """A module whose parameters and parts are those of another, and whose parts can be exchanged one by one."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made
