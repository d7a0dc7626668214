"""DraftModel: drafts of a smaller model that runs ahead of the target, one token a step."""

from collections.abc import Sequence as List

import torch

from labkit.core.errors import UsageError
from labkit.engine.cache import KVCache
from labkit.engine.cost import DRAFT_PHASES
from labkit.engine.executor import Executor, LocalExecutor
from labkit.engine.sampler import Sampler
from labkit.engine.sequence import Sequence
from labkit.engine.speculative import Drafts
from labkit.model.linear import finish
from labkit.model.source import ModelSource, open_model
from labkit.model.tokenizer import Tokenizer
from labkit.model.transformer import Transformer, fuse

_SAMPLE = "def naïve(a, b=3.14):\n    '''Σ of 1,000 words.'''\n\treturn [a, *b][-1]  # don't\n"
"""Tokenizers that agree on its ids and on their number are taken for the same."""


class DraftModel:
    """A drafter with a cache of its own.

    Args:
        model: of the same vocabulary as the target.
        cache: for `model` alone.
        sampler: the one that the target's tokens are chosen with.
    """

    def __init__(self, model: Transformer, cache: KVCache, sampler: Sampler) -> None:
        self.model, self.cache, self.sampler = model, cache, sampler
        self.executor = LocalExecutor(model, cache, phases=DRAFT_PHASES)
        self.followers: dict[int, Sequence] = {}  # what `model` has seen, by the index of the sequence it follows

    @property
    def executors(self) -> tuple[Executor, ...]:
        """See Drafter."""
        return (self.executor,)

    @property
    def max_positions(self) -> int:
        """See Drafter."""
        return self.model.config.max_positions

    def propose(self, sequences: List[Sequence], most: List[int]) -> Drafts:
        """See Drafter. A sequence leaves the batch as soon as its draft is as long as it may be."""
        self._catch_up([sequence for sequence, num in zip(sequences, most, strict=True) if num])
        drafts: list[list[int]] = [[] for _ in sequences]
        distributions = None
        if not self.sampler.is_deterministic:
            shape = len(sequences), max(most), self.model.config.vocab_size
            distributions = torch.zeros(shape, device=self.executor.device)
        for number in range(max(most)):
            rows = [row for row, num in enumerate(most) if num > number]
            followers = [self.followers[sequences[row].index] for row in rows]
            logits = self.executor.execute(followers)
            if distributions is None:
                picked = self.sampler(logits)
            else:
                distributions[rows, number] = self.sampler.distribution(logits)
                picked = self.sampler.draw(distributions[rows, number])
            for row, follower, token in zip(rows, followers, picked.tolist(), strict=True):
                follower.outputs.append(token)
                drafts[row].append(token)
        return Drafts(drafts, distributions)

    def release(self, sequences: List[Sequence]) -> None:
        """See Drafter."""
        followers = [self.followers.pop(sequence.index, None) for sequence in sequences]
        self.cache.release([follower for follower in followers if follower is not None])

    def _catch_up(self, sequences: List[Sequence]) -> None:
        """Take over what was accepted, forget what was not; of new sequences all but the last token is computed."""
        fresh = [
            Sequence(sequence.index, sequence.prompt, sequence.max_new_tokens, 0.0, outputs=sequence.outputs[:-1])
            for sequence in sequences
            if sequence.index not in self.followers
        ]
        if fresh:
            self.followers |= {follower.index: follower for follower in fresh}
            self.executor.execute(fresh)
        for sequence in sequences:
            follower = self.followers[sequence.index]
            follower.outputs = list(sequence.outputs)
            # the last token is the target's own and new; of those before, all that were computed were accepted
            follower.num_cached = min(follower.num_cached, sequence.num_tokens - 1)


def open_draft(name: str, *, source: ModelSource, model: Transformer) -> Transformer:
    """Load a draft model by name, folder or hub name, in the dtype and on the device of the target `model`.

    Raises:
        UsageError: no such model, or one that does not speak in the tokens of `source`.
    """
    found = open_model(name)
    difference = _difference(found.tokenizer, source.tokenizer)
    if difference:
        raise UsageError(
            f"draft {name!r} has another tokenizer than {source.name!r}: {difference}; "
            "allowed: ngram, half, or a model with the same tokenizer"
        )
    draft = Transformer(found.config, dtype=model.dtype, device="meta")
    found.load(draft, model.dtype, str(model.embed_tokens.weight.device))
    finish(fuse(draft))
    return draft.eval()


def _difference(draft: Tokenizer, target: Tokenizer) -> str:
    """Where two tokenizers part, or ''."""
    if draft.vocab_size != target.vocab_size:
        return f"{draft.vocab_size:,} ids, not {target.vocab_size:,}"
    if draft.encode(_SAMPLE) != target.encode(_SAMPLE):
        return "the same text becomes other ids"
    return ""
