"""Ranks start, share what does not divide, and end together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from labkit.core.errors import LabkitError, WorkerDied
from labkit.core.workload import WorkloadSpec
from labkit.engine.engine import Engine
from labkit.engine.tensor_parallel import Share
from labkit.model.config import ModelConfig
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine, prepare_reference
from tests.conftest import write_tiny_model

SPEC = WorkloadSpec("ranks", "offline", prompt_tokens=20, new_tokens=6, num_requests=5)
TENSOR, PIPELINE = "tensor_parallel(oversubscribe=True)", "pipeline_parallel(oversubscribe=True)"

MakeEngine = Callable[[str], Engine]


@contextmanager
def engine_of(recipe: str, model: str, folder: Path) -> Iterator[Engine]:
    bound = bind(recipe)
    with bound.process():
        yield build_engine(bound, model=model, device="cpu", cache_folder=folder)


def served(recipe: str, model: str, folder: Path) -> list[tuple[int, ...]]:
    with engine_of(recipe, model, folder) as engine:
        return [request.output_ids for request in engine.serve(engine.prepare(SPEC.draw(0))).requests]


def share(rank: int, world: int, *, heads: int, kv_heads: int) -> Share:
    config = ModelConfig(
        vocab_size=100, hidden_size=8, num_layers=1, num_heads=heads, num_kv_heads=kv_heads, head_dim=4,
        intermediate_size=100, max_positions=8,
    )  # fmt: skip
    return Share.of(config, rank, world, unit=32)


def test_heads_stay_with_their_keys_and_values() -> None:
    first, second = (share(rank, 2, heads=6, kv_heads=3) for rank in range(2))
    assert (first.heads, first.kv_heads) == (range(4), (0, 1))
    assert (second.heads, second.kv_heads) == (range(4, 6), (2,))
    assert (first.neurons, second.neurons) == (range(64), range(64, 100))


def test_too_few_kv_heads_are_copied_and_for_each_query_head_where_they_would_be_shared_unevenly() -> None:
    assert [share(rank, 3, heads=6, kv_heads=2).kv_heads for rank in range(3)] == [(0,), (0, 1), (1,)]
    assert [share(rank, 4, heads=6, kv_heads=2).kv_heads for rank in range(4)] == [(0,), (0, 1), (1,), (1,)]
    assert [share(rank, 2, heads=3, kv_heads=1).kv_heads for rank in range(2)] == [(0,), (0,)]
    assert share(1, 2, heads=10, kv_heads=2).kv_heads == (1,)
    assert [share(rank, 3, heads=10, kv_heads=2).kv_heads for rank in range(3)] == [(0,), (0, 1, 1), (1,)]


@pytest.mark.parametrize(
    "recipe", ["tensor_parallel(num=4, oversubscribe=True)", "pipeline_parallel(num=3, oversubscribe=True)"]
)
def test_more_than_two_ranks_say_what_one_says(recipe: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, num_attention_heads=6, hidden_size=96, num_hidden_layers=5)
    split = served(f"kv_cache + static_batching + {recipe}", str(tmp_path), tmp_path)
    assert split == served("kv_cache", str(tmp_path), tmp_path)


def test_equality_is_proven_in_fp32(tiny_model: str, tmp_path: Path) -> None:
    bounds = [bind(f"quantize + kv_cache + {way}") for way in (TENSOR, PIPELINE)]
    proofs = prepare_reference(bounds, model=tiny_model, device="cpu", effort="quick", cache_folder=tmp_path)
    assert list(proofs) == [f"kv_cache + {way}" for way in (TENSOR, PIPELINE)]
    assert all(proof["is_equal"] for proof in proofs.values())


def test_a_rank_that_is_killed_ends_the_model_and_is_named(tiny_model: str, tmp_path: Path) -> None:
    before = set(psutil.Process().children())

    def serve_without_one() -> None:
        with engine_of("kv_cache + tensor_parallel(num=3, oversubscribe=True)", tiny_model, tmp_path) as engine:
            started = set(psutil.Process().children()) - before
            assert len(started) == 2
            min(started, key=lambda child: child.pid).kill()
            engine.serve(engine.prepare(SPEC.draw(0)))

    with pytest.raises(WorkerDied, match="rank 1 of 3 was killed by SIGKILL"):
        serve_without_one()
    assert set(psutil.Process().children()) == before


def test_without_other_ranks_there_is_nothing_to_split_between(make_engine: MakeEngine) -> None:
    with pytest.raises(LabkitError, match="no other rank runs"):
        make_engine(TENSOR)
