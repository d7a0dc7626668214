"""The solutions of a lesson, by the name of its notebook."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "notebooks" / "solutions"


@pytest.fixture(scope="session")
def solutions() -> Callable[[str], dict[str, Any]]:
    """What the solutions of a lesson define."""
    return lambda lesson: runpy.run_path(str(FOLDER / f"{lesson}.py"))
