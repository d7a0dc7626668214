"""How well is a pass predicted before it is run? Predicted beside measured prefill and decode time.

    python tests/benches/predictions.py --out predictions.csv

The configurations cross shape, recipe (dtype), batch, prompt length and threads. Nothing in the prediction was fitted
to them: it has the ceilings of the machine, each kernel's probed time, and the cost model. Each is one worker with a
warm-up and eight passes; medians are compared. Prints a line for each, then median and 90th percentile of the errors.
"""

import argparse
import csv
import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from labkit.core import paths
from labkit.core.run import Run
from labkit.core.workload import workload
from labkit.runner.plan import Plan
from labkit.runner.session import Session

MODELS = ("pylm", "llama-125m")
RECIPES = ("kv_cache", "precision + kv_cache", "quantize + kv_cache", "quantize(bits=4) + kv_cache")
BATCHES = (1, 8)
PROMPTS = (64, 384)
THREADS = (1, 2)
NEW_TOKENS = 24


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


def main() -> int:
    """Measure every configuration and tell how far off the predictions were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a CSV file for the rows")
    arguments = parser.parse_args()
    session = Session(cache_folder=paths.cache_folder())
    rows: list[dict[str, object]] = []
    for model, recipe, batch, prompt in configurations():
        spec = workload("chat", prompt_tokens=prompt, new_tokens=NEW_TOKENS, batch=batch)
        (run,) = session.measure(Plan(model=model, spec=spec, recipes=(recipe,), effort="quick"))
        for phase, (predicted_s, measured_s) in phases(run).items():
            error = predicted_s / measured_s - 1
            facts = {"model": model, "recipe": recipe, "batch": batch, "prompt": prompt, "phase": phase}
            rows.append({**facts, "predicted_s": predicted_s, "measured_s": measured_s, "error": error})
            seen = f"{predicted_s:.4f} s for {measured_s:.4f} s, {error:+.0%}"
            print(f"{model}, {recipe}, {prompt} tokens, {phase}: {seen}", flush=True)
    for phase in ("prefill", "decode"):
        found = sorted(abs(float(str(row["error"]))) for row in rows if row["phase"] == phase)
        print(f"{phase}: {len(found)} configurations, median error {statistics.median(found):.1%}, "
              f"p90 {found[int(0.9 * len(found))]:.1%}")  # fmt: skip
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
