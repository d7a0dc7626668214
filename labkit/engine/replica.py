"""Replica: an Engine that serves a share of the requests, at the other end of a pipe from Replicated.

Commands and their events, one JSON line each; times are seconds on `time.perf_counter`, one clock for all processes:

                                        → opened {threads, batch, reusable_tokens}, once it is built
    prepare  {workload}                 → prepared {prompts}
    begin    {is_more_coming}           → begun, after which a pass runs until `end`:
    request  {index, prompt, num_new}   → done {index, scheduled_s, output_s, output_ids}, in any order
    drain                                 no request will come that a batch could wait for
    end                                 → counted {counters}
    relocate | drop_caches              → moved | dropped
    quality  {effort}                   → quality {quality}
    cost     {spec}                     → cost {cost}
    facts                               → facts {facts}
    close                                 ends it
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from labkit.bench.measure import garbage_kept
from labkit.core.workload import Request, Workload, WorkloadSpec
from labkit.engine.cost import DecoderCost
from labkit.engine.engine import Engine
from labkit.engine.sequence import Sequence
from labkit.processes.channel import Channel


class Replica:
    """Answers the commands of one parent until it is told to close."""

    def __init__(self, engine: Engine, channel: Channel) -> None:
        self._engine, self._channel = engine, channel

    def run(self) -> None:
        """Say that it is there, then answer."""
        engine = self._engine
        self._channel.send(
            "opened", threads=torch.get_num_threads(), batch=batch(engine), reusable_tokens=engine.reusable_tokens
        )
        verbs: dict[str, Callable[..., None]] = {
            "prepare": self._prepare,
            "begin": self._begin,
            "relocate": self._relocate,
            "drop_caches": self._drop_caches,
            "quality": self._quality,
            "cost": self._cost,
            "facts": self._facts,
        }
        for command in self._channel.commands():
            name = command.pop("command")
            if name == "close":
                break
            verbs[name](**command)
        engine.close()

    def _prepare(self, *, workload: dict[str, Any]) -> None:
        prepared = self._engine.prepare(workload_of(workload))
        self._channel.send("prepared", prompts=[ids for _, ids in prepared.requests])

    def _begin(self, *, is_more_coming: bool) -> None:
        with garbage_kept():
            before = self._engine.counters()
            self._channel.send("begun")
            self._serve(is_more_coming=is_more_coming)
            counters = {name: count - before[name] for name, count in self._engine.counters().items()}
        if self._engine.prefixes is not None:
            counters["prefix_bytes"] = float(self._engine.prefixes.num_bytes)
        self._channel.send("counted", counters=counters)

    def _serve(self, *, is_more_coming: bool) -> None:
        """Step through requests as they come; waits for commands only while there is nothing to compute."""
        timeout_s: float | None = None
        while True:
            for command in self._channel.waiting(timeout_s):
                match command["command"]:
                    case "request":
                        prompt, num_new = command["prompt"], command["num_new"]
                        now_s = time.perf_counter()
                        self._engine.scheduler.add(Sequence(command["index"], prompt, num_new, now_s, sent_s=now_s))
                    case "drain":
                        is_more_coming = False
                    case "end":
                        return
            plan = self._engine.step(is_more_coming=is_more_coming, now_s=time.perf_counter)
            for sequence in plan.sequences:
                if sequence.is_finished:
                    self._tell(sequence)
            timeout_s = 0.0 if plan.sequences else plan.wait_s(time.perf_counter())

    def _tell(self, sequence: Sequence) -> None:
        self._channel.send(
            "done",
            index=sequence.index,
            scheduled_s=sequence.scheduled_s,
            output_s=sequence.output_s,
            output_ids=sequence.outputs,
        )

    def _relocate(self) -> None:
        self._engine.relocate()
        self._channel.send("moved")

    def _drop_caches(self) -> None:
        self._engine.drop_caches()
        self._channel.send("dropped")

    def _quality(self, *, effort: str) -> None:
        self._channel.send("quality", quality=self._engine.quality(effort))

    def _cost(self, *, spec: dict[str, Any]) -> None:
        self._channel.send("cost", cost=self._engine.cost(WorkloadSpec(**spec)).to_dict())

    def _facts(self) -> None:
        self._channel.send("facts", facts=self._engine.facts())


def batch(engine: Engine) -> int:
    """Requests that it runs together at most."""
    any_spec = WorkloadSpec("any", "offline", prompt_tokens=1, new_tokens=1)
    return engine.adjust_cost(DecoderCost.baseline(engine.source.config, any_spec)).batch


def workload_of(fields: dict[str, Any]) -> Workload:
    """The inverse of `dataclasses.asdict`, after JSON has turned tuples into lists."""
    requests = (
        Request(**{**one, "prompt": one["prompt"] if isinstance(one["prompt"], str) else tuple(one["prompt"])})
        for one in fields["requests"]
    )
    return Workload(fields["name"], fields["scenario"], tuple(requests), fields["concurrency"])
