"""A page in headless Chromium that may talk to one server on loopback and to nothing else."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.browser.servers import START_S, Server, jupyterlab, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CELLS_S = 240.0
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

OpenPage = Callable[[str], Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if "browser" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no Chromium here"))


@dataclass
class Seen:
    """What a page did that it should not have done."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, labkit_home: Path) -> Iterator[Server]:
    with jupyterlab(tmp_path_factory.mktemp("jupyter")) as made:
        yield made


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(server: Server, seen: Seen) -> Iterator[Any]:
    """A page that may talk to JupyterLab."""
    with browser_page(server.url, seen) as made:
        yield made


@contextmanager
def browser_page(url: str, seen: Seen) -> Iterator[Any]:
    """A page 1280 pixels wide; every request off the server is refused and kept, as are errors on its console."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        context = browser.new_context(viewport={"width": 1280, "height": 1000})

        def check(route: Any) -> None:
            address = route.request.url
            if address.startswith((url, "data:", "blob:")):
                route.continue_()
            else:
                seen.outside.append(address)
                route.abort()

        context.route("**/*", check)
        made = context.new_page()
        made.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        made.on("pageerror", lambda error: seen.errors.append(str(error)))
        yield made
        browser.close()


def open_and_run(page: Any, server: Server, notebook: str) -> None:
    """Open a notebook, wait for its kernel, run all cells and wait until all have run."""
    page.goto(server.address(notebook))
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_S * 1e3)
    wait_for(lambda: _is_idle(server, notebook), START_S, "an idle kernel", page=page)
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")  # committed with outputs
    page.click("text=Run >> nth=0")
    page.click("li[data-command='runmenu:run-all']")
    num_cells = len([cell for cell in server.cells(notebook) if cell["cell_type"] == "code"])
    done = (
        "num => { const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
        ".map(p => p.textContent); return prompts.length >= num && prompts.every(t => /\\[\\d+\\]:/.test(t)); }"
    )
    page.wait_for_function(done, arg=num_cells, timeout=CELLS_S * 1e3)
    wait_for(lambda: _is_idle(server, notebook), CELLS_S, "an idle kernel", page=page)


def _is_idle(server: Server, notebook: str) -> bool:
    """Whether this notebook's kernel waits for its page; those of pages that were closed have no connection."""
    try:
        kernels = [one["kernel"] for one in server.ask("sessions") if one["path"] == notebook]
    except OSError:  # while a kernel starts the server may not know its state
        return False
    return any(kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels)
