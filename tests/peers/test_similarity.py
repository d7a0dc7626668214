"""Peers of text similarity answer the same queries on the same texts."""

import warnings

import pytest

from labkit.core.errors import UsageError
from labkit.core.recipe import Recipe
from labkit.core.workload import WORKLOADS
from labkit.peers.similarity import SIMILARITY_PEERS
from labkit.runner.systems import TEXT_SYSTEMS
from labkit.text.corpus import Corpus, load_corpus


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus().take(range(0, 4_000, 20))


@pytest.mark.parametrize("name", SIMILARITY_PEERS)
@pytest.mark.parametrize("workload", ["queries", "vectors"])
def test_a_peer_answers_every_query_and_finds_what_exact_search_finds(name: str, workload: str, corpus: Corpus) -> None:
    pytest.importorskip("gensim" if "gensim" in name else "sklearn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another project
        (step,) = Recipe.parse(f"{name}(rank=64)").steps
        peer = TEXT_SYSTEMS["similarity"].peer(step, corpus)
        trace = peer.serve(peer.prepare(WORKLOADS[workload].draw(0)))
        quality, facts = peer.quality("quick"), peer.facts()
    assert len(trace.requests) == trace.counters["answered"] == 32
    assert ("vectorize_s" in trace.counters) is (workload == "queries")
    assert 0.3 < quality["recall_at_10"] <= 1
    assert facts["index_bytes"] == 4 * 64 * facts["num_texts"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faiss", "unknown peer of text similarity 'faiss'; allowed: sklearn_cosine, sklearn_linear, gensim_lsi"),
        ("sklearn_linear(dtype='int8')", "unknown option of peer 'sklearn_linear' 'dtype'; allowed: rank"),
        ("sklearn_linear(rank=0)", "rank is 0; allowed: whole numbers from 1 to 1"),
    ],
)
def test_what_no_peer_can_be_told_is_refused(text: str, message: str, corpus: Corpus) -> None:
    (step,) = Recipe.parse(text).steps
    with pytest.raises(UsageError, match=message):
        TEXT_SYSTEMS["similarity"].peer(step, corpus)
