"""ModelConfig: the sizes of a decoder-only transformer of the Llama family, read from Hugging Face's config.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from labkit.core.errors import CheckpointError

FAMILIES: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one model. `hidden_size` is the width, `intermediate_size` the width inside the feed-forward block."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = field(default=None, hash=False)
    rms_norm_eps: float = 1e-6
    is_tied: bool = False
    has_qk_norm: bool = False
    has_qkv_bias: bool = False
    sliding_window: int | None = None
    family: str = "llama"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
                 "intermediate_size", "max_positions")  # fmt: skip
        for name in sizes if self.sliding_window is None else (*sizes, "sliding_window"):
            value = getattr(self, name)
            if not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
                raise CheckpointError(f"config.json: {name} is {value!r}; allowed: whole numbers from 1")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"config.json: {self.num_heads} heads cannot share {self.num_kv_heads} KV heads; "
                "allowed: a multiple of the KV heads"
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"config.json: head_dim is {self.head_dim}; allowed: even, rotary embedding needs pairs"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read the content of a config.json.

        Raises:
            CheckpointError: it asks for remote code, names an unsupported family or feature, or lacks a size.
        """
        try:
            family = _family(config)
            heads, hidden = config["num_attention_heads"], config["hidden_size"]
            eos = config.get("eos_token_id")
            rope = _rope(config)
            return cls(
                vocab_size=config["vocab_size"],
                hidden_size=hidden,
                num_layers=config["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or hidden // heads,
                intermediate_size=config["intermediate_size"],
                max_positions=config.get("max_position_embeddings", 2048),
                rope_theta=float(rope.get("rope_theta", 10_000.0)),
                rope_scaling=None if rope.get("rope_type", "default") == "default" else rope,
                rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                is_tied=bool(config.get("tie_word_embeddings", False)),
                has_qk_norm=family == "qwen3",
                has_qkv_bias=family == "qwen2",
                sliding_window=_sliding_window(config, family),
                family=family,
                bos_token_id=config.get("bos_token_id"),
                eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            )
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}; it is no complete Hugging Face config") from None
        except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
            raise CheckpointError(f"config.json holds a value of the wrong kind: {error}") from None

    @property
    def num_groups(self) -> int:
        """Query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def num_linear_parameters(self) -> int:
        """Weights of all linear layers of all blocks: what decoding reads for every token, the head apart."""
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.hidden_size
        out = self.num_heads * self.head_dim * self.hidden_size
        return self.num_layers * (qkv + out + 3 * self.hidden_size * self.intermediate_size)

    @property
    def num_head_parameters(self) -> int:
        """Weights of the output head, tied or not."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All weights of the model, a tied head counted once."""
        norms = self.hidden_size * (2 * self.num_layers + 1)
        if self.has_qk_norm:
            norms += 2 * self.num_layers * self.head_dim
        biases = self.num_layers * (self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.has_qkv_bias
        return self.num_linear_parameters + self.num_head_parameters * (2 - self.is_tied) + norms + biases


def plain(config: ModelConfig) -> dict[str, Any]:
    """A config as plain data for JSON; `ModelConfig(**fields)` gives it back."""
    return asdict(config)


def _family(config: Mapping[str, Any]) -> str:
    """The family of the model, which has to be one that labkit runs as it is."""
    if "auto_map" in config:
        raise CheckpointError(
            "config.json holds auto_map: the model wants to run its own code, which labkit never does"
        )
    names = config.get("architectures") or []
    family = next((FAMILIES[name] for name in names if name in FAMILIES), "")
    if not family:
        raise CheckpointError(
            f"config.json: architecture {', '.join(map(str, names)) or 'not named'} is not supported; "
            f"allowed: {', '.join(FAMILIES)}"
        )
    if config.get("hidden_act", "silu") != "silu" or config.get("mlp_bias"):
        raise CheckpointError("config.json: the feed-forward block is no bias-free SwiGLU, the only kind labkit runs")
    if config.get("attention_bias") and family != "qwen2":
        raise CheckpointError("config.json: attention_bias is set; labkit runs it for Qwen2 only (on q, k and v)")
    if config.get("quantization_config"):
        raise CheckpointError("config.json: the checkpoint is already quantized; use the original 16- or 32-bit one")
    return family


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, of the old form (rope_theta, rope_scaling) or the new one (rope_parameters)."""
    rope = {"rope_theta": config.get("rope_theta", 10_000.0)}
    rope.update(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.setdefault("rope_type", rope.pop("type", "default"))
    if kind not in ("default", "llama3"):
        raise CheckpointError(f"config.json: rotary scaling {kind!r} is not supported; allowed: default, llama3")
    for name in _LLAMA3 if kind == "llama3" else ():
        if type(rope[name]) not in (int, float) or rope[name] <= 0:
            raise CheckpointError(f"config.json: {name} is {rope[name]!r}; allowed: numbers above 0")
    return rope


def _sliding_window(config: Mapping[str, Any], family: str) -> int | None:
    if family == "mistral":
        return config.get("sliding_window")
    if family.startswith("qwen") and config.get("use_sliding_window"):
        raise CheckpointError("config.json: use_sliding_window mixes two kinds of layers; labkit runs Qwen without it")
    return None
