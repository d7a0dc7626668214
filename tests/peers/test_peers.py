"""Opening a peer: what is refused, and how."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.system import System
from labkit.core.errors import Unavailable, UsageError
from labkit.core.recipe import Recipe
from labkit.core.workload import Request, Workload, WorkloadSpec
from labkit.peers import DEFAULT_PEERS, DEFAULT_RECIPES, PACKAGES, PEERS, default_recipes, open_peer
from labkit.peers.base import Peer, Settings, TokenIds
from labkit.peers.similarity import SIMILARITY_PEERS
from labkit.text.classifier import RUNTIMES


def opened(name: str, tmp_path: Path, *, model: str = "none", device: str = "cpu", **options: Any) -> System:
    return open_peer(name, model=model, device=device, options=options, cache_folder=tmp_path, threads=2)


@pytest.mark.parametrize(
    ("name", "device", "options", "message"),
    [
        ("vllm", "cpu", {}, "unknown peer 'vllm'; allowed: transformers, torchao, llama_cpp"),
        ("transformers", "cpu", {"beams": 2}, "unknown option of peer 'transformers' 'beams'; allowed: dtype, batch"),
        ("llama_cpp", "cpu", {"dtype": "fp32"}, "unknown dtype of peer 'llama_cpp' 'fp32'; allowed: f16, q8_0, q4_0"),
        ("transformers", "cpu", {"batch": 0}, "peer 'transformers': batch is 0; allowed: whole numbers from 1"),
        ("transformers", "cpu", {"batch": True}, "batch is True"),
        ("torchao", "cpu", {"dtype": "fp32"}, "dtype of peer 'torchao' 'fp32'; allowed: int8wo, int8dq, int4wo"),
        ("llama_cpp", "cuda", {}, "peer 'llama_cpp' was asked to run on 'cuda'; it runs on: cpu"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    name: str, device: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        opened(name, tmp_path, device=device, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "package", "remedy"),
    [
        ("transformers", "transformers", 'pip install "labkit[peers]"'),
        ("torchao", "torchao.quantization", 'pip install "labkit[peers]"'),
        ("torchao", "transformers", 'pip install "labkit[peers]"'),
        ("llama_cpp", "llama_cpp", "pip install llama-cpp-python"),
    ],
)
def test_a_missing_package_names_the_remedy(
    name: str, package: str, remedy: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable) as refused:
        opened(name, tmp_path, model=str(llama))
    assert f"peer {name!r} needs the package {package!r}" in str(refused.value)
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)


def test_defaults_are_recipes_that_peers_and_parser_understand() -> None:
    for text in DEFAULT_PEERS:
        (step,) = Recipe.parse(text).steps
        assert dict(step.knobs)["dtype"] in PEERS[step.name]().dtypes
    assert {*PACKAGES} == {*PEERS, *SIMILARITY_PEERS, *RUNTIMES} - {"torch"}, "the last is ours"
    assert default_recipes(1) == DEFAULT_RECIPES
    for text, recipe in zip(default_recipes(8), DEFAULT_RECIPES, strict=True):
        assert Recipe.parse(text).to_dict() == {**Recipe.parse(recipe).to_dict(), "static_batching": {"size": 8}}


class Echo(Peer):
    """Continues every prompt with its own length, and remembers what came together."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.batches: list[int] = []

    def generate(self, prompts: Any, num_tokens: int, stamps: list[int]) -> list[TokenIds]:
        import time

        self.batches.append(len(prompts))
        stamps += [time.perf_counter_ns() for _ in range(num_tokens)]
        return [(len(prompt),) * num_tokens for prompt in prompts]

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def echo(llama: Path, tmp_path: Path, batch: int | None) -> Echo:
    from labkit.model.source import open_model

    source = open_model(str(llama))
    return Echo(Settings(source=source, device="cpu", dtype="fp32", batch=batch, threads=1, cache_folder=tmp_path))


@pytest.mark.parametrize(("batch", "sizes"), [(None, [5]), (2, [2, 2, 1]), (8, [5])])
def test_offline_requests_go_in_batches(
    batch: int | None, sizes: list[int], llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]
) -> None:
    peer = echo(llama, tmp_path, batch)
    trace = peer.serve(peer.prepare(make_workload(1, 2, 3, 4, 5)))
    assert peer.batches == sizes
    assert [request.output_ids for request in trace.requests] == [(n,) * 8 for n in (1, 2, 3, 4, 5)]
    assert {request.arrival_s for request in trace.requests} == {0.0}


def test_a_single_stream_sends_a_request_when_the_one_before_is_done(
    llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]
) -> None:
    peer = echo(llama, tmp_path, None)
    first, second = peer.serve(peer.prepare(make_workload(3, 4, scenario="single_stream"))).requests
    assert peer.batches == [1, 1]
    assert first.output_s[-1] < second.arrival_s <= second.sent_s <= second.scheduled_s < second.output_s[0]


def test_a_server_waits_for_arrivals_and_counts_from_them(llama: Path, tmp_path: Path) -> None:
    peer = echo(llama, tmp_path, None)
    requests = tuple(Request((5, 6), 2, 2, arrival_s) for arrival_s in (0.0, 0.05, 0.1))
    trace = peer.serve(peer.prepare(Workload("test", "server", requests)))
    assert [request.arrival_s for request in trace.requests] == [0.0, 0.05, 0.1]
    for request in trace.requests:
        assert request.arrival_s <= request.sent_s <= request.scheduled_s <= request.output_s[0]


def test_requests_of_one_batch_keep_their_own_lengths(llama: Path, tmp_path: Path) -> None:
    peer = echo(llama, tmp_path, None)
    trace = peer.serve(peer.prepare(Workload("test", "offline", (Request((5,), 2, 1), Request((5, 6), 4, 2)))))
    assert [len(request.output_s) for request in trace.requests] == [2, 4]
    assert [request.output_ids for request in trace.requests] == [(1, 1), (2, 2, 2, 2)]


def test_prompts_are_the_models_own_ids_cut_to_length(llama: Path, tmp_path: Path) -> None:
    peer = echo(llama, tmp_path, None)
    prepared = peer.prepare(Workload("test", "offline", (Request("def main():", 1, 5),)))
    assert list(prepared.prompts[0]) == peer.settings.source.tokenizer.encode("def main():")[:5]


def test_what_does_not_fit_is_refused_before_the_clock_runs(
    llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]
) -> None:
    peer = echo(llama, tmp_path, None)
    with pytest.raises(UsageError, match=r"needs 129 positions; .* holds 128 here; lower --prompt-tokens"):
        peer.prepare(make_workload(121))
    with pytest.raises(UsageError, match="a prompt of 9 tokens was asked for, its text holds 2"):
        peer.prepare(Workload("test", "offline", (Request((5, 6), 1, 9),)))


def test_a_shared_prefix_has_the_ids_that_the_engine_sees(llama: Path, tmp_path: Path) -> None:
    from labkit.optimizations import bind
    from labkit.optimizations.build import build_engine

    spec = WorkloadSpec("shared", "offline", prompt_tokens=100, new_tokens=1, num_requests=4, shared_prefix_tokens=48)
    engine = build_engine(bind("kv_cache"), model=str(llama), device="cpu", cache_folder=tmp_path)
    ours = [tuple(ids) for _, ids in engine.prepare(spec.draw(0)).requests]
    assert list(echo(llama, tmp_path, None).prepare(spec.draw(0)).prompts) == ours
    assert len({ids[:48] for ids in ours}) == 1
    assert len(set(ours)) == 4
