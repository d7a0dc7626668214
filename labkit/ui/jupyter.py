"""Jupyter: whether its packages are here, and the command that opens JupyterLab on the lessons."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from labkit.core.errors import Unavailable

_EXECUTING = ("ipykernel", "nbclient", "nbformat")
_OPENING = ("ipywidgets", "jupyterlab")


def require_jupyter(what: str = "executing a notebook", packages: tuple[str, ...] = _EXECUTING) -> None:
    """Find out before anything is measured or opened that Jupyter can do it.

    Raises:
        Unavailable: a package of the extra `notebooks` is missing.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"{what} was asked for; not installed here: {', '.join(missing)}; "
            "install them: pip install 'labkit[notebooks]'"
        )


def lab_command(folder: Path, *, port: int | None = None, is_browser: bool = True) -> list[str]:
    """The command line of a JupyterLab on this folder that listens on loopback and asks nothing of other machines.

    It serves the folder or, where `docs` lies beside it, their parent: lessons link there. It opens on the folder.

    Raises:
        Unavailable: a package of the extra `notebooks` is missing.
    """
    require_jupyter("JupyterLab", _OPENING)
    folder = folder.resolve()
    served = folder.parent if (folder.parent / "docs").is_dir() else folder
    command = [sys.executable, "-m", "jupyterlab", str(served), "--ServerApp.ip=127.0.0.1"]
    command.append(f"--ServerApp.preferred_dir={folder}")
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--LabApp.extension_manager=readonly"]  # its list comes from a package index
    if port is not None:  # this one or none: a script that named it waits for it there
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not is_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container there is often no other user
        command.append("--allow-root")
    return command


def lab_environment() -> dict[str, str]:
    """This process's environment, and in it our defaults for JupyterLab's settings; a user's own come before them.

    They live in `labconfig` beside this file: without them JupyterLab asks, over the panel, whether it may fetch news.
    """
    paths = (str(Path(__file__).parent), os.environ.get("JUPYTER_CONFIG_PATH", ""))
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(path for path in paths if path)}
