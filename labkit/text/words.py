"""Words of a text, in one definition for duplicates, vectors and sequences."""

import re

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits; of Chinese and Japanese, which put no spaces, every character.

    An identifier falls apart at its underscores, so that a question in plain words finds it.
    """
    return _WORD.findall(text.lower())
