"""Texts in the reader's language: English stands in the source, `texts/` holds the same in Chinese, by the English."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from labkit.core.language import language

FOLDER = Path(__file__).parent / "texts"


def tr(text: str, **values: object) -> str:
    """A text in the language in use, its names in braces filled in; what has no translation stays English."""
    told = text if language() == "en" else catalogue().get(text, text)
    return told.format(**values) if values else told


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, str]:
    """Chinese by English, of all files together."""
    texts: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.json")):
        texts |= json.loads(path.read_text(encoding="utf-8"))
    return texts
