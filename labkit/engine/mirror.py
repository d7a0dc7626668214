"""Mirror: sequences of the first rank, kept up to date on the others by whole numbers told before each step."""

from collections.abc import Iterator
from collections.abc import Sequence as List
from itertools import islice

from labkit.engine.cache import KVCache
from labkit.engine.sequence import Sequence


class Narrator:
    """The first rank's side: knows what the others know already."""

    def __init__(self, cache: KVCache | None) -> None:
        self.cache = cache
        self._known: dict[int, tuple[Sequence, int]] = {}  # by index: who is in the caches, and how many tokens of it

    def told(self, sequences: List[Sequence], drafts: List[list[int]]) -> list[int]:
        """What the others have to know before these sequences are computed; a draft for each, which may be empty."""
        gone = [index for index, (sequence, _) in self._known.items() if not sequence.blocks]
        for index in gone:
            del self._known[index]
        numbers = [self.cache.lookahead if self.cache is not None else 0, len(gone), *gone, len(sequences)]
        for sequence, draft in zip(sequences, drafts, strict=True):
            _, num_known = self._known.get(sequence.index, (sequence, 0))
            new = sequence.outputs[num_known - len(sequence.prompt) :] if num_known else sequence.tokens
            about = (sequence.index, len(sequence.prompt), sequence.max_new_tokens, sequence.num_cached, num_known)
            numbers += [*about, len(new), *new, len(draft), *draft]
        return numbers

    def note(self, sequences: List[Sequence]) -> None:
        """These have been computed: what has room in a cache now stays there until it is released."""
        self._known |= {one.index: (one, one.num_tokens) for one in sequences if one.blocks}


class Mirror:
    """Another rank's side: its copies of the sequences, in its own cache."""

    def __init__(self, cache: KVCache | None) -> None:
        self.cache = cache
        self._held: dict[int, Sequence] = {}

    def read(self, numbers: Iterator[int]) -> tuple[list[Sequence], list[list[int]]]:
        """The sequences of a step as `Narrator.told` told of them, and their drafts."""
        lookahead, num_gone = next(numbers), next(numbers)
        gone = [self._held.pop(index) for index in islice(numbers, num_gone)]
        if self.cache is not None:
            self.cache.lookahead = lookahead
            self.cache.release(gone)
        sequences, drafts = [], []
        for _ in range(next(numbers)):
            index, num_prompt, max_new_tokens, num_cached, num_known, num_new = islice(numbers, 6)
            new = list(islice(numbers, num_new))
            if num_known == 0:
                made = Sequence(index, new[:num_prompt], max_new_tokens, 0.0, outputs=new[num_prompt:])
                self._held[index] = made
            else:
                self._held[index].outputs += new
                self._held[index].num_cached = num_cached
            sequences.append(self._held[index])
            drafts.append(list(islice(numbers, next(numbers))))
        return sequences, drafts
