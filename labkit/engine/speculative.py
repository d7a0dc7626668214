"""Speculative: guess several tokens cheaply, let the model check them all in one pass, keep those it would have chosen.

Greedy output stays what it was, and samples keep their distribution, whatever the drafts are; only speed depends on
them. Source: Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding; Chen et al. 2023,
Accelerating Large Language Model Decoding with Speculative Sampling.
"""

from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.engine.cost import DecoderCost
from labkit.engine.executor import Executor
from labkit.engine.sampler import Sampler
from labkit.engine.sequence import Sequence


@dataclass(frozen=True)
class Drafts:
    """Guesses at what follows each of B sequences.

    `tokens[i]` may be empty. `distributions` [B, K, V] are those that the tokens were sampled from, K at least the
    length of the longest guess; None: nothing was left to chance.
    """

    tokens: list[list[int]]
    distributions: Tensor | None = None


class Drafter(Protocol):
    """Guesses the next tokens of sequences."""

    @property
    def executors(self) -> tuple[Executor, ...]:
        """What runs its model; empty for one without."""

    @property
    def max_positions(self) -> int:
        """Tokens of a sequence, the guesses included, that it can handle."""

    def propose(self, sequences: List[Sequence], most: List[int]) -> Drafts:
        """At most `most[i]` tokens to follow sequence i, where `most[i]` may be 0."""

    def release(self, sequences: List[Sequence]) -> None:
        """Forget these sequences."""


class Speculative:
    """Draft, verify, accept.

    Args:
        num_tokens: most drafted tokens of a sequence and step.
        max_positions: tokens that the model has positions for.
    """

    def __init__(
        self, executor: Executor, sampler: Sampler, drafter: Drafter, *, num_tokens: int, max_positions: int
    ) -> None:
        self.executor, self.sampler, self.drafter = executor, sampler, drafter
        self.lookahead, self.max_positions = num_tokens, max_positions
        self.joins_chunks = False
        self.num_drafted = self.num_accepted = self.num_advanced = 0

    @property
    def executors(self) -> tuple[Executor, ...]:
        """See Decoding."""
        return self.drafter.executors

    @property
    def counters(self) -> Mapping[str, float]:
        """Tokens that were drafted, and those of them that were accepted."""
        return {"drafted": float(self.num_drafted), "accepted": float(self.num_accepted)}

    def advance(self, sequences: List[Sequence]) -> list[list[int]]:
        """See Decoding: of each sequence the accepted part of its draft, then one token of the model's own."""
        drafts = self.drafter.propose(sequences, self._most(sequences))
        logits = self.executor.verify(sequences, drafts.tokens)
        outputs = self._accept(logits, drafts)
        for sequence, draft, tokens in zip(sequences, drafts.tokens, outputs, strict=True):
            # what was rejected is overwritten by what comes next
            sequence.num_cached = sequence.num_tokens + len(tokens) - 1
            self.num_drafted += len(draft)
            self.num_accepted += len(tokens) - 1
        self.num_advanced += len(sequences)
        return outputs

    def release(self, sequences: List[Sequence]) -> None:
        """See Decoding."""
        self.drafter.release(sequences)

    def refine_cost(self, cost: DecoderCost) -> DecoderCost:
        """See Decoding: the tokens that a step drafted and gave so far, and the operations that it dispatched."""
        if not self.num_advanced:
            return cost
        draft = cost.draft
        for executor in self.drafter.executors:
            # the sizes of some models are not known before they are opened
            draft = replace(draft or cost.beside(executor.model.config), decode_launches=executor.launches_per_layer)
        verified = self._share_verified()
        return replace(
            cost,
            num_drafted=self.num_drafted / self.num_advanced,
            tokens_per_step=1 + self.num_accepted / self.num_advanced,
            decode_launches=verified * cost.decode_launches + (1 - verified) * self.executor.launches_per_layer,
            draft=draft,
        )

    def _share_verified(self) -> float:
        """Part of the decoding steps that had a draft to check."""
        shapes = self.executor.shapes["decode"]
        return sum(count for shape, count in shapes.items() if shape.new > 1) / shapes.total()

    def _most(self, sequences: List[Sequence]) -> list[int]:
        """Tokens to draft for each sequence: one less than it needs, and no row of the batch beyond the last position.

        A row is as long as the longest, so the batch stops where its furthest sequence has to.
        """
        furthest = max(sequence.num_tokens for sequence in sequences)
        fitting = min(self.lookahead, self.max_positions - furthest)
        return [
            max(
                0,
                min(
                    fitting,
                    sequence.max_tokens - sequence.num_tokens - 1,
                    self.drafter.max_positions - sequence.num_tokens,
                ),
            )
            for sequence in sequences
        ]

    def _accept(self, logits: Tensor, drafts: Drafts) -> list[list[int]]:
        if drafts.distributions is not None:
            return accept_sampled(self.sampler.distribution(logits), drafts, self.sampler)
        chosen = self.sampler(logits.flatten(0, 1)).view(logits.shape[:2]).tolist()  # waits for the device
        return [accept_equal(row, draft) for row, draft in zip(chosen, drafts.tokens, strict=True)]


def accept_equal(chosen: List[int], draft: List[int]) -> list[int]:
    """The model's own choices after each token of a draft, up to the first that is not what was drafted.

    `chosen[i]` follows i drafted tokens. For a draft that was not sampled this is the rule of `accept_sampled`: a token
    is accepted as often as the model samples it, and what it samples instead is distributed as the rest of p.
    """
    num_accepted = 0
    while num_accepted < len(draft) and chosen[num_accepted] == draft[num_accepted]:
        num_accepted += 1
    return list(chosen[: num_accepted + 1])


def accept_sampled(p: Tensor, drafts: Drafts, sampler: Sampler) -> list[list[int]]:
    """Drafted tokens kept with probability min(1, p / q), then one sampled from what p has more than q.

    Args:
        p: [B, 1 + K, V], the model's distributions after 0 … K drafted tokens.
        drafts: with the distributions q that they were sampled from.
        sampler: draws.

    Returns:
        For each sequence the tokens before its first rejected one and one more; together they are distributed as
        samples of p.
    """
    assert drafts.distributions is not None
    batch, num_rows, vocab = p.shape
    lengths = torch.tensor([len(tokens) for tokens in drafts.tokens], device=p.device)
    padded = [tokens + [0] * (num_rows - len(tokens)) for tokens in drafts.tokens]
    tokens = torch.tensor(padded, device=p.device)[..., None]  # [B, 1 + K, 1]
    is_drafted = torch.arange(num_rows, device=p.device) < lengths[:, None]  # [B, 1 + K], False in the last column
    q = F.pad(drafts.distributions[:, : num_rows - 1], (0, 0, 0, 1)) * is_drafted[..., None]
    chance = (p.gather(-1, tokens) / q.gather(-1, tokens)).squeeze(-1).clamp(max=1)
    chance = torch.where(is_drafted, chance, 0.0)
    is_kept = sampler.draw(torch.stack((1 - chance, chance), dim=-1).view(-1, 2)).view(batch, num_rows)
    num_kept = is_kept.cumprod(-1).sum(-1)  # [B], at most the draft's length
    at = num_kept.view(batch, 1, 1).expand(batch, 1, vocab)
    mine, theirs = p.gather(1, at).squeeze(1), q.gather(1, at).squeeze(1)  # [B, V], after the kept tokens
    rest = (mine - theirs).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, mine)  # p = q, and rounding rejected
    last = sampler.draw(rest).tolist()
    kept = zip(drafts.tokens, num_kept.tolist(), last, strict=True)
    return [[*draft[:num], token] for draft, num, token in kept]
