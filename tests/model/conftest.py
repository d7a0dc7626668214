"""Small checkpoint folders: a sound one of random weights, and what spoils it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.model import choice
from labkit.model.config import ModelConfig
from labkit.model.random_weights import write_random_weights
from labkit.model.tokenizer import write_byte_tokenizer

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@pytest.fixture
def fresh_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of remembered kernels, empty, and none remembered in this process."""
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(choice, "CHOICES", {})
    monkeypatch.setattr(choice.CoreTime, "contention", lambda *_: 0.0)  # whoever else computes while tests run
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound checkpoint of an untied two-layer Llama in several shards."""
    monkeypatch.setattr("labkit.model.random_weights.SHARD_BYTES", 24_000)
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(TINY))
    write_random_weights(ModelConfig.from_dict(TINY), path)
    write_byte_tokenizer(path / "tokenizer.json")
    return path


@pytest.fixture
def edit() -> Callable[[Path, str, Callable[[dict[str, Any]], object]], None]:
    """Change a tensor file or a JSON file of a folder in place, by a function of its content."""

    def change(folder: Path, name: str, by: Callable[[dict[str, Any]], object]) -> None:
        path = folder / name
        if name.endswith(".json"):
            content = json.loads(path.read_text())
            by(content)
            path.write_text(json.dumps(content))
        else:
            tensors: dict[str, torch.Tensor] = {key: value.clone() for key, value in load_file(path).items()}
            by(tensors)
            save_file(tensors, path, metadata={"format": "pt"})

    return change
