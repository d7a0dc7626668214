"""Indexes on disk: vectors in safetensors, everything else in JSON; opening one runs no code."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit.core.errors import UsageError
from labkit.core.paths import cache_folder, write_whole
from labkit.text.corpus import Corpus
from labkit.text.similarity import Settings, SimilarityIndex
from labkit.text.svd import compressed
from labkit.text.vectorizer import Vectorizer

_SCHEMA = 2
_PARTS = ("crow_indices", "col_indices", "values")


def save(index: SimilarityIndex, folder: Path) -> None:
    """Write `vectors.safetensors` and `index.json`, the latter last: where it is, the index is whole."""
    tensors: dict[str, Tensor] = {}
    if index.projection is None:
        tensors = {part: getattr(index.vectors, part)().contiguous().cpu() for part in _PARTS}
    else:
        tensors = {"vectors": index.vectors.contiguous().cpu(), "projection": index.projection.contiguous().cpu()}
    told = {
        "schema": _SCHEMA,
        "settings": asdict(index.settings),
        "terms": index.vectorizer.terms,
        "idf": index.vectorizer.idf,
        "corpus": {column: getattr(index.corpus, column) for column in Corpus.COLUMNS},
    }
    write_whole(folder / "vectors.safetensors", lambda path: save_file(tensors, path))
    write_whole(folder / "index.json", lambda path: path.write_text(json.dumps(told), encoding="utf-8"))


def load(folder: Path, *, device: str = "cpu") -> SimilarityIndex:
    """Read what `save` wrote.

    Raises:
        UsageError: there is no index, or what is there does not fit together.
    """
    try:
        told = json.loads((folder / "index.json").read_bytes())
        if told["schema"] != _SCHEMA:
            raise ValueError(f"schema {told['schema']}, this labkit reads {_SCHEMA}")
        tensors = load_file(folder / "vectors.safetensors", device=device)
        return _index(told, tensors)
    except Exception as error:  # a broken file fails in as many ways as there are readers
        raise UsageError(
            f"an index was to be read from {folder.name!r}: {type(error).__name__}: {error}; "
            "remedy: remove the folder and build it again"
        ) from None


def cached_index(corpus: Corpus, settings: Settings, *, device: str = "cpu") -> SimilarityIndex:
    """The index of a corpus, built once and then read from LABKIT_HOME.

    Raises:
        UsageError: it cannot be built, see `SimilarityIndex.build`.
    """
    key = hashlib.sha256(json.dumps([corpus.hash, asdict(settings), _SCHEMA]).encode()).hexdigest()[:24]
    folder = cache_folder() / "similarity" / key
    if (folder / "index.json").exists():
        try:
            return load(folder, device=device)
        except UsageError:
            pass  # broken, or of another version: built again below
    index = SimilarityIndex.build(corpus, settings, device=device)
    save(index, folder)
    return index


def _index(told: dict[str, Any], tensors: dict[str, Tensor]) -> SimilarityIndex:
    corpus = Corpus(**{column: tuple(told["corpus"][column]) for column in Corpus.COLUMNS})
    vectorizer = Vectorizer(tuple(told["terms"]), tuple(told["idf"]))
    settings = Settings(**told["settings"])
    shape = (len(corpus), len(vectorizer.terms))
    if settings.rank:
        vectors, projection = tensors["vectors"], tensors["projection"]
        if vectors.shape != (shape[0], settings.rank) or projection.shape != (shape[1], settings.rank):
            raise ValueError(f"vectors of shape {tuple(vectors.shape)} for {shape[0]} texts")
        return SimilarityIndex(corpus, vectorizer, settings, vectors.clone(), projection.clone())
    crow, columns, values = (tensors[part] for part in _PARTS)
    if len(crow) != shape[0] + 1 or len(columns) != len(values) or int(crow[-1]) != len(values):
        raise ValueError(f"{len(crow) - 1} rows for {shape[0]} texts")
    return SimilarityIndex(
        corpus, vectorizer, settings, compressed(crow, columns, values, shape, is_checked=True), None
    )
