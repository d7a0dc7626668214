"""The torch twin: one kernel, torch's own layer and a folded table give the same probabilities."""

import numpy as np
import pytest
import torch

from labkit.core.errors import UsageError
from labkit.model.cells import GATES, Cell
from labkit.text.rnn_torch import RnnModule, RnnTwin
from labkit.text.rnn_weights import random_weights
from labkit.text.vocabulary import Ids


def texts(num: int = 9, length: int = 30) -> Ids:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 50, (num, length), dtype=np.int32)
    for row, words in zip(ids, rng.integers(0, length, num), strict=True):
        row[words:] = 0
    ids[0], ids[1, ::2] = 0, 0  # one without a word, one with gaps
    return ids


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("has_native", [False, True])
def test_every_way_to_compute_gives_the_same_probabilities(cell: Cell, is_folded: bool, has_native: bool) -> None:
    weights = random_weights(cell, vocabulary=50)
    expected = RnnTwin(weights, has_native=False).probabilities(texts())
    actual = RnnTwin(weights, is_folded=is_folded, has_native=has_native).probabilities(texts())
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(actual.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.02), ("int8", 0.02)])
def test_a_narrow_table_stays_close_and_takes_its_bytes(
    cell: Cell, is_folded: bool, precision: str, most: float
) -> None:
    weights = random_weights(cell)
    whole = RnnTwin(weights, is_folded=is_folded)
    narrow = RnnTwin(weights, is_folded=is_folded, precision=precision)
    assert np.abs(narrow.probabilities(texts()) - whole.probabilities(texts())).max() < most
    assert narrow.weights_bytes < 0.6 * whole.weights_bytes


def test_a_pruned_width_that_the_kernel_does_not_take_is_computed_by_torch() -> None:
    twin = RnnTwin(random_weights("lstm", vocabulary=50).pruned(37), is_folded=True)
    assert not twin.is_native
    assert np.isfinite(twin.probabilities(texts())).all()


@pytest.mark.parametrize("wrong", [-1, 50])
def test_ids_outside_the_vocabulary_are_refused(wrong: int) -> None:
    twin = RnnTwin(random_weights("simple", vocabulary=50), is_folded=True)
    with pytest.raises(UsageError, match="allowed: 0 to 49"):
        twin.probabilities(np.array([[3, wrong]], dtype=np.int32))


@pytest.mark.parametrize("cell", GATES)
def test_a_trained_module_and_its_twin_agree(cell: Cell) -> None:
    torch.manual_seed(0)
    module = RnnModule(cell, vocabulary=50, embedding=8, units=16, classes=3).eval()
    ids = texts()
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)).softmax(1).numpy()
    np.testing.assert_allclose(RnnTwin(module.weights()).probabilities(ids), expected, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", GATES)
def test_a_gpu_gives_the_same_probabilities(cell: Cell) -> None:
    weights = random_weights(cell, vocabulary=50)
    expected = RnnTwin(weights).probabilities(texts())
    np.testing.assert_allclose(
        RnnTwin(weights, device="cuda", is_folded=True).probabilities(texts()), expected, atol=1e-5
    )
