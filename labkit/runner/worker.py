"""Worker: the process in which one recipe is built and measured, and nothing else happens.

    python -m labkit.runner.worker

Commands on stdin, events on stdout, one JSON line each:

    prepare   {order}                   imports only; no answer
    forecast  {orders, spec}            → forecast {model, needs, free_bytes}
    reference {orders, effort}          → proofs {proofs}
    load      {order}                   → loaded
    warm      {spec, effort, is_first}  → ready {pass_s, token_share, repeats, calibrations_s, build, quality, cost,
                                                 limit, prediction}
    pass      {index, token_share, repeats} → trace {trace, contention, peak_memory_bytes}
    calibrate                           → calibration {seconds}
    close                               → closed, after which there is nothing left that a kill could spoil

An error is one event {kind: "usage" | "died" | "failed", text}, after which the worker ends.
"""

import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from labkit.core.workload import WorkloadSpec
from labkit.processes.channel import Channel, error_event
from labkit.runner.memory import forget_peak_memory, peak_memory_bytes
from labkit.runner.target import Opener, Order, Target, TargetOpener


class Worker:
    """Answers the commands of one session, about one target."""

    def __init__(self, channel: Channel, opener: Opener) -> None:
        self._channel = channel
        self._opener = opener
        self._stack = ExitStack()
        self._order: Order
        self._target: Target
        self._spec: WorkloadSpec

    def run(self) -> None:
        """Answer until told to close."""
        verbs: dict[str, Callable[..., None]] = {
            "prepare": self._prepare,
            "forecast": self._forecast,
            "reference": self._reference,
            "load": self._load,
            "warm": self._warm,
            "pass": self._pass,
            "calibrate": self._calibrate,
        }
        with self._stack:
            for command in self._channel.commands():
                name = command.pop("command")
                if name == "close":
                    break
                verbs[name](**command)
        self._channel.send("closed")

    def _prepare(self, *, order: dict[str, str]) -> None:
        self._opener.prepare(Order(**order))

    def _forecast(self, *, orders: list[dict[str, str]], spec: dict[str, Any]) -> None:
        forecast = self._opener.forecast([Order(**order) for order in orders], WorkloadSpec(**spec))
        self._channel.send("forecast", **asdict(forecast))

    def _reference(self, *, orders: list[dict[str, str]], effort: str) -> None:
        proofs = self._opener.reference([Order(**order) for order in orders], effort=effort)
        self._channel.send("proofs", proofs=proofs)

    def _load(self, *, order: dict[str, str]) -> None:
        self._order = Order(**order)
        self._target = self._stack.enter_context(self._opener.open(self._order))
        self._channel.send("loaded")

    def _warm(self, *, spec: dict[str, Any], effort: str, is_first: bool) -> None:
        """Warm up, then gather everything a Run says besides its passes; its first process says all of it."""
        from labkit.bench.ceilings import ceilings
        from labkit.bench.limit import limit, predict
        from labkit.bench.link import Link
        from labkit.bench.measure import settle, shortened, warm_up

        self._spec = WorkloadSpec(**spec)
        system, device = self._target.system, self._order.device
        system.prepare(self._spec.draw(-1))  # all of it has to fit, even where passes run a share of it
        warmup = warm_up(system, self._spec, effort=effort, is_known=not is_first)
        facts = {**system.facts(), **self._target.process, "load_s": self._target.load_s}
        cost = system.cost(shortened(self._spec, warmup.token_share))  # of the work that measured passes do
        # a System that states no cost, as other projects' engines, has neither limit nor prediction
        has_roof = is_first and cost.phases
        folder = Path(self._order.cache_folder)
        roof = ceilings(device, folder, facts.get("threads")) if has_roof else None
        if roof is not None:
            elsewhere = {phase.device for phase in cost.phases.values() if phase.device}
            roof = replace(roof, others={other: ceilings(other, folder) for other in elsewhere})
        quality = dict(system.quality(effort)) if is_first else {}
        if quality and device != "cpu":
            settle(system, self._spec, token_share=warmup.token_share)  # the cache grew, which ends a GPU's graphs
        link = Link(**facts["link"]) if "link" in facts else None
        forget_peak_memory(device)  # what building, quality and ceilings took for a moment is not what serving takes
        self._channel.send(
            "ready",
            pass_s=warmup.pass_s,
            token_share=warmup.token_share,
            repeats=warmup.repeats,
            calibrations_s=warmup.calibrations_s,
            build={**facts, "warmup_s": warmup.warmup_s, "is_steady": warmup.is_steady},
            quality=quality,
            cost=cost.to_dict() if cost.phases else None,
            limit=limit(cost, roof, prompt_tokens=self._spec.num_prompt_tokens) if roof else None,
            prediction=predict(cost, roof, facts.get("kernels_by_phase"), link) if roof else None,
        )

    def _pass(self, *, index: int, token_share: float, repeats: int) -> None:
        from labkit.bench.measure import measure_pass

        system = self._target.system
        trace, contention = measure_pass(system, self._spec, index, token_share=token_share, repeats=repeats)
        peak_bytes = peak_memory_bytes(self._order.device)
        self._channel.send("trace", trace=trace.to_dict(), contention=contention, peak_memory_bytes=peak_bytes)

    def _calibrate(self) -> None:
        from labkit.bench.measure import calibrate

        self._channel.send("calibration", seconds=calibrate())


def main(opener: Opener) -> int:
    """Serve one session; returns the exit status."""
    channel = Channel()
    try:
        Worker(channel, opener).run()
    except Exception as error:  # whatever a model or a library raises is this Run's answer, not a crash of the lab
        traceback.print_exc()
        channel.send("error", **error_event(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(TargetOpener()))
