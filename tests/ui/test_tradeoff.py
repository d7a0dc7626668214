"""Searches beside each other: the frontier of recall and latency, and what plain TF-IDF is better at."""

from dataclasses import replace

from labkit.core.run import Run
from labkit.ui import plots, prose
from labkit.ui.chart_tables import charted
from labkit.ui.tables import results
from labkit.ui.tradeoff import tradeoff


def search(make, recipe: str, *, recall: float, precision: float, p50_s: float) -> Run:
    made = make(recipe)
    query = {"value": p50_s, "low": p50_s, "high": p50_s}
    rate = {name: 1 / at for name, at in (("value", p50_s), ("low", p50_s), ("high", p50_s))}
    return replace(
        made,
        id=recipe or "plain",
        model={**made.model, "system": "similarity"},
        metrics={"requests_per_s": rate, "e2e_s": query, "e2e_s.p50": query},
        quality={"recall_at_10": recall, "precision_at_10": precision},
        build={**made.build, "index_bytes": 3 * 2**20, "read_bytes": 2**20},
        faults=(),
    )


def searches(make) -> list[Run]:
    return [
        search(make, "", recall=1.0, precision=0.30, p50_s=4e-4),
        search(make, "truncated_svd(rank=16)", recall=0.3, precision=0.2, p50_s=1e-4),
        search(make, "truncated_svd(rank=64)", recall=0.5, precision=0.35, p50_s=2e-4),
        search(make, "truncated_svd(rank=512)", recall=0.9, precision=0.32, p50_s=8e-4),
    ]


def test_the_frontier_leaves_out_what_another_beats_in_both(make):
    told = tradeoff(searches(make))
    frontier, plain = told.split(" Plain TF-IDF wins ")
    assert frontier.endswith(
        "rank=16) (30.0 % in 100 µs), truncated_svd(rank=64) (50.0 % in 200 µs), baseline (100 % in 400 µs)."
    )
    assert plain == (
        "in recall, which is counted against it; in latency over truncated_svd(rank=512); "
        "in precision@10 over truncated_svd(rank=16)."
    )


def test_without_two_searches_nothing_is_traded(make):
    assert tradeoff([make(""), make("kv_cache")]) == ""
    assert tradeoff(searches(make)[:1]) == ""
    assert "Plain" not in tradeoff(searches(make)[1:])


def test_searches_are_told_by_queries_and_not_by_tokens(make):
    runs = searches(make)
    sentences = [sentence.text for sentence in prose.verdicts(runs, None)]
    assert len(sentences) == len(runs) + 1
    assert "2,500 queries/s" in sentences[0]
    assert sentences[-1].startswith("recall@10: no other has both")
    for picture in (plots.throughput(runs, None), plots.quality_speed(runs)):
        assert picture is not None
        assert "queries/s" in picture.alt
        assert charted(picture.name, runs, None)[0][1] == "queries/s"
    latency = plots.latency(runs)
    assert latency is not None
    assert "median query latency" in latency.alt
    assert charted("latency", runs, None)[0][1] == "query p50"


def test_the_bytes_of_an_index_have_a_column(make):
    table = results(searches(make), None)
    (at,) = (i for i, column in enumerate(table.columns) if column.title == "index")
    assert table.lines[0].cells[at].line == "3.00 MiB 1.00 MiB read"
