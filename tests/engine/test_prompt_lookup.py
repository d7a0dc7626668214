"""Prompt lookup copies what stood behind the latest place that reads like the end of the text."""

import pytest

from labkit.engine.prompt_lookup import Ngrams, PromptLookup
from labkit.engine.sequence import Sequence


def continued(tokens: list[int], num_tokens: int = 4) -> list[int]:
    ngrams = Ngrams()
    ngrams.read(tokens)
    return ngrams.continued(tokens, num_tokens)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 10, 11, 12, 13, 14, 1, 2, 3], [10, 11, 12, 13]),
        ([1, 2, 3, 10, 9, 2, 3, 20, 21, 1, 2, 3], [10, 9, 2, 3]),  # three tokens alike beat two that are nearer
        ([5, 3, 10, 5, 3, 20, 21, 22, 23, 5, 3], [20, 21, 22, 23]),  # of equals the latest
        ([7, 10, 11, 7], [10, 11, 7, 10]),  # beyond the end the copy goes on with itself
        ([4, 4], [4, 4, 4, 4]),
        ([1, 2, 3, 4], []),
        ([1], []),
    ],
)
def test_drafts_are_copied_from_behind_the_longest_match(tokens: list[int], expected: list[int]) -> None:
    assert continued(tokens) == expected


def test_a_draft_is_as_long_as_it_may_be() -> None:
    assert [continued([1, 2, 3, 1], num) for num in (0, 1, 5)] == [[], [2], [2, 3, 1, 2, 3]]


def test_a_text_read_as_it_grows_is_known_as_if_read_at_once() -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 1, 4, 1]
    grown, whole = Ngrams(), Ngrams()
    for length in (2, 3, 7, 7, len(tokens)):
        grown.read(tokens[:length])
    whole.read(tokens)
    assert grown.behind == whole.behind


def test_sequences_are_apart_and_forgotten_when_released() -> None:
    lookup = PromptLookup()
    pair = [Sequence(0, [1, 2, 1], 5, 0.0), Sequence(1, [1, 3, 1], 5, 0.0)]
    assert lookup.propose(pair, [1, 1]).tokens == [[2], [3]]
    pair[1].outputs = [3]
    assert lookup.propose(pair[1:], [2]).tokens == [[1, 3]]
    lookup.release(pair)
    assert lookup.ngrams == {}
