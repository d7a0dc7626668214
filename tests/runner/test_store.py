import itertools
import multiprocessing
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.core.errors import StoreError, UsageError
from labkit.core.run import Pass, Run
from labkit.core.trace import RequestTrace, Trace
from labkit.runner.store import VERSION, Store


def make_run(id: str, **changes: object) -> Run:
    trace = Trace((RequestTrace(0.0, 0.0, 0.0, (0.1, 0.2), (1, 2), 4),), 0.2)
    run = Run(
        id=id,
        group="g",
        created_utc=f"2026-01-01T00:00:00.{id[-1]}",
        recipe="kv_cache",
        workload={"name": "chat", "scenario": "single_stream", "prompt_tokens": 4, "new_tokens": 2},
        workload_hash="w",
        model={"name": "pylm"},
        device="cpu",
        machine={},
        effort="quick",
        passes=(Pass(0, trace),),
    )
    return replace(run, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs.sqlite3")


def test_a_stored_run_comes_back_equal(store: Store) -> None:
    store.add(make_run("a1"))
    assert store.get("a1") == make_run("a1")


def test_runs_come_newest_first_and_filtered(store: Store) -> None:
    for id in ("a1", "a2", "a3"):
        store.add(make_run(id, group=id, device="cuda" if id == "a2" else "cpu"))
    assert [run.id for run in store.runs()] == ["a3", "a2", "a1"]
    assert [run.id for run in store.runs(limit=1)] == ["a3"]
    assert [run.id for run in store.runs(device="cuda")] == ["a2"]
    assert [run.id for run in store.runs(group="a1", model="pylm", status="done")] == ["a1"]
    assert store.runs(model="other") == ()


def test_a_later_state_replaces_the_earlier_one(store: Store) -> None:
    store.add(make_run("a1", status="interrupted"))
    store.add(make_run("a1", status="done"))
    assert [run.status for run in store.runs()] == ["done"]
    assert store.runs(status="interrupted") == ()


def test_what_is_further_is_never_replaced_by_a_merge(store: Store) -> None:
    one = make_run("a1").passes[0]
    early, late = (make_run("a1", status="interrupted", passes=(one,) * num) for num in (1, 2))
    failed, done = make_run("a1", status="failed", passes=(one,) * 2), make_run("a1", error="finished")
    ranked = [early, late, failed, done]
    for here, there in itertools.product(ranked, repeat=2):
        store.add(here)
        assert store.merge([there]) == (ranked.index(there) > ranked.index(here))
        assert store.get("a1") == max(here, there, key=ranked.index)
    store.add(early)
    assert store.merge([late, done, early, make_run("a2")]) == 2
    assert [store.get(id) for id in ("a1", "a2")] == [done, make_run("a2")]


def test_runs_are_merged_all_or_none(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        store.merge([make_run("a1"), make_run("a2", recipe=5, group=None)])
    assert store.runs() == ()
    assert store.merge([make_run("a1")]) == 1


def test_an_id_may_be_shortened_as_long_as_it_is_unique(store: Store) -> None:
    for id in ("abc1", "abd2"):
        store.add(make_run(id))
    assert store.get("abc").id == "abc1"
    for asked, seen in (
        ("ab", "several Runs begin so"),
        ("x", "no Run has it"),
        ("", "no Run"),
        ("%", "no Run"),
        ("\udcff", "no Run"),
    ):
        with pytest.raises(UsageError, match=seen):
            store.get(asked)


def test_a_run_that_cannot_be_read_is_named_and_passed_over(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path / "runs.sqlite3", warn=told.append)
    for id, changes in (("a1", {}), ("a2", {"created_utc": 5}), ("a3", {"schema": 99}), ("b4", {"metrics": {"x": []}})):
        store.add(make_run(id, **changes))
    assert [run.id for run in store.runs()] == ["a1"]
    assert len(told) == 3
    assert f"Run 'a2' of {store.path} is passed over: a stored Run cannot be read: created_utc is " in "\n".join(told)
    assert [run.id for run in store.runs(limit=1)] == ["a1"]
    assert store.get("a1") == make_run("a1")
    with pytest.raises(StoreError, match=r"metrics\.x is \[\]; allowed: finite numbers"):
        store.get("b")
    with Store(store.path) as other, pytest.warns(UserWarning, match="is passed over"):
        assert len(other.runs()) == 1


def test_what_is_no_text_or_no_number_is_not_stored(store: Store) -> None:
    for changes in ({"recipe": "\udcff"}, {"quality": {"accuracy": float("nan")}}):
        for write in (store.add, lambda run: store.merge([make_run("a1"), run])):
            with pytest.raises(StoreError, match="cannot be written: "):
                write(make_run("a2", **changes))
    assert store.runs() == ()


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match=rf"schema {VERSION + 1}; this labkit reads up to {VERSION}; upgrade labkit"):
        Store(path)


def test_reading_changes_no_file(tmp_path: Path) -> None:
    path, link = tmp_path / "runs of 100 % #1.sqlite3", tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    with Store(path) as writer:
        writer.add(make_run("a1"))
        with Store(link, is_read_only=True) as reader:
            assert reader.runs() == (make_run("a1"),)
            with pytest.raises(StoreError, match="readonly database"):
                reader.add(make_run("a2"))
    before = path.read_bytes()
    with Store(path, is_read_only=True) as reader:
        assert reader.runs() == (make_run("a1"),)
        assert {*tmp_path.iterdir()} == {path, link.parent}
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "none" / "runs.sqlite3", is_read_only=True)
    assert {*tmp_path.iterdir()} == {path, link.parent}


def test_a_file_that_is_no_history_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite3"
    path.write_text("not a database" * 100)
    with pytest.raises(StoreError, match=f"{path} cannot be opened: file is not a database; move the file away"):
        Store(path)


def test_a_damaged_file_is_to_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite3"
    with Store(path) as store:
        store.add(make_run("a1", error="x" * 20_000))
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 16_384)
    with pytest.raises(StoreError, match="malformed; move the file away, or set LABKIT_HOME to another folder"):
        Store(path).runs()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be opened: .*; export the Runs with --json, or set LABKIT_HOME"):
        Store(tmp_path / "file" / "runs.sqlite3")


@pytest.mark.parametrize(
    ("pragma", "cause"), [("query_only = ON", "readonly database"), ("max_page_count = 1", "disk is full")]
)
def test_a_file_that_cannot_be_written_is_one_line(store: Store, pragma: str, cause: str) -> None:
    store._connection.execute(f"PRAGMA {pragma}")
    long = make_run("a1", error="x" * 100_000)
    with pytest.raises(StoreError, match=f"{store.path} cannot be written: .*{cause}.*; export the Runs with --json"):
        store.add(long)
    assert store.runs() == ()


def test_writes_wait_for_the_disk(store: Store) -> None:
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite3"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_runs, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
        assert writer.exitcode == 0
    with Store(path) as store:
        assert len(store.runs()) == 3 * 20


def write_runs(path: Path, name: str) -> None:
    with Store(path) as store:
        for number in range(20):
            store.add(make_run(f"{name}{number}"))


def test_several_may_open_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    for attempt in range(20):
        path, barrier = tmp_path / f"{attempt}.sqlite3", threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            for added in [pool.submit(open_and_add, path, number, barrier) for number in range(4)]:
                added.result()
        with Store(path) as store:
            assert len(store.runs()) == 4


def open_and_add(path: Path, number: int, barrier: threading.Barrier) -> None:
    barrier.wait()
    with Store(path) as store:
        store.add(make_run(f"a{number}"))


def test_a_file_that_another_holds_too_long_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.runner.store._BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "runs.sqlite3"
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked; export the Runs with --json") as error:
            Store(path)
        holder.execute("ROLLBACK")
    holder.close()
    assert "\n" not in str(error.value)
