"""The transformers peer decodes what plain `generate` decodes, with a time for every token."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from labkit.core.errors import Unavailable
from labkit.core.workload import Workload
from labkit.peers import open_peer
from labkit.peers.base import Peer


@pytest.fixture(scope="module")
def peer(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    folder = tmp_path_factory.mktemp("cache")
    return open_peer(
        "transformers", model=str(llama), device="cpu", options={"dtype": "fp32"}, cache_folder=folder, threads=1
    )


def plain_greedy(folder: Path, prompt: tuple[int, ...], num_tokens: int) -> tuple[int, ...]:
    """Greedy by whole forward passes: no cache, no padding, no generate."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(num_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def test_ids_are_the_greedy_ones_whatever_the_checkpoint_asks_for(
    peer: Peer, llama: Path, make_workload: Callable[..., Workload]
) -> None:
    prepared = peer.prepare(make_workload(9, new_tokens=12, scenario="single_stream"))
    (request,) = peer.serve(prepared).requests
    assert request.output_ids == plain_greedy(llama, prepared.prompts[0], 12)


def test_a_padded_batch_equals_one_by_one(peer: Peer, make_workload: Callable[..., Workload]) -> None:
    together = peer.serve(peer.prepare(make_workload(3, 11, 7))).requests
    apart = peer.serve(peer.prepare(make_workload(3, 11, 7, scenario="single_stream"))).requests
    assert [request.output_ids for request in together] == [request.output_ids for request in apart]
    assert [request.prompt_tokens for request in together] == [3, 11, 7]


def test_every_output_has_its_time(peer: Peer, make_workload: Callable[..., Workload]) -> None:
    trace = peer.serve(peer.prepare(make_workload(5, 6, new_tokens=10)))
    for request in trace.requests:
        times = (request.scheduled_s, *request.output_s, trace.duration_s)
        assert len(times) == 12
        assert all(earlier < later for earlier, later in pairwise(times))


def test_threads_are_set_and_read_back(peer: Peer) -> None:
    facts = peer.facts()
    assert facts["threads"] == 1 == torch.get_num_threads()
    assert facts["kernels"]["attention"] == "sdpa"
    assert facts["version"].startswith("transformers ")


@pytest.mark.parametrize(("dtype", "item_bytes"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_weights_are_of_the_dtype_asked_for(dtype: str, item_bytes: int, llama: Path, tmp_path: Path) -> None:
    from labkit.model.source import open_model

    peer = open_peer("transformers", model=str(llama), device="cpu", options={"dtype": dtype}, cache_folder=tmp_path)
    assert peer.facts()["weights_bytes"] == open_model(str(llama)).config.num_parameters * item_bytes
    peer.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_on_a_machine_without_one_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="asked to run on 'cuda'; this machine has none"):
        open_peer("transformers", model=str(llama), device="cuda", options={}, cache_folder=tmp_path)
