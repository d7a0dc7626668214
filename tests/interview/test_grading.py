"""Every numeric question is made anew from each reader's figures and graded right; wrong answers are graded wrong."""

import math
from dataclasses import replace

import pytest

from labkit.core.errors import Unavailable, UsageError
from labkit.core.run import Fault
from labkit.interview.bank import Numeric, Open, bank
from labkit.interview.formulas import FORMULAS, solve
from labkit.interview.grading import ask, grade_number, grade_points
from labkit.interview.quantities import dimension_of
from labkit.interview.reader import COMMAND, MEASURED_FIGURES, Reader
from tests.interview.conftest import LAPTOP, READERS, SMALL, make_run, measured

NUMERIC = [question for question in bank().questions if isinstance(question, Numeric)]
by_question = pytest.mark.parametrize("question", NUMERIC, ids=[question.id for question in NUMERIC])


@by_question
def test_the_expected_value_is_right_and_others_are_wrong_on_three_machines(question: Numeric, reader: Reader) -> None:
    asked = ask(question, reader)
    assert math.isfinite(asked.expected)
    assert asked.expected > 0
    assert grade_number(asked, asked.expected).is_right
    assert grade_number(asked, asked.expected * (1 + 0.9 * question.tolerance)).is_right
    for factor in (0.5, 1 - 2 * question.tolerance - 0.01, 1 + 2 * question.tolerance + 0.01, 2.0, 1024.0, -1.0):
        assert not grade_number(asked, asked.expected * factor).is_right, factor


@by_question
def test_an_answer_as_it_is_written_with_its_unit_is_graded_the_same(question: Numeric, reader: Reader) -> None:
    asked = ask(question, reader)
    kind = dimension_of(question.formula)
    for unit, factor in kind.units.items():
        assert grade_number(asked, asked.value(f"{asked.expected / factor:.12g} {unit}")).is_right, unit


def test_questions_are_about_the_reader() -> None:
    """Of most the answer differs between the three readers; of none is it a figure that stands in the bank."""
    answers = [{round(ask(question, reader).expected, 12) for reader in READERS.values()} for question in NUMERIC]
    assert sum(len(found) == 3 for found in answers) >= 20
    assert all(question.needed for question in NUMERIC)


@pytest.mark.parametrize(
    ("formula", "known", "expected"),
    [
        ("least_tpot_s", {"step_weights_bytes": 31.4e6, "read_bytes_per_s": 48e9}, 31.4e6 / 48e9),
        ("kv_token_bytes", {"num_layers": 32, "num_kv_heads": 32, "head_dim": 128, "kv_bits": 16}, 524_288),
        ("critical_batch_count", {"flops_per_s": 989.4e12, "read_bytes_per_s": 3.35e12, "weight_bits": 16}, 295.3),
        ("grouped_weights_bytes", {"num_parameters": 64, "weight_bits": 4, "scale_bits": 16, "group_size": 32}, 36),
        ("sparse_2_4_bytes", {"num_parameters": 64, "weight_bits": 16}, 72),
        ("bubble_share", {"ranks": 4, "microbatches": 4}, 3 / 7),
        ("amdahl_factor", {"serial_share": 0.2, "num_cores": 4}, 2.5),
        ("kept_tokens", {"acceptance_rate": 0.8, "num_drafted": 4}, 1 + 0.8 + 0.64 + 0.512 + 0.4096),
        ("all_reduce_bytes", {"num_layers": 1, "hidden_size": 100, "activation_bits": 16, "ranks": 2}, 400),
        ("recomputed_factor", {"prompt_tokens": 10, "new_tokens": 3}, (10 + 11 + 12) / 12),
        ("queued_s", {"e2e_s": 0.3, "busy_share": 0.9}, 3.0),
        ("passes_count", {"needed_samples": 662, "num_requests": 16}, 42),
        ("tokens_in_time_count", {"ttft_s": 0.5, "tpot_s": 0.25, "deadline_s": 2}, 7),
        ("tokens_in_time_count", {"ttft_s": 3, "tpot_s": 0.25, "deadline_s": 2}, 0),
        ("break_even_rank_count", {"hidden_size": 300, "intermediate_size": 600}, 200),
        ("even_context_count", {"num_parameters": 7e9, "num_layers": 32, "num_heads": 32, "head_dim": 128}, 26_703),
        ("per_million_price", {"price_per_hour": 3.6, "output_tok_per_s": 1000}, 1.0),
    ],
)
def test_formulas_agree_with_figures_worked_by_hand(formula: str, known: dict[str, float], expected: float) -> None:
    assert solve(formula, known) == pytest.approx(expected, rel=1e-3)


def test_a_figure_that_is_not_known_is_told_with_the_one_command_that_makes_it() -> None:
    bare = Reader.of(LAPTOP)
    assert ask(bank().get("amdahl_here"), bare).expected == pytest.approx(2.5)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=rf"asks about a Run of your own; not known here: .*; .*: {COMMAND}$"):
        ask(bank().get("least_tpot"), bare)  # type: ignore[arg-type]


def test_of_an_invalid_run_bytes_are_asked_and_times_are_not() -> None:
    fault = Fault("contended", "30 %", "5 %", "stop other work")
    run = make_run(LAPTOP, SMALL, step_s=9e-4, faults=(fault,))
    reader = Reader.of(LAPTOP, run, measured("laptop", 30e9, 2e11, 2e-6), SMALL)
    assert not set(MEASURED_FIGURES) & set(reader.figures)
    assert ask(bank().get("least_tpot"), reader).expected > 0  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=r"which is INVALID\(contended\): they are not used; measure again: "):
        ask(bank().get("answer_time"), reader)  # type: ignore[arg-type]


def test_a_step_is_a_token_only_where_one_request_runs_alone() -> None:
    metrics = {"tpot_s": {"value": 0.01}}
    alone = Reader.of(LAPTOP, make_run(LAPTOP, SMALL, step_s=1.0, metrics=metrics))
    assert alone.figures["step_s"] == 0.01
    guessed = make_run(LAPTOP, SMALL, step_s=1.0, metrics=metrics | {"acceptance_rate": {"value": 0.5}})
    many = make_run(LAPTOP, SMALL, step_s=1.0, metrics=metrics, build={"replicas": []})
    for run in (guessed, many, replace(guessed, metrics=metrics, workload={**guessed.workload, "scenario": "offline"})):
        assert "step_s" not in Reader.of(LAPTOP, run).figures


def test_the_bandwidth_is_that_of_the_runs_own_working_set() -> None:
    ceilings = measured("laptop", 30e9, 2e11, 2e-6)
    reader = Reader.of(LAPTOP, make_run(LAPTOP, SMALL, step_s=1.0), ceilings, SMALL)
    assert reader.figures["read_bytes_per_s"] == ceilings.bandwidth(float(reader.figures["step_bytes"])) > 30e9
    assert Reader.of(LAPTOP, None, ceilings).figures["read_bytes_per_s"] == 30e9


@pytest.mark.parametrize(("factor", "hint"), [(8, "bits or bytes"), (1 / 1000, "1,000"), (2, "factor of 2")])
def test_a_slip_is_named(factor: float, hint: str) -> None:
    asked = ask(bank().get("least_tpot"), READERS["laptop"])  # type: ignore[arg-type]
    told = grade_number(asked, asked.expected * factor).hint
    assert told is not None
    assert hint in told.en
    assert grade_number(asked, asked.expected * 3.3).hint is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("least_tpot_s", "12.5 ms", 0.0125),
        ("least_tpot_s", "1.2e-3s", 0.0012),
        ("least_tpot_s", "350 µs", 350e-6),
        ("least_tpot_s", "12.5 毫秒", 0.0125),
        ("achieved_bytes_per_s", "48 GB/s", 48e9),
        ("achieved_bytes_per_s", "1.5 GiB/s", 1.5 * 2**30),
        ("kv_token_bytes", "4,096 B", 4096.0),
        ("kv_token_bytes", "4 kib", 4096.0),
        ("batch_tok_per_s", "250 tokens/s", 250.0),
        ("bubble_share", "43 %", 0.43),
        ("bubble_share", "43％", 0.43),
        ("bubble_share", "0.43", 0.43),
        ("amdahl_factor", "2.5×", 2.5),
        ("amdahl_factor", "2.5 倍", 2.5),
        ("achieved_bytes_per_s", "48 GB/秒", 48e9),
        ("batch_tok_per_s", "250 token / 秒", 250.0),
        ("least_intensity_flops_per_byte", "16 FLOP/字节", 16.0),
        ("per_million_price", "0.35 美元", 0.35),
        ("passes_count", "3 轮", 3.0),
        ("passes_count", "42", 42.0),
        ("token_flops", "31.5 MFLOPs", 31.5e6),
        ("per_million_price", "$0.35", 0.35),
    ],
)
def test_quantities_are_read_with_their_units(name: str, text: str, value: float) -> None:
    assert dimension_of(name).value(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("least_tpot_s", "12.5"),
        ("least_tpot_s", "12.5 GB"),
        ("kv_token_bytes", "a lot"),
        ("kv_token_bytes", "1,2 KiB"),
        ("bubble_share", ""),
        ("passes_count", "1 2"),
        ("least_tpot_s", "nan ms"),
    ],
)
def test_what_is_no_quantity_of_the_kind_is_refused_in_one_line(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=r"^answer .* cannot be read; allowed: a number .* such as") as refused:
        dimension_of(name).value(text)
    assert "\n" not in str(refused.value)


def test_open_answers_score_the_share_of_the_points_they_named() -> None:
    question = bank().get("gil")
    assert isinstance(question, Open)
    assert grade_points(question, {1, 3}).score == pytest.approx(2 / len(question.rubric))
    assert grade_points(question, {1, 99}).score == pytest.approx(1 / len(question.rubric))
    assert grade_points(question, range(1, 9)).is_right


def test_every_formula_says_what_it_computes() -> None:
    assert [name for name, formula in FORMULAS.items() if not formula.__doc__] == []
