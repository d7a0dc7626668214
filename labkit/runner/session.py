"""Session: measures the entries of a Plan against each other, each in its own process, and keeps the Runs."""

import math
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

from labkit.core import paths
from labkit.core.effort import EFFORTS
from labkit.core.errors import StoreError
from labkit.core.inference import smallest_resolving_blocks
from labkit.core.machine import machine
from labkit.core.run import Run
from labkit.processes.crew import Cancelled, Crew
from labkit.processes.process import WorkerProcess
from labkit.runner.blocks import Live, Round, pass_of
from labkit.runner.memory import Need, plan_rounds
from labkit.runner.plan import Plan, Progress
from labkit.runner.store import Store
from labkit.runner.subject import Header, Subject
from labkit.runner.target import Order

WORKER_COMMAND = (sys.executable, "-P", "-m", "labkit.runner.worker")

_STAGE_TIMEOUT_S = 3600.0  # to load or warm up the largest model on the slowest machine
_PROGRESS_INTERVAL_S = 0.5
_DRAWING_S = 0.1  # of a screen that shows progress, before something is measured
_CHECKPOINT_INTERVAL_S = 2.0
_FORKED = ("torch",)  # tensorflow's threads do not outlive a fork
_MAX_RERUNS = 1.0  # of the blocks: on a machine that disturbs more than every second one, nothing can be said

OnProgress = Callable[[Progress], None]


class Session:
    """Measures Plans.

    `warnings` of the last `measure` say what could not be kept. `worker_command` starts a worker process, with
    `environment` on top of this process's own.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        cache_folder: Path | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self._store = store
        self._cache_folder = cache_folder
        self._worker_command = worker_command
        self._environment = environment or {}

    def measure(
        self, plan: Plan, *, on_progress: OnProgress | None = None, cancel: threading.Event | None = None
    ) -> tuple[Run, ...]:
        """Measure every entry of the plan and return its Runs, in the order of `plan.entries`, all in one group.

        A worker that dies leaves an interrupted or failed Run; the others go on. After `cancel` is set, everything is
        ended and the Runs are interrupted. Progress is reported from this thread, at most twice a second, and then
        nothing is measured until a screen has had the time to draw it.

        Raises:
            UsageError: an entry cannot be measured as asked. LabkitError: the reference could not be computed.
        """
        self.warnings = []
        measurement = _Measurement(
            plan, self._cache_folder or paths.cache_folder(), _Report(on_progress), keep=self._keep
        )
        with Crew(self._worker_command, self._environment, cancel or threading.Event()) as crew:
            try:
                measurement.run(crew)
            except (Cancelled, KeyboardInterrupt) as reason:
                measurement.interrupt()
                if isinstance(reason, KeyboardInterrupt):
                    raise
        return measurement.runs()

    def _keep(self, run: Run) -> None:
        if self._store is None:
            return
        try:
            self._store.add(run)
        except StoreError as error:  # the measurement is worth more than its history: it is still returned
            if str(error) not in self.warnings:
                self.warnings.append(str(error))


class _Measurement:
    """One call of `measure`."""

    def __init__(self, plan: Plan, cache_folder: Path, report: "_Report", *, keep: Callable[[Run], None]) -> None:
        self._plan, self._effort, self._report, self._keep = plan, EFFORTS[plan.effort], report, keep
        self._subjects = [Subject(entry, position) for position, entry in enumerate(plan.entries)]
        self._orders = {
            subject: Order(plan.model, subject.entry.device, subject.entry.recipe, str(cache_folder), plan.system)
            for subject in self._subjects
        }
        for device in plan.devices:
            described = machine(device)
        self._header = Header(
            model={"name": plan.model},
            machine=described.to_dict(),
            spec=plan.spec,
            effort=plan.effort,
            sweep=plan.sweep,
        )
        self._rng = random.Random(f"{plan.seed}/order")
        self._indices = count()  # of the workload's draws: no two blocks share a prompt
        # fewer observations than this could not tell any of so many candidates apart from chance, whatever they showed
        self._least = smallest_resolving_blocks(max(1, len(self._subjects) - 1))
        self._next_block = 0
        self._last_checkpoint_s = time.monotonic()

    def run(self, crew: Crew) -> None:
        """Find out what fits, compute the reference, then measure one round after another."""
        self._report(0.0, f"opening {self._plan.model}")
        scout = crew.start("scout", preloaded=self._preloaded(self._subjects[0]))
        forecast = crew.ask(
            scout,
            "forecast",
            timeout_s=_STAGE_TIMEOUT_S,
            orders=[order.to_dict() for order in self._orders.values()],
            spec=self._plan.spec.to_dict(),
        )
        self._header = replace(self._header, model=forecast["model"])
        needs = [Need(**need) for need in forecast["needs"]]
        groups = plan_rounds(needs, forecast["free_bytes"])
        num_processes = self._effort.num_processes
        if num_processes > 1:  # each is one observation
            num_processes = max(num_processes, self._least)
        rounds = [[self._subjects[i] for i in group] for group in groups for _ in range(num_processes)]
        first = self._start(crew, rounds[0])  # they import what they need while the scout computes the reference
        self._prove(crew, scout)
        for number, subjects in enumerate(rounds):
            self._report.enter(number, len(rounds))
            lives = self._open(crew, first if number == 0 else self._start(crew, subjects))
            if lives:
                self._measure(Round(crew, lives, rng=self._rng, indices=self._indices), number)
            crew.close([live.worker for live in lives if live.subject.is_measuring])  # others have ended already
            for subject in subjects:
                if not any(subject in later for later in rounds[number + 1 :]):
                    self._finish(subject, "done")

    def interrupt(self) -> None:
        """Settle what was not finished."""
        for subject in self._subjects:
            self._finish(subject, "interrupted", "cancelled")

    def runs(self) -> tuple[Run, ...]:
        """A Run for every entry."""
        return tuple(subject.run(self._header) for subject in self._subjects)

    def _start(self, crew: Crew, subjects: Sequence[Subject]) -> list[Live]:
        """Workers for those that are still to be measured, all importing at once."""
        lives = [
            Live(subject, crew.start(subject.entry.label, preloaded=self._preloaded(subject)))
            for subject in subjects
            if subject.is_measuring
        ]
        for live in lives:
            live.worker.send("prepare", order=self._orders[live.subject].to_dict())
        return lives

    def _preloaded(self, subject: Subject) -> tuple[str, ...]:
        """What a glance, which compares nothing, spares a worker the import of.

        Others start every worker anew: interpreters of their own have places in memory of their own, so that the luck
        of one is not everyone's, and count the pages of their libraries as theirs.
        """
        if self._effort.can_compare:
            return ()
        framework = self._orders[subject].framework
        return (framework,) if framework in _FORKED else ()

    def _prove(self, crew: Crew, scout: WorkerProcess) -> None:
        """Have the reference computed, on each device, and note what it says of each recipe's exact part."""
        self._report(0.02, "computing the reference")
        for device in dict.fromkeys(self._plan.devices):
            orders = {subject: order for subject, order in self._orders.items() if order.device == device}
            answer = crew.ask(
                scout,
                "reference",
                timeout_s=_STAGE_TIMEOUT_S,
                orders=[order.to_dict() for order in orders.values()],
                effort=self._plan.effort,
            )
            for subject, order in orders.items():
                subject.proof = answer["proofs"].get(order.recipe)
        crew.close([scout])

    def _open(self, crew: Crew, lives: Sequence[Live]) -> list[Live]:
        """Build and warm up one after another, so that none disturbs the other; returns those that are ready."""
        spec, effort = self._plan.spec.to_dict(), self._plan.effort
        for number, live in enumerate(lives):
            subject = live.subject
            with subject.guard():
                self._report(0.05 + 0.1 * number / len(lives), f"loading {subject.entry.label}")
                crew.ask(live.worker, "load", timeout_s=_STAGE_TIMEOUT_S, order=self._orders[subject].to_dict())
        warm = []
        for number, live in enumerate(lives):
            subject = live.subject
            if not subject.is_measuring:
                continue
            with subject.guard():
                self._report(0.15 + 0.25 * number / len(lives), f"warming up {subject.entry.label}")
                answer = crew.ask(
                    live.worker,
                    "warm",
                    timeout_s=_STAGE_TIMEOUT_S,
                    spec=spec,
                    effort=effort,
                    is_first=not subject.ready,
                )
                subject.warm(answer)
                warm.append(replace(live, calibrations_s=answer["calibrations_s"]))
        return warm

    def _measure(self, lap: Round, process: int) -> None:
        """Measure blocks until there are enough that nothing disturbed."""
        num_blocks = self._num_blocks([live.subject for live in lap.live])
        num_spare = max(1, int(_MAX_RERUNS * num_blocks)) if self._effort.can_compare else 0
        num_done = 0
        while num_done < num_blocks and lap.live:
            if self._report(0.4 + 0.6 * num_done / num_blocks, f"block {num_done + 1} of {num_blocks}"):
                time.sleep(_DRAWING_S)
            block = lap.block()
            if block.is_disturbed and num_spare:
                num_spare -= 1
                continue
            for subject, answer in block.answers.items():
                subject.keep(
                    pass_of(self._next_block, answer, process),
                    block.calibrations,
                    machine_noise=lap.noise,
                    peak_memory_bytes=answer["peak_memory_bytes"],
                )
            self._next_block += 1
            num_done += 1
            self._checkpoint(lap)

    def _num_blocks(self, subjects: Sequence[Subject]) -> int:
        """Blocks in one process, from pass times of the first one's warm-up, so before anything is compared."""
        num_blocks = self._effort.num_blocks(max((one.pass_s for one in subjects), default=0.0))
        is_settled = self._effort.num_processes > 1 or not self._effort.can_compare
        return num_blocks if is_settled else max(num_blocks, self._least)

    def _checkpoint(self, lap: Round) -> None:
        """Keep what was measured so far, now and then, so that it outlives a kill of this process."""
        now_s = time.monotonic()
        if now_s - self._last_checkpoint_s >= _CHECKPOINT_INTERVAL_S:
            self._last_checkpoint_s = now_s
            for live in lap.live:
                self._keep(live.subject.run(self._header))

    def _finish(self, subject: Subject, status: Literal["done", "interrupted"], error: str = "") -> None:
        subject.stop(status, error)
        if subject.passes or subject.error:
            self._keep(subject.run(self._header))


class _Report:
    """Tells the caller how far a measurement is, at most twice a second."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._low, self._span = 0.0, 1.0
        self._last_s = -math.inf

    def enter(self, number: int, num_rounds: int) -> None:
        """From now on fractions are those of this round."""
        self._low, self._span = number / num_rounds, 1 / num_rounds

    def __call__(self, fraction: float, text: str) -> bool:
        """Whether the caller was told."""
        now_s = time.monotonic()
        if self._on_progress is None or now_s - self._last_s < _PROGRESS_INTERVAL_S:
            return False
        self._last_s = now_s
        self._on_progress(Progress(self._low + self._span * fraction, text))
        return True
