"""Sampler: from logits to the next token."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Picks one token a sequence."""

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B] int64."""


@dataclass(frozen=True)
class Greedy:
    """The most likely token; the lowest id of equals."""

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B] int64."""
        return logits.float().argmax(dim=-1)  # exact, and four times as fast as argmax of 16 bits on a CPU


@dataclass
class TopP:
    """Nucleus sampling (Holtzman et al. 2019): from the fewest tokens whose probability reaches `top_p`.

    The same seed gives the same tokens; a temperature below 1 sharpens, above 1 flattens.

    Raises:
        ValueError: a temperature that is not positive, or a top_p outside (0, 1].
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    generators: dict[torch.device, torch.Generator] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 < self.top_p <= 1):
            raise ValueError(f"temperature {self.temperature} and top_p {self.top_p}: allowed are > 0 and (0, 1]")

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B] int64."""
        probabilities, ids = (logits.float() / self.temperature).softmax(-1).sort(dim=-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= self.top_p, 0.0)
        if logits.device not in self.generators:
            self.generators[logits.device] = torch.Generator(logits.device).manual_seed(self.seed)
        picked = torch.multinomial(probabilities, 1, generator=self.generators[logits.device])
        return ids.gather(-1, picked).squeeze(-1)
