"""The torchao peer decodes with the transformers peer's model, its weights rounded."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch

from labkit.core.errors import Unavailable
from labkit.core.workload import Workload
from labkit.model.source import open_model
from labkit.peers import open_peer
from labkit.peers.torchao import TorchaoPeer

pytest.importorskip("torchao")


def opened(model: Path, folder: Path, *, dtype: str, device: str = "cpu") -> TorchaoPeer:
    peer = open_peer("torchao", model=str(model), device=device, options={"dtype": dtype}, cache_folder=folder)
    return cast(TorchaoPeer, peer)


@pytest.mark.parametrize("dtype", ["int8wo", "int8dq"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_weights_of_linear_layers_take_a_byte_each(
    dtype: str, is_tied: bool, save_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_checkpoint("Llama", tie_word_embeddings=is_tied)
    config = open_model(str(folder)).config
    facts = opened(folder, tmp_path, dtype=dtype).facts()
    num_rounded = config.num_linear_parameters + config.num_head_parameters
    num_floats = config.num_parameters - num_rounded + (config.num_head_parameters if is_tied else 0)
    scales = facts["weights_bytes"] - num_rounded - 2 * num_floats
    assert 0 < scales < 0.15 * num_rounded
    assert facts["kernels"]["linear"] == f"torchao {dtype}"
    assert ", torchao " in facts["version"]


@pytest.mark.parametrize("dtype", ["int8wo", "int8dq"])
def test_logits_are_those_of_the_floats_but_for_rounding(dtype: str, llama: Path, tmp_path: Path) -> None:
    ids = torch.arange(3, 35)[None]
    floats = open_peer("transformers", model=str(llama), device="cpu", options={"dtype": "bf16"}, cache_folder=tmp_path)
    rounded = opened(llama, tmp_path, dtype=dtype)
    with torch.inference_mode():
        first, second = (peer._model(ids).logits.float() for peer in (floats, rounded))
    error = (first - second).norm() / first.norm()
    assert 0 < error < 0.1


def test_moved_weights_decode_the_same_from_elsewhere(
    llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]
) -> None:
    peer = opened(llama, tmp_path, dtype="int8wo")
    prepared = peer.prepare(make_workload(3, 11, 7))
    before, addresses = peer.serve(prepared), [tensor.data_ptr() for tensor in peer._tensors()]
    peer.relocate()
    moved = [tensor.data_ptr() for tensor in peer._tensors()]
    assert all(old != new for old, new in zip(addresses, moved, strict=True))
    after = peer.serve(prepared)
    assert [request.output_ids for request in before.requests] == [request.output_ids for request in after.requests]


def test_four_bits_are_refused_on_a_cpu_in_one_line(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        opened(llama, tmp_path, dtype="int4wo")
    assert "torchao was asked for 4 bits" in str(refused.value)
    assert "run on cuda; remedy: dtype='int8wo'" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["int8wo", "int8dq", "int4wo"])
def test_every_scheme_decodes_on_a_gpu(
    dtype: str, llama: Path, tmp_path: Path, make_workload: Callable[..., Workload]
) -> None:
    peer = opened(llama, tmp_path, dtype=dtype, device="cuda")
    trace = peer.serve(peer.prepare(make_workload(3, 11, 7)))
    assert [len(request.output_ids) for request in trace.requests] == [8, 8, 8]
