"""Other engines as Systems, each imported only when asked for.

A peer gets the same weights, token ids, prompts and numbers of new tokens as labkit's own engine, decodes greedily,
ignores end-of-sequence, and runs on a stated number of threads. Its text form is that of a recipe:
`transformers(dtype='bf16')`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from labkit.core.errors import Unavailable, UsageError
from labkit.core.recipe import KnobValue

if TYPE_CHECKING:
    from pathlib import Path

    from labkit.peers.base import Peer

DEFAULT_PEERS: tuple[str, ...] = (
    "transformers(dtype='bf16')",
    "transformers(dtype='fp32')",
    "torchao(dtype='int8wo')",
    "torchao(dtype='int8dq')",
    "llama_cpp(dtype='f16')",
    "llama_cpp(dtype='q8_0')",
    "llama_cpp(dtype='q4_0')",
)
"""The engines that `labkit peers` measures, in the text form of a recipe; ratios are stated against the first."""

DEFAULT_RECIPES: tuple[str, ...] = (
    "kv_cache + precision(dtype='bf16')",
    "kv_cache + precision(dtype='fp16')",
    "kv_cache + quantize(bits=8)",
    "kv_cache + quantize(bits=4)",
)
"""labkit's own answers at 16, 8 and 4 bits for requests served one at a time; see `default_recipes`."""


def default_recipes(batch: int) -> tuple[str, ...]:
    """`DEFAULT_RECIPES` where `batch` requests are sent together: peers batch them, so the engine does too."""
    return tuple(f"{recipe} + static_batching(size={batch})" if batch > 1 else recipe for recipe in DEFAULT_RECIPES)


def _transformers() -> "type[Peer]":
    from labkit.peers.transformers import TransformersPeer

    return TransformersPeer


def _torchao() -> "type[Peer]":
    from labkit.peers.torchao import TorchaoPeer

    return TorchaoPeer


def _llama_cpp() -> "type[Peer]":
    from labkit.peers.llama_cpp import LlamaCppPeer

    return LlamaCppPeer


PEERS: Mapping[str, "Callable[[], type[Peer]]"] = {
    "transformers": _transformers,
    "torchao": _torchao,
    "llama_cpp": _llama_cpp,
}
"""Peers by name; the value imports the class when called."""

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "transformers": ("transformers",),
    "torchao": ("torchao", "transformers"),
    "llama_cpp": ("llama_cpp",),
    "sklearn_cosine": ("sklearn",),
    "sklearn_linear": ("sklearn",),
    "gensim_lsi": ("gensim",),
    "keras_predict": ("tensorflow",),
    "keras_call": ("tensorflow",),
    "tf_function": ("tensorflow",),
    "xla": ("tensorflow",),
    "torch_layer": ("torch",),
}
"""The packages that a peer is made of."""

OPTIONS: tuple[str, ...] = ("dtype", "batch")
"""What every peer can be told: the dtype of its weights, and the most requests it serves together."""


def open_peer(
    name: str,
    *,
    model: str,
    device: str,
    options: Mapping[str, KnobValue],
    cache_folder: "Path",
    threads: int | None = None,
) -> "Peer":
    """Build a peer around a model; the System to measure.

    Args:
        name: a key of `PEERS`.
        model: whatever `labkit.model.source.open_model` opens.
        device: "cpu" or "cuda".
        options: values for `OPTIONS`.
        cache_folder: where converted weights are kept.
        threads: CPU threads; None takes torch's default, which is also the engine's.

    Raises:
        UsageError: an unknown peer, option or value.
        Unavailable: its package is not installed, or it does not run on the device.
    """
    if name not in PEERS:
        raise UsageError.unknown("peer", name, PEERS)
    for option in options:
        if option not in OPTIONS:
            raise UsageError.unknown(f"option of peer {name!r}", option, OPTIONS)
    peer = PEERS[name]()
    dtype, batch = options.get("dtype", peer.dtypes[0]), options.get("batch")
    if dtype not in peer.dtypes:
        raise UsageError.unknown(f"dtype of peer {name!r}", dtype, peer.dtypes)
    if batch is not None and not (type(batch) is int and batch >= 1):
        raise UsageError(f"peer {name!r}: batch is {batch!r}; allowed: whole numbers from 1, or None for all that wait")
    if device not in peer.devices:
        raise Unavailable(f"peer {name!r} was asked to run on {device!r}; it runs on: {', '.join(peer.devices)}")

    import torch

    from labkit.model.source import open_model
    from labkit.peers.base import Settings

    settings = Settings(
        source=open_model(model),
        device=device,
        dtype=str(dtype),
        batch=batch,
        threads=threads or torch.get_num_threads(),
        cache_folder=cache_folder,
    )
    return peer(settings)
