"""The commands, with measuring replaced by Runs made on the spot."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from labkit import cli
from labkit.core.errors import UsageError
from labkit.core.language import VARIABLE
from labkit.core.metrics import summarize
from labkit.core.run import Fault, Pass, Run
from labkit.core.trace import RequestTrace, Trace
from labkit.runner.session import Session
from labkit.runner.store import FILE_NAME, Store
from labkit.ui.jupyter import lab_command


def made_run(entry, plan, *, position, faults=()):
    """A Run with ten passes of known speed."""
    traces = []
    for block in range(10):
        step_s = (0.02 if position == 0 else 0.01) * (1 + 0.001 * block)
        output_s = tuple(step_s * (index + 1) for index in range(16))
        traces.append(Trace((RequestTrace(0.0, 0.0, 0.0, output_s, tuple(range(16)), 8),), output_s[-1]))
    return Run(
        id=f"run{position}",
        group="only",
        created_utc=f"2030-01-01T00:00:{position:02d}+00:00",
        recipe=entry.recipe,
        workload=plan.spec.to_dict(),
        workload_hash=plan.spec.hash,
        model={"name": plan.model, "hash": "h"},
        device=entry.device,
        machine={"fingerprint": "f"},
        effort=plan.effort,
        passes=tuple(Pass(block, trace) for block, trace in enumerate(traces)),
        metrics=summarize(traces),
        faults=tuple(faults),
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def plans(home, monkeypatch):
    """Plans that were handed to `Session.measure`, which answers at once and keeps the Runs."""
    seen = []

    def measure(self, plan, *, on_progress=None, cancel=None):
        seen.append(plan)
        on_progress and on_progress(type("Progress", (), {"fraction": 0.5, "text": "half"})())
        runs = tuple(made_run(entry, plan, position=i) for i, entry in enumerate(plan.entries))
        for run in runs:
            self._keep(run)
        return runs

    monkeypatch.setattr(Session, "measure", measure)
    return seen


BENCH = ["bench", "--recipe", "", "--recipe", "kv_cache"]


def test_json_on_stdout_is_json_and_nothing_else(plans, capsys):
    assert cli.main([*BENCH, "--json", "-"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["schema"] == 1
    assert [run["recipe"] for run in fields["runs"]] == ["", "kv_cache"]
    assert fields["runs"][0]["passes"][0]["trace"]["requests"][0]["output_s"]
    assert fields["comparisons"][0]["rows"][0]["decision"]["verdict"] == "faster"


def test_without_json_the_table_is_on_stdout(plans, capsys):
    assert cli.main(BENCH) == 0
    assert "faster" in capsys.readouterr().out


def test_options_reach_the_plan(plans):
    sizes = ["--prompt-tokens", "8", "--new-tokens", "16", "--batch", "4", "--seed", "7"]
    assert cli.main([*BENCH, *sizes, "--model", "llama-125m", "--effort", "standard"]) == 0
    (plan,) = plans
    assert (plan.model, plan.effort, plan.seed, plan.devices) == ("llama-125m", "standard", 7, ("cpu",))
    assert (plan.spec.prompt_tokens, plan.spec.new_tokens, plan.spec.num_requests) == (8, 16, 4)
    assert plan.spec.scenario == "offline"


def test_a_load_reaches_the_plan(plans, tmp_path):
    load = ["--rate", "8", "--burstiness", "2", "--requests", "6", "--prompt-tokens", "16-32", "--new-tokens", "4"]
    assert cli.main([*BENCH, *load]) == 0
    assert cli.main([*BENCH, "--concurrency", "3", "--turns", "2"]) == 0
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"arrival_s": 0.1, "prompt": "Hello", "new_tokens": 4}\n' * 2)
    assert cli.main([*BENCH, "--trace", str(trace)]) == 0
    bursts, loop, replay = (plan.spec for plan in plans)
    assert (bursts.scenario, bursts.rate_per_s, bursts.arrival_cv, bursts.num_requests) == ("server", 8, 2, 6)
    assert (bursts.min_prompt_tokens, bursts.prompt_tokens, bursts.new_tokens) == (16, 32, 4)
    assert (loop.scenario, loop.concurrency, loop.turns, loop.num_requests) == ("closed_loop", 3, 2, 16)
    assert (replay.scenario, replay.num_requests, replay.rate_per_s) == ("server", 2, None)


def test_a_trace_with_a_bad_line_is_one_line_that_names_it(plans, tmp_path, capsys):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"arrival_s": 0.1, "prompt": "Hello", "new_tokens": 4}\n{"arrival_s": 0.2}\n')
    assert cli.main([*BENCH, "--trace", str(trace)]) == 2
    assert plans == []
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "line 2: its keys are 'arrival_s'; allowed: " in error


def test_a_shared_prefix_and_a_cold_cache_reach_the_plan(plans):
    assert cli.main([*BENCH, "--workload", "shared_prefix", "--shared-prefix", "512", "--cache-state", "cold"]) == 0
    assert cli.main(["peers", "--workload", "batch", "--shared-prefix", "48"]) == 0
    bench, peers = (plan.spec for plan in plans)
    assert (bench.prompt_tokens, bench.shared_prefix_tokens, bench.cache_state) == (1056, 512, "cold")
    assert (peers.prompt_tokens, peers.shared_prefix_tokens, peers.cache_state) == (64, 48, "warm")


@pytest.mark.parametrize("command", ["bench", "peers"])
def test_an_empty_model_is_not_the_default_one(plans, command):
    assert cli.main([command, "--model", ""]) == 0
    assert plans[0].model == ""  # which the session refuses


def test_an_empty_file_is_no_prefix(home, tmp_path, capsys):
    (tmp_path / "empty").touch()
    assert cli.main(["prefix", "faq", "--text", str(tmp_path / "empty")]) == 2
    assert "was asked for; it is empty; name one with a text" in capsys.readouterr().err


def test_files_are_written_where_asked(plans, tmp_path):
    page, runs = tmp_path / "report.html", tmp_path / "runs.json"
    assert cli.main([*BENCH, "--report", str(page), "--json", str(runs)]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert len(json.loads(runs.read_text())["runs"]) == 2


@pytest.mark.parametrize(
    "command", [[*BENCH, "--json"], [*BENCH, "--report"], ["report", "--last", "--out"], ["export", "--out"]]
)
def test_a_file_that_cannot_be_is_refused_before_anything_is_measured(plans, command, tmp_path, capsys):
    (tmp_path / "loop.html").symlink_to(tmp_path / "loop.html")
    for name, seen in (
        ("x" * 300 + ".html", "File name too long"),
        ("loop.html", "Too many levels of symbolic links"),
        ("loop.html/x.html", "Too many levels of symbolic links"),
        ("absent/x.html", "its folder does not exist"),
    ):
        assert cli.main([*command, str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert f"{seen}; name a file in an existing folder" in error
        assert error.count("\n") == 1
    assert plans == []


def test_a_link_to_a_file_that_is_yet_to_be_written_is_followed(plans, tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "runs.json")
    assert cli.main([*BENCH, "--json", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "runs.json").exists()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_samples_that_a_full_disk_does_not_take_are_one_line(plans, kind, capsys):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    assert cli.main(BENCH) == 0
    capsys.readouterr()
    assert cli.main(["export", "--out", "/dev/full", "--format", kind]) == 1
    assert (
        capsys.readouterr().err == "labkit: '/dev/full' cannot be written: No space left on device; name another file\n"
    )


def test_an_invalid_run_makes_exit_code_1(plans, monkeypatch, capsys):
    def measure(self, plan, **_):
        fault = Fault("drift", "seen", "allowed", "remedy")
        return tuple(made_run(entry, plan, position=i, faults=[fault] * i) for i, entry in enumerate(plan.entries))

    monkeypatch.setattr(Session, "measure", measure)
    assert cli.main(BENCH) == 1
    assert "INVALID" in capsys.readouterr().out


def test_a_plan_that_cannot_be_measured_takes_nothing_from_the_others(plans, monkeypatch, tmp_path, capsys):
    measure, out = Session.measure, tmp_path / "demo.json"

    def refuse_one(self, plan, **options):
        if plan.model == "llama-125m":
            raise UsageError("no room for llama-125m")
        return measure(self, plan, **options)

    monkeypatch.setattr(Session, "measure", refuse_one)
    assert cli.main(["demo", "--json", str(out), "--out", str(tmp_path / "demo.html")]) == 1
    assert "was not measured: no room for llama-125m" in capsys.readouterr().err
    assert {run["model"]["name"] for run in json.loads(out.read_text())["runs"]} > {"pylm"}


def test_an_error_is_one_line_on_stderr(plans, monkeypatch, capsys):
    def measure(self, plan, **_):
        raise UsageError("model 'x' was asked for;\nallowed: pylm")

    monkeypatch.setattr(Session, "measure", measure)
    assert cli.main(BENCH) == 2
    assert capsys.readouterr().err == "labkit: model 'x' was asked for; allowed: pylm\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--workload", "nope"],
        ["bench", "--workload", ""],
        ["peers", "--workload", ""],
        ["bench", "--effort", "nope"],
        ["bench", "--device", "nope"],
        ["bench", "--prompt-tokens", "0"],
        ["bench", "--batch", "-1"],
        ["bench", "--batch", "many"],
        ["bench", "--shared-prefix", "64"],
        ["bench", "--cache-state", "tepid"],
        ["bench", "--rate", "0"],
        ["bench", "--rate", "1e9"],
        ["bench", "--rate", "fast"],
        ["bench", "--rate", "2", "--concurrency", "2"],
        ["bench", "--burstiness", "2"],
        ["bench", "--rate", "2", "--burstiness", "-1"],
        ["bench", "--concurrency", "0"],
        ["bench", "--prompt-tokens", "16-"],
        ["bench", "--prompt-tokens", "32-16"],
        ["bench", "--prompt-tokens", "-4"],
        ["bench", "--turns", "0"],
        ["bench", "--trace", "no/such/file"],
        ["prefix", "faq"],
        ["prefix", "faq", "--tokens", "64", "--text", "faq.txt"],
        ["prefix", "../faq", "--tokens", "64"],
        ["prefix", "faq", "--text", "no/such/file"],
        ["prefix", "faq", "--tokens", "64", "--recipe", "prefix_cache"],
        ["bench", "--nope"],
        ["nope"],
        ["bench", "--report", "report.docx"],
        ["bench", "--json", "no/such/folder/runs.json"],
        ["export", "--out", "x", "--format", "nope"],
        ["report", "--last"],
        ["report", "--last", "--out", "x.html"],
    ],
)
def test_wrong_use_is_exit_code_2_before_anything_is_measured(plans, arguments, capsys):
    assert cli.main(arguments) == 2
    assert plans == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_language_that_there_is_not_is_refused_before_anything_is_measured(plans, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "klingon")
    assert cli.main(BENCH) == 2
    assert plans == []
    told = "labkit: unknown language 'klingon'; allowed: en, zh; set LABKIT_LANG or give --lang\n"
    assert capsys.readouterr().err == told


def test_a_cancelled_session_keeps_what_it_has_and_ends_with_130(plans, monkeypatch, tmp_path):
    def measure(self, plan, *, cancel, **_):
        os.kill(os.getpid(), 2)
        assert cancel.wait(5)
        return tuple(made_run(entry, plan, position=i) for i, entry in enumerate(plan.entries))

    monkeypatch.setattr(Session, "measure", measure)
    assert threading.current_thread() is threading.main_thread()
    assert cli.main([*BENCH, "--json", str(tmp_path / "runs.json")]) == 130
    assert json.loads((tmp_path / "runs.json").read_text())["runs"]


def test_the_demo_measures_every_system_and_writes_the_report(plans, tmp_path):
    assert cli.main(["demo", "--out", str(tmp_path / "report.html")]) == 0
    assert [(plan.model, plan.system) for plan in plans] == [
        ("pylm", "engine"),
        ("llama-125m", "engine"),
        ("stdlib", "similarity"),
        ("stdlib", "classifier"),
    ]
    assert plans[0].recipes[0] == ""
    assert (tmp_path / "report.html").exists()


def test_stored_runs_are_listed_reported_and_exported(plans, home, tmp_path, capsys):
    assert cli.main(BENCH) == 0
    with Store(home / FILE_NAME) as store:
        assert len(store.runs()) == 2
    capsys.readouterr()
    assert cli.main(["report"]) == 0
    assert "run1" in capsys.readouterr().out
    for name in ("report.html", "report.md", "report.csv"):
        assert cli.main(["report", "--last", "--out", str(tmp_path / name)]) == 0
    assert "faster than the baseline" in (tmp_path / "report.md").read_text()
    assert cli.main(["report", "--run", "run1", "--out", str(tmp_path / "one.md")]) == 0
    assert cli.main(["export", "--out", str(tmp_path / "raw.csv")]) == 0
    assert len((tmp_path / "raw.csv").read_text().splitlines()) == 1 + 2 * 10 * 16
    assert cli.main(["export", "--out", str(tmp_path / "raw.jsonl"), "--format", "jsonl", "--last"]) == 0
    assert all(Run.from_json(line) for line in (tmp_path / "raw.jsonl").read_text().splitlines())


def test_a_stored_run_is_explained_beside_its_baseline(plans, home, capsys):
    assert cli.main(BENCH) == 0
    capsys.readouterr()
    assert cli.main(["explain", "last"]) == 0
    assert "is faster than the baseline" in capsys.readouterr().out
    assert cli.main(["explain", "run1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["run"].startswith("run1")
    assert cli.main(["explain", "nonsense"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_cannot_be_opened_costs_a_note_and_no_measurement(plans, home, capsys):
    home.mkdir()
    (home / FILE_NAME).write_text("no database at all, " * 100)
    assert cli.main([*BENCH, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["runs"]) == 2
    assert captured.err.count("labkit: the history") == 1


def test_peers_stand_beside_recipes_in_one_session(plans):
    assert cli.main(["peers", "--recipe", "kv_cache"]) == 0
    (plan,) = plans
    assert plan.recipes[-1] == "kv_cache"
    assert all(recipe.startswith("peer:") for recipe in plan.recipes[:-1])


def test_a_peer_that_lacks_a_package_is_left_out_with_a_note(plans, monkeypatch, capsys):
    from labkit.ui import measuring

    monkeypatch.setattr(measuring, "find_spec", lambda package: package not in ("torchao", "llama_cpp") or None)
    assert cli.main(["peers", "--recipe", "kv_cache"]) == 0
    assert [recipe.partition("(")[0] for recipe in plans[0].recipes] == ["peer:transformers"] * 2 + ["kv_cache"]
    assert "labkit: peer torchao is not measured; not installed: torchao\n" in capsys.readouterr().err


def test_a_curve_is_measured_told_and_written_with_its_laws(plans, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("labkit.core.machine.usable_cores", lambda: 4)
    target = tmp_path / "scaling.json"
    assert cli.main(["scaling", "--recipe", "kv_cache", "--no-gil", "--json", str(target)]) == 0
    recipes = plans[-1].recipes
    assert [recipe.rpartition(" + ")[2] for recipe in recipes[4:]] == [
        "replicas(num=1)", "replicas", "replicas(num=3)", "replicas(num=4)",
    ]  # fmt: skip
    written = json.loads(target.read_text())
    assert list(written["scaling"]["replicas"]["rates"]) == ["1", "2", "3", "4"]
    assert written["scaling"]["threads"]["fits"]["USL"]["num_points"] == 4
    assert written["gil"] is None
    assert "Amdahl's law over threads" in capsys.readouterr().out


def test_a_prefix_is_saved_of_a_text_or_of_what_a_workload_shares(home, tiny_model, tmp_path, capsys):
    (tmp_path / "faq.txt").write_text("How do I measure? " * 8)
    recipe = ["--model", tiny_model, "--recipe", "kv_cache(block_size=16) + prefix_cache"]
    assert cli.main(["prefix", "faq", *recipe, "--text", str(tmp_path / "faq.txt")]) == 0
    assert cli.main(["prefix", "shared", *recipe, "--tokens", "100"]) == 0
    assert capsys.readouterr().err.count("wrote ") == 2
    for name, num_tokens in (("faq", 144), ("shared", 96)):
        path = home / "cache" / "prefixes" / f"{name}.safetensors"
        with safe_open(path, framework="np") as file:
            assert file.get_slice("tokens").get_shape() == [num_tokens]


def test_the_catalog_lists_every_technique_with_its_knobs(capsys):
    assert cli.main(["catalog", "--json"]) == 0
    techniques = {item["name"]: item for item in json.loads(capsys.readouterr().out)["optimizations"]}
    assert techniques["quantize"]["knobs"]["bits"]["choices"] == [8, 4]
    assert cli.main(["catalog"]) == 0
    assert "kv_cache" in capsys.readouterr().out


def test_lab_becomes_a_jupyterlab_that_only_this_machine_can_reach(monkeypatch, tmp_path):
    pytest.importorskip("jupyterlab", reason="the extra notebooks is not installed")
    (tmp_path / "00_first.ipynb").touch()
    started = []
    monkeypatch.setattr(os, "execve", lambda path, command, environment: started.append([path, *command]))
    assert cli.main(["lab", "--folder", str(tmp_path), "--port", "8123", "--no-browser"]) == 0
    (command,) = started
    assert command[0] == command[1] == sys.executable
    assert command[4] == str(tmp_path)
    assert {"--ServerApp.ip=127.0.0.1", "--ServerApp.port=8123", "--LabApp.news_url=None", "--no-browser"} <= {*command}


def test_lab_serves_the_documents_that_lessons_link_to_and_opens_on_the_lessons(tmp_path):
    pytest.importorskip("jupyterlab", reason="the extra notebooks is not installed")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    assert lab_command(folder)[3] == str(folder)
    (tmp_path / "docs").mkdir()
    assert lab_command(folder)[3] == str(tmp_path)
    assert f"--ServerApp.preferred_dir={folder}" in lab_command(folder)


def test_lab_without_notebooks_or_without_jupyter_is_one_line(monkeypatch, tmp_path, capsys):
    assert cli.main(["lab", "--folder", str(tmp_path)]) == 2
    assert "call this in a checkout or give --folder" in capsys.readouterr().err
    (tmp_path / "00_first.ipynb").touch()
    monkeypatch.setattr("labkit.ui.jupyter.find_spec", lambda name: None)
    assert cli.main(["lab", "--folder", str(tmp_path)]) == 2
    assert "not installed here: ipywidgets, jupyterlab; install them" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("labkit ")


def test_help_needs_no_heavy_package():
    code = (
        "import sys; from labkit.cli import main; main(['--help']); "
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout


@pytest.mark.parametrize(
    ("name", "told"), [("RANK", None), ("RANK", "x"), ("MASTER_ADDR", None), ("MASTER_PORT", "-1")]
)
def test_half_of_what_torchrun_tells_is_one_line_that_names_the_variable(name, told, monkeypatch, capsys):
    for variable in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv(name, told) if told else monkeypatch.delenv(name)
    assert cli.main(["catalog"]) == 2
    error = capsys.readouterr().err
    assert f"{name} is {told or ''!r}; start it with torchrun" in error
    assert error.count("\n") == 1


def run_module(*arguments, **changes):
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), **changes.pop("env", {})}
    command = [sys.executable, "-m", "labkit", *arguments]
    return subprocess.run(
        command, check=False, text=True, timeout=60, env=environment, stderr=subprocess.PIPE, **changes
    )


@pytest.mark.parametrize("arguments", [["catalog"], ["catalog", "--json"]])
def test_a_full_disk_below_stdout_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        done = run_module(*arguments, stdout=full)
    assert (done.returncode, done.stderr) == (
        1,
        "labkit: No space left on device for what was to be written; free space\n",
    )


def test_a_reader_of_stdout_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        done = run_module("catalog", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_that_knows_few_characters_is_told_all_the_same():
    done = run_module("catalog", stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout


def test_a_byte_on_stdin_that_is_no_text_is_a_wrong_answer(tmp_path):
    (tmp_path / "answers").write_bytes(b"\xff\n")
    strict = {"PYTHONIOENCODING": "utf-8:strict", "LABKIT_HOME": str(tmp_path)}
    with open(tmp_path / "answers") as answers:
        done = run_module("interview", "amdahl_here", stdin=answers, stdout=subprocess.DEVNULL, env=strict)
    assert done.returncode == 2
    assert done.stderr.startswith("labkit: answer '\ufffd' cannot be read")


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "labkit", "nope"], check=False, capture_output=True, timeout=60)
    assert done.returncode == 2


def test_the_doctor_shows_ceilings_in_units_and_as_json(home, monkeypatch, capsys):
    from labkit.bench import ceilings
    from labkit.bench.ceilings import Ceilings

    points = ((2.0**20, 100e9), (2.0**30, 50e9))
    known = Ceilings("Example CPU", "measured", points, {"fp32": 40e9}, dispatch_s=2e-6)
    monkeypatch.setattr(ceilings, "ceilings", lambda *_: known)
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("50.0 GB/s", "40.0 GFLOP/s", "2.00 µs", str(home)))
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ceilings"]["dispatch_s"] == 2e-6


def test_the_doctor_shows_what_a_gpu_can_do_where_there_is_one(home, monkeypatch, capsys):
    from labkit.bench import ceilings
    from labkit.bench.ceilings import DATASHEETS
    from labkit.optimizations import Need
    from labkit.ui import inventory

    known = {"cpu": replace(DATASHEETS["A100"], link_bytes_per_s=None, dispatch_s=2e-6), "cuda": DATASHEETS["H100"]}
    known["cuda"] = replace(known["cuda"], dispatch_s=5e-6)
    monkeypatch.setattr(ceilings, "ceilings", lambda device, *_: known[device])
    monkeypatch.setattr(inventory, "CUDA", Need("cuda", lambda: ""))
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("Ceilings of the GPU", "64.0 GB/s", "5.00 µs"))
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu_ceilings"]["name"] == DATASHEETS["H100"].name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--batch", "-3"], "labkit: Invalid value for '--batch'"),
        (["bench", "--recipe"], "labkit: Option '--recipe' requires an argument;"),
        (["nonsense"], "labkit: No such command 'nonsense';"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_similar_finds_docstrings_and_is_quick_from_then_on(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["similar", "how do I read a file line by line", "--count", "3", "--json"]
    assert cli.main(asked) == 0
    found = json.loads(capsys.readouterr().out)["matches"]
    assert len(found) == 3
    assert any(match["name"].startswith("fileinput.") for match in found)
    assert cli.main(asked) == 0
    assert json.loads(capsys.readouterr().out)["matches"] == found


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["xyzzy"], "none of its words is in the corpus"),
        ([""], "it is empty"),
        (["file", "--count", "0"], "the 0 most similar texts were asked for"),
        (["file", "--rank", "999999"], "rank 999999 was asked for"),
        (["file", "--corpus", "absent.csv"], "'absent.csv' cannot be read"),
    ],
)
def test_what_similar_cannot_find_is_one_line(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["similar", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (b"", [], "holds no text"),
        (b"body,topic\nopen a file,io\n", [], "unknown column in row 1 of texts.csv 'text'; allowed: body, topic"),
        (b"text\nopen a file\nferm\xe9\n", [], "texts.csv, line 3: byte 0xe9 is not UTF-8"),
        (b"text\n!?\n", [], "no word is in any"),
        (b"," * 1_000_000 + b"\n", [], "has 1,000,001 columns; allowed: at most 1,000"),
        (b"text\nopen a file\n", ["--rank", "128"], "rank 128 was asked for of a matrix of 1 texts"),
    ],
)
def test_a_corpus_that_cannot_be_searched_is_one_line(
    content: bytes, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.csv").write_bytes(content)
    assert cli.main(["similar", "a file", "--corpus", str(tmp_path / "texts.csv"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    """Texts of two topics that single words tell apart."""
    path = tmp_path / "topics.csv"
    rows = [f"{a} and {b} with {a},{topic}" for topic, words in TOPICS.items() for a in words for b in words if a != b]
    path.write_text("body,topic\n" + "\n".join(rows))
    return path


TOPICS = {"sea": ["ship", "sail", "wave", "tide"], "kitchen": ["pan", "oven", "bread", "salt"]}


def test_classify_answers_and_tells_how_often_it_is_right(topics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["classify", "a ship and a wave", "--corpus", str(topics), "--text", "body", "--label", "topic", "--scores"]
    assert cli.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (answer,) = found["answers"]
    assert set(answer["probabilities"]) == set(TOPICS)
    assert answer["topic"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert {"RNN, gru cells", "always the most frequent topic"} <= found["scores"].keys()
    assert cli.main(asked) == 0
    shown = capsys.readouterr().out
    assert "Confusion" in shown
    assert "points of accuracy" in shown


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "a text was to be classified, none was given"),
        (["", "--label", "topic"], "it holds no word"),
        (["xyzzy", "--label", "topic"], "none of its words is in the vocabulary"),
        (["the ship", "--label", "absent"], "body, topic"),
        (["the ship", "--cell", "transformer"], "allowed: simple, gru, lstm"),
        (["the ship"], "two classes or more"),
    ],
)
def test_what_classify_cannot_do_is_one_line(
    more: list[str], told: str, topics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["classify", *more, "--corpus", str(topics), "--text", "body"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
