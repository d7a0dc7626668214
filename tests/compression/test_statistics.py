"""Statistics of activations, against what a hand-run layer gives."""

from collections.abc import Callable

import torch

from labkit.compression.layers import block_linears
from labkit.compression.statistics import block_influences, input_norms
from labkit.model.config import ModelConfig
from labkit.model.transformer import Transformer

MakeModel = Callable[[ModelConfig], Transformer]


def test_norms_are_those_of_all_tokens_together(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor
) -> None:
    model = make_model(config)
    norms = input_norms(model, tokens.repeat(4, 1))  # more sequences than run at a time
    assert {name: len(norm) for name, norm in norms.items()} == {
        name: layer.in_features for name, layer in block_linears(model).items()
    }
    entering = model.layers[0].input_layernorm(model.embed_tokens(tokens)).flatten(0, 1)
    torch.testing.assert_close(norms["layers.0.self_attn.v_proj"], 2 * entering.norm(dim=0))


def test_a_block_that_adds_nothing_has_no_influence(
    make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor
) -> None:
    model = make_model(config)
    model.layers[1].self_attn.o_proj.weight.zero_()
    model.layers[1].mlp.down_proj.weight.zero_()
    found = block_influences(model, tokens)
    assert list(found) == ["layers.0", "layers.1", "layers.2"]
    assert abs(found["layers.1"]) < 1e-6
    assert all(0.01 < found[name] < 2 for name in ("layers.0", "layers.2"))
    x = model.embed_tokens(tokens)
    cosines = torch.cosine_similarity(
        x, model.layers[0](x, model.rotation(None, 12, x), model.mask(None, 12), None), -1
    )
    torch.testing.assert_close(found["layers.0"], 1 - cosines.mean())


def test_watching_leaves_no_hooks(make_model: MakeModel, config: ModelConfig, tokens: torch.Tensor) -> None:
    model = make_model(config)
    input_norms(model, tokens)
    block_influences(model, tokens)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
