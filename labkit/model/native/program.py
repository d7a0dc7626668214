"""Program: calls of kernels that are recorded once and replayed by a single call; see program.c."""

import ctypes

import torch
from torch import Tensor

from labkit.model.native.build import SIGNATURES, Call, library

_NUMBERS = {name: number for number, name in enumerate(SIGNATURES)}
_MOST_ARGUMENTS = 20  # as in program.c


class _Word(ctypes.Union):
    _fields_ = (("p", ctypes.c_void_p), ("n", ctypes.c_long), ("f", ctypes.c_double))


class _Call(ctypes.Structure):
    _fields_ = (("kernel", ctypes.c_long), ("args", _Word * _MOST_ARGUMENTS))


class Program:
    """Calls in the order in which they were recorded, which read and write tensors where they were then.

    Nothing is held but `held`: who moves a tensor or lets go of it must not run the program any more.
    """

    def __init__(self, calls: list[Call], *, held: object = None) -> None:
        self._held = held
        self._calls = (_Call * len(calls))(*map(_recorded, calls))

    def run(self) -> None:
        """Make all the calls.

        Raises:
            MemoryError: none is left for a kernel's copy of its activations.
        """
        if library().labkit_replay(self._calls, len(self._calls), torch.get_num_threads()):
            raise MemoryError("no memory for the activations of a native kernel")

    def set_output(self, y: Tensor) -> None:
        """Have the last call write here."""
        self._calls[-1].args[0].p = y.data_ptr()


def _recorded(call: Call) -> _Call:
    name, *arguments = call
    recorded = _Call(_NUMBERS[name])
    for word, value in zip(recorded.args, arguments, strict=False):  # the others stay 0
        if isinstance(value, Tensor):
            word.p = value.data_ptr()
        elif isinstance(value, float):
            word.f = value
        else:
            word.n = value or 0
    return recorded
