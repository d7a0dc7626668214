"""Write a trained state as a Hugging Face checkpoint folder: bf16 shards, index, configuration, tokenizer."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenization import END_OF_TEXT
from torch import Tensor

SHARD_BYTES = 15_900_000
"""Shards stay under 16 MiB with their headers."""
INDEX = "model.safetensors.index.json"


def shard(tensors: Mapping[str, Tensor], limit_bytes: int = SHARD_BYTES) -> list[dict[str, Tensor]]:
    """Split tensors, in their order, into groups of at most `limit_bytes` (a single larger tensor is its own group)."""
    shards: list[dict[str, Tensor]] = [{}]
    used_bytes = 0
    for name, tensor in tensors.items():
        if shards[-1] and used_bytes + tensor.nbytes > limit_bytes:
            shards.append({})
            used_bytes = 0
        shards[-1][name] = tensor
        used_bytes += tensor.nbytes
    return shards


def export_model(checkpoint: Path, tokenizer: Path, config: Mapping[str, object], out: Path) -> None:
    """Write the weights of a training checkpoint with its tokenizer and config.json content into the folder `out`.

    Each file appears by one rename, the index last: no reader finds a shard named that is not there.
    """
    state = load_file(checkpoint)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in state.items() if name.startswith("model.")}
    shards = shard(tensors)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
    }
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {tensor: name for name, group in zip(names, shards, strict=True) for tensor in group},
    }
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "export.partial"
    for name, group in zip(names, shards, strict=True):
        save_file(group, partial, metadata={"format": "pt"})
        _publish(partial, out / name)
    shutil.copyfile(tokenizer, partial)
    _publish(partial, out / "tokenizer.json")
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer_config), (INDEX, index)):
        partial.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
        _publish(partial, out / name)


def _publish(partial: Path, final: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(final)
