"""Texts in the reader's language: English stands in the source, `texts/` holds the same in Chinese.

`texts/phrases/` holds what this floor says, by the English; `texts/messages/` what lower floors say, by patterns of the
English; `texts/techniques.json` the lessons of techniques and `texts/knobs.json` what their knobs are called, by name.
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
    """What a lower floor said in English, in the language in use, parts within it too; what no pattern fits stays."""
    return message if language() == "en" else _retold(message)


def retold_fault(fault: Fault) -> str:
    """Why a Run is invalid, as one line in the language in use."""
    if language() == "en":
        return fault.text
    observed, limit, remedy = map(retold, (fault.observed, fault.limit, fault.remedy))
    return f"INVALID({fault.code})：{observed}；允许：{limit}；{remedy}"


def lesson(technique: str) -> Sequence[str] | None:
    """Title and paragraphs of a technique in another language than English; None in English or without any."""
    return None if language() == "en" else lessons().get(technique)


def knob_name(technique: str, knob: str) -> str:
    """What a knob is called in the language in use."""
    return knob.replace("_", " ") if language() == "en" else knob_names()[technique][knob]


@lru_cache(maxsize=1)
def phrases() -> Mapping[str, str]:
    """Chinese by English, of all files together."""
    return _texts("phrases")


@lru_cache(maxsize=1)
def lessons() -> Mapping[str, Sequence[str]]:
    """Title and paragraphs of every technique in Chinese."""
    return dict(json.loads((FOLDER / "techniques.json").read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def messages() -> Mapping[str, str]:
    """Chinese by English, of messages of lower floors, with names in braces for what varies."""
    return _texts("messages")


@lru_cache(maxsize=1)
def knob_names() -> Mapping[str, Mapping[str, str]]:
    """What knobs are called in Chinese, by technique and name."""
    return dict(json.loads((FOLDER / "knobs.json").read_text(encoding="utf-8")))


def _texts(folder: str) -> Mapping[str, str]:
    texts: dict[str, str] = {}
    for path in sorted((FOLDER / folder).glob("*.json")):
        texts |= json.loads(path.read_text(encoding="utf-8"))
    return texts


@lru_cache(maxsize=256)
def _retold(message: str) -> str:
    for pattern, told in _patterns():
        if found := pattern.fullmatch(message):
            return told.format(**{name: _retold(part) for name, part in found.groupdict().items()})
    return message


@lru_cache(maxsize=1)
def _patterns() -> Sequence[tuple[re.Pattern[str], str]]:
    """Those with more words of their own first: a short one would fit what a longer one says better."""
    ordered = sorted(messages().items(), key=lambda item: -len(re.sub(r"\{\w+\}", "", item[0])))
    return [(_pattern(english), chinese) for english, chinese in ordered]


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)  # texts and names take turns
    form = "".join(f"(?P<{part}>.*?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.compile(form, re.DOTALL)
