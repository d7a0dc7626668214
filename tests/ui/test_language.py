"""Everything a reader sees is told in Chinese, too, and a text without a translation fails here."""

import ast
import json
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from labkit.bench import validity
from labkit.bench.compare import decide_pairs
from labkit.bench.comparison import Comparison, compare
from labkit.core.goodput import Limits
from labkit.core.language import VARIABLE, is_chinese
from labkit.core.run import Fault, Pass, Run
from labkit.optimizations import CATALOG
from labkit.text.corpus import Corpus, Document
from labkit.text.scores import Scores, compared
from labkit.ui import facts, prose, readings, report, ways
from labkit.ui.chart_tables import charted
from labkit.ui.crossover import Crossover
from labkit.ui.curves import LAWS
from labkit.ui.explain import explanation
from labkit.ui.frontier import HEAD, Frontier
from labkit.ui.language import FOLDER, knob_name, knob_names, lessons, phrases, retold, retold_fault, tr
from labkit.ui.readings import QUALITY
from labkit.ui.tables import _columns
from tests.ui.conftest import make_run, make_trace, session_runs
from tests.ui.test_tradeoff import searches

ROOT = Path(__file__).parents[2] / "labkit"
TREES = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))]

LATIN = frozenset(
    (
        "TTFT", "TPOT", "ITL", "tok", "token", "MiB", "GiB", "KiB", "GFLOP", "FLOP", "INVALID", "recall", "precision",
        "labkit", "max", "kernel", "GPU", "CPU", "KV", "TF-IDF", "SVD", "fp32", "bf16", "int8", "logits", "quick",
        "standard", "rigorous", "UTC", "drift", "contended",
    )
)  # fmt: skip


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "zh")


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def told_texts() -> Iterator[str]:
    """Every text that a call of `tr` holds in its first argument, in one piece or as the ends of a choice."""
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr":
                first = node.args[0]
                ends = [first] if isinstance(first, ast.Constant) else []
                if isinstance(first, ast.IfExp):
                    ends = [one for one in ast.walk(first) if isinstance(one, ast.Constant)]
                yield from (str(one.value) for one in ends if isinstance(one.value, str))


def looked_up() -> Iterator[str]:
    """Texts that reach `tr` by a name: titles, helps, terms, verdicts, heads of tables."""
    yield from (title for title in ("recipe", "verdict", *HEAD))
    yield from LAWS.values()
    yield from prose._VERDICTS.values()
    yield from prose._METRICS.values()
    yield from ("faster", "slower", "same", "cannot tell", report._LEDE)
    for measure in QUALITY.values():
        yield from (measure.title, measure.reference, measure.better)
    yield from (shown.title for shown in ways.FIGURES)
    yield from (way.replace("_", " ") for way in ways.WAYS)
    yield from ("batch", "prompt length", "starts to pay at {axis} {size}", "stops to pay at {axis} {size}")
    yield from ("should pay at every {axis} {low} to {high}", "should not pay at any {axis} {low} to {high}")
    yield from (rate.unit for rate in readings._RATES.values())
    yield from ("interrupted", "failed")
    for kind in CATALOG:
        yield from (spec.metadata["help"] for spec in fields(kind))
        if not kind.slot.is_stacking:
            yield kind.slot.value.replace("_", " ")


def is_latin(text: str) -> bool:
    """Whether a text needs no translation: nothing but names, units and marks."""
    words = re.findall(r"[A-Za-z][\w-]+", re.sub(r"\{\w+\}", "", text))
    return all(word in LATIN or re.fullmatch(r"p\d+|KL|at|s", word) for word in words)


def test_every_text_that_is_told_has_a_translation() -> None:
    texts = {*told_texts(), *looked_up()}
    assert len(texts) > 150
    assert sorted(text for text in texts if text not in phrases() and not is_latin(text)) == []


def test_every_phrase_is_chinese_names_the_same_and_is_said_somewhere() -> None:
    said = {node.value for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    for english, chinese in phrases().items():
        assert (
            is_chinese(chinese) or is_latin(english) or re.fullmatch(r"[；，： ]|([；，：（）]|\{\w+\}| )+", chinese)
        ), english
        assert names(english) == names(chinese), english
        assert not is_chinese(english)
    knobs = json.loads((FOLDER / "phrases" / "knobs.json").read_text(encoding="utf-8"))
    unsaid = {text for text in phrases() if text not in said and text not in knobs and not is_dynamic(text)}
    assert unsaid == set()


def is_dynamic(text: str) -> bool:
    """Texts that are put together when they are told: fields of a machine, phases, rates, percentiles."""
    built = r"(num |num physical |gpu )?[a-z]+|(output|decode|prefill|requests) rate|query p\d+|draft prefill"
    return re.fullmatch(rf"{built}|[a-z]+ [a-z]+|time from a request's arrival .*|median .*", text) is not None


def test_every_technique_has_its_lesson() -> None:
    for kind in CATALOG:
        title, *paragraphs = lessons()[kind.name]
        assert is_chinese(title) or title == kind.title
        assert len(paragraphs) >= 3
        assert all(map(is_chinese, paragraphs))
        assert sum(one.startswith("代价：") for one in paragraphs) == 1
        assert sum(one.startswith("无收益：") for one in paragraphs) == 1


def test_a_lesson_keeps_its_references(chinese: None) -> None:
    for kind in CATALOG:
        lesson = facts.lesson_of(kind)
        assert is_chinese(lesson.paragraphs[0])
        assert lesson.paragraphs[-1].startswith("参考：")


def faults() -> list[Fault]:
    """Every fault that there is, as the real rules state it."""
    trace = make_trace(random.Random(0), ttft_s=0.01, itl_s=0.01, num_tokens=8)
    passes = [Pass(block, trace, contention=0.5) for block in range(8)]
    proof = {"is_equal": False, "num_diverged": 2, "num_prompts": 4}
    return [
        *validity.faults(
            passes, calibrations=[(0.01, 0.02)] * 8, nan_tensors=["w"], proof=proof, is_steady=False, limit_share=2.0,
            num_expected_outputs=[9],
        ),
        *validity.faults(passes, calibrations=[], num_expected_outputs=[3, 5]),
        *validity.faults([Pass(0, type(trace)((), 1.0))], calibrations=[]),
    ]  # fmt: skip


def test_every_fault_is_told(chinese: None) -> None:
    found = faults()
    assert {fault.code for fault in found} >= {
        "nan",
        "proof",
        "tokens",
        "empty",
        "unsteady",
        "drift",
        "contended",
        "limit",
    }
    for fault in found:
        assert retold(fault.observed) != fault.observed
        assert retold(fault.remedy) != fault.remedy
        assert is_chinese(retold(fault.limit)) or re.fullmatch(r"[\d.]+ ?%|[\d.]+ ms", fault.limit)
        assert retold_fault(fault).startswith(f"INVALID({fault.code})：")


@pytest.mark.parametrize(
    ("ours", "theirs", "luck"),
    [
        ([100.0] * 7, [200.0] * 7, 0.0),
        ([100.0 + i for i in range(8)], [200.0 + i for i in range(8)], 0.0),
        ([100.0 + i % 3 for i in range(30)], [100.1 + i % 3 for i in range(30)], 0.0),
        ([100.0 + 9 * (i % 3) for i in range(12)], [101.0 + 9 * ((i + 1) % 3) for i in range(12)], 0.0),
        ([100.0 + i % 3 for i in range(12)], [101.0 + i % 3 for i in range(12)], 0.05),
    ],
)
def test_every_reason_is_told(chinese: None, ours: list[float], theirs: list[float], luck: float) -> None:
    reason = decide_pairs({"B": (ours, theirs)}, luck=luck)["B"].reason
    assert is_chinese(retold(reason)), reason


def test_refusals_are_told(chinese: None) -> None:
    first = session_runs()[0]
    for changes in (
        {"machine": {"fingerprint": "other"}}, {"model": {"hash": "other"}}, {"workload_hash": "other"},
        {"group": "other"}, {"faults": (Fault("drift", "a", "b", "c"),)}, {"status": "interrupted"},
        {"build": {"emulated": ["bf16"]}},
    ):  # fmt: skip
        (row,) = compare([first, make_run("kv_cache", **changes)]).rows
        assert is_chinese(retold(row.refusal)), row.refusal


def test_what_has_no_translation_stays_as_it_is(chinese: None) -> None:
    assert tr("nobody ever said this") == "nobody ever said this"


def test_every_knob_has_a_name(chinese: None) -> None:
    assert {kind.name: {spec.name for spec in fields(kind)} for kind in CATALOG if fields(kind)} == {
        technique: set(named) for technique, named in knob_names().items()
    }
    for kind in CATALOG:
        assert all(is_chinese(knob_name(kind.name, spec.name)) for spec in fields(kind))


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        (
            (2.0, 3.0, 4.0),
            "只按字节、计算和算子启动来算，quantize 在批大小 1 到 4 时都应有收益：1 时 2.00×，4 时 4.00×。",
        ),
        ((1.0, 1.0, 1.0), "只按字节、计算和算子启动来算，quantize 在批大小 1 到 4 时都不会有收益。"),
        (
            (1.0, 2.0, 1.0),
            "只按字节、计算和算子启动来算，quantize 从批大小 2 起有收益，从批大小 4 起不再有收益："
            "1 时 1.00×，4 时 1.00×。",
        ),
    ],
)
def test_where_a_technique_pays_is_told(chinese: None, gains: tuple[float, ...], told: str) -> None:
    assert Crossover("quantize", "batch", (1, 2, 4), gains).text == told


def leftovers(markup: str) -> set[str]:
    """English words that a page still holds besides names, units, recipes and references."""
    text = re.sub(
        r"<(style|code|script|dl)\b.*?</\1>|<p>参考：.*?</p>|data:image[^\x22]*|&#x27;|&\w+;",
        " ",
        markup,
        flags=re.DOTALL,
    )
    text = re.sub(r'<span class="recipe">.*?</span>|id-[\w-]+|T\d\d:|e-\d', " ", text)
    tooltips = " ".join(re.findall(r'title="([^"]*)"', text))
    words = re.findall(r"[A-Za-z][\w-]{2,}", re.sub(r"<[^>]+>", " ", text) + " " + tooltips)
    return {word for word in words if word not in LATIN and not re.fullmatch(r"p\d+", word)}


def generating() -> Sequence[Run]:
    """Runs of the engine."""
    return session_runs(is_faulty=False)


def searching() -> Sequence[Run]:
    """Runs of a search."""
    return searches(make_run)


def classifying() -> Sequence[Run]:
    """Runs of a classifier, with what simpler ones reach."""
    train = Corpus.of([Document("high wave", "sea", "m", "one"), Document("low cloud", "sky", "m", "two")])
    scores = Scores(("sea", "sky"), np.array([[9, 1], [5, 5]]))
    build = {"scores": {name: one.fields for name, one in compared("RNN, gru cells", scores, train, train).items()}}
    return [make_run(recipe, build=build, quality={"accuracy": 0.7}) for recipe in ("", "rnn_cell")]


def ended_early() -> Sequence[Run]:
    """Runs that failed or were interrupted."""
    return [
        make_run("", status="failed", error="baseline on cpu: worker 7 was killed by SIGKILL", passes=(), metrics={}),
        make_run("kv_cache", status="interrupted", error="cancelled", passes=(), metrics={}),
    ]


@pytest.mark.parametrize("measured", [generating, searching, classifying, ended_early])
def test_a_chinese_report_holds_no_english_sentence(chinese: None, measured: Callable[[], Sequence[Run]]) -> None:
    runs = measured()
    page = report.html(runs, compare(runs))
    assert '<html lang="zh">' in page
    allowed = {word for run in runs for word in re.findall(r"[A-Za-z]\w+", f"{run.recipe} {run.id} {run.group}")}
    allowed |= {"pylm", "chat", "baseline", "cpu", "sea", "sky", "gru", "SIGKILL"}
    found = leftovers(page) - allowed
    # code names inside lessons, and titles of techniques that stay as they are
    known = set(re.findall(r"[A-Za-z][\w-]+", " ".join(" ".join(told) for told in lessons().values())))
    assert found - known == set()


def test_english_is_what_it_is_without_a_language(
    monkeypatch: pytest.MonkeyPatch, runs: Sequence[Run], comparison: Comparison
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not is_chinese(report.html(runs, comparison))
    assert not is_chinese(report.markdown(runs, comparison))


def test_explanations_tables_and_sweeps_are_told(chinese: None, runs: Sequence[Run], comparison: Comparison) -> None:
    assert all(map(is_chinese, explanation(runs, comparison)))
    assert all(is_chinese(sentence.text) for sentence in prose.verdicts(runs, comparison))
    for name in ("throughput", "latency", "phases", "quality", "memory"):
        assert charted(name, runs, comparison)[0][0] == "配方"
    assert Frontier.of([], Limits(ttft_s=1, tpot_s=1)).table()[0][0] == "配方"
    assert [column.help for column, _ in _columns(runs) if not is_chinese(column.told.help)] == []


def test_the_fields_of_a_machine_are_named(chinese: None, runs: Sequence[Run]) -> None:
    assert {"处理器", "可用核数", "内存", "缓存 L2"} <= set(facts.flat(runs[0].machine))
