"""The model of the transformers peer with linear layers that torchao quantized, served by the same `generate`.

Schemes go by torchao's own short names. Everything else, norms, attention and the embedding, stays bf16; a head that
is tied to the embedding becomes a matrix of its own, as in labkit's `quantize`. Nothing is compiled.

Source: Or et al., "TorchAO: PyTorch-Native Training-to-Serving Model Optimization" (2025).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from labkit.peers.base import Settings, import_package
from labkit.peers.transformers import TransformersPeer

_BITS = {"int8wo": (8, 16), "int8dq": (8, 8), "int4wo": (4, 16)}  # of weights, of activations
_GROUP_SIZE = 128  # torchao's default


class TorchaoPeer(TransformersPeer):
    """`quantize_`, then `generate`: weights alone (`wo`), or activations too, row by row as they come (`dq`)."""

    name = "torchao"
    dtypes = tuple(_BITS)

    def __init__(self, settings: Settings) -> None:
        library = import_package("torchao.quantization", peer=self.name, remedy='pip install "labkit[peers]"')
        from labkit.model.torchao import scheme

        config = scheme(*_BITS[settings.dtype], _GROUP_SIZE, device=settings.device, remedy="dtype='int8wo'")
        super().__init__(settings)
        library.quantize_(self._model, config)

    @property
    def _loaded_dtype(self) -> str:
        return "bf16"

    def _tensors(self) -> list[Tensor]:
        """See TransformersPeer: of a quantized weight its codes, scales and zeros."""
        from labkit.model.torchao import parts

        return [part for weight in super()._tensors() for part in parts(weight).values() or [weight]]

    def facts(self) -> Mapping[str, Any]:
        """See TransformersPeer; the kernels are torchao's."""
        facts = super().facts()
        version = import_package("torchao", peer=self.name, remedy="").__version__
        kernels = {**facts["kernels"], "linear": f"torchao {self.settings.dtype}"}
        return {**facts, "version": f"{facts['version']}, torchao {version}", "kernels": kernels}
