"""Lab: a System, a model, devices and a workload, and the verbs on them: run, compare, look back, report.

from labkit import Lab

lab = Lab(model="pylm", workload="chat")
lab.run("kv_cache + quantize(bits=8)").frame()
lab.compare(["", "kv_cache", "kv_cache + quantize(bits=8)"])  # the first is the baseline
"""

import threading
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from labkit.core import paths
from labkit.core.effort import effort_of
from labkit.core.errors import StoreError, Unavailable, UsageError
from labkit.core.run import Run
from labkit.core.workload import Changes, Request, WorkloadSpec, resized
from labkit.core.workload import workload as named_workload
from labkit.runner.plan import Plan
from labkit.runner.session import WORKER_COMMAND, OnProgress, Session
from labkit.runner.store import FILE_NAME, Store
from labkit.runner.systems import DEFAULT_MODEL, DEFAULT_RECIPES, DEFAULT_WORKLOAD, ENGINE, check_system

if TYPE_CHECKING:
    import pandas as pd

    from labkit.bench.comparison import Comparison
    from labkit.bench.gil import GilShare
    from labkit.ui.frontier import Frontier
    from labkit.ui.panel.panel import Panel

_COLUMNS = ("id", "group", "created_utc", "model", "workload", "device", "recipe", "effort", "state")
_METRICS = ("output_tok_per_s", "requests_per_s", "ttft_s", "tpot_s", "e2e_s")


class Lab:
    """Measures recipes of one model under one workload.

    Args:
        system: "engine" (language models) or a System of texts: "similarity", "classifier".
        model: "pylm", a named shape, a checkpoint folder or a hub name; of a System of texts the corpus: "stdlib" or a
            file, see `text.corpus.open_corpus`. Without one the System's default.
        devices: "cpu", "cuda", or both in a list; every recipe is measured on each.
        workload: a name, or a WorkloadSpec of your own; without one the System's default.
        effort: "glance", "quick", "standard" or "rigorous"; the variable LABKIT_EFFORT overrules it.
        home: folder of the history and the caches; default: $LABKIT_HOME.
        changes: fields of the workload to replace, such as `rate_per_s=4.0` or `prompt_tokens=(16, 256)`; see
            `core.workload.Changes`, and `core.replay.read_replay` for `replay`.

    Raises:
        UsageError: no such system or workload, or one that cannot be.
    """

    def __init__(
        self,
        *,
        system: str = ENGINE,
        model: str | None = None,
        devices: str | Sequence[str] = ("cpu",),
        workload: str | WorkloadSpec | None = None,
        effort: str = "quick",
        home: str | Path | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        **changes: Unpack[Changes],
    ) -> None:
        self.system = check_system(system)
        self.model = DEFAULT_MODEL[system] if model is None else model
        self.devices = (devices,) if isinstance(devices, str) else tuple(devices)
        self.effort = effort_of(effort)
        workload = DEFAULT_WORKLOAD[system] if workload is None else workload
        spec = workload if isinstance(workload, WorkloadSpec) else named_workload(workload)
        self.spec = resized(spec, **changes) if changes else spec
        self.home = paths.home() if home is None else Path(home)
        self.problems: tuple[str, ...] = ()  # why the history lacks what was measured last
        self._worker_command = worker_command
        self._runs: tuple[Run, ...] = ()

    def replace(
        self,
        *,
        model: str | None = None,
        devices: str | Sequence[str] | None = None,
        workload: str | WorkloadSpec | None = None,
        effort: str | None = None,
    ) -> Self:
        """A Lab with some settings replaced, over the same history; LABKIT_EFFORT overrules an effort here, too.

        Raises:
            UsageError: no such workload.
        """
        return type(self)(
            system=self.system,
            model=self.model if model is None else model,
            devices=self.devices if devices is None else devices,
            workload=self.spec if workload is None else workload,
            effort=self.effort if effort is None else effort,
            home=self.home,
            worker_command=self._worker_command,
        )

    def run(
        self, recipe: str = "", *, on_progress: OnProgress | None = None, cancel: threading.Event | None = None
    ) -> Run:
        """Measure one recipe, on the first device.

        Raises:
            UsageError: the recipe, the model or the device cannot be had.
        """
        return self._measure((recipe,), self.devices[:1], on_progress, cancel)[0]

    def measure(
        self,
        recipes: Sequence[str],
        *,
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
        warn: bool = True,
    ) -> tuple[Run, ...]:
        """Measure recipes against each other on every device, interleaved; the first of them is the baseline.

        A history that cannot be written is told in `problems`, and with `warn` by a Python warning; the Runs are
        returned all the same.

        Raises:
            UsageError: a recipe, the model or a device cannot be had.
        """
        return self._measure(tuple(recipes), self.devices, on_progress, cancel, warn=warn)

    def compare(
        self, recipes: Sequence[str], *, on_progress: OnProgress | None = None, cancel: threading.Event | None = None
    ) -> "Comparison":
        """Measure recipes and decide for each whether it is faster than the first.

        Raises:
            UsageError: a recipe, the model or a device cannot be had.
        """
        from labkit.bench.comparison import compare

        return compare(self.measure(recipes, on_progress=on_progress, cancel=cancel))

    def sweep(
        self,
        recipes: Sequence[str],
        *,
        rates: Sequence[float | str] = ("auto",),
        num_requests: int | None = None,
        ttft_limit_s: float = 0.5,
        tpot_limit_s: float = 0.05,
        name: str = "sweep",
        on_progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
        warn: bool = True,
    ) -> "Frontier":
        """Measure recipes at rising rates, in requests per second, or find the rate that each keeps up with ("auto").

        A pass has `num_requests` requests, 64 without a number, or all that a replay has recorded. Cells that the
        history knows under this name from this machine are not measured again, so what was stopped can be gone on with.
        Cells that failed are told in `problems`, and with `warn` by Python warnings.

        Raises:
            UsageError: a recipe, the model, a device or a rate cannot be had. StoreError: the history cannot be kept.
        """
        from labkit.core.goodput import Limits
        from labkit.runner.sweep import NUM_REQUESTS, Sweep, sweep_cells
        from labkit.ui.frontier import Frontier

        limits, cancel = Limits(ttft_s=ttft_limit_s, tpot_s=tpot_limit_s), cancel or threading.Event()
        is_replay = bool(self.spec.replay)
        plan = Sweep(
            model=self.model,
            spec=resized(self.spec, rate_per_s=1.0, num_requests=num_requests or (None if is_replay else NUM_REQUESTS)),
            recipes=tuple(recipes),
            rates=tuple(rates),
            devices=self.devices,
            effort=self.effort,
            name=name,
        )
        runs: list[Run] = []
        with Store(self.home / FILE_NAME) as store:
            session = self._session(store)
            for run in sweep_cells(
                plan,
                measure=lambda cell: session.measure(cell, on_progress=on_progress, cancel=cancel),
                known=store.runs(sweep=name),
            ):
                runs.append(run)
                if cancel.is_set():
                    break
        failed = [run for run in runs if run.status == "failed"]
        self.problems = (*session.warnings, *(f"{run.label} on {run.device} failed: {run.error}" for run in failed))
        for problem in self.problems if warn else ():
            warnings.warn(problem, stacklevel=2)
        return Frontier.of(runs, limits)

    def history(self, *, limit: int | None = None) -> "pd.DataFrame":
        """Every stored Run, newest first: one row a Run, without raw samples.

        Raises:
            StoreError: the history cannot be read.
        """
        import pandas as pd

        return pd.DataFrame([_row(run) for run in self.stored(limit=limit)], columns=[*_COLUMNS, *_METRICS])

    def stored(self, *, limit: int | None = None) -> tuple[Run, ...]:
        """Every stored Run, newest first, with its raw samples.

        Raises:
            StoreError: the history cannot be read.
        """
        with Store(self.home / FILE_NAME) as store:
            return store.runs(limit=limit)

    def panel(self, *, recipe: str | None = None, beside: Sequence[str] = ("",)) -> "Panel":
        """Toggles, Run and views in a notebook, with this Lab's settings to begin with.

        Args:
            recipe: what is switched on at first; without one the second of the System's own.
            beside: recipes that every measurement holds besides; the first is the baseline.

        Raises:
            Unavailable: the packages of the extra `notebooks` are not installed.
        """
        try:
            from labkit.ui.panel.panel import Panel
        except ImportError as error:
            raise Unavailable(
                f"a panel was asked for; {error.name} is not installed; remedy: pip install 'labkit[notebooks]'"
            ) from None
        return Panel(self, recipe=DEFAULT_RECIPES[self.system][1] if recipe is None else recipe, beside=beside)

    def report(self, path: str | Path) -> Path:
        """Write a report of what this Lab measured last, in the format of the file's name: html, md, csv or ipynb.

        Raises:
            UsageError: nothing has been measured yet, or the file cannot be of such a format.
        """
        from labkit.ui import document

        if not self._runs:
            raise UsageError("a report was asked for, this Lab has measured nothing; call run or compare first")
        path = Path(path)
        kind = document.report_kind(path)
        document.check_target(str(path))
        document.write_report(self._runs, document.comparisons_of(self._runs), path, kind)
        return path

    def gil(self, recipe: str = "kv_cache", *, num_rounds: int = 7) -> "GilShare":
        """Measure in this process, on the CPU, how much of a recipe's time is Python under the interpreter's lock.

        Two engines in two threads stand against two processes, each engine with one thread inside an operation; the
        prompts are as long as the workload's. See `labkit.bench.gil`.

        Args:
            recipe: without `threads` and `replicas`, which the measurement sets itself.

        Raises:
            UsageError: the recipe or the model cannot be had, or this process may use just one core.
        """
        from labkit.bench.gil import measure_gil
        from labkit.optimizations import bind
        from labkit.optimizations.build import build_system

        one = self.spec.uniform("offline", num_requests=1)
        with ExitStack() as stack:
            systems = []
            for more in ("threads", "threads", "threads + replicas(num=2)"):
                bound = bind(" + ".join(filter(None, (recipe, more))))
                stack.enter_context(bound.process())
                system = build_system(bound, model=self.model, device="cpu", cache_folder=self.home / "cache")
                systems.append(stack.enter_context(closing(system)))
            return measure_gil(systems[:2], systems[2], one, num_rounds=num_rounds)

    def save_prefix(
        self, name: str, *, recipe: str = "kv_cache + prefix_cache", text: str = "", tokens: int = 0, seed: int = 0
    ) -> Path:
        """Compute keys and values in this process, on the first device, and save them for `preload(prefix=name)`.

        Args:
            name: 1 to 64 of the characters a to z, 0 to 9, _ and -.
            recipe: the one that will load it, without `preload`; it must hold `prefix_cache`.
            text: what prompts will begin with.
            tokens: instead of a text, as many of them as a workload with this seed shares between its requests.

        Raises:
            UsageError: both or none of text and tokens are given; the name, the recipe, the model or the device cannot
            be had; or the text fills no block of the cache, or more than the budget holds.
        """
        from labkit.optimizations import bind
        from labkit.optimizations.build import build_engine

        if bool(text) == bool(tokens):
            raise UsageError("a prefix is saved of a text; give either a text or a number of tokens")
        folder, bound = self.home / "cache", bind(recipe)
        paths.prefix_path(folder, name)  # refused before anything is computed
        with (
            bound.process(),
            closing(build_engine(bound, model=self.model, device=self.devices[0], cache_folder=folder)) as engine,
        ):
            if text:
                ids = engine.source.tokenizer.encode(text)
                request = Request(tuple(ids), 1, len(ids))
            else:
                spec = WorkloadSpec("prefix", "single_stream", tokens + 1, 1, shared_prefix_tokens=tokens, seed=seed)
                request = Request(spec.draw(0).requests[0].prefix, 1, tokens)
            return engine.save_prefix(name, request)

    def _session(self, store: Store | None) -> Session:
        return Session(
            store=store,
            cache_folder=self.home / "cache",
            worker_command=self._worker_command,
            environment={"LABKIT_HOME": str(self.home)},
        )

    def _measure(
        self,
        recipes: tuple[str, ...],
        devices: tuple[str, ...],
        on_progress: OnProgress | None,
        cancel: threading.Event | None,
        *,
        warn: bool = True,
    ) -> tuple[Run, ...]:
        plan = Plan(
            model=self.model,
            spec=self.spec,
            recipes=recipes,
            devices=devices,
            effort=self.effort,
            system=self.system,
        )
        self.problems = ()
        try:
            store = Store(self.home / FILE_NAME)
        except StoreError as error:
            store, self.problems = None, (str(error),)
        with store or nullcontext():
            session = self._session(store)
            self._runs = session.measure(plan, on_progress=on_progress, cancel=cancel)
        self.problems += tuple(session.warnings)
        for problem in self.problems if warn else ():
            warnings.warn(problem, stacklevel=3)
        return self._runs


def _row(run: Run) -> dict[str, Any]:
    state = ", ".join(fault.code for fault in run.faults) or run.status
    row = {
        "id": run.id,
        "group": run.group,
        "created_utc": run.created_utc,
        "model": run.model["name"],
        "workload": run.workload["name"],
        "device": run.device,
        "recipe": run.recipe,
        "effort": run.effort,
        "state": "valid" if run.is_valid else state,
    }
    return row | {name: (run.metrics.get(name) or {}).get("value") for name in _METRICS}
