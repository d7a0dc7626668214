"""The recurrent kernel against the formulas of its cells, step by step."""

import pytest
import torch
from torch import Tensor

from labkit.model.cells import GATES, Cell
from labkit.model.native import build
from labkit.model.native.recurrence import can_recur, recur


@pytest.fixture(autouse=True)
def compiled() -> None:
    found = build.native()
    if not found.compiler:
        pytest.skip(found.reason)
    assert found.library is not None, found.reason


def by_formula(ids: Tensor, inputs: Tensor, recurrent: Tensor, bias: Tensor, cell: Cell) -> Tensor:
    """In float64, a step at a time; `inputs` [B, T, gates · H]."""
    inputs, recurrent, bias = inputs.double(), recurrent.double(), bias.double()
    state = memory = torch.zeros(len(ids), len(recurrent), dtype=torch.float64)
    for t in range(ids.shape[1]):
        given, inner = inputs[:, t].chunk(GATES[cell], 1), (state @ recurrent + bias).chunk(GATES[cell], 1)
        new_memory = memory
        if cell == "simple":
            new = torch.tanh(given[0] + inner[0])
        elif cell == "gru":
            kept, reset = (torch.sigmoid(given[gate] + inner[gate]) for gate in (0, 1))
            new = kept * state + (1 - kept) * torch.tanh(given[2] + reset * inner[2])
        else:
            i, f, c, o = (one + other for one, other in zip(given, inner, strict=True))
            new_memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(c)
            new = torch.sigmoid(o) * torch.tanh(new_memory)
        is_word = (ids[:, t] != 0)[:, None]
        state, memory = torch.where(is_word, new, state), torch.where(is_word, new_memory, memory)
    return state


def drawn(cell: Cell, *, hidden: int, batch: int, tokens: int = 23, rows: int = 50) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(hidden + batch)
    width = GATES[cell] * hidden
    ids = torch.randint(0, rows, (batch, tokens), generator=generator, dtype=torch.int32)
    ids[0] = 0  # a text without a word
    table, recurrent, bias = (
        torch.randn(*shape, generator=generator) for shape in ((rows, width), (hidden, width), (width,))
    )
    return ids, table, recurrent * hidden**-0.5, bias


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("hidden", "batch"), [(16, 1), (16, 5), (48, 4), (64, 1), (64, 7), (80, 9), (512, 2)])
def test_states_follow_the_formulas_and_padding_leaves_them(cell: Cell, hidden: int, batch: int) -> None:
    ids, table, recurrent, bias = drawn(cell, hidden=hidden, batch=batch)
    assert can_recur(hidden)
    expected = by_formula(ids, table[ids], recurrent, bias, cell)
    assert (recur(ids, table, recurrent, bias, cell=cell) - expected).abs().max() < 2e-5
    assert torch.equal(
        recur(ids, table, recurrent, bias, cell=cell), recur(ids, table[ids], recurrent, bias, cell=cell)
    )


@pytest.mark.parametrize("cell", GATES)
def test_narrow_tables_count_as_what_they_stand_for(cell: Cell) -> None:
    ids, table, recurrent, bias = drawn(cell, hidden=32, batch=6)
    codes = (table * 40).round().clamp(-127, 127).to(torch.int8)
    scales = torch.rand(len(table)) / 40
    for held, scale in ((table.bfloat16(), None), (codes, scales)):
        meant = held.float() if scale is None else held.float() * scale[:, None]
        expected = recur(ids, meant, recurrent, bias, cell=cell)
        assert torch.allclose(recur(ids, held, recurrent, bias, cell=cell, scales=scale), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 13])
def test_the_number_of_threads_changes_no_bit(batch: int) -> None:
    ids, table, recurrent, bias = drawn("gru", hidden=256, batch=batch, tokens=40)
    threads, results = torch.get_num_threads(), []
    try:
        for num in (1, 3):
            torch.set_num_threads(num)
            results.append(recur(ids, table, recurrent, bias, cell="gru"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("hidden", [0, 8, 40, 528])
def test_other_widths_are_left_to_torch(hidden: int) -> None:
    assert not can_recur(hidden)


def test_large_inputs_saturate_and_stay_finite() -> None:
    ids, table, recurrent, bias = drawn("lstm", hidden=16, batch=3)
    assert recur(ids, table * 1e6, recurrent, bias, cell="lstm").isfinite().all()
