"""A worker whose Systems are made of sleep, on a machine as calm as the test wants it.

The model's name says how they misbehave: `mock die=kv_cache` kills the worker of that recipe in its third pass,
`mock busy=2` has other processes take half of the machine during the first 2 passes of every recipe.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from labkit.bench import measure
from labkit.core.cost import Cost
from labkit.core.errors import LabkitError, UsageError
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Workload, WorkloadSpec
from labkit.runner.memory import Need
from labkit.runner.target import Forecast, Order, Target
from labkit.runner.worker import main

TOKEN_S = 0.0005
FOREVER_S = 600


def habits_of(model: str) -> dict[str, str]:
    return dict(word.split("=") for word in model.split()[1:])


class MockSystem:
    def __init__(self, order: Order, log: Path) -> None:
        self._order, self._log = order, log
        self.habits = habits_of(order.model)
        self._num_passes = 0
        if "child" in self.habits:
            subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER_S})"])

    def does(self, habit: str) -> bool:
        return self.habits.get(habit) in (self._order.recipe or "baseline", "all")

    def prepare(self, workload: Workload) -> Workload:
        return workload

    def relocate(self) -> None:
        pass

    def drop_caches(self) -> None:
        pass

    def serve(self, prepared: Workload) -> Trace:
        start = time.perf_counter_ns()
        stamp_s = time.time()
        (request,) = prepared.requests
        self._misbehave()
        output_s = []
        for _ in range(request.max_new_tokens):
            time.sleep(float(self.habits.get("token_s", TOKEN_S)))
            output_s.append((time.perf_counter_ns() - start) * 1e-9)
        ids = tuple(range(request.max_new_tokens))
        sys.stdout.write("chatter on stdout\n")
        sys.stdout.flush()
        line = {"recipe": self._order.recipe, "pid": os.getpid(), "start_s": stamp_s, "end_s": time.time()}
        with self._log.open("a") as log:
            log.write(json.dumps({**line, "prompt": request.prompt}) + "\n")
        trace = RequestTrace(0.0, 0.0, 0.0, tuple(output_s), ids, request.prompt_tokens)
        return Trace((trace,), (time.perf_counter_ns() - start) * 1e-9)

    def _misbehave(self) -> None:
        self._num_passes += 1
        if self._num_passes < 3:
            return
        if self.does("die"):
            sys.stderr.write("out of luck\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does("fail"):
            raise LabkitError("the mock failed as told")
        if self.does("break"):
            raise RuntimeError("first line\nsecond line")
        if self.does("hang"):
            time.sleep(FOREVER_S)

    def quality(self, effort: str) -> Mapping[str, float]:
        return {"perplexity_ratio": 1.0}

    def cost(self, spec: WorkloadSpec) -> Cost:
        return Cost({})

    def facts(self) -> Mapping[str, Any]:
        return {"weights_bytes": 1000}

    def close(self) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps({"closed": self._order.recipe}) + "\n")


class MockOpener:
    def __init__(self, log: Path) -> None:
        self._log = log

    def prepare(self, order: Order) -> None:
        os.write(1, b"chatter on file descriptor 1\n")

    def forecast(self, orders: Sequence[Order], spec: WorkloadSpec) -> Forecast:
        habits = habits_of(orders[0].model)
        if "lost" in habits:
            raise UsageError("no such mock")
        held = int(habits.get("bytes", 1))
        needs = tuple(Need(order.recipe or "baseline", order.device, held) for order in orders)
        return Forecast({"name": orders[0].model, "hash": "0"}, needs, {order.device: 100 for order in orders})

    def reference(self, orders: Sequence[Order], *, effort: str) -> Mapping[str, Mapping[str, Any]]:
        return {"kv_cache": {"is_equal": True, "num_prompts": 1, "num_tokens": 1, "num_diverged": 0, "divergences": []}}

    def open(self, order: Order) -> AbstractContextManager[Target]:
        return self._opened(order)

    @contextmanager
    def _opened(self, order: Order) -> Iterator[Target]:
        if habits_of(order.model).get("refuse") == order.recipe:
            raise UsageError("the mock refuses this recipe\nin two lines")
        system = MockSystem(order, self._log)
        yield Target(system, 0.25, {"threads": 1})
        system.close()


class MockMachine:
    """Stands in for what `labkit.bench.measure` finds out about the machine."""

    def __init__(self) -> None:
        self._serve = measure.measure_pass
        self._num_passes = self._num_calibrations = 0
        self._habits: dict[str, str] = {}

    def warm_up(self, system: MockSystem, spec: WorkloadSpec, *, effort: str, is_known: bool) -> measure.Warmup:
        self._habits = system.habits
        return measure.Warmup(0.5, True, 3, 0.002, 1.0, 1, (0.01, 0.01, 0.01))

    def measure_pass(
        self, system: MockSystem, spec: WorkloadSpec, index: int, *, token_share: float, repeats: int
    ) -> measure.Measured:
        trace, _ = self._serve(system, spec, index, token_share=token_share, repeats=repeats)
        self._num_passes += 1
        return measure.Measured(trace, 0.5 if self._num_passes <= int(self._habits.get("busy", 0)) else 0.0)

    def calibrate(self) -> float:
        self._num_calibrations += 1
        is_slow = self._num_calibrations == int(self._habits.get("slow", 0))
        return 0.02 if is_slow or ("drift" in self._habits and self._num_calibrations % 2) else 0.01


if __name__ == "__main__":
    machine = MockMachine()
    measure.prime = lambda system, spec: None  # sleep needs none
    measure.warm_up, measure.measure_pass, measure.calibrate = machine.warm_up, machine.measure_pass, machine.calibrate
    sys.exit(main(MockOpener(Path(sys.argv[1]))))
