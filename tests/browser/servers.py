"""Servers on loopback with folders of their own: JupyterLab as `labkit lab` starts it, and Voilà."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.ui.jupyter import lab_command, lab_environment

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PANEL, SIMILARITY, CLASSIFIER = "panel.ipynb", "similarity.ipynb", "classifier.ipynb"
START_S = 60.0

_PANEL_CELLS = {
    PANEL: 'from labkit import Lab\nlab = Lab(model="pylm")\npanel = lab.panel()\npanel',
    SIMILARITY: 'from labkit import Lab\nlab = Lab(system="similarity")\npanel = lab.panel()\npanel',
    CLASSIFIER: """from pathlib import Path
from labkit import Lab
topics = {"sea": ["ship", "sail", "wave", "tide"], "kitchen": ["pan", "oven", "bread", "salt"]}
rows = [f"{a} with {b},{topic}" for topic, words in topics.items() for a in words for b in words]
Path("topics.csv").write_text("body,topic\\n" + "\\n".join(rows))
lab = Lab(system="classifier", model="topics.csv?text=body&label=topic")
panel = lab.panel(recipe="rnn_runtime", beside=["rnn_runtime(kind='torch_layer')"])
panel""",
}
_ALL_CELLS = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}  # cells out of sight are drawn too


@dataclass
class Server:
    """A running server. `folder` holds the notebooks it shows, copies that a test may spoil."""

    port: int
    folder: Path
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, notebook: str) -> str:
        return f"{self.url}/lab/tree/{notebook}?token={self.token}&reset"

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/{path}?token={self.token}", timeout=5) as answer:  # noqa: S310
            return json.load(answer)

    def cells(self, notebook: str) -> list[dict[str, Any]]:
        cells: list[dict[str, Any]] = json.loads((self.folder / notebook).read_text(encoding="utf-8"))["cells"]
        return cells


@contextmanager
def jupyterlab(root: Path) -> Iterator[Server]:
    """JupyterLab on a copy of the lessons and notebooks that only show a panel."""
    server = Server(free_port(), _notebooks(root))
    for name, settings in _ALL_CELLS.items():
        path = root / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    command = lab_command(server.folder, port=server.port, is_browser=False)
    command += ["--LabApp.expose_app_in_browser=True"]  # for its command that changes the theme
    command += ["--ServerApp.terminals_enabled=False"]
    with _running(command, root):
        wait_for(lambda: bool(_token(root, server)), START_S, f"JupyterLab; see {root / 'log'}")
        yield server


@contextmanager
def voila(root: Path, notebook: str) -> Iterator[Server]:
    """Voilà on one notebook."""
    server = Server(free_port(), _notebooks(root))
    command = [sys.executable, "-m", "voila", str(server.folder / notebook), "--no-browser"]
    command += ["--Voila.ip=127.0.0.1", f"--port={server.port}"]
    with _running(command, root):
        wait_for(lambda: _listens(server.port), START_S, f"Voilà; see {root / 'log'}")
        yield server


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


def _notebooks(root: Path) -> Path:
    import nbformat
    from nbformat import v4

    folder = root / "notebooks"
    shutil.copytree(NOTEBOOKS, folder)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, cell in _PANEL_CELLS.items():
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(cell)], metadata=kernel), folder / name)
    return folder


@contextmanager
def _running(command: Sequence[str], root: Path) -> Iterator[None]:
    places = {f"JUPYTER_{name}_DIR": str(root / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {
        **lab_environment(),
        **places,
        "IPYTHONDIR": str(root / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
    }
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def _token(root: Path, server: Server) -> str:
    """The token that the server drew, from the address that it prints, once it answers."""
    found = re.search(r"token=([0-9a-f]+)", (root / "log").read_text())
    server.token = found[1] if found else ""
    if server.token:
        try:
            server.ask("status")
        except OSError:
            server.token = ""
    return server.token


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
