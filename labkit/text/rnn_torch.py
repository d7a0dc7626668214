"""The RNN classifier in torch: a module to train, and its twin with the weights of Keras to answer fast."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from labkit.core.errors import UsageError
from labkit.model.cells import Cell
from labkit.model.native.build import has_kernels
from labkit.model.native.recurrence import can_recur, recur
from labkit.text.rnn_weights import Array, RnnWeights
from labkit.text.vocabulary import PADDING, Ids

_MODULES: dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]] = {"simple": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
_ORDER: dict[Cell, tuple[int, ...]] = {"simple": (0,), "gru": (1, 0, 2), "lstm": (0, 1, 2, 3)}
"""Where torch has each gate of Keras, and the other way round: a GRU's first two change places."""


class RnnModule(nn.Module):
    """Embedding, recurrent layer, dense layer, as torch has them; differentiable. Logits of [B, T] ids, 0 is masked."""

    def __init__(
        self, cell: Cell, *, vocabulary: int, embedding: int, units: int, classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.cell: Cell = cell
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = _MODULES[cell](embedding, units, batch_first=True)
        self.dense = nn.Linear(units, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] → logits [B, C]."""
        logits: Tensor = self.dense(self.dropout(self.last(self.dropout(self.embedding(ids)), ids != PADDING)))
        return logits

    def last(self, inputs: Tensor, is_word: Tensor) -> Tensor:
        """The last state [B, H] over inputs [B, T, E]; a step without a word changes nothing, so it is left out."""
        order = (~is_word).to(torch.uint8).argsort(dim=1, stable=True)
        inputs = inputs.gather(1, order[..., None].expand_as(inputs))
        lengths = is_word.sum(1)
        packed = pack_padded_sequence(inputs, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        states = self.recurrent(packed)[1]
        state: Tensor = states[0][0] if self.cell == "lstm" else states[0]
        return state * (lengths > 0)[:, None]

    def weights(self) -> RnnWeights:
        """A copy of the weights in the layout of Keras."""
        own = {name: parameter.detach().cpu() for name, parameter in self.recurrent.named_parameters()}
        biases = [_gates(own[f"bias_{kind}_l0"], self.cell) for kind in ("ih", "hh")]
        bias, recurrent_bias = biases if self.cell == "gru" else (biases[0] + biases[1], torch.zeros_like(biases[0]))
        tensors = {
            "embedding": self.embedding.weight,
            "kernel": _gates(own["weight_ih_l0"], self.cell).T,
            "bias": bias,
            "recurrent": _gates(own["weight_hh_l0"], self.cell).T,
            "recurrent_bias": recurrent_bias,
            "dense": self.dense.weight.T,
            "dense_bias": self.dense.bias,
        }
        arrays = {name: tensor.detach().cpu().contiguous().numpy().copy() for name, tensor in tensors.items()}
        return RnnWeights(cell=self.cell, **arrays)


class RnnTwin:
    """Probabilities by torch with the weights of Keras.

    On the CPU the recurrent layer is one call of a native kernel; elsewhere, and where nothing could be compiled, it is
    torch's own layer.

    Args:
        is_folded: look up what a word adds to the gates instead of multiplying its embedding each time; the same sums.
        precision: fp32, bf16 or int8, of the table that words are looked up in, nearly all of the weights; the others
            stay fp32.
        device: "cpu" or "cuda".
        has_native: leave the native kernel out with False.
    """

    def __init__(
        self,
        weights: RnnWeights,
        *,
        is_folded: bool = False,
        precision: str = "fp32",
        device: str = "cpu",
        has_native: bool = True,
    ) -> None:
        self.is_native = has_native and has_kernels(device=device, dtype=torch.float32) and can_recur(weights.units)
        self._cell, self._is_folded, self._device = weights.cell, is_folded, device
        self._table, self._scales = _held(weights.table if is_folded else weights.embedding, precision, device)
        self._kernel, self._bias, self._recurrent, self._recurrent_bias, self._dense, self._dense_bias = (
            torch.tensor(np.ascontiguousarray(array), device=device)
            for array in (
                weights.kernel,
                weights.bias,
                weights.recurrent,
                weights.recurrent_bias,
                weights.dense,
                weights.dense_bias,
            )
        )
        self._module = None if self.is_native else _layer(weights, is_folded=is_folded).to(device)
        # unasked it rounds factors to ten bits, which is no fp32
        torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
        self.threads = torch.get_num_threads()
        self.notes = f"torch {torch.__version__}, {'native kernel' if self.is_native else 'layer of torch'}"

    @property
    def weights_bytes(self) -> int:
        """What is read to answer, in bytes."""
        held = [self._table, self._scales, self._recurrent, self._recurrent_bias, self._dense, self._dense_bias]
        held += [] if self._is_folded else [self._kernel, self._bias]
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    @torch.inference_mode()
    def probabilities(self, ids: Ids) -> Array:
        """[B, T] → [B, C].

        Raises:
            UsageError: an id is outside the vocabulary.
        """
        if ids.view(np.uint32).max(initial=0) >= len(self._table):  # a negative one is a large one
            raise UsageError(f"ids {ids.min()} to {ids.max()} were seen; allowed: 0 to {len(self._table) - 1}")
        state = self._state(torch.from_numpy(ids).to(self._device))
        return torch.addmm(self._dense_bias, state, self._dense).softmax(1).cpu().numpy()

    def _state(self, ids: Tensor) -> Tensor:
        if self._module is not None:
            return self._module.last(self._looked_up(ids), ids != PADDING)
        if self._is_folded:
            inputs, scales = self._table, self._scales
        else:
            inputs, scales = self._looked_up(ids) @ self._kernel + self._bias, None
        return recur(ids, inputs, self._recurrent, self._recurrent_bias, cell=self._cell, scales=scales)

    def _looked_up(self, ids: Tensor) -> Tensor:
        rows = self._table[ids].float()
        return rows if self._scales is None else rows * self._scales[ids, None]


def _gates(tensor: Tensor, cell: Cell) -> Tensor:
    """The same with its gates [G · H, …] in the other project's order."""
    parts = tensor.chunk(len(_ORDER[cell]))
    return torch.cat([parts[gate] for gate in _ORDER[cell]])


def _held(table: Array, precision: str, device: str) -> tuple[Tensor, Tensor | None]:
    """A table as it is kept, and the scales of its rows where it is kept in integers."""
    rows = torch.tensor(table, device=device)
    if precision == "fp32":
        return rows, None
    if precision == "bf16":
        return rows.bfloat16(), None
    scales = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scales[:, None]).round().to(torch.int8), scales


def _layer(weights: RnnWeights, *, is_folded: bool) -> RnnModule:
    """torch's own layer with these weights; of folded ones the input is what the gates get, and passes unchanged."""
    width = weights.kernel.shape[1]
    kernel = torch.eye(width) if is_folded else torch.tensor(weights.kernel)
    bias = torch.zeros(width) if is_folded else torch.tensor(weights.bias)
    module = RnnModule(
        weights.cell, vocabulary=1, embedding=len(kernel), units=weights.units, classes=weights.num_classes
    )
    tensors = {
        "weight_ih_l0": kernel.T,
        "weight_hh_l0": torch.tensor(weights.recurrent).T,
        "bias_ih_l0": bias,
        "bias_hh_l0": torch.tensor(weights.recurrent_bias),
    }
    with torch.no_grad():
        for name, parameter in module.recurrent.named_parameters():
            parameter.copy_(_gates(tensors[name], weights.cell))
    return module.eval().requires_grad_(False)
