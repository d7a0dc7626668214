"""A session over mock workers."""

import itertools
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.bench import validity
from labkit.bench.comparison import compare
from labkit.core.effort import EFFORTS
from labkit.core.errors import UsageError
from labkit.core.inference import smallest_resolving_blocks
from labkit.core.run import Run
from labkit.runner.plan import Plan, Progress
from tests.conftest import LeftBehind
from tests.runner.conftest import SPEC, MockLab

pytestmark = pytest.mark.usefixtures("no_process_left")

RECIPES = ("", "kv_cache", "static_batching")


def passes_of(lab: MockLab) -> list[dict[str, Any]]:
    return [line for line in lab.log if "start_s" in line]


def test_every_recipe_runs_once_a_block_in_random_order_on_equal_prompts(mock_lab: MockLab) -> None:
    runs = mock_lab.measure(*RECIPES)
    assert [run.recipe for run in runs] == list(RECIPES)
    for run in runs:
        assert [measured.block for measured in run.passes] == list(range(smallest_resolving_blocks(2)))
    passes = passes_of(mock_lab)
    blocks = [passes[i : i + 3] for i in range(0, len(passes), 3)]
    assert all({line["recipe"] for line in block} == set(RECIPES) for block in blocks)
    assert all(len({line["prompt"] for line in block}) == 1 for block in blocks)
    assert len({block[0]["prompt"] for block in blocks}) == len(blocks)
    assert len({tuple(line["recipe"] for line in block) for block in blocks}) > 1


def test_passes_never_overlap(mock_lab: MockLab) -> None:
    mock_lab.measure(*RECIPES)
    assert all(earlier["end_s"] <= later["start_s"] for earlier, later in itertools.pairwise(passes_of(mock_lab)))


def test_each_entry_has_its_own_process_even_if_it_is_named_twice(mock_lab: MockLab) -> None:
    runs = mock_lab.measure("kv_cache", "kv_cache")
    assert len({run.id for run in runs}) == 2
    assert len({line["pid"] for line in passes_of(mock_lab)}) == 2


def test_the_seed_fixes_the_order(mock_lab: MockLab, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = MockLab(tmp_path_factory.mktemp("again"))
    mock_lab.measure(*RECIPES)
    again.measure(*RECIPES)
    orders = [[line["recipe"] for line in passes_of(lab)] for lab in (mock_lab, again)]
    assert orders[0] == orders[1]
    again.store.close()


def test_a_run_carries_what_its_worker_said(mock_lab: MockLab) -> None:
    baseline, cached = mock_lab.measure("", "kv_cache")
    assert baseline.group == cached.group
    assert cached.status == "done"
    assert cached.model == {"name": "mock", "hash": "0"}
    assert cached.build["weights_bytes"] == 1000
    assert cached.build["load_s"] == 0.25
    assert cached.build["threads"] == 1
    assert cached.build["peak_memory_bytes"] > 10 * 2**20
    assert cached.quality == {"perplexity_ratio": 1.0}
    assert cached.proof is not None
    assert baseline.proof is None
    assert cached.limit is cached.cost is cached.prediction is None
    assert cached.metrics["output_tok_per_s"]["value"] > 0
    assert cached.workload == SPEC.to_dict()
    assert cached.machine["fingerprint"]


def test_returned_runs_are_stored_in_the_order_of_the_plan(mock_lab: MockLab) -> None:
    runs = mock_lab.measure(*RECIPES)
    assert mock_lab.store.runs()[::-1] == tuple(Run.from_json(run.to_json()) for run in runs)


def test_systems_are_closed_at_the_end(mock_lab: MockLab) -> None:
    mock_lab.measure("", "kv_cache")
    assert sorted(line["closed"] for line in mock_lab.log if "closed" in line) == ["", "kv_cache"]


def test_a_killed_worker_interrupts_its_run_and_no_other(mock_lab: MockLab) -> None:
    runs = mock_lab.measure(*RECIPES, model="mock die=kv_cache")
    assert [run.status for run in runs] == ["done", "interrupted", "done"]
    killed = runs[1]
    assert [measured.block for measured in killed.passes][:2] == [0, 1]
    assert "killed by SIGKILL (the system does so when memory runs out); its last words: out of luck" in killed.error
    assert all(len(run.passes) == smallest_resolving_blocks(2) for run in (runs[0], runs[2]))
    assert mock_lab.store.get(killed.id).status == "interrupted"


def test_the_baseline_may_die_too(mock_lab: MockLab) -> None:
    baseline, other = mock_lab.measure("", "kv_cache", model="mock die=baseline")
    assert (baseline.status, other.status) == ("interrupted", "done")


def test_a_session_without_survivors_ends(mock_lab: MockLab) -> None:
    assert [run.status for run in mock_lab.measure("", "kv_cache", model="mock die=all")] == ["interrupted"] * 2


@pytest.mark.parametrize(
    ("habit", "error"), [("fail", "the mock failed as told"), ("break", "RuntimeError: first line second line")]
)
def test_an_error_fails_its_run_in_one_line(mock_lab: MockLab, habit: str, error: str) -> None:
    baseline, failed = mock_lab.measure("", "kv_cache", model=f"mock {habit}=kv_cache")
    assert (baseline.status, failed.status, failed.error) == ("done", "failed", error)


def test_a_request_that_cannot_be_met_is_one_line_and_stores_nothing(mock_lab: MockLab) -> None:
    with pytest.raises(UsageError, match=r"^the mock refuses this recipe in two lines$"):
        mock_lab.measure("", "kv_cache", model="mock refuse=kv_cache")
    with pytest.raises(UsageError, match=r"^no such mock$"):
        mock_lab.measure("", model="mock lost=1")
    assert mock_lab.store.runs() == ()


def test_recipes_that_do_not_fit_together_are_measured_in_pairs(mock_lab: MockLab) -> None:
    runs = mock_lab.measure(*RECIPES, model="mock bytes=40")  # of 100
    assert [len(run.passes) for run in runs] == [18, 9, 9]  # nine: verdicts are adjusted for two candidates
    blocks = [{measured.block for measured in run.passes} for run in runs]
    assert blocks[1] | blocks[2] == blocks[0]
    assert not blocks[1] & blocks[2]
    alive = defaultdict(set)
    for line in passes_of(mock_lab):
        alive[line["prompt"]].add(line["recipe"])
    assert all(len(together) == 2 and "" in together for together in alive.values())


def test_what_does_not_fit_even_alone_is_refused_with_both_figures(mock_lab: MockLab) -> None:
    with pytest.raises(UsageError, match=r"'baseline' needs 2\.00 GiB of memory; 0\.00 GiB are free on cpu"):
        mock_lab.measure("", model=f"mock bytes={2**31}")


def test_rigorous_blocks_are_spread_over_fresh_processes(mock_lab: MockLab) -> None:
    (run,) = mock_lab.measure("kv_cache", effort="rigorous")
    effort = EFFORTS["rigorous"]
    assert len(run.passes) == effort.num_processes * effort.max_blocks  # passes of the mock are short
    assert len({line["pid"] for line in passes_of(mock_lab)}) == EFFORTS["rigorous"].num_processes
    assert [one.process for one in run.passes] == sorted(one.process for one in run.passes)
    assert {one.process for one in run.passes} == set(range(EFFORTS["rigorous"].num_processes))


def test_all_processes_have_the_number_of_blocks_that_the_first_warm_up_asked_for(mock_lab: MockLab) -> None:
    runs = mock_lab.measure("", "kv_cache", effort="standard")
    effort = EFFORTS["standard"]
    for run in runs:
        counts = Counter(one.process for one in run.passes)
        assert len(counts) == effort.num_processes
        assert set(counts.values()) == {effort.max_blocks}  # passes of the mock are short
    assert len(passes_of(mock_lab)) == 2 * len(runs[0].passes)


def test_progress_grows_and_is_rare(mock_lab: MockLab) -> None:
    seen: list[Progress] = []
    mock_lab.measure(*RECIPES, on_progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert seen[0].text == "opening mock"


def test_cancel_ends_a_stuck_worker_and_its_children(mock_lab: MockLab, left_behind: LeftBehind) -> None:
    cancel = threading.Event()

    def cancel_when_stuck() -> None:
        while len(mock_lab.log) < 4:  # both recipes hang in their third pass
            time.sleep(0.05)
        cancel.set()

    thread = threading.Thread(target=cancel_when_stuck)
    thread.start()
    runs = mock_lab.measure("", "kv_cache", model="mock hang=all child=1", cancel=cancel)
    thread.join()
    assert [(run.status, run.error) for run in runs] == [("interrupted", "cancelled")] * 2
    assert {run.status for run in mock_lab.store.runs()} == {"interrupted"}
    assert left_behind() == []


def test_cancel_at_any_time_leaves_no_process(mock_lab: MockLab, left_behind: LeftBehind) -> None:
    for delay_s in (random.Random(number).uniform(0, 1.5) for number in range(20)):
        cancel = threading.Event()
        timer = threading.Timer(delay_s, cancel.set)
        timer.start()
        runs = mock_lab.measure("", "kv_cache", model="mock child=1", cancel=cancel)
        timer.cancel()
        assert {run.status for run in runs} <= {"interrupted", "done"}
        assert left_behind() == []


@pytest.fixture
def exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contention is believed however short a pass is: the mock's take less than a tick of the kernel's clock."""
    monkeypatch.setattr(validity, "resolution", lambda *_: 0.0)


@pytest.mark.usefixtures("exact_clock")
def test_a_disturbed_block_is_measured_again(mock_lab: MockLab) -> None:
    runs = mock_lab.measure("", "kv_cache", model="mock busy=1")
    assert [run.is_valid for run in runs] == [True, True]
    assert [len(run.passes) for run in runs] == [8, 8]
    assert len(passes_of(mock_lab)) == 2 * 9


@pytest.mark.usefixtures("exact_clock")
def test_what_stays_disturbed_is_invalid(mock_lab: MockLab) -> None:
    (run,) = mock_lab.measure("", model="mock busy=99")
    assert [fault.code for fault in run.faults] == ["contended"]
    assert len(passes_of(mock_lab)) == 8 + 8  # reruns are bounded


@pytest.mark.usefixtures("exact_clock")
def test_a_glance_is_one_block_whatever_others_do_and_is_no_verdict(mock_lab: MockLab) -> None:
    runs = mock_lab.measure("", "kv_cache", model="mock busy=99", effort="glance")
    assert [run.is_valid for run in runs] == [True, True]
    assert [len(run.passes) for run in runs] == [1, 1]
    assert len(passes_of(mock_lab)) == 2
    (row,) = compare(runs).rows
    assert row.decision is not None
    assert row.decision.verdict == "cannot tell"


def test_a_machine_that_changes_speed_is_noticed(mock_lab: MockLab) -> None:
    (calm,) = mock_lab.measure("", model="mock slow=7")  # one block
    (drifting,) = mock_lab.measure("kv_cache", model="mock drift=1")
    assert calm.is_valid
    assert [fault.code for fault in drifting.faults] == ["drift"]


def test_a_full_disk_costs_the_history_not_the_runs(mock_lab: MockLab) -> None:
    mock_lab.store._connection.execute("PRAGMA max_page_count = 1")
    session = mock_lab.session()
    runs = session.measure(Plan(model="mock", spec=SPEC, recipes=("",)))
    assert [run.status for run in runs] == ["done"]
    (warning,) = session.warnings
    assert "disk is full" in warning


def test_peers_stand_beside_recipes(mock_lab: MockLab) -> None:
    runs = mock_lab.measure("peer:transformers( dtype = 'bf16' )", "kv_cache")
    assert [run.recipe for run in runs] == ["peer:transformers(dtype='bf16')", "kv_cache"]


def test_a_killed_lab_leaves_no_worker_and_what_it_had_measured(mock_lab: MockLab) -> None:
    """The first session is acknowledged, the second one killed in mid-run."""
    script = (
        "import sys; from pathlib import Path; from tests.runner.conftest import MockLab\n"
        "lab = MockLab(Path(sys.argv[1]))\n"
        "print(lab.measure('kv_cache')[0].id, flush=True)\n"
        "model, show = 'mock token_s=0.1 child=1', lambda at: print(at.text, flush=True)\n"
        "lab.measure('', 'kv_cache', model=model, on_progress=show)\n"
    )
    command = [sys.executable, "-c", script, str(mock_lab.folder)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        acknowledged = parent.stdout.readline().strip()
        while not parent.stdout.readline().startswith("block 6"):
            assert parent.poll() is None
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(workers) == 4  # and each one's child
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    assert mock_lab.store.get(acknowledged).status == "done"
    interrupted = mock_lab.store.runs(status="interrupted")
    assert {run.recipe for run in interrupted} == {"", "kv_cache"}
    assert all(run.passes and run.error for run in interrupted)


@pytest.mark.parametrize(
    ("recipes", "error"),
    [
        ((), "no recipe was given"),
        (("nonsense",), "unknown optimization 'nonsense'"),
        (("peer:a + b",), "a peer is written like"),
        (("peer:",), "a peer is written like"),
    ],
)
def test_a_plan_is_checked_before_anything_starts(mock_lab: MockLab, recipes: tuple[str, ...], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        mock_lab.measure(*recipes)
