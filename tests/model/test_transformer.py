"""The decoder gives the logits that transformers gives, on small random checkpoints that transformers saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.engine.cache import KVCache
from labkit.engine.sequence import Sequence
from labkit.model.config import ModelConfig
from labkit.model.source import open_model
from labkit.model.tokenizer import write_byte_tokenizer
from labkit.model.transformer import Transformer

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHARDED = {"max_shard_size": "60KB"}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama, tied, one KV head": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}, {}),
    "llama, untied, llama3 rope": ("Llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}, SHARDED),
    "mistral, window of 7": ("Mistral", {"sliding_window": 7, "tie_word_embeddings": False}, SHARDED),
    "mistral, no window": ("Mistral", {"sliding_window": None, "tie_word_embeddings": False}, {}),
    "qwen2, biases": ("Qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3, q and k norms, wide heads": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 32}, SHARDED),
    "qwen3, untied, theta 1e6": (
        "Qwen3",
        {"head_dim": 16, "tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {},
    ),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_fp32_logits_agree_with_transformers(case: str, tmp_path: Path) -> None:
    family, changes, saving = FAMILIES[case]
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    theirs = getattr(transformers, f"{family}ForCausalLM")._from_config(config, attn_implementation="eager").eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path, **saving)
    write_byte_tokenizer(tmp_path / "tokenizer.json")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or not saving

    source = open_model(str(tmp_path))
    ours = Transformer(source.config, dtype=torch.float32, device="meta")
    source.load(ours, torch.float32)

    tokens = torch.randint(SIZES["vocab_size"], (2, 100), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(tokens).logits
        logits = ours(tokens)
    assert expected.std() > 0.5  # a disagreement would show
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter a value that matters: transformers starts norms at 1, biases at 0 and the rest near 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise + float(name.endswith("norm.weight")))
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("num_tokens", [2, 5, 40])
def test_tokens_behind_a_cache_get_the_logits_of_the_whole_text(
    batch: int, window: int | None, num_tokens: int
) -> None:
    config = ModelConfig(
        vocab_size=32, hidden_size=32, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=16, intermediate_size=48,
        max_positions=80, sliding_window=window,
    )  # fmt: skip
    model = Transformer(config)
    randomize(model)
    past = [20, 3, 11][:batch]  # ragged; padding on the right stands in for what other sequences hold there
    cache = KVCache(config, dtype=torch.float32, compute_dtype=torch.float32, device="cpu", block_size=8)
    cache.lookahead = num_tokens
    sequences = [Sequence(index, [1] * length, 1, 0.0) for index, length in enumerate(past)]
    cache.admit(sequences)
    texts = torch.randint(32, (batch, max(past) + num_tokens), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        for sequence, text, length in zip(sequences, texts, past, strict=True):
            model(text[None, :length], store=cache.view([sequence], length))
            sequence.num_cached = length
        new = torch.stack([text[length : length + num_tokens] for text, length in zip(texts, past, strict=True)])
        logits = model(new, store=cache.view(sequences, num_tokens))
        for row, text, length in zip(logits, texts, past, strict=True):
            expected = model(text[None, : length + num_tokens])[0, length:]
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)
