"""Weights of RNN classifiers: counted, pruned, folded, kept on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labkit.core.errors import CheckpointError, UsageError
from labkit.model.cells import GATES, Cell
from labkit.text.rnn_weights import RnnWeights, random_weights


@pytest.mark.parametrize(("cell", "recurrent"), [("simple", 8_256), ("gru", 24_960), ("lstm", 33_024)])
def test_parameters_are_counted_as_keras_does(cell: Cell, recurrent: int) -> None:
    assert random_weights(cell).num_parameters == 640_000 + recurrent + 650


@pytest.mark.parametrize("cell", GATES)
def test_disk_gives_back_what_it_got(cell: Cell, tmp_path: Path) -> None:
    weights = random_weights(cell, vocabulary=20)
    weights.save(tmp_path / "rnn.safetensors", words="[]")
    loaded, metadata = RnnWeights.load(tmp_path / "rnn.safetensors")
    assert metadata == {"words": "[]"}
    assert loaded.cell == cell
    for name, array in weights.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04pickle"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rnn.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        RnnWeights.load(tmp_path / "rnn.safetensors")


def test_weights_that_do_not_fit_together_are_refused() -> None:
    weights = random_weights("gru", vocabulary=20)
    with pytest.raises(CheckpointError, match="kernel is"):
        replace(weights, kernel=weights.kernel[:, :-1])
    with pytest.raises(CheckpointError, match="not finite"):
        replace(weights, bias=weights.bias * np.nan)


@pytest.mark.parametrize("cell", GATES)
def test_pruning_keeps_the_units_that_others_listen_to(cell: Cell) -> None:
    weights = random_weights(cell, vocabulary=20, units=8)
    recurrent, dense = weights.recurrent.copy(), weights.dense.copy()
    recurrent[[1, 4]] = dense[[1, 4]] = 0  # nobody listens to these
    silent = replace(weights, recurrent=recurrent, dense=dense)
    pruned, kept = silent.pruned(6), [0, 2, 3, 5, 6, 7]
    assert pruned.units == 6
    np.testing.assert_array_equal(pruned.dense, dense[kept])
    columns = [gate * 8 + unit for gate in range(GATES[cell]) for unit in kept]
    np.testing.assert_allclose(pruned.table, silent.table[:, columns], atol=1e-6)


@pytest.mark.parametrize("units", [0, 9])
def test_no_more_units_are_left_than_there_are(units: int) -> None:
    with pytest.raises(UsageError, match="1 to that many"):
        random_weights("simple", vocabulary=20, units=8).pruned(units)
