"""Texts in the reader's language: English stands in the source, `texts/` holds the same in Chinese.

`texts/phrases/` holds what this floor says, by the English; `texts/messages.json` what lower floors say, by patterns of
the English; `texts/techniques.json` the lessons of techniques, by their names.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from labkit.core.language import language
from labkit.core.run import Fault

FOLDER = Path(__file__).parent / "texts"


def tr(text: str, /, **values: object) -> str:
    """A text in the language in use, its names in braces filled in; what has no translation stays English."""
    told = text if language() == "en" else phrases().get(text, text)
    return told.format(**values) if values else told


def retold(message: str) -> str:
    """What a lower floor said in English, in the language in use; what no pattern fits stays English."""
    if language() == "en":
        return message
    for pattern, told in _patterns():
        if found := pattern.fullmatch(message):
            return told.format(**found.groupdict())
    return message


def retold_fault(fault: Fault) -> str:
    """Why a Run is invalid, as one line in the language in use."""
    if language() == "en":
        return fault.text
    observed, limit, remedy = map(retold, (fault.observed, fault.limit, fault.remedy))
    return f"INVALID({fault.code})：{observed}；允许：{limit}；{remedy}"


def lesson(technique: str) -> Sequence[str] | None:
    """Title and paragraphs of a technique in another language than English; None in English or without any."""
    return None if language() == "en" else lessons().get(technique)


@lru_cache(maxsize=1)
def phrases() -> Mapping[str, str]:
    """Chinese by English, of all files together."""
    texts: dict[str, str] = {}
    for path in sorted((FOLDER / "phrases").glob("*.json")):
        texts |= json.loads(path.read_text(encoding="utf-8"))
    return texts


@lru_cache(maxsize=1)
def lessons() -> Mapping[str, Sequence[str]]:
    """Title and paragraphs of every technique in Chinese."""
    return dict(json.loads((FOLDER / "techniques.json").read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def messages() -> Mapping[str, str]:
    """Chinese by English, of messages of lower floors, with names in braces for what varies."""
    return dict(json.loads((FOLDER / "messages.json").read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def _patterns() -> Sequence[tuple[re.Pattern[str], str]]:
    """Those with more words of their own first: a short one would fit what a longer one says better."""
    ordered = sorted(messages().items(), key=lambda item: -len(re.sub(r"\{\w+\}", "", item[0])))
    return [(_pattern(english), chinese) for english, chinese in ordered]


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)  # texts and names take turns
    return re.compile("".join(f"(?P<{part}>.+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)))
