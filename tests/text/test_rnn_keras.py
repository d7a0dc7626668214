"""Keras and the torch twin, each in its process; and the article's model, built."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.model.cells import GATES, Cell
from labkit.text.rnn_keras import KERAS_RUNTIMES
from labkit.text.rnn_torch import RnnTwin
from labkit.text.rnn_weights import random_weights
from labkit.text.vocabulary import Ids

pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")

IDS: Ids = np.random.default_rng(0).integers(1, 50, (6, 40), dtype=np.int32)
IDS[1, 20:], IDS[2] = 0, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the process with TensorFlow left."""
    folder = tmp_path_factory.mktemp("keras")
    np.save(folder / "ids.npy", IDS)
    script = Path(__file__).with_name("keras_process.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "ids.npy"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return found


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("runtime", KERAS_RUNTIMES)
@pytest.mark.parametrize("is_folded", [False, True])
def test_probabilities_of_keras_and_of_the_twin_are_equal(
    cell: Cell, runtime: str, is_folded: bool, folder: Path
) -> None:
    by_keras = np.load(folder / "probabilities.npz")[f"{cell}/{runtime}"]
    by_torch = RnnTwin(random_weights(cell, vocabulary=50), is_folded=is_folded).probabilities(IDS)
    np.testing.assert_allclose(by_torch, by_keras, atol=1e-5)


def test_the_articles_model_is_built_with_all_its_parameters(facts: dict[str, Any]) -> None:
    assert facts["are_built"]
    assert facts["by_layer"] == [640_000, 8_256, 650]
    assert facts["num_parameters"] == 648_906
    assert "648,906" in facts["summary"]
    assert "unbuilt" not in facts["summary"]


def test_the_articles_model_learns(facts: dict[str, Any]) -> None:
    first, second = facts["losses"]
    assert second < first


def test_padding_is_masked(facts: dict[str, Any]) -> None:
    assert facts["padding_changes"] < 1e-6


def test_shapes_and_classes_that_cannot_be_are_refused(facts: dict[str, Any]) -> None:
    one_class, two_axes, no_words = facts["refusals"]
    assert "num_classes is 1; allowed: 2 or more" in one_class
    assert "input_shape is (100, 2)" in two_axes
    assert "input_shape is (0,)" in no_words


def test_the_process_holds_tensorflow_and_no_torch(facts: dict[str, Any]) -> None:
    assert facts["modules"] == ["tensorflow"]


def test_tensorflow_starts_without_a_word() -> None:
    make = "from labkit.text.classifier import create_rnn_model; create_rnn_model((100,), 10)"
    done = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
