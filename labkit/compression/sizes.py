"""Sizes that pruning leaves, known before a weight is read. Needs no framework, so that a forecast can ask."""

from dataclasses import replace

from labkit.core.errors import UsageError
from labkit.model.config import ModelConfig

_GRAIN, _SMALL_GRAIN = 32, 16
_SMALL_WIDTH = 128


def grain(width: int) -> int:
    """What a width chosen below `width` is a multiple of, so that kernels and groups of 4-bit weights take it."""
    return _GRAIN if width >= _SMALL_WIDTH else _SMALL_GRAIN


def pruned_config(config: ModelConfig, sparsity: float, pattern: str) -> ModelConfig:
    """Sizes of a model once about the share `sparsity` of it is gone, the same for all layers.

    "channel" takes query heads, the same number from every KV group (where a group has one head, both go), and
    neurons in multiples of `grain`; "layer" takes whole blocks; one of each always stays. Patterns that set weights to
    zero leave the sizes as they are.

    Raises:
        UsageError: rows that 2:4 cannot split into fours.
    """
    if sparsity == 0:
        return config
    if pattern == "channel":
        return _narrower(config, 1 - sparsity)
    if pattern == "layer":
        return replace(config, num_layers=max(1, config.num_layers - round(sparsity * config.num_layers)))
    if pattern == "2:4":
        _check_fours(config)
    return config


def _narrower(config: ModelConfig, kept: float) -> ModelConfig:
    unit = grain(config.intermediate_size)
    neurons = max(unit, round(kept * config.intermediate_size / unit) * unit)
    narrower = replace(config, intermediate_size=min(neurons, config.intermediate_size))
    if config.num_groups == 1:
        heads = max(1, round(kept * config.num_heads))
        return replace(narrower, num_heads=heads, num_kv_heads=heads)
    heads = max(1, round(kept * config.num_groups)) * config.num_kv_heads
    return replace(narrower, num_heads=heads)


def _check_fours(config: ModelConfig) -> None:
    widths = {
        "hidden_size": config.hidden_size,
        "num_heads * head_dim": config.num_heads * config.head_dim,
        "intermediate_size": config.intermediate_size,
    }
    for name, width in widths.items():
        if width % 4:
            raise UsageError(
                f"pattern '2:4' was asked for, which keeps two of each four weights of a row; {name} of this model is "
                f"{width}, allowed: multiples of 4; remedy: another pattern"
            )
