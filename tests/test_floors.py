"""The house stands: imports go down only, and the light floors stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = ("torch", "tensorflow", "transformers", "matplotlib.pyplot", "IPython", "ipywidgets", "jupyterlab")

LIGHT_FLOORS = ("core", "bench", "processes", "interview", "optimizations", "runner", "ui")


WIDGETS = "labkit.ui.panel."
"""The one place that is made of widgets; `Lab.panel` loads it when a panel is asked for."""


def modules_of(room: str) -> list[str]:
    """Dotted names of all modules in a room, the panel's widgets left out."""
    files = sorted((ROOT / "labkit" / room).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not name.startswith(WIDGETS)]


def loaded_after(statement: str, watched: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of the watched modules a fresh interpreter holds after the statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {watched!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_contracts_hold() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_labkit_loads_nothing_heavy() -> None:
    assert loaded_after("import labkit", (*HEAVY, "numpy", "pandas", "typer", "labkit.lab")) == []


def test_the_facade_is_lazy_but_there() -> None:
    assert loaded_after("import labkit; labkit.Lab", ("labkit.lab",)) == ["labkit.lab"]


@pytest.mark.parametrize("room", LIGHT_FLOORS)
def test_light_floors_load_no_framework(room: str) -> None:
    modules = modules_of(room)
    assert modules
    assert loaded_after(f"import {', '.join(modules)}") == []


def test_the_panel_loads_widgets_and_no_framework() -> None:
    assert set(loaded_after(f"import {WIDGETS}panel")) == {"IPython", "ipywidgets"}


def test_catalog_commands_and_facade_load_no_framework() -> None:
    assert loaded_after("from labkit.optimizations import CATALOG; import labkit.cli, labkit.lab") == []


def test_an_unknown_name_is_still_an_attribute_error() -> None:
    import labkit

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        labkit.__getattr__("nothing")
