"""Threads, replicas and split models on one picture, and the curve over their number."""

import json
from dataclasses import replace

import pytest

from labkit.bench.gil import GilShare
from labkit.core.errors import UsageError
from labkit.core.run import Run
from labkit.core.workload import WORKLOADS
from labkit.ui import curves, plots
from labkit.ui.curve_chart import scaling
from labkit.ui.figure import DARK, LIGHT
from labkit.ui.show import rendered
from labkit.ui.ways import FIGURES, sent_bytes, sentences, ways

MIB = 2**20


def cost_of(sent: float) -> dict[str, object]:
    phase = {"num_steps": 10.0, "num_outputs": 10.0, "communication_bytes": sent}
    return {"phases": {"prefill": {**phase, "num_steps": 1.0}, "decode": phase}}


@pytest.fixture
def four(make) -> list[Run]:
    """Each way on the same recipe, replicas the fastest at twice the memory."""
    about = [
        ("kv_cache", 0.020, 0.040, 60, 0.0),
        ("kv_cache + threads(num=2)", 0.012, 0.022, 60, 0.0),
        ("kv_cache + threads + replicas", 0.008, 0.041, 120, 0.0),
        ("kv_cache + tensor_parallel(num=2)", 0.014, 0.027, 70, 30_000.0),
        ("kv_cache + pipeline_parallel(num=2)", 0.016, 0.044, 70, 2_000.0),
    ]
    return [
        make(recipe, itl_s=itl_s, ttft_s=ttft_s, weights_bytes=size * MIB, cost=cost_of(sent), id=f"run-{index}")
        for index, (recipe, itl_s, ttft_s, size, sent) in enumerate(about)
    ]


def texts(picture):
    return {text.get_text() for text in picture.figure.findobj(lambda artist: hasattr(artist, "get_text"))}


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_all_four_are_drawn_with_what_each_brings_and_takes(four, theme):
    picture = ways(four, theme=theme)
    assert picture.png().startswith(b"\x89PNG")
    shown = texts(picture)
    assert {figure.title for figure in FIGURES} <= {text.replace("\n", " ") for text in shown}
    assert {"threads(num=2)", "replicas", "tensor_parallel(num=2)", "pipeline_parallel(num=2)"} <= shown
    assert "322 KiB" in shown  # 11 steps of 30,000 bytes


def test_both_pictures_can_be_drawn_in_the_other_theme(four, make):
    for picture in (ways(four), scaling(curve_runs(make, 2))):
        assert picture.night.alt == picture.alt
        assert picture.night.figure.get_facecolor() != picture.figure.get_facecolor()
        assert rendered(picture).html.count("<img") == 2


def test_each_way_is_told_by_where_it_wins(four):
    found = dict(zip(("threads", "replicas", "tensor", "pipeline"), sentences(four), strict=True))
    assert found["threads"].startswith("threads wins time to first token (threads(num=2): 2")
    assert found["replicas"].startswith("replicas wins throughput (replicas: ")
    assert " and time per output token (replicas: 8." in found["replicas"]
    assert found["tensor"] == "tensor parallel wins nothing here that its intervals can tell."


def test_a_lead_within_the_intervals_is_no_win(make):
    runs = [
        make(recipe, itl_s=0.01, ttft_s=0.03, cost=None, id=recipe)
        for recipe in ("kv_cache + threads(num=2)", "kv_cache + threads + replicas")
    ]
    runs[1] = replace(runs[1], metrics=runs[0].metrics, build=runs[0].build)
    assert sentences(runs) == [
        "threads wins nothing here that its intervals can tell.",
        "replicas wins nothing here that its intervals can tell.",
    ]


def test_one_way_alone_or_an_invalid_one_makes_no_picture(four, runs):
    assert ways(four[:2]) is None
    assert ways(runs) is None
    assert "ways" in [picture.name for picture in plots.pictures(four, None)]


def test_bytes_that_were_counted_come_before_the_cost_model(four):
    assert sent_bytes(four[3]) == 11 * 30_000
    passes = tuple(
        replace(item, trace=replace(item.trace, counters={"communication_bytes": 7.0})) for item in four[3].passes
    )
    assert sent_bytes(replace(four[3], passes=passes)) == 7.0
    assert sent_bytes(replace(four[3], cost=None)) is None


def test_the_recipes_of_a_curve_are_threads_then_replicas_of_one_thread() -> None:
    assert curves.recipes("kv_cache", WORKLOADS["batch"], 2) == (
        "kv_cache + threads(num=1)",
        "kv_cache + threads(num=2)",
        "kv_cache + threads(num=1) + replicas(num=1)",
        "kv_cache + threads(num=1) + replicas(num=2)",
    )
    assert curves.recipes("", WORKLOADS["batch"], 1)[0] == "threads(num=1)"


def test_a_recipe_that_sets_cores_itself_and_a_fixed_rate_are_refused() -> None:
    with pytest.raises(UsageError, match="it sets replicas itself: leave replicas out"):
        curves.recipes("kv_cache + replicas", WORKLOADS["batch"], 2)
    with pytest.raises(UsageError, match="its arrivals fix the rate"):
        curves.recipes("kv_cache", WORKLOADS["server"], 2)


def curve_runs(make, num_cores: int, per_core_s: float = 0.02) -> list[Run]:
    found = []
    for recipe in curves.recipes("kv_cache", WORKLOADS["batch"], num_cores):
        canonical = curves.bind(recipe).recipe.text
        num = int(recipe.rpartition("num=")[2].rstrip(")"))
        found.append(make(canonical, itl_s=per_core_s * (0.1 + 0.9 / num), ttft_s=0.001, id=recipe))
    return found


def test_two_points_determine_one_law_and_the_other_says_that_it_is_not(make):
    threads, replicas = curves.curves(curve_runs(make, 2))
    assert (threads.way, list(threads.rates)) == ("threads", [1, 2])
    assert replicas.way == "replicas"
    amdahl, usl = curves.told(threads)[1:]
    assert "Amdahl's law over threads: serial part 9." in amdahl
    assert "as many as it has parameters, so nothing is left to check it by" in amdahl
    assert usl == (
        "The Universal Scalability Law over threads has 3 parameters, which 2 points do not determine: "
        "it takes a machine with more cores."
    )


def test_more_points_determine_both_and_name_the_knee(make):
    threads, _ = curves.curves(curve_runs(make, 8))
    assert list(threads.rates) == [1, 2, 3, 4, 6, 8]
    for text in curves.told(threads)[1:]:
        assert "serial part" in text
        assert "knee at" in text or "no knee" in text
        assert "misses the 6 points by" in text


def test_recipes_that_differ_otherwise_are_on_different_curves(make):
    runs = [
        make(recipe, itl_s=0.01, id=recipe)
        for recipe in ("kv_cache + threads", "kv_cache + threads(num=2)", "quantize + kv_cache + threads(num=4)")
    ]
    (curve,) = curves.curves(runs)
    assert list(curve.rates) == [1, 2]


def test_more_replicas_than_cores_are_no_point_of_a_law_over_cores(make):
    one = "kv_cache + threads + replicas(num={})"
    runs = [make(recipe, itl_s=0.01, id=recipe) for recipe in (one.format(1), one.format(2))]
    crowded = make(one.format("4, oversubscribe=True"), itl_s=0.02, id="crowded")
    (curve,) = curves.curves([*runs, crowded])
    assert list(curve.rates) == [1, 2]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_curve_is_drawn_with_its_laws(make, theme):
    picture = scaling(curve_runs(make, 8), theme=theme)
    assert picture.png().startswith(b"\x89PNG")
    assert {"threads", "replicas", "Amdahl, threads", "USL, replicas"} <= texts(picture)
    assert "Amdahl" in picture.alt
    assert scaling(curve_runs(make, 1)) is None


def test_the_conclusion_is_shown_and_returned_as_plain_data(make, capsys):
    gil = GilShare(100.0, 120.0, 180.0, (1.2, 1.5, 1.6), contention=0.4)
    data = curves.conclude(curve_runs(make, 2), gil=gil, is_stdout=True)
    said = capsys.readouterr().out
    assert "two in two threads of one process 120 tok/s (1.20×)" in said
    assert "processes made 1.50× of what threads did, so Python holds the lock for about 70.7 %" in said
    assert "of 3 rounds say [44.7, 77.5 %]" in said
    assert "Other work took 40.0 % of core time meanwhile" in said
    json.dumps(data, allow_nan=False)
    assert data["scaling"]["threads"]["fits"]["USL"] is None
    assert data["gil"]["share"] == pytest.approx(0.5**0.5)
