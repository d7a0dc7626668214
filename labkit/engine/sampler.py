"""Sampler: from logits to the next token."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Sampler(Protocol):
    """Picks one token a sequence: `sampler(logits)` does what `sampler.draw(sampler.distribution(logits))` does."""

    is_deterministic: ClassVar[bool]
    """Whether nothing is left to chance, so that every distribution has one token."""

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B] int64."""

    def distribution(self, logits: Tensor) -> Tensor:
        """The probabilities that tokens are picked with: [..., V] → [..., V] in fp32."""

    def draw(self, probabilities: Tensor) -> Tensor:
        """Pick by probabilities that need not sum to 1: [B, N] → [B] int64 below N."""


@dataclass(frozen=True)
class Greedy:
    """The most likely token; the lowest id of equals."""

    is_deterministic: ClassVar[bool] = True

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B] int64."""
        return logits.float().argmax(dim=-1)  # exact, and four times as fast as argmax of 16 bits on a CPU

    def distribution(self, logits: Tensor) -> Tensor:
        """See Sampler: 1 for one token."""
        return F.one_hot(self(logits), logits.shape[-1]).float()

    def draw(self, probabilities: Tensor) -> Tensor:
        """See Sampler: the likeliest."""
        return probabilities.argmax(dim=-1)


@dataclass
class TopP:
    """Nucleus sampling (Holtzman et al. 2019): from the fewest tokens whose probability reaches `top_p`.

    The same seed gives the same tokens; a temperature below 1 sharpens, above 1 flattens.

    Raises:
        ValueError: a temperature that is not positive, or a top_p outside (0, 1].
    """

    is_deterministic: ClassVar[bool] = False

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    generators: dict[torch.device, torch.Generator] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 < self.top_p <= 1):
            raise ValueError(f"temperature {self.temperature} and top_p {self.top_p}: allowed are > 0 and (0, 1]")

    def __call__(self, logits: Tensor) -> Tensor:
        """[B, V] → [B] int64."""
        return self.draw(self.distribution(logits))

    def distribution(self, logits: Tensor) -> Tensor:
        """See Sampler: 0 outside the nucleus."""
        ordered, ids = (logits.float() / self.temperature).softmax(-1).sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= self.top_p, 0.0)
        ordered = ordered / ordered.sum(-1, keepdim=True)
        return torch.empty_like(ordered).scatter(-1, ids, ordered)

    def draw(self, probabilities: Tensor) -> Tensor:
        """See Sampler: at random."""
        device = probabilities.device
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return torch.multinomial(probabilities, 1, generator=self.generators[device]).squeeze(-1)
