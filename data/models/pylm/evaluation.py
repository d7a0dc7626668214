"""Bits per byte: a language model's cross-entropy in the unit of a compressor, whatever its tokenizer."""

import lzma
import math

import torch
from tokenization import END_OF_TEXT
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from labkit.core import stdlib

CONTEXT = 2048


def xz_bits_per_byte(text: str, *, is_extreme: bool = False) -> float:
    """What `xz -9` (`-9e` when extreme) makes of the UTF-8 text, in bits per byte."""
    data = text.encode()
    preset = 9 | lzma.PRESET_EXTREME if is_extreme else 9
    return 8 * len(lzma.compress(data, preset=preset)) / len(data)


@torch.inference_mode()
def bits_per_byte(model: nn.Module, tokenizer: Tokenizer, text: str, *, stride: int = CONTEXT // 2) -> float:
    """Cross-entropy of `text` under `model` in bits per UTF-8 byte.

    Windows of `CONTEXT` tokens advance by `stride`, and a token counts in the first window that holds it: past the
    first window it is predicted from at least `CONTEXT - stride` tokens (transformers' guide calls it strided).
    """
    ids = torch.tensor([tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(text).ids])
    device = next(model.parameters()).device
    nats, end = 0.0, 1
    for start in range(0, len(ids) - 1, stride):
        window = ids[start : start + CONTEXT + 1].to(device)
        new = len(window) - (end - start)
        logits = model(window[None, :-1])[0, -new:]  # [new, V]
        nats += functional.cross_entropy(logits.float(), window[-new:], reduction="sum").item()
        end = start + len(window)
        if end == len(ids):
            break
    return nats / math.log(2) / len(text.encode())


def sample_bits_per_byte(model: nn.Module, tokenizer: Tokenizer) -> float:
    """Bits per byte on the first 4,000 characters of every held-out module: cheap enough for the loss curve."""
    text = "\n".join(source[:4000] for _, source in stdlib.held_out_sources())
    with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16):
        return bits_per_byte(model, tokenizer, text, stride=CONTEXT)
