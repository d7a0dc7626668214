"""Compiled blocks: what lies between two attentions, as the kernels that torch.compile makes of it.

Attention and the cache stay as they are: their lengths grow with every token, and a compiler that saw them would
compile again. Between them only the number of rows varies, sequences times tokens, which is marked as dynamic; a single
row is a shape of its own. So all is compiled twice, for one row and for several, whatever follows.

Products are part of what is compiled where torch's is the only one there is. Where others compete, native kernels or
those of integers and sparse weights, the layer is called from compiled code and takes what its probe found, as ever.
"""

import warnings
from collections.abc import Callable, Iterable
from itertools import count
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.linear import KernelLayer, Linear
from labkit.model.transformer import Block, KVStore, RMSNorm, Transformer, rotate


class Factor(NamedTuple):
    """A linear layer as compiled code takes it: float weights [out, in], or the number of a layer of `out` features."""

    weight: Tensor | None
    number: Tensor | None
    bias: Tensor | None
    out_features: int


class Norm(NamedTuple):
    """An RMSNorm as compiled code takes it."""

    weight: Tensor
    eps: float


Product = tuple[tuple[Factor, ...], ...]
"""Chains of layers over the same input, whose outputs stand side by side."""


class Entry(NamedTuple):
    """What `enter` needs of a block: norms of queries and keys, where it has them, and how many of each there are."""

    norm: Norm
    qkv: Product
    head_norms: tuple[Norm, Norm] | None
    num_heads: int
    num_kv_heads: int


class Exit(NamedTuple):
    """What `leave` needs of a block."""

    out: Product
    norm: Norm
    gate_up: Product
    down: Product


def enter(x: Tensor, entry: Entry, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    """From the residual stream to the heads: x [R, C] → [R, H + 2 K, D], rotated by cos and sin [R, 1, D] if given."""
    heads, kv_heads = entry.num_heads, entry.num_kv_heads
    qkv = multiply(normed(x, entry.norm), entry.qkv)
    qkv = qkv.view(len(qkv), heads + 2 * kv_heads, -1)
    if entry.head_norms is None and rotation is None:
        return qkv
    q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], dim=-2)
    if entry.head_norms is not None:
        q, k = normed(q, entry.head_norms[0]), normed(k, entry.head_norms[1])
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    return torch.cat((q, k, v), dim=-2)


def leave(x: Tensor, mixed: Tensor, exit: Exit) -> Tensor:
    """From what attention gave, [R, H·D], back to the residual stream x [R, C], and through the feed-forward block."""
    x = x + multiply(mixed, exit.out)
    gate, up = multiply(normed(x, exit.norm), exit.gate_up).chunk(2, dim=-1)
    return x + multiply(F.silu(gate) * up, exit.down)


def multiply(x: Tensor, product: Product) -> Tensor:
    """x [R, in] → [R, out of all chains]."""
    outputs = []
    for chain in product:
        y = x
        for factor in chain:
            y = _apply(factor, y)
        outputs.append(y)
    return torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]


def _apply(factor: Factor, x: Tensor) -> Tensor:
    if factor.weight is not None:
        return F.linear(x, factor.weight, factor.bias)
    y: Tensor = torch.ops.labkit.multiply(x, factor.number, factor.out_features)
    return y if factor.bias is None else y + factor.bias


def normed(x: Tensor, norm: Norm) -> Tensor:
    """See RMSNorm."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


# a layer that a compiler cannot look into goes by a number, in a tensor: a plain number would be compiled in
_numbers = count()
_layers: WeakValueDictionary[int, KernelLayer] = WeakValueDictionary()
torch.library.define("labkit::multiply", "(Tensor x, Tensor number, int out_features) -> Tensor")


@torch.library.impl("labkit::multiply", "CompositeExplicitAutograd")
def _multiply(x: Tensor, number: Tensor, out_features: int) -> Tensor:
    return _layers[int(number)].multiply(x)


def _multiply_shape(x: Tensor, number: Tensor, out_features: int) -> Tensor:
    return x.new_empty(x.shape[0], out_features)


torch.library.register_fake("labkit::multiply", _multiply_shape)


class CompiledBlock(Block):
    """A finished block with compiled code around its attention.

    Args:
        block: whose weights it has; its parts become this one's.
        enter, leave: compiled, as above.
        is_graphed: whether steps that decode are to be recorded where they can be, see `labkit.engine.graphed`.
    """

    def __init__(
        self, block: Block, enter: Callable[..., Tensor], leave: Callable[..., Tensor], *, is_graphed: bool
    ) -> None:
        nn.Module.__init__(self)
        self.is_graphed = is_graphed
        self.self_attn, self.mlp = block.self_attn, block.mlp
        self.input_layernorm, self.post_attention_layernorm = block.input_layernorm, block.post_attention_layernorm
        self._forward_pre_hooks, self._forward_hooks = block._forward_pre_hooks, block._forward_hooks  # fetch weights
        self.mlp.is_native = False  # whoever asks learns that no row of it is a native kernel's
        self._enter, self._leave, self._is_compiled = enter, leave, False
        attention, mlp = self.self_attn, self.mlp
        has_head_norms = hasattr(attention, "q_norm")
        self.entry = Entry(
            norm=_norm(self.input_layernorm),
            qkv=_product((attention.qkv_proj,))
            if attention.qkv_proj is not None
            else _product((attention.q_proj, attention.k_proj, attention.v_proj)),
            head_norms=(_norm(attention.q_norm), _norm(attention.k_norm)) if has_head_norms else None,
            num_heads=attention.num_heads,
            num_kv_heads=attention.num_kv_heads,
        )
        self.exit = Exit(
            out=_product((attention.o_proj,)),
            norm=_norm(self.post_attention_layernorm),
            gate_up=_product((mlp.gate_up_proj,))
            if mlp.gate_up_proj is not None
            else _product((mlp.gate_proj, mlp.up_proj)),
            down=_product((mlp.down_proj,)),
        )

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, store: KVStore | None) -> Tensor:
        """See Block."""
        attention = self.self_attn
        if not self._is_compiled:
            self._compile(x)
        batch, num_tokens, width = x.shape
        rows = x.reshape(-1, width)
        by_row = None if attention.is_native else _by_row(rotation, batch)
        qkv = self._enter(rows, self.entry, by_row)
        qkv = qkv.view(batch, num_tokens, *qkv.shape[1:])
        mixed = attention.look_back(qkv, rotation if by_row is None else None, mask, store)
        return self._leave(rows, mixed.reshape(len(rows), -1), self.exit).view(x.shape)

    def _compile(self, like: Tensor) -> None:
        """Meet one row and several, so that nothing is left to compile later."""
        attention = self.self_attn
        for num_rows in (1, 2):
            rows = like.new_zeros(num_rows, like.shape[-1])
            mixed = like.new_zeros(num_rows, attention.num_heads * attention.head_dim)
            angles = like.new_zeros(2, num_rows, 1, attention.head_dim)
            rotation = None if attention.is_native else (angles[0].clone(), angles[1].clone())
            if num_rows > 1:
                for tensor in (rows, mixed, *(rotation or ())):
                    torch._dynamo.mark_dynamic(tensor, 0)
            with warnings.catch_warnings(action="ignore"):  # of products in fp32, which are meant as they are asked for
                self._enter(rows, self.entry, rotation)
                self._leave(rows, mixed, self.exit)
        self._is_compiled = True


def compile_blocks(model: Transformer, *, mode: str) -> Transformer:
    """Put compiled blocks in place of a finished model's; they are compiled when they are first used.

    Args:
        model: finished.
        mode: "default", "reduce-overhead" or "max-autotune"; the last two also record steps on a GPU.
    """
    # torch's own graphs end at each attention; ours, of a whole step, hold what torch compiles without them
    without_graphs = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(mode, mode)
    ways = torch.compile(enter, mode=without_graphs), torch.compile(leave, mode=without_graphs)
    is_graphed = mode != without_graphs
    model.layers = nn.ModuleList(CompiledBlock(block, *ways, is_graphed=is_graphed) for block in _blocks(model.layers))
    return model


def compiled_layers(model: Transformer) -> list[Linear]:
    """The layers of all blocks whose products are part of compiled code."""
    return [layer for layer in model.layers.modules() if isinstance(layer, Linear) and is_in_graph(layer)]


def is_in_graph(layer: Linear) -> bool:
    """Whether torch's product of plain floats is all that it could take."""
    return layer.packed.keys() == {"torch"}


def _blocks(layers: Iterable[nn.Module]) -> Iterable[Block]:
    for layer in layers:
        assert isinstance(layer, Block)
        yield layer


def _by_row(rotation: tuple[Tensor, Tensor], batch: int) -> tuple[Tensor, Tensor]:
    """cos and sin [B or 1, T, 1, D] of each row, [B·T, 1, D]."""
    cos, sin = (part.expand(batch, -1, -1, -1).reshape(-1, 1, part.shape[-1]).contiguous() for part in rotation)
    return cos, sin


def _norm(norm: RMSNorm) -> Norm:
    return Norm(norm.weight, norm.eps)


def _product(layers: Iterable[nn.Module]) -> Product:
    """Of a module that is several layers, such as two of low rank, each is applied to the output of the one before."""
    return tuple(tuple(_factor(part) for part in layer.modules() if isinstance(part, KernelLayer)) for layer in layers)


def _factor(layer: KernelLayer) -> Factor:
    if isinstance(layer, Linear) and is_in_graph(layer):
        return Factor(layer.weight, None, layer.bias, layer.out_features)
    number = next(_numbers)
    _layers[number] = layer
    return Factor(None, torch.tensor(number), layer.bias, layer.out_features)
