"""How well is a pass predicted before it is run? Predicted beside measured prefill and decode time.

    python tests/benches/predictions.py --page docs/predictions.md

The configurations cross shape, recipe (dtype), batch, prompt length and threads. Nothing in the prediction was fitted
to them: it has the ceilings of the machine, each kernel's probed time, and the cost model. Each is one worker with a
warm-up and eight passes; medians are compared. Prints a line for each, then median and 90th percentile of the errors.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

from labkit.core import paths
from labkit.core.machine import Machine, machine
from labkit.core.run import Run
from labkit.core.workload import workload
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.ui import units

MODELS = ("pylm", "llama-125m")
RECIPES = ("kv_cache", "precision + kv_cache", "quantize + kv_cache", "quantize(bits=4) + kv_cache")
BATCHES = (1, 8)
PROMPTS = (64, 384)
THREADS = (1, 2)
NEW_TOKENS = 24


@dataclass(frozen=True)
class Row:
    """One phase of one configuration."""

    model: str
    recipe: str
    prompt: int
    phase: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Relative; above 0 the prediction was too long."""
        return self.predicted_s / self.measured_s - 1


def configurations() -> Iterator[tuple[str, str, int, int]]:
    """Model, recipe, batch, prompt tokens."""
    for model, recipe, batch, prompt, threads in itertools.product(MODELS, RECIPES, BATCHES, PROMPTS, THREADS):
        parts = [recipe, *([f"static_batching(size={batch})"] if batch > 1 else []), f"threads(num={threads})"]
        yield model, " + ".join(parts), batch, prompt


def phases(run: Run) -> dict[str, tuple[float, float]]:
    """Phase → (predicted seconds, measured seconds). A batch decodes from its last first token to its last one."""
    assert run.prediction is not None
    together = [measured.trace.requests for measured in run.passes]
    if run.workload["scenario"] == "single_stream":
        together = [(request,) for requests in together for request in requests]  # one after another
    first_s = [max(request.output_s[0] for request in requests) for requests in together]
    prefill_s = [at_s - requests[0].sent_s for at_s, requests in zip(first_s, together, strict=True)]
    last_s = [max(request.output_s[-1] for request in requests) for requests in together]
    decode_s = [end_s - start_s for end_s, start_s in zip(last_s, first_s, strict=True)]
    return {
        "prefill": (run.prediction["prefill"]["seconds"], statistics.median(prefill_s)),
        "decode": (run.prediction["decode"]["seconds"], statistics.median(decode_s)),
    }


def errors(rows: Sequence[Row]) -> str:
    """Median and 90th percentile of the errors of each phase, as one sentence."""
    told = []
    for phase in ("prefill", "decode"):
        found = sorted(abs(row.error) for row in rows if row.phase == phase)
        told.append(
            f"{phase}: median {statistics.median(found):.1%}, 90th percentile {found[int(0.9 * len(found))]:.1%}"
        )
    return f"Error of predicted time over {len(rows) // 2} configurations: {'; '.join(told)}."


def page(rows: Sequence[Row], described: Machine, version: str) -> str:
    """The rows as a page of documentation."""
    lines = [
        "# Predicted and measured time",
        "",
        "Made by `python tests/benches/predictions.py --page docs/predictions.md` on "
        f"{described.cpu}, {described.num_cores} cores, torch {version}, {date.today()}. Nothing in a prediction was "
        "fitted to these configurations: it has the measured ceilings, the time of each kernel and of what lies "
        "between them at the size of the step, and the cost model. A pass is one request, or a batch of eight.",
        "",
        errors(rows),
        "",
        "| model | recipe | prompt | prefill, predicted | measured | error | decode, predicted | measured | error |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for prefill, decode in zip(rows[::2], rows[1::2], strict=True):
        cells = [
            text
            for row in (prefill, decode)
            for text in (units.seconds(row.predicted_s), units.seconds(row.measured_s), f"{row.error:+.0%}")
        ]
        lines.append(f"| {prefill.model} | `{prefill.recipe}` | {prefill.prompt} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure every configuration and tell how far off the predictions were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="a Markdown file for the table")
    arguments = parser.parse_args()
    session = Session(cache_folder=paths.cache_folder())
    rows: list[Row] = []
    for model, recipe, batch, prompt in configurations():
        spec = workload("chat", prompt_tokens=prompt, new_tokens=NEW_TOKENS, batch=batch)
        (run,) = session.measure(Plan(model=model, spec=spec, recipes=(recipe,), effort="quick"))
        for phase, (predicted_s, measured_s) in phases(run).items():
            row = Row(model, recipe, prompt, phase, predicted_s, measured_s)
            rows.append(row)
            seen = f"{predicted_s:.4f} s for {measured_s:.4f} s, {row.error:+.0%}"
            assert run.prediction is not None
            terms = {name: f"{term_s:.4f}" for name, term_s in run.prediction[phase]["terms"].items() if term_s}
            print(f"{model}, {recipe}, {prompt} tokens, {phase}: {seen}, {terms}", flush=True)
    print(errors(rows))
    if arguments.page:
        arguments.page.write_text(page(rows, machine("cpu"), metadata.version("torch")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
