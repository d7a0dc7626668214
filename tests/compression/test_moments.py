"""Moments: what enters each layer, with the layers before it already changed."""

import torch

from labkit.compression.moments import change_in_order
from labkit.model.linear import Linear
from labkit.model.source import open_model
from labkit.model.transformer import Transformer


def loaded(folder: str) -> Transformer:
    source = open_model(folder)
    model = Transformer(source.config, device="meta")
    source.load(model, torch.float32)
    return model.eval()


def test_each_layer_of_the_blocks_is_met_once_with_the_moments_of_its_inputs(tiny_model: str) -> None:
    model, tokens = loaded(tiny_model), torch.randint(0, 300, (3, 9))
    found: dict[str, torch.Tensor] = {}
    change_in_order(model, tokens, lambda name, layer, moments: found.update({name: moments}))
    assert list(found) == [
        name for name, layer in model.named_modules() if isinstance(layer, Linear) and "layers" in name
    ]
    x = model.layers[0].input_layernorm(model.embed_tokens(tokens)).flatten(0, 1)
    torch.testing.assert_close(found["layers.0.self_attn.q_proj"], x.T @ x)
    assert found["layers.1.mlp.down_proj"].shape == (128, 128)


def test_a_block_sees_what_was_changed_before_it(tiny_model: str) -> None:
    tokens = torch.randint(0, 300, (3, 9))
    found: list[torch.Tensor] = []

    def silence_the_first(name: str, layer: Linear, moments: torch.Tensor) -> None:
        if name.startswith("layers.0"):
            layer.weight.data.zero_()
        if name == "layers.1.self_attn.q_proj":
            found.append(moments)

    model = loaded(tiny_model)
    change_in_order(model, tokens, silence_the_first)
    x = model.layers[1].input_layernorm(model.embed_tokens(tokens)).flatten(0, 1)  # the first block adds nothing now
    torch.testing.assert_close(found[0], x.T @ x)
