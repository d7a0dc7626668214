"""Tiny models of every family, with random weights, as `transform` meets them: fp32, not fused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from labkit.model.config import ModelConfig
from labkit.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=32, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=8, intermediate_size=64,
    max_positions=64,
)  # fmt: skip

FAMILIES = {
    "llama": CONFIG,
    "llama with a head a group": replace(CONFIG, num_kv_heads=6, is_tied=True),
    "mistral": replace(CONFIG, sliding_window=4, family="mistral"),
    "qwen2": replace(CONFIG, has_qkv_bias=True, family="qwen2"),
    "qwen3": replace(CONFIG, has_qk_norm=True, head_dim=16, family="qwen3"),
}

MakeModel = Callable[[ModelConfig], Transformer]


@pytest.fixture
def make_model() -> MakeModel:
    """A model with seeded weights of about the size that keeps activations at theirs."""

    def make(config: ModelConfig) -> Transformer:
        model, generator = Transformer(config), torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.1
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=spread, generator=generator)
            parameter.requires_grad_(False)
        return model.eval()

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids [5, 12] for the models of `FAMILIES`."""
    return torch.randint(0, CONFIG.vocab_size, (5, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def config(request: pytest.FixtureRequest) -> ModelConfig:
    """Sizes of one model of each family."""
    assert isinstance(request.param, ModelConfig)
    return request.param
