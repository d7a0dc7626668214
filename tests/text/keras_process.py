"""A process of its own with TensorFlow and no torch: computes what `test_rnn_keras` judges. Arguments: in, out."""

import json
import sys
from pathlib import Path

import numpy as np

from labkit.core.errors import UsageError
from labkit.model.cells import GATES
from labkit.text.classifier import create_rnn_model
from labkit.text.rnn_keras import KERAS_RUNTIMES, KerasClassifier, model_of, weights_of
from labkit.text.rnn_weights import random_weights


def main(given: Path, folder: Path) -> None:
    ids = np.load(given)
    arrays = {}
    for cell in GATES:
        weights = random_weights(cell, vocabulary=50)
        for runtime in KERAS_RUNTIMES:
            classifier = KerasClassifier(weights, runtime=runtime, batch=4)
            arrays[f"{cell}/{runtime}"] = classifier.probabilities(ids)
        back = weights_of(model_of(weights))
        for name, array in weights.arrays.items():
            np.testing.assert_array_equal(back.arrays[name], array)
    np.savez(folder / "probabilities.npz", **arrays)
    (folder / "facts.json").write_text(json.dumps(facts()))


def facts() -> dict[str, object]:
    model = create_rnn_model(input_shape=(100,), num_classes=10)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    words = np.random.default_rng(0).integers(1, 10_000, (8, 100))
    history = model.fit(words, np.eye(10)[np.arange(8)], epochs=2, verbose=0).history
    padded = np.concatenate([words[:, :60], np.zeros((8, 40), int)], axis=1)
    short = create_rnn_model((60,), 10)
    short.set_weights(model.get_weights())
    return {
        "num_parameters": model.count_params(),
        "by_layer": [layer.count_params() for layer in model.layers],
        "are_built": all(layer.built for layer in model.layers),
        "summary": "\n".join(lines),
        "losses": history["loss"],
        "padding_changes": float(np.abs(model(padded) - short(words[:, :60])).max()),
        "refusals": [refusal((100,), 1), refusal((100, 2), 10), refusal((0,), 10)],
        "modules": [name for name in ("tensorflow", "torch") if name in sys.modules],
    }


def refusal(shape: tuple[int, ...], classes: int) -> str:
    try:
        create_rnn_model(shape, classes)
    except UsageError as error:
        return str(error)
    return "accepted"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
