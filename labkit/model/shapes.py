"""Named shapes: sizes of known models with seeded random weights, for speed where no trained ones are at hand."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import free_memory_bytes
from labkit.model.config import ModelConfig
from labkit.model.random_weights import ITEM_BYTES, RECIPE, write_random_weights
from labkit.model.tokenizer import write_byte_tokenizer

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-5,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama-125m": _LLAMA
    | {
        "vocab_size": 32_000,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "intermediate_size": 2_048,
        "max_position_embeddings": 4_096,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    },
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "vocab_size": 151_936,
        "hidden_size": 1_024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3_072,
        "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    },
    # Llama-3.2-1B
    "llama-1b": _LLAMA
    | {
        "vocab_size": 128_256,
        "hidden_size": 2_048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8_192,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8_192,
        },
        "tie_word_embeddings": True,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
    },
    # Llama-2-7B
    "llama-7b": _LLAMA
    | {
        "vocab_size": 32_000,
        "hidden_size": 4_096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11_008,
        "max_position_embeddings": 4_096,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    },
}


def shape_folder(name: str, cache_folder: Path) -> Path:
    """The checkpoint folder of a named shape, generated under `cache_folder` where it is not there yet.

    bf16 in shards of at most 256 MiB (or one tensor), a tokenizer of single bytes. It appears by one rename; whoever
    asks for it meanwhile waits.

    Raises:
        UsageError: no such shape.
        Unavailable: free disk or memory cannot hold its weights; both figures are named.
    """
    if name not in SHAPES:
        raise UsageError.unknown("shape", name, SHAPES)
    config = SHAPES[name]
    key = hashlib.sha256(json.dumps([RECIPE, config], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder / "shapes" / f"{name}-{key}"
    needed = ModelConfig.from_dict(config).num_parameters * ITEM_BYTES
    _require(name, "memory", needed, free_memory_bytes(), "choose a smaller shape or a larger machine")
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                free = shutil.disk_usage(folder.parent).free
                _require(name, "disk", needed, free, "free some, or set LABKIT_HOME to a folder on a larger disk")
                _generate(config, folder)
    except (OSError, SafetensorError) as error:  # safetensors says a full disk in its own error
        raise Unavailable(
            f"cannot write shape {name} to {folder.parent}: {error}; "
            "remedy: free space, or set LABKIT_HOME to a folder of yours"
        ) from error
    return folder


def _require(name: str, what: str, needed: int, free: int, remedy: str) -> None:
    if needed > free:
        raise Unavailable(
            f"shape {name} needs {needed / 1e9:.1f} GB of {what} for its bf16 weights, {free / 1e9:.1f} GB are free; "
            f"remedy: {remedy}"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file closes, also by a killed process
        yield


def _generate(config: Mapping[str, Any], folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    partial.mkdir()
    try:
        write_random_weights(ModelConfig.from_dict(config), partial)
        write_byte_tokenizer(partial / "tokenizer.json")
        (partial / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
