"""Language: the one that a reader is told things in. `LABKIT_LANG` holds it; a switch sets that variable, too."""

import os
import re
from dataclasses import dataclass

from labkit.core.errors import UsageError

VARIABLE = "LABKIT_LANG"
LANGUAGES = {"en": "English", "zh": "中文"}

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def language() -> str:
    """The language in use, English unless `LABKIT_LANG` names another.

    Raises:
        UsageError: it names one that there is not.
    """
    return _known(os.environ.get(VARIABLE, "") or "en")


def use(name: str) -> None:
    """Tell things in this language from now on, in this process and those that it starts.

    Raises:
        UsageError: there is no such language.
    """
    os.environ[VARIABLE] = _known(name)


def is_chinese(text: str) -> bool:
    """Whether any of it is."""
    return _CHINESE.search(text) is not None


@dataclass(frozen=True)
class Text:
    """The same thing said in each language."""

    en: str
    zh: str

    @property
    def told(self) -> str:
        """It in the language in use."""
        return self.zh if language() == "zh" else self.en


def _known(name: str) -> str:
    if name not in LANGUAGES:
        raise UsageError.unknown("language", name, LANGUAGES, remedy=f"set {VARIABLE} or give --lang")
    return name
