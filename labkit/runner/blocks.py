"""Blocks: passes of live subjects in random order, each subject once a block, with a watch on the machine itself."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labkit.bench.measure import change_noise, machine_noise
from labkit.bench.validity import Calibrations, block_is_disturbed
from labkit.core.run import Pass
from labkit.core.trace import Trace
from labkit.processes.crew import Crew
from labkit.processes.process import Event, WorkerProcess
from labkit.runner.subject import Subject

_ANSWER_TIMEOUT_S = 60.0
_SLOWNESS = 20.0  # a pass that takes so many times its usual is given up


@dataclass(frozen=True)
class Live:
    """A subject and the worker that serves it, with what the warm-up saw of the machine."""

    subject: Subject
    worker: WorkerProcess
    calibrations_s: Sequence[float] = ()


@dataclass(frozen=True)
class Block:
    """One pass of each subject that is alive, and the calibrations around them."""

    answers: Mapping[Subject, Event]
    calibrations: Calibrations
    is_disturbed: bool


class Round:
    """Subjects that are loaded and warm at the same time; their passes never overlap."""

    def __init__(self, crew: Crew, lives: Sequence[Live], *, rng: random.Random, indices: Iterator[int]) -> None:
        self._crew, self._lives, self._rng, self._indices = crew, lives, rng, indices
        self._pilot_noise = machine_noise([live.calibrations_s for live in lives])
        self._calibrations_s: list[float] = []
        self._calibrate()

    @property
    def live(self) -> list[Live]:
        """Those that are still to be measured."""
        return [live for live in self._lives if live.subject.is_measuring]

    @property
    def noise(self) -> float:
        """Relative noise of the calibration kernel: while the subjects warmed up, or between blocks if that is more."""
        return max(self._pilot_noise, change_noise(self._calibrations_s))

    def block(self) -> Block:
        """Measure every live subject once, all on the same prompts; one that dies is left out from then on."""
        index, order, before_s = next(self._indices), self.live, self._calibrated_s
        self._rng.shuffle(order)
        answers = {}
        for live in order:
            subject = live.subject
            timeout_s = _ANSWER_TIMEOUT_S + _SLOWNESS * subject.pass_s
            with subject.guard():
                answers[subject] = self._crew.ask(
                    live.worker,
                    "pass",
                    timeout_s=timeout_s,
                    index=index,
                    token_share=subject.token_share,
                    repeats=subject.repeats,
                )
        calibrations = before_s, self._calibrate()
        passes = [pass_of(index, answer) for answer in answers.values()]
        is_disturbed = block_is_disturbed(calibrations, passes, machine_noise=self.noise)
        return Block(answers, calibrations, is_disturbed)

    def _calibrate(self) -> float:
        """Seconds of the fixed kernel, in the first worker that is alive; as before where none is."""
        for live in self.live:
            with live.subject.guard():
                answer = self._crew.ask(live.worker, "calibrate", timeout_s=_ANSWER_TIMEOUT_S)
                self._calibrations_s.append(float(answer["seconds"]))
                break
        return self._calibrated_s

    @property
    def _calibrated_s(self) -> float:
        return self._calibrations_s[-1] if self._calibrations_s else math.nan


def pass_of(block: int, answer: Event, process: int = 0) -> Pass:
    """The Pass that a worker's answer tells of."""
    return Pass(block, Trace.of(answer["trace"]), answer["contention"], process)
