"""The panel as a reader has it: in JupyterLab, in a real browser."""

import os
import random
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser.conftest import Seen, open_and_run
from tests.browser.servers import CLASSIFIER, PANEL, SIMILARITY, Server, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

RUN_S = 120.0


def workers() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if "labkit.runner.worker" in _line(process)]


def _line(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())


def keep_screenshot(page: Any, name: str) -> None:
    folder = Path(os.environ.get("LABKIT_SCREENSHOTS", "")) if os.environ.get("LABKIT_SCREENSHOTS") else None
    if folder is not None:
        page.locator(".labkit-panel").screenshot(path=folder / f"{name}.png")


def button(page: Any, name: str) -> Any:
    return page.locator(f".labkit-panel button:text-is('{name}')")


def open_tab(page: Any, name: str) -> None:
    page.locator(f".labkit-panel .lm-TabBar-tabLabel:text-is('{name}')").click()


def wait_for_verdict(page: Any, recipe: str) -> None:
    """The end of a measurement shows as a sentence on the recipe. The buttons alone do not tell: until the kernel has
    heard of a click they look as if nothing ran."""
    said = re.compile(rf"^{re.escape(recipe)} (is|may or may not be) ")
    page.locator(".labkit-panel .verdicts li").filter(has_text=said).first.wait_for(timeout=RUN_S * 1e3)
    wait_for(lambda: button(page, "Run").is_enabled(), 10, "Run to be enabled", page=page)


def pictures(page: Any) -> list[str]:
    return [image.get_attribute("src") for image in page.locator(".labkit-panel img.day").all() if image.is_visible()]


@pytest.fixture
def panel(page: Any, server: Server) -> Any:
    open_and_run(page, server, PANEL)
    page.wait_for_selector(".labkit-panel button:text-is('Run')", timeout=20_000)
    return page


def test_run_toggle_and_cancel(panel: Any, seen: Seen) -> None:
    before = {process.pid for process in workers()}
    button(panel, "Run").click()
    wait_for_verdict(panel, "kv_cache")
    keep_screenshot(panel, "verdict")

    # a Run that broke a rule, as where the machine is busy for a moment, is never drawn
    num_drawn = 1 if panel.locator(".labkit-panel >> text=INVALID").count() else 2
    open_tab(panel, "Speed")
    wait_for(lambda: len(pictures(panel)) == num_drawn, 10, "what is switched on and what was measured", page=panel)
    measured = pictures(panel)
    panel.locator(".labkit-panel label:has-text('Quantization') input[type=checkbox]").check()
    wait_for(lambda: pictures(panel)[0] != measured[0], 10, "a picture that changed with the toggle", page=panel)
    assert pictures(panel)[1:] == measured[1:]  # of what was measured, which a toggle does not change
    assert panel.locator(".labkit-panel input[placeholder^='the naive']").input_value() == "quantize + kv_cache"
    keep_screenshot(panel, "toggled")
    toggled = pictures(panel)

    open_tab(panel, "Verdict")
    button(panel, "Run").click()
    wait_for_verdict(panel, "quantize + kv_cache")
    keep_screenshot(panel, "two-runs")
    if not panel.locator(".labkit-panel >> text=INVALID").count():
        open_tab(panel, "Speed")
        wait_for(lambda: pictures(panel) != toggled, 10, "a picture with a new point", page=panel)

    button(panel, "Run").click()
    wait_for(lambda: {process.pid for process in workers()} - before != set(), 30, "workers", page=panel)
    button(panel, "Cancel").click()
    wait_for(lambda: {process.pid for process in workers()} <= before, 5, "no worker left", page=panel)
    panel.wait_for_selector(".labkit-panel >> text=cancelled", timeout=10_000)
    wait_for(lambda: button(panel, "Run").is_enabled(), 2, "Run to be enabled", page=panel)
    assert seen == Seen()


def test_the_panel_of_text_similarity_draws_what_it_measured(page: Any, server: Server, seen: Seen) -> None:
    open_and_run(page, server, SIMILARITY)
    page.wait_for_selector(".labkit-panel button:text-is('Run')", timeout=20_000)
    assert page.locator(".labkit-panel label:has-text('Truncated SVD') input[type=checkbox]").is_checked()
    button(page, "Run").click()
    wait_for_verdict(page, "truncated_svd")
    keep_screenshot(page, "similarity")
    if not page.locator(".labkit-panel >> text=INVALID").count():
        for tab in ("Speed", "Latency", "Quality"):
            open_tab(page, tab)
            wait_for(lambda: len(pictures(page)) == 1, 10, f"a picture under {tab}", page=page)
            keep_screenshot(page, f"similarity-{tab.lower()}")
    assert seen == Seen()


def test_a_classifier_is_toggled_and_measured(page: Any, server: Server, seen: Seen) -> None:
    open_and_run(page, server, CLASSIFIER)
    page.wait_for_selector(".labkit-panel button:text-is('Run')", timeout=20_000)
    page.locator(".labkit-panel label:has-text('Folded embedding') input[type=checkbox]").check()
    recipe = "rnn_runtime + fold_embedding"
    typed = page.locator(".labkit-panel input[placeholder^='the naive']")
    wait_for(lambda: typed.input_value() == recipe, 10, "the recipe that was switched on", page=page)
    button(page, "Run").click()
    wait_for_verdict(page, recipe)
    keep_screenshot(page, "classifier")
    if not page.locator(".labkit-panel >> text=INVALID").count():
        assert page.locator(".labkit-panel .verdicts li").filter(has_text="RNN, simple cells").count() == 2
    assert seen == Seen()


@pytest.mark.slow
def test_twenty_cancels_at_random_moments_leave_no_process(panel: Any, seen: Seen) -> None:
    before, rng = {process.pid for process in workers()}, random.Random(0)
    for _ in range(20):
        button(panel, "Run").click()
        wait_for(lambda: button(panel, "Cancel").is_enabled(), 10, "a measurement", page=panel)
        panel.wait_for_timeout(rng.uniform(0, 6_000))
        if button(panel, "Cancel").is_enabled():  # else it ended by itself
            button(panel, "Cancel").click()
        wait_for(lambda: {process.pid for process in workers()} <= before, 5, "no worker left", page=panel)
        wait_for(lambda: button(panel, "Run").is_enabled(), 10, "Run to be enabled", page=panel)
    assert seen == Seen()


def test_a_recipe_typed_wrong_disables_run(panel: Any) -> None:
    field = panel.locator(".labkit-panel input[placeholder^='the naive']")
    field.fill("kv_cache + nonsense")
    panel.wait_for_selector(".labkit-panel >> text=unknown optimization 'nonsense'", timeout=10_000)
    assert button(panel, "Run").is_disabled()
    field.fill("quantize(bits=4)")
    wait_for(lambda: button(panel, "Run").is_enabled(), 10, "Run to be enabled", page=panel)
    assert panel.locator(".labkit-panel label:has-text('Quantization') input[type=checkbox]").is_checked()


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_nothing_is_cut_off_at_1280_pixels(panel: Any, theme: str) -> None:
    panel.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    panel.wait_for_function("() => !document.querySelector('#jupyterlab-splash')", timeout=10_000)
    box = panel.locator(".labkit-panel").bounding_box()
    assert box["x"] + box["width"] <= 1280
    assert panel.get_by_text("Jupyter news").count() == 0  # the question that a fresh JupyterLab asks, over the panel
    overflow = panel.locator(".labkit-panel").evaluate("panel => panel.scrollWidth - panel.clientWidth")
    assert overflow <= 1
    keep_screenshot(panel, f"panel-{theme.rsplit(maxsplit=1)[-1].lower()}")
