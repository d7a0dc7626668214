"""Text similarity: the worked example comes out right, an index finds what exact search finds, and stays what it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.core.errors import UsageError
from labkit.text.corpus import Corpus, Document, load_corpus
from labkit.text.saved_index import cached_index, load, save
from labkit.text.similarity import Settings, SimilarityIndex, text_similarity

X, Y = [[1, 2], [3, 4]], [[5, 6], [7, 8]]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus().take(range(0, 4_000, 8))


@pytest.fixture(scope="module", params=[0, 64], ids=["plain", "rank 64"])
def index(request: pytest.FixtureRequest, corpus: Corpus) -> SimilarityIndex:
    return SimilarityIndex.build(corpus, Settings(rank=request.param))


def test_the_worked_example_at_full_rank_is_the_inner_product() -> None:
    assert text_similarity(X, Y, 2) == pytest.approx(np.array([[17, 23], [39, 53]]))


def test_the_worked_example_can_be_truncated() -> None:
    found = text_similarity(X, Y, 1)
    ours = []
    for matrix in (X, Y):
        u, s, vt = np.linalg.svd(matrix)
        ours.append(s[0] * np.outer(u[:, 0], vt[0]))
    assert found == pytest.approx(ours[0] @ ours[1].T)
    assert np.linalg.matrix_rank(found) == 1


def test_the_product_of_truncated_matrices_comes_nearer_with_every_rank() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 6)), rng.normal(size=(7, 6))
    errors = [np.linalg.norm(text_similarity(a, b, k) - a @ b.T) for k in range(1, 7)]
    assert errors[-1] < 1e-12 < errors[-2] < errors[0]


@pytest.mark.parametrize(
    ("x", "y", "k", "message"),
    [
        (X, Y, 0, "k is 0; allowed: whole numbers from 1 to 2, the rank of X"),
        (X, Y, 3, "k is 3; allowed: whole numbers from 1 to 2"),
        (X, Y, 1.5, "k is 1.5"),
        ([[1, 2], [2, 4]], Y, 2, "allowed: whole numbers from 1 to 1, the rank of X"),
        (X, [[0, 0]], 1, "from 1 to 0, the rank of Y"),
        ([[1, 2], [3]], Y, 1, "X is no matrix of numbers; allowed: rows of one length"),
        (X, [["a", "b"]], 1, "Y is no matrix of numbers"),
        ([[1, float("nan")]], Y, 1, "X holds a value that is not finite"),
        (X, [[1, float("inf")]], 1, "Y holds a value that is not finite"),
        ([1, 2], Y, 1, r"X has the shape \(2,\)"),
        ([], Y, 1, "X has the shape"),
        (X, [[1, 2, 3]], 1, "X has 2 columns and Y 3"),
    ],
)
def test_what_has_no_similarity_is_refused(x: list, y: list, k: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        text_similarity(x, y, k)


def test_a_text_is_nearest_to_itself(index: SimilarityIndex, corpus: Corpus) -> None:
    for at in (0, 100, 400):
        (first, *_) = index.similar(corpus.texts[at], 3)
        assert (first.position, first.text, first.name) == (at, corpus.texts[at], corpus.names[at])
        assert first.score == pytest.approx(1, abs=1e-4)


def test_scores_are_cosines_and_fall(index: SimilarityIndex) -> None:
    scores = [match.score for match in index.similar("how do I read a file line by line", 20)]
    assert scores == sorted(scores, reverse=True)
    assert -1.0001 < scores[-1] < scores[0] < 1.0001


def test_rank_brings_the_vectors_of_scikit_learn(corpus: Corpus) -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    from labkit.text.words import terms

    theirs = TfidfVectorizer(analyzer=terms, sublinear_tf=True)
    matrix = theirs.fit_transform(corpus.texts)
    svd = TruncatedSVD(16, algorithm="arpack", random_state=0).fit(matrix)
    index = SimilarityIndex.build(corpus, Settings(rank=16, algorithm="full"))
    queries = ["how do I read a file line by line", "compress bytes", corpus.texts[7]]
    reduced = svd.transform(theirs.transform(queries))
    reduced /= np.linalg.norm(reduced, axis=1, keepdims=True)
    ours = index.vectorize(queries).numpy()
    assert ours @ ours.T == pytest.approx(reduced @ reduced.T, abs=1e-4)


def test_a_plain_index_computes_the_cosines_of_scikit_learn(corpus: Corpus) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    from labkit.text.words import terms

    theirs = TfidfVectorizer(analyzer=terms, sublinear_tf=True)
    matrix = theirs.fit_transform(corpus.texts)
    query = "open a connection to a remote server"
    expected = np.sort(cosine_similarity(theirs.transform([query]), matrix)[0])[::-1][:10]
    found = [match.score for match in SimilarityIndex.build(corpus).similar(query, 10)]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "seen"), [("", "it is empty"), ("  ", "it is empty"), ("xyzzy qwghlm", "none of its")]
)
def test_a_query_without_known_words_is_told_and_gives_no_nan(index: SimilarityIndex, text: str, seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        index.similar(text)


@pytest.mark.parametrize("k", [0, -1, 100_000])
def test_more_texts_than_there_are_cannot_be_found(index: SimilarityIndex, k: int) -> None:
    with pytest.raises(UsageError, match=f"the {k} most similar texts were asked for; allowed: 1 to 500"):
        index.similar("file", k)


def test_a_rank_above_the_corpus_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match=r"rank 9 was asked for of a matrix of 5 texts .*; allowed: 1 to 5"):
        SimilarityIndex.build(corpus.take(range(5)), Settings(rank=9))


@pytest.mark.parametrize("texts", [(), ("", "!?")])
def test_a_corpus_without_words_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="no word is in any"):
        SimilarityIndex.build(Corpus.of([Document(text, "", "", "") for text in texts]))


def test_an_unknown_dtype_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match="unknown dtype of vectors 'fp8'; allowed: fp32, fp16, int8"):
        SimilarityIndex.build(corpus, Settings(rank=4, dtype="fp8"))


@pytest.mark.parametrize("settings", [Settings(), Settings(rank=32), Settings(rank=32, dtype="int8")], ids=str)
def test_added_texts_are_found_like_the_first(corpus: Corpus, settings: Settings) -> None:
    first, more = corpus.take(range(400)), corpus.take(range(400, 500))
    known = SimilarityIndex.build(first, settings)
    index = known.add(more)
    assert len(index) == 500
    for at in (3, 399, 400, 499):
        assert index.similar(corpus.texts[at], 1)[0].position == at
    queries = known.vectorize(["parse a date", "lock a thread"])
    head = index.search(queries, 500).positions < 400
    assert torch.equal(
        index.search(queries, 500).positions[head].view(2, 400)[:, :5], known.search(queries, 5).positions
    )


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_a_saved_index_answers_as_before(index: SimilarityIndex, dtype: str, tmp_path: Path) -> None:
    settings = Settings(rank=index.settings.rank, dtype=dtype)
    before = SimilarityIndex(index.corpus, index.vectorizer, settings, index.vectors, index.projection)
    save(before, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", "vectors.safetensors"}
    found, expected = (one.similar("read a file", 5) for one in (load(tmp_path), before))
    assert [match.name for match in found] == [match.name for match in expected]
    assert [match.score for match in found] == pytest.approx([match.score for match in expected], abs=1e-6)


def test_a_cached_index_is_built_once_and_again_where_it_is_broken(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    built = []
    build = SimilarityIndex.build
    monkeypatch.setattr(SimilarityIndex, "build", lambda *args, **more: built.append(1) or build(*args, **more))
    for _ in range(2):
        found = cached_index(corpus, Settings(rank=8)).similar("read a file", 3)
    assert len(built) == 1
    (path,) = tmp_path.rglob("index.json")
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"terms": told["terms"][:-1]}))
    assert cached_index(corpus, Settings(rank=8)).similar("read a file", 3) == found
    assert len(built) == 2


@pytest.mark.parametrize("damage", ["absent", "schema", "cut", "rows"])
def test_a_damaged_index_is_refused(index: SimilarityIndex, damage: str, tmp_path: Path) -> None:
    save(index, tmp_path)
    told, vectors = tmp_path / "index.json", tmp_path / "vectors.safetensors"
    fields = json.loads(told.read_text())
    if damage == "absent":
        told.unlink()
    elif damage == "schema":
        told.write_text(json.dumps(fields | {"schema": 99}))
    elif damage == "cut":
        vectors.write_bytes(vectors.read_bytes()[:-100])
    else:
        fields["corpus"] = {column: rows[:-1] for column, rows in fields["corpus"].items()}
        told.write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="an index was to be read"):
        load(tmp_path)


def test_chinese_is_found_by_its_characters() -> None:
    texts = ("如何逐行读取文件", "打开网络连接到服务器", "压缩一个字节序列", "用线程并行运行任务")
    index = SimilarityIndex.build(Corpus.of([Document(text, "", "", "") for text in texts]))
    assert index.similar("逐行读文件", 1)[0].position == 0
    assert index.similar("服务器连接", 1)[0].position == 1
