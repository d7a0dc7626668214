"""A sitting as a reader goes through it: own figures in the question, a grade, the worked solution, a summary."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from labkit.core import machine
from labkit.core.effort import GLANCE
from labkit.core.errors import UsageError
from labkit.core.language import LANGUAGES, VARIABLE
from labkit.core.run import Fault
from labkit.interview.bank import Numeric, bank
from labkit.interview.progress import ALLOWED_S, Progress
from labkit.runner.store import FILE_NAME, Store
from labkit.ui import interview_dialog
from labkit.ui.interview_dialog import Dialog, ticked
from labkit.ui.interviewing import present, reader_here
from tests.interview.conftest import LAPTOP, READERS, SMALL, make_run

BRACES = re.compile(r"[{}]")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "en")
    return tmp_path


def sit(home: Path, lines: Sequence[str], ids: Sequence[str], **options: bool) -> tuple[Dialog, str]:
    """A dialog after these lines, and all it said."""
    said: list[str] = []
    given = iter(lines)
    dialog = Dialog(READERS["laptop"], home / "kept.json", lambda: next(given, None), said.append, **options)
    dialog.run([bank().get(id) for id in ids])
    return dialog, "\n".join(said)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", READERS)
def test_every_question_is_filled_in_both_languages(name: str, lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, lang)
    for question in bank().questions:
        shown = present(question, READERS[name])
        assert not BRACES.search(shown.text + shown.solution)
        if isinstance(question, Numeric):
            assert shown.expected in shown.solution
            assert shown.graded(shown.expected.replace("×", "x")).is_right, (question.id, shown.expected)


def test_a_right_and_a_wrong_number_are_told_with_the_solution(home: Path) -> None:
    expected = present(bank().get("least_tpot"), READERS["laptop"]).expected
    dialog, said = sit(home, [expected, "99 s"], ["least_tpot", "answer_time"])
    assert "Right. Every weight is read once for each token" in said
    assert "Wrong. The first token is in TTFT" in said
    assert [result["score"] for result in dialog.results] == [1.0, 0.0]
    assert [one.question for one in Progress.load(home / "kept.json").answers] == ["least_tpot", "answer_time"]


def test_an_open_answer_is_ticked_against_the_rubric_before_the_model_answer(home: Path) -> None:
    dialog, said = sit(home, ["my words", "1, 2"], ["gil"])
    assert said.index("1. one thread at a time") < said.index("Which of them") < said.index("The lock lets one thread")
    assert dialog.results[0]["score"] == pytest.approx(0.4)
    assert dialog.results[0]["answer"] == "my words"
    assert dialog.told().splitlines()[-1] == "read again: Threads, processes and split models"


def test_the_end_of_the_input_ends_the_sitting_and_keeps_what_was_answered(home: Path) -> None:
    dialog, _ = sit(home, ["", "half an answer"], ["kv_token", "gil", "tp_or_pp"])
    assert [result["id"] for result in dialog.results] == ["kv_token"]


def test_a_bad_line_is_refused_or_asked_again(home: Path) -> None:
    with pytest.raises(UsageError, match="answer 'many' cannot be read"):
        sit(home, ["many"], ["kv_token"])
    dialog, said = sit(home, ["many", "1 KiB"], ["kv_token"], is_patient=True)
    assert "answer 'many' cannot be read" in said
    assert len(dialog.results) == 1


def test_an_answer_over_its_time_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, ALLOWED_S["numeric"] + 1)
    monkeypatch.setattr(interview_dialog.time, "perf_counter", lambda: float(next(clock)))
    dialog, said = sit(home, ["1 KiB"], ["kv_token"], is_timed=True)
    assert "· 3:00\n" in said
    assert "That took 3:01; in an interview it is too long." in said
    assert "answers over their time: 1" in dialog.told()


@pytest.mark.parametrize("line", ["0", "6", "x", "1 -2", "²", "0060000", "9" * 5000])
def test_points_that_there_are_not_are_refused(line: str) -> None:
    with pytest.raises(UsageError, match="allowed: numbers from 1 to 5"):
        ticked(line, 5)
    assert ticked(" ", 5) == set()
    assert ticked("1，3、5", 5) == {1, 3, 5}


def test_the_reader_is_this_machine_and_its_newest_run_valid_and_more_than_a_glance_first(home: Path) -> None:
    assert reader_here().figures["num_cores"] == machine.machine().num_cores
    assert "model" not in reader_here().figures
    here = machine.machine()
    with Store(home / FILE_NAME) as store:
        for id, changes in (
            ("a", {"recipe": "kv_cache", "created_utc": "2030-01-01"}),
            (
                "b",
                {
                    "recipe": "precision",
                    "created_utc": "2030-01-02",
                    "faults": (Fault("drift", "9 %", "3 %", "cool down"),),
                },
            ),
            ("g", {"recipe": "quantize", "created_utc": "2030-01-03", "effort": GLANCE}),
            ("c", {"recipe": "elsewhere", "created_utc": "2030-01-03", "machine": LAPTOP.to_dict()}),
        ):
            store.add(make_run(here, SMALL, step_s=0.01, id=id, **changes))
    assert reader_here().figures["recipe"] == "kv_cache"
