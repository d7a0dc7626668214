"""A shallow model is some of another's layers, and shares them."""

import json
from pathlib import Path

import pytest
import torch

from labkit.model.config import ModelConfig
from labkit.model.depth import shallow
from labkit.model.linear import finish
from labkit.model.source import open_model
from labkit.model.transformer import Transformer, fuse
from tests.conftest import write_tiny_model


def loaded(folder: Path, num_layers: int) -> Transformer:
    write_tiny_model(folder, num_hidden_layers=num_layers)
    source = open_model(str(folder))
    model = Transformer(source.config, device="meta")
    source.load(model, torch.float32)
    return model


@pytest.mark.parametrize(
    ("num_layers", "num_kept", "kept"),
    [(8, 4, [0, 2, 5, 7]), (5, 2, [0, 4]), (3, 1, [0]), (4, 4, [0, 1, 2, 3])],
)
def test_layers_are_spread_from_the_first_to_the_last(
    tmp_path: Path, num_layers: int, num_kept: int, kept: list[int]
) -> None:
    model = loaded(tmp_path, num_layers)
    thin = shallow(model, num_kept)
    assert thin.config.num_layers == num_kept
    origins = [[block.mlp for block in model.layers].index(block.mlp) for block in thin.layers]
    assert origins == kept
    assert [block.self_attn.index for block in thin.layers] == list(range(num_kept))
    assert [block.self_attn.index for block in model.layers] == list(range(num_layers))
    own = {id(parameter) for parameter in thin.parameters()}
    assert own <= {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("is_finished", [False, True])
def test_it_computes_what_a_model_of_just_these_layers_computes(tmp_path: Path, is_finished: bool) -> None:
    model = loaded(tmp_path, 4)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 2}
    alone = Transformer(ModelConfig.from_dict(config))
    alone.load_state_dict(
        {
            name.replace("layers.3.", "layers.1."): tensor
            for name, tensor in model.state_dict().items()
            if not name.startswith(("layers.1.", "layers.2."))
        }
    )
    if is_finished:
        finish(fuse(model))
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        whole = model(tokens)
        torch.testing.assert_close(shallow(model, 2)(tokens), alone(tokens), rtol=0, atol=1e-4)
        assert torch.equal(model(tokens), whole)  # as it was
