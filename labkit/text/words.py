"""Words of a text, in one definition for duplicates, vectors and sequences."""

import re
from itertools import pairwise

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana, and the ideographs of Chinese and Japanese
_CJK = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits; of Chinese and Japanese, which put no spaces, every character.

    An identifier falls apart at its underscores, so that a question in plain words finds it.
    """
    return _WORD.findall(text.lower())


def terms(text: str) -> list[str]:
    """What a text is found by: its words and, of Chinese and Japanese, pairs of neighbours as well."""
    found = words(text)
    return found + [a + b for a, b in pairwise(found) if _CJK.fullmatch(a) and _CJK.fullmatch(b)]
