"""A GGUF file holds the checkpoint's weights under llama.cpp's names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from labkit.core.errors import Unavailable
from labkit.model.source import ModelSource, open_model
from labkit.peers.gguf import cached_gguf, interleave, rope_factors, write_gguf

gguf = pytest.importorskip("gguf")


def written(source: ModelSource, path: Path, dtype: str) -> Any:
    write_gguf(source.checkpoint, source.config, path, dtype=dtype)
    return gguf.GGUFReader(path)


def values_of(reader: Any) -> dict[str, np.ndarray]:
    return {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def expected(folder: Path, source: ModelSource) -> dict[str, np.ndarray]:
    """Weights as transformers loads them, under llama.cpp's names."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    named = {}
    for name, parameter in model.named_parameters():
        stem, _, leaf = name.rpartition(".")
        values = parameter.detach().numpy()
        if stem in outer:
            named[f"{outer[stem]}.{leaf}"] = values
            continue
        _, _, layer, part = stem.split(".", 3)
        if source.config.family in ("llama", "mistral") and part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = source.config.num_heads if "q_proj" in part else source.config.num_kv_heads
            values = interleave(values, heads)
        named[f"blk.{layer}.{parts[part]}.{leaf}"] = values
    if source.config.rope_scaling is not None:
        named["rope_freqs.weight"] = rope_factors(source.config)
    return named


def test_f16_holds_every_weight_once(any_family: Path, tmp_path: Path) -> None:
    source = open_model(str(any_family))
    seen, wanted = values_of(written(source, tmp_path / "model.gguf", "f16")), expected(any_family, source)
    assert seen.keys() == wanted.keys()
    for name, values in wanted.items():
        assert seen[name].shape == values.shape
        kept = values if values.ndim == 1 else values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(seen[name], kept)


@pytest.mark.parametrize(("dtype", "steps", "error"), [("q8_0", 127, 0.5), ("q4_0", 8, 1.0)])
def test_quantized_weights_are_near(dtype: str, steps: int, error: float, llama: Path, tmp_path: Path) -> None:
    source = open_model(str(llama))
    reader = written(source, tmp_path / "model.gguf", dtype)
    matrices = {t.name for t in reader.tensors if t.tensor_type == gguf.GGMLQuantizationType[dtype.upper()]}
    wanted = expected(llama, source)
    assert matrices == {name for name, values in wanted.items() if values.ndim == 2}
    seen = values_of(reader)
    for name in matrices:
        blocks = wanted[name].reshape(-1, 32)
        largest = np.abs(blocks).max(axis=1, keepdims=True)
        # half a step by rounding (a whole one at the far end of q4_0's lopsided range), and the scale is an fp16
        allowed = largest * (error / steps + 2**-11)
        assert (np.abs(seen[name].reshape(-1, 32) - blocks) <= allowed).all()


def test_rows_that_are_no_whole_blocks_stay_f16(save_checkpoint: Any, tmp_path: Path) -> None:
    source = open_model(str(save_checkpoint("Llama", intermediate_size=80)))
    types = {t.name: t.tensor_type.name for t in written(source, tmp_path / "model.gguf", "q8_0").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"


def test_sizes_are_those_of_the_config(any_family: Path, tmp_path: Path) -> None:
    source = open_model(str(any_family))
    fields = written(source, tmp_path / "model.gguf", "f16").fields
    architecture = fields["general.architecture"].contents()
    config = source.config
    for key, value in {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "rope.freq_base": pytest.approx(config.rope_theta),
    }.items():
        assert fields[f"{architecture}.{key}"].contents() == value


def test_interleaved_rows_turn_as_halves_do() -> None:
    heads, width, angle = 2, 8, np.linspace(0.1, 1.0, 4)
    rows = np.random.default_rng(0).normal(size=(heads * width, 3)).astype(np.float32)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    halves = rows.reshape(heads, 2, 4, 3)
    turned = np.stack((halves[:, 0] * cos - halves[:, 1] * sin, halves[:, 1] * cos + halves[:, 0] * sin), axis=1)
    pairs = interleave(rows, heads).reshape(heads, 4, 2, 3)
    turned_pairs = np.stack(
        (pairs[:, :, 0] * cos - pairs[:, :, 1] * sin, pairs[:, :, 1] * cos + pairs[:, :, 0] * sin), axis=2
    )
    np.testing.assert_allclose(turned_pairs.reshape(-1, 3), interleave(turned.reshape(-1, 3), heads), rtol=1e-6)


def test_rope_factors_are_those_of_transformers(any_family: Path) -> None:
    source = open_model(str(any_family))
    if source.config.rope_scaling is None:
        return
    model = AutoModelForCausalLM.from_pretrained(any_family)
    half = np.arange(0, source.config.head_dim, 2) / source.config.head_dim
    scaled = source.config.rope_theta**-half / rope_factors(source.config)
    np.testing.assert_allclose(scaled, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)


def test_a_file_is_written_once_and_never_half(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_model(str(llama))

    def cached() -> Path:
        return cached_gguf(source.checkpoint, source.config, dtype="f16", key=source.hash, cache_folder=tmp_path)

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(gguf.quants, "quantize", fail)
        with pytest.raises(OSError, match="no space left"):
            cached()
    assert list((tmp_path / "gguf").iterdir()) == []
    path = cached()
    written_ns = path.stat().st_mtime_ns
    assert cached() == path
    assert path.stat().st_mtime_ns == written_ns
    assert list((tmp_path / "gguf").iterdir()) == [path]


def test_a_missing_package_names_the_remedy(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    source = open_model(str(llama))
    with pytest.raises(Unavailable, match=r'needs the package .gguf.: .*; remedy: pip install "labkit\[peers\]"'):
        write_gguf(source.checkpoint, source.config, tmp_path / "model.gguf", dtype="f16")
