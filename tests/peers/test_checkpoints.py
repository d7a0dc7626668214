"""Checkpoints that transformers saved go through every technique."""

from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.optimizations import Optimization, techniques
from tests.optimizations.test_catalog import check_runs_under


@pytest.fixture(scope="session", params=["Llama", "Qwen3"])
def folder(request: pytest.FixtureRequest, save_checkpoint: Callable[..., Path]) -> str:
    """Of a checkpoint in which every technique finds something to do."""
    return str(save_checkpoint(request.param, hidden_size=128, intermediate_size=256))


@pytest.mark.parametrize("kind", techniques(), ids=lambda kind: kind.name)
def test_a_checkpoint_runs_under_every_technique(kind: type[Optimization], folder: str, tmp_path: Path) -> None:
    if lacking := [need.missing() for need in kind.needs if need.missing()]:
        pytest.skip(lacking[0])
    check_runs_under(kind, folder, tmp_path)
