"""llama.cpp, given the same weights and ids, decodes what transformers decodes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from labkit.core.errors import LabkitError
from labkit.core.workload import Workload
from labkit.peers import open_peer
from labkit.peers.base import Peer

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; it is optional and compiled on the machine")


# One thread: llama.cpp's threads spin while they wait for each other, which takes minutes where they share a core.
def opened(model: Path, folder: Path, *, name: str = "llama_cpp", threads: int = 1, **options: Any) -> Peer:
    return open_peer(name, model=str(model), device="cpu", options=options, cache_folder=folder, threads=threads)


def ids_of(peer: Peer, workload: Workload) -> list[tuple[int, ...]]:
    return [request.output_ids for request in peer.serve(peer.prepare(workload)).requests]


def test_f16_ids_are_those_of_transformers(
    any_family: Path, tmp_path: Path, make_workload: Callable[..., Workload]
) -> None:
    peer, reference = opened(any_family, tmp_path), opened(any_family, tmp_path, name="transformers", dtype="fp32")
    workload = make_workload(*range(1, 49), new_tokens=2)
    pairs = zip(ids_of(peer, workload), ids_of(reference, workload), strict=True)
    assert sum(seen == wanted for seen, wanted in pairs) >= 44  # of 48: rounding to f16 tips a near tie now and then
    peer.close()


def test_a_batch_equals_one_by_one(llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]) -> None:
    peer = opened(llama, tmp_path)
    together = ids_of(peer, make_workload(3, 11, 7, new_tokens=12))
    apart = ids_of(peer, make_workload(3, 11, 7, new_tokens=12, scenario="single_stream"))
    assert together == apart
    peer.close()


def test_a_second_pass_starts_afresh(llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]) -> None:
    peer = opened(llama, tmp_path, dtype="q8_0")
    assert ids_of(peer, make_workload(9, 5)) == ids_of(peer, make_workload(9, 5))
    peer.close()


def test_every_output_has_its_time(llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]) -> None:
    peer = opened(llama, tmp_path, dtype="q4_0")
    trace = peer.serve(peer.prepare(make_workload(5, 6, new_tokens=10)))
    for request in trace.requests:
        times = (request.scheduled_s, *request.output_s, trace.duration_s)
        assert len(times) == 12
        assert all(earlier < later for earlier, later in pairwise(times))
    peer.close()


def test_threads_are_set_and_read_back(llama: Path, tmp_path: Path) -> None:
    peer = opened(llama, tmp_path, threads=2)
    facts = peer.facts()
    assert facts["threads"] == 2
    assert facts["weights_bytes"] > 0
    assert "llama-cpp-python" in facts["version"]
    peer.close()


def test_a_file_it_cannot_load_is_one_line(llama: Path, tmp_path: Path) -> None:
    opened(llama, tmp_path).close()
    (path,) = (tmp_path / "gguf").iterdir()
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LabkitError, match=r"llama\.cpp could not load .*: \S") as failed:
        opened(llama, tmp_path)
    assert "\n" not in str(failed.value)
