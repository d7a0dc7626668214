"""Replicated: a System of several processes, each an Engine with cores of its own, behind one queue of requests."""

import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from labkit.bench.loadgen import Load, load_of
from labkit.core.cost import Cost
from labkit.core.errors import UsageError
from labkit.core.trace import Trace
from labkit.core.workload import Workload, WorkloadSpec
from labkit.engine.engine import Prepared
from labkit.engine.sequence import Sequence as Waiting
from labkit.processes.crew import Crew
from labkit.processes.process import Event, WorkerProcess

_COMMAND = (sys.executable, "-P", "-m", "labkit.optimizations.replica")
_TIMEOUT_S = 3600.0  # to build the largest model; the session that waits for this process has limits of its own
_POLL_S = 1.0
_SCENARIOS = ("single_stream", "offline", "server", "closed_loop")
_SUMMED = ("weights_bytes", "kv_cache_bytes")


@dataclass(eq=False)
class Member:
    """One replica: its process and cores, how many requests it runs together, and those that it has.

    `turn` is when a request was last given to it.
    """

    worker: WorkerProcess
    cores: Sequence[int]
    threads: int = 0
    batch: int = 1
    running: dict[int, Waiting] = field(default_factory=dict)
    turn: int = 0

    @property
    def is_free(self) -> bool:
        """Whether one more request would not have to wait for another."""
        return len(self.running) < self.batch

    @property
    def load(self) -> int:
        """Tokens of all requests that it has, prompt and output."""
        return sum(sequence.max_tokens for sequence in self.running.values())


class Replicated:
    """Serves requests with a replica for each set of cores; see `labkit.engine.replica` for what the pipes carry.

    The first replica is built alone: it computes and caches what the others then read. Among replicas that are free a
    request goes to the one with the least load, of equal ones to the one that was not given any for longest.

    Args:
        blueprint: fields of what each of them builds.
        cores: those of each, which it is pinned to.
    """

    def __init__(self, blueprint: Mapping[str, str], cores: Sequence[Sequence[int]]) -> None:
        self._crew = Crew(_COMMAND, {}, threading.Event(), has_own_groups=False)
        self._members = [
            Member(self._crew.start(f"replica {index + 1} of {len(cores)}"), own) for index, own in enumerate(cores)
        ]
        self._num_turns = 0
        self.reusable_tokens = 0
        try:
            for members in (self._members[:1], self._members[1:]):
                self._open(members, blueprint)
        except BaseException:
            self.close()
            raise

    def _open(self, members: Sequence[Member], blueprint: Mapping[str, str]) -> None:
        for member in members:
            member.worker.send(
                "open", blueprint=blueprint, cores=list(member.cores), num_threads=torch.get_num_threads()
            )
        for member in members:
            opened = self._crew.answer(member.worker, "open", timeout_s=_TIMEOUT_S)
            member.threads, member.batch = opened["threads"], opened["batch"]
            self.reusable_tokens = opened["reusable_tokens"]

    def prepare(self, workload: Workload) -> Prepared:
        """Have one of them tokenize every prompt; whoever serves a request gets its ids.

        Raises:
            UsageError: a request that the model cannot hold, or requests that do not come by themselves.
        """
        if workload.scenario not in _SCENARIOS:
            raise UsageError.unknown("scenario for replicas", workload.scenario, _SCENARIOS)
        prompts = self._ask("prepare", workload=asdict(workload))["prompts"]
        return Prepared(workload.scenario, tuple(zip(workload.requests, prompts, strict=True)), workload.concurrency)

    def relocate(self) -> None:
        """See System."""
        self._ask_all("relocate")

    def drop_caches(self) -> None:
        """See System."""
        self._ask_all("drop_caches")

    def serve(self, prepared: Prepared) -> Trace:
        """Serve the requests to their last token; the clock runs from when all replicas wait for them."""
        sequences = [
            Waiting(index, ids, request.max_new_tokens, request.arrival_s)
            for index, (request, ids) in enumerate(prepared.requests)
        ]
        is_closed = prepared.scenario in ("single_stream", "closed_loop")
        self._ask_all("begin", is_more_coming=not is_closed)
        start_ns = time.perf_counter_ns()
        start_s = start_ns * 1e-9
        if is_closed:
            requests = [request for request, _ in prepared.requests]
            load = load_of(prepared.scenario, requests, concurrency=prepared.concurrency, start_ns=start_ns)
            self._serve_closed(load, sequences, start_s)
        else:
            self._serve_open(sequences, start_s)
        duration_s = time.perf_counter() - start_s
        counted = [answer["counters"] for answer in self._ask_all("end")]
        counters = {name: sum(counters[name] for counters in counted) for name in counted[0]}
        return Trace(tuple(sequence.trace() for sequence in sequences), duration_s, counters)

    def _serve_closed(self, load: Load, sequences: Sequence[Waiting], start_s: float) -> None:
        """Hand out as many sequences as may be outstanding, and another for each that is done."""
        queue, num_left = deque[Waiting](), len(sequences)
        with load:
            while num_left:
                for index, sent_s in load.due():
                    sequences[index].arrival_s, sequences[index].sent_s = load.arrival_s(index), sent_s
                    queue.append(sequences[index])
                self._hand_out(queue)
                heard = self._crew.hear(timeout_s=_POLL_S)
                if heard is not None:
                    load.done(self._take_back(*heard, start_s), time.perf_counter() - start_s)
                    num_left -= 1

    def _serve_open(self, sequences: Sequence[Waiting], start_s: float) -> None:
        """Hand sequences out from their arrival on, until the last is done.

        The loop waits for replicas and for the next arrival alike, so that it needs no load generator beside it.
        """
        coming, queue, num_left, is_drained = deque(sequences), deque[Waiting](), len(sequences), False
        while num_left:
            now_s = time.perf_counter() - start_s
            while coming and coming[0].arrival_s <= now_s:
                coming[0].sent_s = now_s
                queue.append(coming.popleft())
            self._hand_out(queue)
            if not (is_drained or coming or queue):
                for member in self._members:
                    member.worker.send("drain")
                is_drained = True
            heard = self._crew.hear(timeout_s=max(0.0, coming[0].arrival_s - now_s) if coming else _POLL_S)
            if heard is not None:
                self._take_back(*heard, start_s)
                num_left -= 1

    def _hand_out(self, queue: deque[Waiting]) -> None:
        while queue and (free := [member for member in self._members if member.is_free]):
            member, sequence = min(free, key=lambda one: (one.load, one.turn)), queue.popleft()
            self._num_turns += 1
            member.turn = self._num_turns
            member.running[sequence.index] = sequence
            member.worker.send("request", index=sequence.index, prompt=sequence.prompt, num_new=sequence.max_new_tokens)

    def _take_back(self, worker: WorkerProcess, event: Event, start_s: float) -> int:
        """Note what a replica did with a sequence; returns its index."""
        (member,) = (member for member in self._members if member.worker is worker)
        sequence = member.running.pop(event["index"])
        sequence.scheduled_s = event["scheduled_s"] - start_s
        sequence.output_s = [at_s - start_s for at_s in event["output_s"]]
        sequence.outputs = event["output_ids"]
        return sequence.index

    def quality(self, effort: str) -> Mapping[str, float]:
        """That of one of them: they are alike."""
        quality: Mapping[str, float] = self._ask("quality", effort=effort)["quality"]
        return quality

    def cost(self, spec: WorkloadSpec) -> Cost:
        """What one pass should need of all of them together."""
        return Cost.of(self._ask("cost", spec=spec.to_dict())["cost"])

    def facts(self) -> Mapping[str, Any]:
        """Those of one of them, bytes and threads of all, and the cores of each."""
        facts = self._ask("facts")["facts"]
        return {
            **facts,
            **{name: len(self._members) * facts[name] for name in _SUMMED},
            "threads": sum(member.threads for member in self._members),
            "replicas": [{"cores": list(member.cores), "threads": member.threads} for member in self._members],
        }

    def close(self) -> None:
        """End all of them."""
        self._crew.close(self._crew.workers)

    def _ask(self, command: str, **fields: Any) -> Event:
        """The answer of the first."""
        return self._crew.ask(self._members[0].worker, command, timeout_s=_TIMEOUT_S, **fields)

    def _ask_all(self, command: str, **fields: Any) -> list[Event]:
        """Everyone's answers, at which they work at the same time."""
        workers = [member.worker for member in self._members]
        for worker in workers:
            worker.send(command, **fields)
        return [self._crew.answer(worker, command, timeout_s=_TIMEOUT_S) for worker in workers]
