"""A checkpoint is loaded tensor by tensor, or refused in one line that names what is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labkit.core.errors import CheckpointError, Unavailable
from labkit.model.config import ModelConfig
from labkit.model.header import read_json
from labkit.model.transformer import Transformer
from labkit.model.weights import INDEX, SINGLE, Checkpoint

Edit = Callable[[Path, str, Callable[[dict[str, Any]], object]], None]
NORM = "model.norm.weight"


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    model = Transformer(config, dtype=dtype, device="meta")
    Checkpoint.open(folder).load(model, dtype=dtype)
    return model


def shard_of(folder: Path, name: str) -> str:
    return str(json.loads((folder / INDEX).read_text())["weight_map"][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_parameter_holds_what_the_shards_hold(folder: Path, dtype: torch.dtype) -> None:
    stored: dict[str, torch.Tensor] = {}
    for shard in Checkpoint.open(folder).shards:
        stored |= load_file(shard)
    assert len(Checkpoint.open(folder).shards) > 1
    parameters = dict(loaded(folder, dtype).named_parameters())
    assert {name if name.startswith("lm_head") else f"model.{name}" for name in parameters} == set(stored)
    for name, parameter in parameters.items():
        assert not parameter.requires_grad
        expected = stored[name if name.startswith("lm_head") else f"model.{name}"].to(dtype)
        torch.testing.assert_close(parameter.data, expected, rtol=0, atol=0)


def test_loaded_weights_do_not_follow_the_file(folder: Path, edit: Edit) -> None:
    model = loaded(folder, torch.bfloat16)
    before = model.norm.weight.clone()
    edit(folder, shard_of(folder, NORM), lambda tensors: tensors[NORM].mul_(2))
    torch.testing.assert_close(model.norm.weight.data, before.data, rtol=0, atol=0)


def test_missing_tensors_are_named(folder: Path, edit: Edit) -> None:
    edit(folder, shard_of(folder, NORM), lambda tensors: tensors.pop(NORM))
    edit(folder, INDEX, lambda index: index["weight_map"].pop(NORM))
    with pytest.raises(CheckpointError, match=r"tensors missing for its config\.json: 'norm\.weight'"):
        loaded(folder)


def test_many_missing_tensors_are_counted(folder: Path, edit: Edit) -> None:
    edit(folder, "config.json", lambda config: config.update(num_hidden_layers=4))
    with pytest.raises(CheckpointError, match=r"'layers\.2\.input_layernorm\.weight', .* and 13 more$"):
        loaded(folder)


def test_unexpected_tensors_are_named(folder: Path, edit: Edit) -> None:
    edit(folder, "config.json", lambda config: config.update(num_hidden_layers=1))
    with pytest.raises(CheckpointError, match=r"tensors unexpected for its config\.json: 'layers\.1\."):
        loaded(folder)


def test_a_head_beside_a_tied_embedding_is_ignored(folder: Path, edit: Edit) -> None:
    edit(folder, "config.json", lambda config: config.update(tie_word_embeddings=True))
    assert "lm_head.weight" not in dict(loaded(folder).named_parameters())


def test_misshaped_tensors_are_named_with_both_shapes(folder: Path, edit: Edit) -> None:
    edit(folder, "config.json", lambda config: config.update(intermediate_size=40))
    message = r"'model\.layers\.0\.mlp\.gate_proj\.weight' has shape \[48, 32\]; config\.json asks for \[40, 32\]"
    with pytest.raises(CheckpointError, match=message):
        loaded(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_all_tensors_with_nan_or_infinity_are_named(value: float, folder: Path, edit: Edit) -> None:
    for name in (NORM, "lm_head.weight"):
        edit(folder, shard_of(folder, name), lambda tensors, name=name: tensors[name].view(-1)[-1:].fill_(value))
    message = r"weights cannot be used: 'lm_head\.weight holds NaN or infinity', 'model\.norm\.weight holds NaN"
    with pytest.raises(CheckpointError, match=message):
        loaded(folder)


def test_weights_too_large_for_a_narrow_dtype_are_named(folder: Path, edit: Edit) -> None:
    edit(folder, shard_of(folder, NORM), lambda tensors: tensors[NORM].fill_(1e38))  # finite, its sum is not
    assert loaded(folder, torch.float32).norm.weight.isfinite().all()
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight overflows float16'"):
        loaded(folder, torch.float16)


def test_weights_that_do_not_fit_are_refused_with_both_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.model.weights.free_memory_bytes", lambda: 1_000)
    with pytest.raises(Unavailable, match=r"weights of tiny need 0\.0 GB in float32, cpu has 0\.0 GB free; remedy:"):
        loaded(folder)


def test_a_shard_cut_after_it_was_opened_is_named(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    os.truncate(folder / shard_of(folder, NORM), 100)
    model = Transformer(ModelConfig.from_dict(read_json(folder / "config.json")), device="meta")
    with pytest.raises(CheckpointError, match=f"{shard_of(folder, NORM)} has changed since it was opened"):
        checkpoint.load(model, dtype=torch.float32)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = shard_of(folder, NORM)
    (folder / shard).unlink()
    with pytest.raises(CheckpointError, match=f"names shard {shard}, which is missing"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "x.bin", "", "a\n.safetensors"]
)
def test_an_index_cannot_name_files_outside_the_folder(name: str, folder: Path, edit: Edit) -> None:
    edit(folder, INDEX, lambda index: index["weight_map"].update({NORM: name}))
    with pytest.raises(CheckpointError, match=r"allowed: \*\.safetensors of the same folder") as caught:
        Checkpoint.open(folder)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}, {"a": None}])
def test_an_index_without_a_map_is_refused(weight_map: object, folder: Path, edit: Edit) -> None:
    edit(folder, INDEX, lambda index: index.update(weight_map=weight_map))
    with pytest.raises(CheckpointError, match="holds no weight_map from tensor names to files"):
        Checkpoint.open(folder)


def test_an_index_and_shards_must_agree(folder: Path, edit: Edit) -> None:
    edit(folder, INDEX, lambda index: index["weight_map"].update({"model.extra": shard_of(folder, NORM)}))
    with pytest.raises(CheckpointError, match=r"disagree where these tensors lie: 'model\.extra'"):
        Checkpoint.open(folder)


def test_one_tensor_under_two_names_is_refused(folder: Path, edit: Edit) -> None:
    shard = shard_of(folder, NORM)
    edit(folder, shard, lambda tensors: tensors.update({"norm.weight": tensors[NORM].clone()}))
    edit(folder, INDEX, lambda index: index["weight_map"].update({"norm.weight": shard}))
    with pytest.raises(CheckpointError, match=r"norm\.weight' appears twice in the checkpoint"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    message = f"as pickle \\('{name}'\\), which can run code when opened; allowed: safetensors; remedy: convert"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path)


def test_a_folder_without_weights_says_which_files_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"has no {SINGLE} and no {INDEX}"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(("make", "seen"), [(Path.mkdir, "tiny has no"), (Path.touch, "is a file"), (None, "does not")])
def test_what_is_no_model_folder_is_refused(make: Callable[[Path], None] | None, seen: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    if make is not None:
        make(path)
    with pytest.raises(CheckpointError, match=seen):
        Checkpoint.open(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "weights"])
def test_the_hash_changes_with_any_file(name: str, folder: Path, edit: Edit, tmp_path: Path) -> None:
    before = Checkpoint.open(folder).hash(tmp_path)
    assert Checkpoint.open(folder).hash(tmp_path) == before
    if name == "weights":
        # one weight, its file of the same size as before
        edit(folder, shard_of(folder, NORM), lambda tensors: tensors[NORM][3:4].mul_(1.5))
    else:
        edit(folder, name, lambda content: content.update(extra=1))
    assert Checkpoint.open(folder).hash(tmp_path) != before


def test_the_hash_reads_an_unchanged_file_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(folder)
    before = checkpoint.hash(tmp_path)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert checkpoint.hash(tmp_path) == before


def test_a_cache_that_cannot_be_written_is_said_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "digests").touch()
    with pytest.raises(
        Unavailable, match=r"cannot write .*digests: File exists; remedy: free space, or set LABKIT_HOME"
    ):
        Checkpoint.open(folder).hash(tmp_path)
