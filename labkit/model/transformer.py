"""The decoder-only transformer of the Llama family, written to be read.

Shapes: B sequences, T new tokens each, H query heads, K KV heads, G = H / K, D head width, C hidden size, V vocabulary,
L tokens that attention sees. Module names equal Hugging Face's without the leading `model.`.
"""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.config import ModelConfig
from labkit.model.linear import Linear, QuantizedLinear, joined
from labkit.model.native import rows
from labkit.model.native.build import has_kernels

_FEW_TOKENS = 32  # up to here a mask with a row for each query head is small, and copies of keys and values are not


class KVStore(Protocol):
    """Keys and values of the tokens before, for the sequences of one batch."""

    @property
    def positions(self) -> Tensor:
        """Position of each new token, [B, T] int64; sequences stand left-aligned, token j at index j."""

    @property
    def length(self) -> int:
        """L: tokens of the longest sequence, the new ones included."""

    @property
    def is_ragged(self) -> bool:
        """Whether sequences of the batch differ in length."""

    @property
    def needs_mask(self) -> bool:
        """Whether `attend` has to be told what may be seen."""

    def attend(
        self,
        layer: int,
        qkv: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        *,
        window: int | None,
    ) -> Tensor:
        """Rotate, if given a rotation, store the new tokens and attend: [B, T, H + 2 K, D] → [B, T, H·D]."""


class Transformer(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        super().__init__()
        self.config = config
        with torch.device(device):
            # from a tensor: what nn.Embedding draws by itself on the meta device loads a second's worth of torch
            table = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype)
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table)
            self.layers = nn.ModuleList(Block(config, index, dtype) for index in range(config.num_layers))
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
            if not config.is_tied:
                self.lm_head = Linear(config.hidden_size, config.vocab_size, dtype=dtype)
        self._rotations: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        return self.norm.weight.dtype

    def forward(self, tokens: Tensor, *, store: KVStore | None = None, last: Tensor | None = None) -> Tensor:
        """Logits of new tokens.

        Args:
            tokens: [B, T] int64. Without a store they are whole sequences and each attends to itself and those before
            it.
            store: keys and values of earlier tokens; the new ones are appended.
            last: [B] index of each sequence's last real token; only its logits are computed. Where one row holds the
            tokens of several sequences, [M] indices in it, perhaps none.

        Returns:
            [B, T, V], or [B, V] or [M, V] with `last`, in the dtype of the activations.
        """
        x = self.embed_tokens(tokens)  # [B, T, C]
        rotation = self.rotation(store.positions if store is not None else None, tokens.shape[1], x)
        mask = self.mask(store, tokens.shape[1])
        for block in self.layers:
            x = block(x, rotation, mask, store)
        if last is not None:
            x = last_rows(x, last)
            if not len(x):
                return x.new_empty(0, self.config.vocab_size)
        x = self.norm(x)
        if hasattr(self, "lm_head"):
            return self.lm_head(x)  # type: ignore[no-any-return]
        return F.linear(x, self.embed_tokens.weight)

    def rotation(self, positions: Tensor | None, num_tokens: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin of the new tokens' positions, each [B or 1, T, 1, D]."""
        cos, sin = self.angles(like)
        if positions is None:
            return cos[None, :num_tokens, None], sin[None, :num_tokens, None]
        return cos[positions].unsqueeze(2), sin[positions].unsqueeze(2)

    def angles(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin of all positions, each [max_positions, D], in the dtype and on the device of `like`."""
        key = (like.dtype, like.device)
        if key not in self._rotations:
            cos, sin = rotary_tables(self.config)
            self._rotations[key] = cos.to(like.device, like.dtype), sin.to(like.device, like.dtype)
        return self._rotations[key]

    def mask(self, store: KVStore | None, num_tokens: int) -> Tensor | None:
        """Additive mask, or None where plain causal attention shows just what may be seen.

        [B or 1, 1, T, L]; where `attend` folds several tokens, with a row for each of their heads: [B or 1, 1, T·G, L].
        """
        if store is not None and not store.needs_mask:
            return None
        window, device = self.config.sliding_window, self.norm.weight.device
        length = num_tokens if store is None else store.length
        is_plain = num_tokens == length or (num_tokens == 1 and store is not None and not store.is_ragged)
        if is_plain and (window is None or length <= window):
            return None
        if store is None:
            positions = torch.arange(num_tokens, device=device)[None]
        else:
            positions = store.positions
        distance = positions[:, None, :, None] - torch.arange(length, device=device)
        is_hidden = distance < 0
        if window is not None:
            is_hidden |= distance >= window
        mask = torch.zeros_like(is_hidden, dtype=self.dtype).masked_fill_(is_hidden, -math.inf)
        is_folded = 1 < num_tokens <= _FEW_TOKENS
        return mask.repeat_interleave(self.config.num_groups, 2) if is_folded else mask


class Block(nn.Module):
    """Attention, then the feed-forward block, each around a residual connection and behind its norm."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.self_attn = Attention(config, index, dtype)
        self.mlp = FeedForward(config, dtype)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, store: KVStore | None) -> Tensor:
        """[B, T, C] → [B, T, C]."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, store)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions (Su et al. 2021)."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.index = index
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.window = config.sliding_window
        hidden, width, kv_width = config.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = Linear(hidden, width, bias=config.has_qkv_bias, dtype=dtype)
        self.k_proj = Linear(hidden, kv_width, bias=config.has_qkv_bias, dtype=dtype)
        self.v_proj = Linear(hidden, kv_width, bias=config.has_qkv_bias, dtype=dtype)
        self.o_proj = Linear(width, hidden, dtype=dtype)
        if config.has_qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps, dtype)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps, dtype)
        self.qkv_proj: Linear | QuantizedLinear | None = None  # the three in one matrix, once `fuse` made it
        self.is_native = False  # set by `fuse`: the native kernel has no gradient

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, store: KVStore | None) -> Tensor:
        """[B, T, C] → [B, T, C]."""
        if self.qkv_proj is not None:
            qkv = self.qkv_proj(x)
        else:
            qkv = torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), dim=-1)
        return self.o_proj(self.mix(qkv, rotation, mask, store))  # type: ignore[no-any-return]

    def mix(self, qkv: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, store: KVStore | None) -> Tensor:
        """What lies between the projections: [B, T, (H + 2 K)·D], which may be overwritten, → [B, T, H·D]."""
        batch, num_tokens, _ = qkv.shape
        heads, kv_heads, width = self.num_heads, self.num_kv_heads, self.head_dim
        qkv = qkv.view(batch, num_tokens, heads + 2 * kv_heads, width)
        if hasattr(self, "q_norm"):
            q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], dim=2)
            qkv = torch.cat((self.q_norm(q), self.k_norm(k), v), dim=2)
        return self.look_back(qkv, rotation, mask, store)

    def look_back(
        self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, mask: Tensor | None, store: KVStore | None
    ) -> Tensor:
        """Rotate, store and attend: [B, T, H + 2 K, D], which may be overwritten, → [B, T, H·D].

        Without a `rotation` queries and keys are rotated already.
        """
        if store is not None:
            return store.attend(self.index, qkv, rotation, mask, window=self.window)
        q, k, v = rotated(qkv, rotation, num_kv_heads=self.num_kv_heads, is_native=self.is_native)
        return attend(q, k, v, mask)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(hidden, inner, dtype=dtype)
        self.up_proj = Linear(hidden, inner, dtype=dtype)
        self.down_proj = Linear(inner, hidden, dtype=dtype)
        self.gate_up_proj: Linear | QuantizedLinear | None = None  # both in one matrix, once `fuse` made it
        self.is_native = False  # set by `fuse`: the native kernel has no gradient

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] → [B, T, C]."""
        if self.gate_up_proj is not None:
            return self.down_proj(self.gate(self.gate_up_proj(x)))  # type: ignore[no-any-return]
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]

    def gate(self, gate_up: Tensor) -> Tensor:
        """What lies between the projections: [B, T, 2 · inner] → [B, T, inner]."""
        if self.is_native:
            return rows.swiglu(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


class RMSNorm(nn.Module):
    """x · weight / root mean square of x (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))
        self.is_native = False  # set by `fuse`: the native kernel has no gradient

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width]."""
        if self.is_native:
            return rows.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def last_rows(x: Tensor, last: Tensor) -> Tensor:
    """What `last`, see `Transformer.forward`, chooses of [B, T, C]: [B, C] or [M, C]."""
    return x[:, -1] if x.shape[1] == len(last) == 1 else x[torch.arange(len(x), device=x.device), last]


def rotated(
    qkv: Tensor, rotation: tuple[Tensor, Tensor] | None, *, num_kv_heads: int, is_native: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, T, H, D], keys and values [B, K, T, D] of [B, T, H + 2 K, D], which may be overwritten.

    Without a `rotation` they are rotated already.
    """
    num_heads = qkv.shape[2] - 2 * num_kv_heads
    queries_and_keys = qkv[:, :, : num_heads + num_kv_heads]
    if rotation is not None and is_native:
        rows.rotate(queries_and_keys, *rotation)
    elif rotation is not None:
        queries_and_keys = rotate(queries_and_keys, *rotation)
    q, k = torch.split(queries_and_keys, [num_heads, num_kv_heads], dim=2)
    return q, k.transpose(1, 2), qkv[:, :, num_heads + num_kv_heads :].transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of [B, T, H, D] queries over [B, K, L, D] keys and values; returns [B, T, H·D].

    One new token is the hot path: its G query heads of a KV group stand in for G query positions, so keys and values
    are read once and not repeated. Few tokens behind a mask do the same, T·G positions of which each has its row in the
    mask. Without a mask, one token sees all keys and T = L tokens see themselves and those before.
    """
    batch, num_tokens, heads, width = q.shape
    kv_heads = k.shape[1]
    if num_tokens == 1:
        q = q.view(batch, kv_heads, heads // kv_heads, width)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(batch, 1, heads * width)
    if mask is not None and num_tokens <= _FEW_TOKENS:
        q = q.view(batch, num_tokens, kv_heads, -1, width).transpose(1, 2).flatten(2, 3)  # [B, K, T·G, D]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.reshape(batch, kv_heads, num_tokens, -1).transpose(1, 2).flatten(2)
    can_share = not q.is_cuda or mask is None  # behind a mask, CUDA's fast kernels want keys for each query head
    if not can_share:
        k, v = k.repeat_interleave(heads // kv_heads, 1), v.repeat_interleave(heads // kv_heads, 1)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=can_share
    )
    return out.transpose(1, 2).reshape(batch, num_tokens, heads * width)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of each head of [B, T, heads, D]; `sin` carries the sign of the pair's half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and signed sin for every position, each [max_positions, D] in fp32.

    With `rope_type: llama3` low frequencies are divided by `factor` and the band between is blended (Llama 3.1).
    """
    half = config.head_dim // 2
    frequency = config.rope_theta ** -(torch.arange(half, dtype=torch.float32, device="cpu") / half)
    if config.rope_scaling is not None:
        frequency = _llama3(frequency, config.rope_scaling)
    angle = torch.outer(torch.arange(config.max_positions, dtype=torch.float32, device="cpu"), frequency)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _llama3(frequency: Tensor, scaling: Mapping[str, float]) -> Tensor:
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = original * frequency / (2 * math.pi)  # full turns within the original context
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency * (blend + (1 - blend) / factor)


def fuse(model: Transformer) -> Transformer:
    """Join q/k/v and gate/up into one matrix each where their kernels allow it, and take native kernels for norms and
    gates: fewer dispatches, same numbers.

    A last step: pruning, quantization and sharding see the separate layers.
    """
    fuse_parts(model)
    is_native = has_kernels(device=model.norm.weight.device.type, dtype=model.dtype)
    for module in model.modules():
        if isinstance(module, Attention | FeedForward | RMSNorm):
            module.is_native = is_native
    if not hasattr(model, "lm_head"):  # tied: the embedding, as a layer whose kernel can be chosen
        model.lm_head = Linear(0, 0)
        model.lm_head.weight = nn.Parameter(model.embed_tokens.weight, requires_grad=False)
        model.lm_head.out_features, model.lm_head.in_features = model.embed_tokens.weight.shape
    return model


def fuse_parts(module: nn.Module) -> None:
    """Join the matrices of a block or of all blocks; what is joined already stays so."""
    for part in list(module.modules()):  # a list: layers come and go on the way
        if isinstance(part, Attention) and part.qkv_proj is None:
            part.qkv_proj = joined((part.q_proj, part.k_proj, part.v_proj))
            if part.qkv_proj is not None:
                del part.q_proj, part.k_proj, part.v_proj
        elif isinstance(part, FeedForward) and part.gate_up_proj is None:
            part.gate_up_proj = joined((part.gate_proj, part.up_proj))
            if part.gate_up_proj is not None:
                del part.gate_proj, part.up_proj
