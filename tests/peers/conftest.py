"""Tiny checkpoints, saved by transformers, that every peer opens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.core.workload import Request, Scenario, Workload
from labkit.model.tokenizer import write_byte_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # far apart logits: rounding to 16 bits does not decide an argmax
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="session")
def save_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a random model of a family under given sizes; returns its folder."""
    import torch
    import transformers

    def save(family: str, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(family.lower())
        config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        # a real checkpoint brings habits of its own, which equal work must not follow
        model.generation_config = transformers.GenerationConfig(
            do_sample=True, temperature=9.0, eos_token_id=[*range(300)]
        )
        model.save_pretrained(folder)
        (folder / "generation_config.json").write_text(
            json.dumps({"do_sample": True, "repetition_penalty": 5.0, "eos_token_id": [*range(300)]})
        )
        write_byte_tokenizer(folder / "tokenizer.json")
        return folder

    return save


@pytest.fixture(scope="session")
def llama(save_checkpoint: Callable[..., Path]) -> Path:
    """A Llama checkpoint of two layers."""
    return save_checkpoint("Llama")


@pytest.fixture(
    scope="session",
    params=[
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
        ("Mistral", {"sliding_window": 64}),
        ("Qwen2", {"head_dim": 16}),
        ("Qwen3", {}),
    ],
    ids=["llama", "llama3-tied", "mistral", "qwen2", "qwen3"],
)
def any_family(request: pytest.FixtureRequest, save_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint of each family in turn."""
    family, changes = request.param
    return save_checkpoint(family, **changes)


@pytest.fixture
def make_workload() -> Callable[..., Workload]:
    """A workload of prompts with the given lengths; its ids look random and do not repeat from prompt to prompt."""

    def make(*lengths: int, new_tokens: int = 8, scenario: Scenario = "offline") -> Workload:
        prompts = [tuple((7 * i + 31 * k * k) % 300 + 3 for k in range(length)) for i, length in enumerate(lengths)]
        requests = [Request(prompt, new_tokens, len(prompt)) for prompt in prompts]
        return Workload("test", scenario, tuple(requests))

    return make
