"""RecordedStep: a decoding step whose every operation is one of our kernels, replayed by a single call.

What a step of one request computes takes little longer than starting its some hundred operations from Python. Their
arguments are the same in each step, but for the new tokens and where they stand, so they are recorded once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labkit.engine.cache import CacheView, KVCache
from labkit.model.factored import LowRank
from labkit.model.linear import KernelLayer
from labkit.model.native import attention, rows
from labkit.model.native.build import Call
from labkit.model.native.program import Program
from labkit.model.transformer import Attention, Block, FeedForward, RMSNorm, Transformer


class RecordedStep:
    """One step of `batch` sequences that decode one token each; see `can_record`.

    Without `has_products` it leaves out the layers, for their share of the time; its logits then mean nothing.
    """

    def __init__(self, model: Transformer, cache: KVCache, batch: int, *, has_products: bool = True) -> None:
        self.model, self.cache, self.batch, self.has_products = model, cache, batch, has_products
        head = model.lm_head
        assert isinstance(head, KernelLayer)
        self._head, self._version, self._stored = head, head.version, cache.layers[0]
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._x = self._buffer("x", model.config.hidden_size)
        self._normed = self._buffer("normed", model.config.hidden_size)
        self._cos, self._sin = (self._buffer(name, model.config.head_dim) for name in ("cos", "sin"))
        num_columns = -(-model.config.max_positions // cache.block_size)
        self._tables = torch.zeros(batch, num_columns, dtype=torch.int64)
        self._lengths = torch.zeros(batch, dtype=torch.int64)
        self._written_tables, self._written_lengths = self._tables.numpy(), self._lengths.numpy()  # the same memory
        calls = [call for block in _blocks(model) for call in self._block(block)]
        calls += [self._norm(model.norm), *self._products("logits", [head], self._normed)[1]]
        self._program = Program(calls)

    @property
    def is_current(self) -> bool:
        """Whether weights and cache are still where they were."""
        return self._version == self._head.version and self._stored is self.cache.layers[0]

    def __call__(self, tokens: list[int], view: CacheView) -> Tensor:
        """Logits [B, V] after one token of each sequence, which is stored on the way."""
        blocks = view.block_rows
        self._written_lengths[:], self._written_tables[:, : len(blocks[0])] = view.starts, blocks
        for table, angles in zip(self.model.angles(self._x), (self._cos, self._sin), strict=True):
            torch.index_select(table, 0, self._lengths, out=angles)
        torch.index_select(self.model.embed_tokens.weight, 0, torch.tensor(tokens), out=self._x)
        logits = torch.empty(self.batch, self._head.out_features, dtype=self._x.dtype)
        if self.has_products:
            self._program.set_output(logits)
        self._program.run()
        return logits

    def _buffer(self, use: str, width: int) -> Tensor:
        """[B, width], the same in every block."""
        return self._buffers.setdefault((use, width), torch.empty(self.batch, width, dtype=self.model.dtype))

    def _block(self, block: Block) -> list[Call]:
        """Attention, then the feed-forward block, as `Block` composes them."""
        mixer, mlp = block.self_attn, block.mlp
        flat_qkv, project = self._products("qkv", _inputs_of(mixer), self._normed)
        qkv = flat_qkv.view(self.batch, 1, -1, mixer.head_dim)
        gate_up, widen = self._products("gate_up", _inputs_of(mlp), self._normed)
        mixed = self._buffer("mixed", mixer.num_heads * mixer.head_dim)
        inner = self._buffer("inner", gate_up.shape[1] // 2)
        rotation = self._cos[:, None, None], self._sin[:, None, None]
        stored = self.cache.layers[mixer.index]
        return [
            self._norm(block.input_layernorm),
            *project,
            *self._head_norms(mixer, qkv),
            attention.attend_call(mixed, qkv, rotation, stored, self._tables, self._lengths, window=mixer.window),
            *self._add_product(mixer.o_proj, mixed),
            self._norm(block.post_attention_layernorm),
            *widen,
            rows.swiglu_call(inner, gate_up),
            *self._add_product(mlp.down_proj, inner),
        ]

    def _norm(self, norm: RMSNorm) -> Call:
        return rows.rms_norm_call(self._normed, self._x, norm.weight, norm.eps)

    def _head_norms(self, mixer: Attention, qkv: Tensor) -> list[Call]:
        """Norms of the queries and keys of [B, 1, H + 2 K, D] by themselves, where the model has them."""
        if not hasattr(mixer, "q_norm"):
            return []
        spans = ((mixer.q_norm, 0, mixer.num_heads), (mixer.k_norm, mixer.num_heads, mixer.num_kv_heads))
        parts = [(norm, qkv[row, 0, first : first + num]) for row in range(self.batch) for norm, first, num in spans]
        return [rows.rms_norm_call(part, part, norm.weight, norm.eps) for norm, part in parts]

    def _add_product(self, layer: nn.Module, x: Tensor) -> list[Call]:
        """A product added to the residual stream."""
        y, calls = self._products("residual", [layer], x)
        return [*calls, rows.add_call(self._x, self._x, y)]

    def _products(self, use: str, layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, list[Call]]:
        """Where the outputs of layers will be, side by side, and the calls that write them."""
        widths = [part[-1].out_features for part in map(_factors, layers)]
        y = self._buffer(use, sum(widths))
        parts = zip(layers, torch.split(y, widths, dim=1), strict=True)
        return y, [call for layer, part in parts for call in self._product(part, layer, x)]

    def _product(self, y: Tensor, layer: nn.Module, x: Tensor) -> list[Call]:
        """The calls that write a layer's output to y, by way of a narrow one where it is of low rank."""
        calls: list[Call] = []
        *narrow, last = _factors(layer)
        for factor in (*narrow, last) if self.has_products else ():
            output = y if factor is last else self._buffer("narrow", factor.out_features)
            native = factor.kernels[self.batch].native
            assert native is not None
            calls.append(native(factor).call(output, x))
            calls += [] if factor.bias is None else [rows.add_call(output, output, factor.bias)]
            x = output
        return calls


def can_record(model: Transformer, cache: KVCache, batch: int) -> bool:
    """Whether all that a step of so many sequences does is native; asked after such a step has chosen its kernels."""
    blocks = _blocks(model)
    layers = (  # looked at one by one: the first that is not native decides, and this is asked before each such step
        factor
        for block in blocks
        for layer in (*_inputs_of(block.self_attn), block.self_attn.o_proj, *_inputs_of(block.mlp), block.mlp.down_proj)
        for factor in _factors(layer)
    )
    return (
        cache.has_native_attention
        and blocks[0].mlp.is_native  # and not compiled
        and not any(block._forward_pre_hooks for block in blocks)  # what is done before a block would be left out
        and model.embed_tokens.weight.dtype == model.dtype
        and (batch == 1 or all(_is_joined(block) for block in blocks))  # side by side, rows are not contiguous
        and _is_native(model.lm_head, batch)
        and all(_is_native(layer, batch) for layer in layers)
    )


def _blocks(model: Transformer) -> list[Block]:
    return [block for block in model.layers if isinstance(block, Block)]


def _is_joined(block: Block) -> bool:
    return len(_inputs_of(block.self_attn)) == len(_inputs_of(block.mlp)) == 1


def _inputs_of(part: Attention | FeedForward) -> Sequence[nn.Module]:
    """What multiplies the input of a part of a block: one layer where `fuse` could join them."""
    if isinstance(part, Attention):
        return (part.q_proj, part.k_proj, part.v_proj) if part.qkv_proj is None else (part.qkv_proj,)
    return (part.gate_proj, part.up_proj) if part.gate_up_proj is None else (part.gate_up_proj,)


def _factors(layer: nn.Module) -> Sequence[KernelLayer]:
    """The products that make up a layer, one after another; of one that is none of ours, itself."""
    return (layer.down, layer.up) if isinstance(layer, LowRank) else (layer,)  # type: ignore[return-value]


def _is_native(layer: object, batch: int) -> bool:
    """Whether a layer takes a native kernel for so many rows."""
    return isinstance(layer, KernelLayer) and batch in layer.kernels and layer.kernels[batch].native is not None
