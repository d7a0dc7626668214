"""Engines of the tiny model, one for each recipe asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.engine.engine import Engine
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine

MakeEngine = Callable[[str], Engine]


@pytest.fixture
def make_engine(tiny_model: str, tmp_path: Path) -> MakeEngine:
    """Build an engine of the tiny model under a recipe."""
    return lambda recipe: build_engine(bind(recipe), model=tiny_model, device="cpu", cache_folder=tmp_path)
