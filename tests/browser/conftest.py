"""JupyterLab on loopback with folders of its own, and a page in headless Chromium that may talk to nothing else."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
START_S, CELLS_S = 60.0, 240.0

PANEL_CELL = 'from labkit import Lab\nlab = Lab(model="pylm")\npanel = lab.panel()\npanel'

USER_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "no Chromium here" if CHROMIUM is None else ""
    for item in items:
        if "browser" in item.keywords and reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Server:
    """A running JupyterLab."""

    port: int
    token: str
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, notebook: str) -> str:
        return f"{self.url}/lab/tree/{notebook}?token={self.token}&reset"

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/{path}?token={self.token}", timeout=5) as answer:  # noqa: S310
            return json.load(answer)


@dataclass
class Seen:
    """What a page did that it should not have done."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, labkit_home: Path) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("jupyter")
    folder = root / "notebooks"
    shutil.copytree(NOTEBOOKS, folder)
    write_notebook(folder / "panel.ipynb", PANEL_CELL)
    for name, settings in USER_SETTINGS.items():
        path = root / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    names = ("CONFIG", "DATA", "RUNTIME")
    places = {f"JUPYTER_{name}_DIR": str(root / name.lower()) for name in names}
    environment = {
        **os.environ,
        **places,
        "IPYTHONDIR": str(root / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
    }
    made = Server(free_port(), secrets.token_hex(16), folder)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={made.port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True"]  # for its command that changes the theme
    command += [f"--IdentityProvider.token={made.token}", "--ServerApp.terminals_enabled=False"]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: _answers(made), START_S, f"JupyterLab; see {root / 'log'}")
            yield made
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(server: Server, seen: Seen) -> Iterator[Any]:
    """A page 1280 pixels wide; every request off the server is refused and kept."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*options, "--disable-sync"])
        context = browser.new_context(viewport={"width": 1280, "height": 1000})

        def check(route: Any) -> None:
            address = route.request.url
            if address.startswith((server.url, "data:", "blob:")):
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


def write_notebook(path: Path, source: str) -> None:
    import nbformat
    from nbformat import v4

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source)], metadata=kernel), path)


def open_and_run(page: Any, server: Server, notebook: str) -> None:
    """Open a notebook, wait for its kernel, run all cells and wait until all have run."""
    page.goto(server.address(notebook))
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_S * 1e3)
    wait_for(lambda: _is_idle(server), START_S, "an idle kernel", page=page)
    page.click("text=Run >> nth=0")
    page.click("li[data-command='runmenu:run-all']")
    num_cells = len([cell for cell in _cells(server.folder / notebook) if cell["cell_type"] == "code"])
    done = (
        "num => { const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
        ".map(p => p.textContent); return prompts.length >= num && prompts.every(t => /\\[\\d+\\]:/.test(t)); }"
    )
    page.wait_for_function(done, arg=num_cells, timeout=CELLS_S * 1e3)
    wait_for(lambda: _is_idle(server), CELLS_S, "an idle kernel", page=page)


def wait_for(is_true: Callable[[], bool], timeout_s: float, what: str, *, page: Any = None) -> None:
    """Poll; with a page its events are served meanwhile, without which its requests would wait for us."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        if page is None:
            time.sleep(0.1)
        else:
            page.wait_for_timeout(100)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: Server) -> bool:
    try:
        server.ask("status")
    except OSError:
        return False
    return True


def _is_idle(server: Server) -> bool:
    try:
        kernels = server.ask("kernels")
    except OSError:  # while a kernel starts the server may not know its state
        return False
    return bool(kernels) and all(
        kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels
    )


def _cells(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells
