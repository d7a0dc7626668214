"""One variable holds the language; English unless it names another that there is."""

import pytest

from labkit.core.errors import UsageError
from labkit.core.language import VARIABLE, Text, is_chinese, language, use


def test_english_is_told_unless_the_variable_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert language() == "en"
    monkeypatch.setenv(VARIABLE, "")
    assert language() == "en"
    monkeypatch.setenv(VARIABLE, "zh")
    assert language() == "zh"


def test_a_switch_sets_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "en")
    text = Text("speed", "速度")
    assert text.told == "speed"
    use("zh")
    assert (language(), text.told) == ("zh", "速度")


def test_a_language_that_there_is_not_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown language 'fr'; allowed: en, zh; set LABKIT_LANG or give --lang"):
        use("fr")
    monkeypatch.setenv(VARIABLE, "de")
    with pytest.raises(UsageError, match="unknown language 'de'"):
        language()


def test_chinese_is_told_from_other_texts() -> None:
    assert is_chinese("TTFT 首")
    assert not is_chinese("TTFT, µs × 3 …")
