"""The commands `sweep` and `merge`, with sessions replaced by simulated queues."""

import json
import sqlite3
from dataclasses import replace

import pytest

from labkit import cli
from labkit.runner.session import Session
from labkit.runner.store import FILE_NAME, Store
from tests.runner.test_sweep import Queues

SWEEP = ["sweep", "--model", "queue", "--recipe", "kv_cache", "--rate", "1,8", "--rate", "auto", "--requests", "24"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def queues(home, monkeypatch):
    queues = Queues()

    def measure(self, plan, *, on_progress=None, cancel=None):
        runs = queues(plan)
        for run in runs:
            self._keep(run)
        return runs

    monkeypatch.setattr(Session, "measure", measure)
    return queues


def test_a_sweep_is_shown_written_and_not_measured_twice(queues, home, tmp_path, capsys):
    page = tmp_path / "sweep.html"
    assert cli.main([*SWEEP, "--html", str(page)]) == 0
    shown = capsys.readouterr()
    assert "kv_cache: keeps up with" in shown.out
    assert "needs" in shown.out, "percentiles that 24 requests a pass cannot tell"
    num_cells = len(queues.plans)
    assert f"{num_cells} of {num_cells} cells are new" in shown.err
    assert page.read_text().startswith("<!doctype html>")
    assert cli.main([*SWEEP, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert f"0 of {num_cells} cells are new" in captured.err
    told = json.loads(captured.out)
    assert len(told["runs"]) == len(told["sweeps"]["sweep"]["cells"]) == num_cells == len(queues.plans)
    assert cli.main([*SWEEP, "--name", "again"]) == 0
    assert len(queues.plans) == 2 * num_cells


def test_options_reach_the_cells(queues):
    load = ["--burstiness", "2", "--prompt-tokens", "4-8", "--seed", "3", "--turns", "2", "--workload", "chat"]
    assert cli.main([*SWEEP[:-6], "--rate", "4", "--requests", "24", *load, "--effort", "standard"]) == 0
    (plan,) = queues.plans
    assert (plan.spec.rate_per_s, plan.spec.arrival_cv, plan.spec.seed, plan.spec.turns) == (4.0, 2.0, 3, 2)
    assert (plan.spec.min_prompt_tokens, plan.spec.prompt_tokens, plan.effort, plan.seed) == (4, 8, "standard", 3)


def test_shards_as_history_and_as_json_merge_to_the_whole(queues, home, tmp_path, monkeypatch, capsys):
    assert cli.main([*SWEEP, "--json", "-"]) == 0
    whole = json.loads(capsys.readouterr().out)["sweeps"]["sweep"]
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "part"))
    assert cli.main([*SWEEP, "--shard", "1/2"]) == 0
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "other"))
    assert cli.main([*SWEEP, "--shard", "2/2", "--json", str(tmp_path / "part.json")]) == 0
    capsys.readouterr()
    files = [str(tmp_path / "part" / FILE_NAME), str(tmp_path / "part.json")]
    assert cli.main(["merge", *files, "--into", str(tmp_path / "all.sqlite3"), "--json", "-"]) == 0
    merged = json.loads(capsys.readouterr().out)["sweeps"]["sweep"]
    assert merged["findings"] == whole["findings"]
    assert [(cell["rate_per_s"], cell["goodput_per_s"]) for cell in merged["cells"]] == [
        (cell["rate_per_s"], cell["goodput_per_s"]) for cell in whole["cells"]
    ]
    with Store(tmp_path / "all.sqlite3") as store:
        assert len(store.runs(sweep="sweep")) == len(whole["cells"])
        assert store.runs(sweep="other") == ()


def test_a_merge_keeps_what_is_finished_and_tells_how_much_was_there(home, make, tmp_path, capsys):
    done, early = make("kv_cache"), make("kv_cache", status="interrupted", num_blocks=1)
    for name, runs in (("done", [done]), ("early", [early, make("precision")])):
        (tmp_path / name).write_text("".join(f"{run.to_json()}\n" for run in runs))
    files, into = [str(tmp_path / name) for name in ("done", "early")], ["--into", str(tmp_path / "all.sqlite3")]
    assert cli.main(["merge", files[0], *into]) == 0
    assert "merged 1 Runs of 1 files" in capsys.readouterr().err
    assert cli.main(["merge", files[1], *into, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert "merged 1 Runs" in captured.err
    assert "; 1 were there already, as far or further\n" in captured.err
    assert [run["status"] for run in json.loads(captured.out)["runs"]] == ["done", "done"]
    assert cli.main(["merge", *files, "--into", str(tmp_path / "both.sqlite3")]) == 0
    for name in ("all", "both"):
        with Store(tmp_path / f"{name}.sqlite3") as store:
            assert store.get(done.id).status == "done"


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep"],
        ["sweep", "--rate", "0"],
        ["sweep", "--rate", "1e9"],
        ["sweep", "--rate", "1,fast"],
        ["sweep", "--rate", "1", "--requests", "5"],
        ["sweep", "--rate", "1", "--shard", "3/2"],
        ["sweep", "--rate", "1", "--ttft-limit-s", "0"],
        ["sweep", "--rate", "1", "--recipe", "nonsense"],
        ["sweep", "--rate", "1", "--html", "no/such/folder/page.html"],
        ["sweep", "--rate", "1", "--trace", "no/such/file"],
        ["merge"],
        ["merge", "no/such/file"],
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2_before_anything_is_measured(queues, arguments, capsys):
    assert cli.main(arguments) == 2
    assert queues.plans == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"runs": [{"id": 1}]}', b"SQLite format 3\0"])
def test_what_holds_no_runs_is_not_merged(home, tmp_path, content, capsys):
    (tmp_path / "file").write_bytes(content)
    assert cli.main(["merge", str(tmp_path / "file")]) == 2
    assert "it holds no Runs" in capsys.readouterr().err


def test_nothing_of_what_holds_a_damaged_run_is_merged(home, make, tmp_path, capsys):
    good = make("kv_cache").to_json()
    (tmp_path / "file").write_text(f"{good}\n{good.replace('2030-01-02T03:04:05+00:00', '5', 1)}\n"
                                   + good.replace('"scenario":', '"x":'))  # fmt: skip
    (tmp_path / "deep").write_text("[" * 100_000)
    into = ["--into", str(tmp_path / "all.sqlite3")]
    (tmp_path / "whole").write_text(good)
    for name in ("file", "deep"):
        assert cli.main(["merge", str(tmp_path / "whole"), str(tmp_path / name), *into]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["merge", str(tmp_path / "file"), *into]) == 2
    assert "(Run 3: a stored Run cannot be read: workload is {" in capsys.readouterr().err
    assert not (tmp_path / "all.sqlite3").exists()


def test_a_history_with_a_damaged_run_is_reported_exported_swept_and_merged_without_it(queues, home, tmp_path, capsys):
    assert cli.main(SWEEP) == 0
    with Store(home / FILE_NAME) as store:
        store.add(
            replace(store.runs()[0], id="bad", created_utc="2031", metrics={"output_tok_per_s": {"value": "abc"}})
        )
    capsys.readouterr()
    for command in (["report"], ["report", "--last", "--out", str(tmp_path / "h.html")], SWEEP,
                    ["export", "--out", str(tmp_path / "e.csv")],
                    ["merge", str(home / FILE_NAME), "--into", str(tmp_path / "all.sqlite3")]):  # fmt: skip
        assert cli.main(command) == 0
        told = capsys.readouterr().err
        assert f"labkit: Run 'bad' of {home / FILE_NAME} is passed over: a stored Run cannot be read: metrics." in told
    with Store(tmp_path / "all.sqlite3") as store:
        assert len(store.runs()) == len(queues.plans)
        (tmp_path / "good").write_text(replace(store.runs()[0], id="bad").to_json())
    assert cli.main(["merge", str(tmp_path / "good")]) == 0
    assert "; 1 were there already" in capsys.readouterr().err


def test_another_program_s_database_is_left_as_it_is(home, tmp_path, capsys):
    path = tmp_path / "other.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = path.read_bytes()
    assert cli.main(["merge", str(path)]) == 2
    assert "it holds no Runs (" in capsys.readouterr().err
    assert path.read_bytes() == before
