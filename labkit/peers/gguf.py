"""GGUF: a checkpoint rewritten for llama.cpp, tensor by tensor, from the same safetensors.

The file holds no tokenizer: token ids go in and come out, so llama.cpp makes up `vocab_size` dummy tokens.
Source: the GGUF specification and convert_hf_to_gguf.py of ggml-org/llama.cpp; block formats by `gguf.quants`.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labkit.model.config import ModelConfig
from labkit.peers.base import import_package

if TYPE_CHECKING:
    from labkit.model.weights import Checkpoint

KINDS: dict[str, tuple[str, str]] = {
    "f16": ("F16", "MOSTLY_F16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}
"""Tensor type and file type by the dtype of a peer."""

_VERSION = 1  # of what is written; part of the cached file's name
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_INTERLEAVED = ("llama", "mistral")  # llama.cpp turns pairs (2i, 2i+1) of these families, Hugging Face (i, i + D/2)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor to write: its name in the file, its type in GGML's words, its shape and where its values come from."""

    name: str
    kind: Any
    shape: tuple[int, ...]
    source: str

    def num_bytes(self, sizes: Any) -> int:
        """Length of its data; `sizes` is gguf's table of (block length, block bytes)."""
        block_length, block_bytes = sizes[self.kind]
        return math.prod(self.shape) // int(block_length) * int(block_bytes)


def cached_gguf(checkpoint: "Checkpoint", config: ModelConfig, *, dtype: str, key: str, cache_folder: Path) -> Path:
    """The checkpoint as a GGUF file of `dtype`, written on first use; `key` identifies its weights.

    Raises:
        Unavailable: the package gguf is not installed.
    """
    path = cache_folder / "gguf" / f"{key}-{dtype}-v{_VERSION}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            write_gguf(checkpoint, config, partial, dtype=dtype)
            partial.replace(path)  # whole or not at all, also when two workers write at once
        finally:
            partial.unlink(missing_ok=True)
    return path


def write_gguf(checkpoint: "Checkpoint", config: ModelConfig, path: Path, *, dtype: str) -> None:
    """Write every weight of a checkpoint to `path`, one tensor in memory at a time.

    Matrices become `dtype` (f16 where a row is no whole number of blocks), vectors stay fp32.

    Raises:
        Unavailable: the package gguf is not installed.
    """
    gguf = import_package("gguf", peer="llama_cpp", remedy='pip install "labkit[peers]"')
    writer = gguf.GGUFWriter(path, _ARCHITECTURES[config.family])
    try:
        _add_sizes(writer, config)
        writer.add_file_type(gguf.LlamaFileType[KINDS[dtype][1]])
        tensors = tuple(_plan(checkpoint, config, gguf, dtype))
        for tensor in tensors:
            num_bytes = tensor.num_bytes(gguf.GGML_QUANT_SIZES)
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), num_bytes, raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            values = rope_factors(config) if not tensor.source else _read(checkpoint, tensor.source, config)
            writer.write_tensor_data(gguf.quants.quantize(values, tensor.kind))
    finally:
        writer.close()


def _add_sizes(writer: Any, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_tokenizer_model("none")


def _plan(checkpoint: "Checkpoint", config: ModelConfig, gguf: Any, dtype: str) -> Iterator[GGUFTensor]:
    """Every tensor of the file, in order."""
    architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[_ARCHITECTURES[config.family]]
    names = gguf.get_tensor_name_map(architecture, config.num_layers)
    types = gguf.GGMLQuantizationType
    if config.rope_scaling is not None:
        yield GGUFTensor("rope_freqs.weight", types.F32, (config.head_dim // 2,), "")
    for short, entry in checkpoint.tensors.items():
        if short == "lm_head.weight":
            if config.is_tied:
                continue  # some exports repeat the embedding; llama.cpp reads a missing head as tied
            full = short
        else:
            full = f"model.{short}"
        name = names.get_name(full, try_suffixes=(".weight", ".bias"))
        if name is None:
            continue  # inverse frequencies of old exports follow from the config
        kind = types[KINDS[dtype][0]]
        if len(entry.shape) == 1:
            kind = types.F32
        elif entry.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = types.F16
        yield GGUFTensor(name, kind, entry.shape, short)


def _read(checkpoint: "Checkpoint", name: str, config: ModelConfig) -> FloatArray:
    """Values of one tensor, the rows of q and k in llama.cpp's order of rotary pairs."""
    import torch
    from safetensors import safe_open

    entry = checkpoint.tensors[name]
    with safe_open(entry.shard, framework="pt") as file:
        values: FloatArray = file.get_tensor(entry.name).to(torch.float32).numpy()
    if config.family not in _INTERLEAVED:
        return values
    if ".q_proj." in name:
        return interleave(values, config.num_heads)
    return interleave(values, config.num_kv_heads) if ".k_proj." in name else values


def interleave(values: FloatArray, num_heads: int) -> FloatArray:
    """Reorder the rows of each head from halves (0 … D/2-1, D/2 … D-1) to pairs (0, D/2, 1, D/2+1, …)."""
    halves = values.reshape(num_heads, 2, len(values) // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def rope_factors(config: ModelConfig) -> FloatArray:
    """What each rotary frequency is divided by, [D/2]: the `llama3` scaling as llama.cpp takes it."""
    settings = dict(config.rope_scaling or {})
    frequency = config.rope_theta ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    turns = settings["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0, 1)
    factors: FloatArray = (1 / (blend + (1 - blend) / settings["factor"])).astype(np.float32)
    return factors
