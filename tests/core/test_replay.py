"""Recorded requests, and what is said of a line that is none."""

import json
from pathlib import Path

import pytest

from labkit.core.errors import UsageError
from labkit.core.replay import Line, read_replay

GOOD = '{"arrival_s": 0.5, "prompt_tokens": 8, "new_tokens": 2}'


def write(folder: Path, *lines: str) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_line_holds_a_text_or_the_number_of_its_tokens(tmp_path: Path) -> None:
    text = json.dumps({"arrival_s": 1, "prompt": "né\u2028e", "new_tokens": 3})
    lines = read_replay(write(tmp_path, GOOD, "", text, ""))
    assert lines == (Line(0.5, 8, 2), Line(1.0, "né\u2028e", 3))
    assert [line.prompt_tokens for line in lines] == [8, 8]  # seven bytes of text, and a token of the start


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[1]", "it holds a list, no object"),
        ("{}", "its keys are none"),
        ('{"arrival_s": 1, "new_tokens": 2}', "its keys are 'arrival_s', 'new_tokens'"),
        ('{"arrival_s": 1, "prompt": "a", "prompt_tokens": 1, "new_tokens": 2}', "its keys are"),
        ('{"arrival_s": 1, "prompt": "a", "new_tokens": 2, "model": "x"}', "its keys are"),
        ('{"arrival_s": 0.4, "prompt": "a", "new_tokens": 2}', "arrival_s is 0.4, before the 0.5 of the line above"),
        ('{"arrival_s": -1, "prompt": "a", "new_tokens": 2}', "arrival_s is -1"),
        ('{"arrival_s": NaN, "prompt": "a", "new_tokens": 2}', "arrival_s is nan"),
        ('{"arrival_s": 1e999, "prompt": "a", "new_tokens": 2}', "arrival_s is inf"),
        ('{"arrival_s": true, "prompt": "a", "new_tokens": 2}', "arrival_s is True"),
        ('{"arrival_s": 1, "prompt": "", "new_tokens": 2}', "prompt is ''"),
        ('{"arrival_s": 1, "prompt": "\\ud800", "new_tokens": 2}', "prompt is "),
        ('{"arrival_s": 1, "prompt": 3, "new_tokens": 2}', "prompt is 3"),
        ('{"arrival_s": 1, "prompt_tokens": 0, "new_tokens": 2}', "prompt_tokens is 0"),
        ('{"arrival_s": 1, "prompt_tokens": "8", "new_tokens": 2}', "prompt_tokens is '8'"),
        ('{"arrival_s": 1, "prompt_tokens": 8, "new_tokens": 2.0}', "new_tokens is 2.0"),
    ],
)
def test_a_line_that_is_no_request_is_named_with_what_is_allowed(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_replay(write(tmp_path, GOOD, "", line))
    (told,) = str(refused.value).splitlines()
    assert f"line 3: {problem}" in told
    assert '"prompt": "TEXT" or "prompt_tokens": 1 to 1,000,000' in told
    assert len(told) < 500


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path, reason in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "it is no UTF-8"),
        (write(tmp_path, "", " "), "holds 0 requests"),
    ):
        with pytest.raises(UsageError, match=reason):
            read_replay(path)
