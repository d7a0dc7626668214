"""Calibration: text on which techniques watch a model's activations, and never the text that quality is measured on."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from labkit.core.errors import Unavailable
from labkit.core.stdlib import training_files

CALIBRATION_TOKENS = 128
"""Tokens in a calibration sequence, as many as a window of the quality measure."""

_CHARS_PER_TOKEN = 12
_MAX_ATTEMPTS = 20  # a sequence; most files are long enough


def calibration_tokens(
    encode: Callable[[str], list[int]], num_sequences: int, *, length: int = CALIBRATION_TOKENS, seed: int = 0
) -> Tensor:
    """Excerpts of the standard library outside its held-out modules: token ids [num_sequences, length], int64.

    The same seed draws the same excerpts of the same interpreter.

    Raises:
        Unavailable: the texts are too short for sequences of that length.
    """
    files, rng = list(training_files()), random.Random(f"calibration/{seed}")
    rows: list[list[int]] = []
    for _ in range(num_sequences * _MAX_ATTEMPTS):
        if len(rows) == num_sequences:
            break
        text = rng.choice(files).read_text(encoding="utf-8", errors="ignore")
        start = rng.randrange(max(1, len(text) - length * 2))
        ids = encode(text[start : start + length * _CHARS_PER_TOKEN])[:length]
        if len(ids) == length:
            rows.append(ids)
    if len(rows) < num_sequences:
        raise Unavailable(
            f"{num_sequences} calibration sequences of {length} tokens were asked for; the standard library's "
            f"training text gave {len(rows)}; remedy: ask for shorter ones, or use a Python that ships its sources"
        )
    return torch.tensor(rows)
