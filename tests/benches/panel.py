"""How quick is the panel, and does looking at it slow down what it measures?

    python tests/benches/panel.py --tries 10

Opens JupyterLab in headless Chromium as the browser tests do, on pylm at quick effort. Prints the seconds until the
panel is shown after its cell runs, until a toggle has redrawn, and from a click on Run to the new point; then the rate
of sessions that the panel shows over that of the same sessions without any panel, in turns. Takes about 15 s a try.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.core.inference import sign_flip_interval
from labkit.lab import Lab
from labkit.ui.readings import value
from tests.browser.conftest import Seen, browser_page, open_and_run
from tests.browser.servers import PANEL, jupyterlab, wait_for

_CELL = ".jp-CodeCell:last-of-type"


def run(tries: int, root: Path) -> None:
    """Measure and print."""
    lab = Lab()
    lab.run("kv_cache")  # ceilings, reference and kernels are known from now on
    with jupyterlab(root / "jupyter") as server, browser_page(server.url, Seen()) as page:
        open_and_run(page, server, PANEL)
        shown_s = [_shown_s(page) for _ in range(tries)]
        _tell("panel shown after its cell runs", shown_s)
        page.locator(".labkit-panel button:text-is('remove')").click()  # a single recipe in each session
        _point_s(page)
        page.locator(".labkit-panel .lm-TabBar-tabLabel:text-is('Speed')").click()
        toggle = page.locator(".labkit-panel label:has-text('Quantization') input[type=checkbox]")
        _tell("a toggle has redrawn", [_redrawn_s(page, toggle.click) for _ in range(2 * tries)])
        points_s, log_ratios = [], []
        for number in range(tries):
            has_panel_first = number % 2 == 0
            if has_panel_first:
                points_s.append(_point_s(page))
            lab.run("kv_cache")
            if not has_panel_first:
                points_s.append(_point_s(page))
            first, second = (value(run, "decode_tok_per_s") for run in reversed(lab.stored(limit=2)))
            log_ratio = math.log(first / second)
            log_ratios.append(log_ratio if has_panel_first else -log_ratio)
        _tell("click on Run to the new point", points_s)
    ratio = sign_flip_interval(log_ratios)
    low, mid, high = (math.exp(at) for at in (ratio.low, ratio.value, ratio.high))
    print(f"decode rate with the panel over without: {mid:.4f} [{low:.4f}, {high:.4f}]")


def _shown_s(page: Any) -> float:
    """Run the cell of the panel again."""
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    wait_for(lambda: page.locator(".labkit-panel").count() == 0, 10, "an empty cell", page=page)
    start_s = time.perf_counter()
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    _run_button(page).wait_for(timeout=60_000)
    return time.perf_counter() - start_s


def _redrawn_s(page: Any, change: Callable[[], None]) -> float:
    before = _picture(page)
    start_s = time.perf_counter()
    change()
    page.wait_for_function(
        "before => { const image = document.querySelector('.labkit-panel img.day');"
        " return image && image.complete && image.src !== before; }",
        arg=before,
        polling=5,
        timeout=10_000,
    )
    return time.perf_counter() - start_s


def _point_s(page: Any) -> float:
    """Press Run and wait for its end, which the page tells: who asks again and again slows down what is measured."""
    page.evaluate(
        "() => { const run = [...document.querySelectorAll('.labkit-panel button')].find("
        "button => button.textContent === 'Run'); let isRunning = false;"
        " window.ended = new Promise(resolve => new MutationObserver((_, observer) => {"
        " if (isRunning && !run.disabled) { observer.disconnect(); resolve(); } isRunning = run.disabled;"
        " }).observe(run, {attributes: true})); }"
    )
    start_s = time.perf_counter()
    _run_button(page).click()
    page.evaluate("() => window.ended")
    return time.perf_counter() - start_s


def _run_button(page: Any) -> Any:
    return page.locator(".labkit-panel button:text-is('Run')")


def _picture(page: Any) -> str | None:
    images = page.locator(".labkit-panel img.day")
    return images.first.get_attribute("src") if images.count() else None


def _tell(what: str, seconds: list[float]) -> None:
    print(
        f"{what}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s of {len(seconds)}", flush=True
    )


def main() -> int:
    """Parse the command line; the history is a temporary one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        os.environ["LABKIT_HOME"] = folder
        run(arguments.tries, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
