"""The choice of a kernel: the fastest, and the same in every process of this machine."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from labkit.core import contention
from labkit.model import choice
from labkit.model.choice import Choice, Multiply, Shape

SHAPE = Shape(8, 16, 96, 128, 4, "torch.float32", "cpu", 2**20)


def choose(shape: Shape, candidates: Mapping[str, Sequence[Multiply]], rows: int) -> Choice:
    """The choice between kernels of which each has a call for each of some layers."""
    num_layers = max(map(len, candidates.values()))

    def chain(calls: Sequence[Multiply], layers: Sequence[int]) -> Multiply:
        return lambda: [calls[layer]() for layer in layers]

    chains = {name: partial(chain, calls) for name, calls in candidates.items()}
    return choice.choose(shape, chains, range(num_layers), rows)


def test_the_fastest_is_chosen_and_timed(fresh_choices: Path) -> None:
    chosen = choose(SHAPE, {"slow": [lambda: time.sleep(4e-3)], "fast": [lambda: time.sleep(1e-3)]}, 4)
    assert chosen.kernel == "fast"
    assert 1e-3 <= chosen.seconds < 4e-3


def test_every_layer_takes_part(fresh_choices: Path) -> None:
    met: list[int] = []
    choose(SHAPE, {"only": [lambda number=number: met.append(number) for number in range(3)]}, 4)  # type: ignore[misc]
    assert set(met) == {0, 1, 2}


def test_another_process_chooses_alike_without_timing(fresh_choices: Path) -> None:
    first = choose(SHAPE, {"slow": [lambda: time.sleep(2e-3)], "fast": [lambda: None]}, 4)
    choice.CHOICES.clear()  # as in a new process
    assert choose(SHAPE, {"slow": [_never], "fast": [_never]}, 4) == first


def test_what_was_timed_among_rivals_for_the_processor_is_remembered_while_they_are_there(
    fresh_choices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = iter((0.4, 0.1))
    monkeypatch.setattr(contention, "_others_now", lambda period: next(others))
    with monkeypatch.context() as busy:
        busy.setattr(choice.CoreTime, "contention", lambda *_: 0.5)
        first = choose(SHAPE, {"only": [lambda: None], "other": [lambda: time.sleep(1e-3)]}, 4)
    choice.CHOICES.clear()  # as in a new process
    assert choose(SHAPE, {"only": [_never], "other": [_never]}, 4) == first
    choice.CHOICES.clear()
    calm = choose(SHAPE, {"only": [lambda: time.sleep(1e-3)], "other": [lambda: None]}, 4)
    assert (first.contention, calm.contention, calm.kernel) == (0.5, 0.0, "other")
    choice.CHOICES.clear()
    assert choose(SHAPE, {"only": [_never], "other": [_never]}, 4) == calm


def test_a_choice_that_is_no_candidate_any_more_is_made_again(fresh_choices: Path) -> None:
    choose(SHAPE, {"gone": [lambda: None]}, 4)
    choice.CHOICES.clear()
    assert choose(SHAPE, {"left": [lambda: None]}, 4).kernel == "left"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"8 96": 3}'])
def test_a_file_that_cannot_be_read_is_made_again(fresh_choices: Path, content: str) -> None:
    choose(SHAPE, {"only": [lambda: None]}, 4)
    (path,) = fresh_choices.glob("kernels-*.json")
    path.write_text(content)
    choice.CHOICES.clear()
    assert choose(SHAPE, {"only": [lambda: None]}, 4).kernel == "only"
    assert choice._read(path)


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    fresh_choices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "cache_folder", lambda: fresh_choices / "none")
    assert choose(SHAPE, {"only": [lambda: None]}, 4).kernel == "only"


def test_what_a_product_of_many_rows_takes_grows_with_them() -> None:
    many, few = Choice("any", 1.0, rows=384), Choice("any", 1.0, rows=8)
    assert many.seconds_of(512) == pytest.approx(4 / 3)
    assert few.seconds_of(5) == 1.0  # reading the weights is the work


def _never() -> None:
    raise AssertionError("timed again")
