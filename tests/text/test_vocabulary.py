"""Words as ids, and queries that say nothing."""

import pytest

from labkit.core.errors import UsageError
from labkit.text.vocabulary import PADDING, UNKNOWN, Vocabulary

TEXTS = ["read a file", "read a line", "read it"]


def test_frequent_words_come_first_and_ties_by_alphabet() -> None:
    vocabulary = Vocabulary.of(TEXTS, size=100)
    assert vocabulary.words == ("read", "a", "file", "it", "line")
    assert set(vocabulary.ids.values()) == set(range(2, 7))


def test_ids_stay_below_the_size() -> None:
    assert Vocabulary.of(TEXTS, size=4).words == ("read", "a")


def test_texts_are_cut_turned_round_and_padded() -> None:
    vocabulary = Vocabulary.of(TEXTS, size=4)
    rows = vocabulary.encode(["read a file", "", "a"], length=2)
    assert rows.tolist() == [[3, 2], [PADDING, PADDING], [3, PADDING]]
    assert vocabulary.encode(["file"], length=2).tolist() == [[UNKNOWN, PADDING]]


@pytest.mark.parametrize(
    ("text", "seen"), [("", "holds no word"), (" -- ", "holds no word"), ("xyzzy", "none of its words")]
)
def test_a_query_without_a_known_word_is_refused(text: str, seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        Vocabulary.of(TEXTS, size=100).encode_query(text, length=8)
