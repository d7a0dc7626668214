"""Named shapes have the sizes they claim and random weights that behave."""

import math
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from labkit.core.errors import Unavailable, UsageError
from labkit.model import shapes
from labkit.model.config import ModelConfig
from labkit.model.random_weights import random_weight
from labkit.model.shapes import SHAPES, shape_folder
from labkit.model.source import open_model
from labkit.model.transformer import Transformer

SMALL = SHAPES["llama-125m"] | {"vocab_size": 2_000, "hidden_size": 192, "intermediate_size": 512}
BITS = [[-16576, 15517, 16168, -16699, 16144], [-16744, -16879, -16604, 16010, -16570]]
Usage = namedtuple("Usage", "free")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A shape of 12 layers that is cheap to generate."""
    monkeypatch.setattr(shapes, "SHAPES", {"small": SMALL})
    monkeypatch.setattr("labkit.model.source.SHAPES", {"small": SMALL})
    return "small"


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("llama-125m", 124_668_672),
        ("qwen3-0.6b", 596_049_920),
        ("llama-1b", 1_235_814_400),
        ("llama-7b", 6_738_415_616),
    ],
)
def test_shapes_have_the_parameters_of_their_models(name: str, num_parameters: int) -> None:
    config = ModelConfig.from_dict(SHAPES[name])
    assert config.num_parameters == num_parameters
    model = Transformer(config, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_logits_of_random_weights_are_finite_and_spread(small: str) -> None:
    source = open_model(small)
    assert source.has_random_weights
    assert source.origin == "random weights: speed only"
    model = Transformer(source.config, dtype=torch.bfloat16, device="meta")
    source.load(model, torch.bfloat16)
    tokens = torch.tensor([source.tokenizer.encode("def spread(self): return None\n" * 4)])
    with torch.inference_mode():
        logits = model(tokens).float()
    assert 1 < logits.std() < 6
    assert len(set(logits.argmax(-1)[0].tolist())) > 20
    assert logits.softmax(-1).max() < 0.9


def test_weights_are_the_same_on_every_machine() -> None:
    weight = random_weight("layers.0.self_attn.q_proj.weight", (2, 5))
    assert weight.view(torch.int16).tolist() == BITS


def test_weights_are_centred_with_variance_one_over_fan_in() -> None:
    weight = random_weight("layers.1.mlp.up_proj.weight", (512, 256)).float()
    assert abs(weight.mean()) < 1e-3
    assert weight.std() == pytest.approx(1 / math.sqrt(256), rel=0.01)
    assert not torch.equal(weight, random_weight("layers.2.mlp.up_proj.weight", (512, 256)).float())


def test_a_shape_is_generated_once(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor() as pool:
        folders = set(pool.map(lambda _: shape_folder(small, tmp_path), range(4)))
    (folder,) = folders
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    }
    monkeypatch.setattr(shapes, "write_random_weights", lambda *_: pytest.fail("generated again"))
    assert shape_folder(small, tmp_path) == folder


def test_a_generation_cut_short_leaves_no_folder(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "write_byte_tokenizer", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            shape_folder(small, tmp_path)
    assert [path.suffix for path in (tmp_path / "shapes").iterdir()] == [".lock"]
    assert shape_folder(small, tmp_path).is_dir()


def test_too_little_memory_is_refused_with_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "free_memory_bytes", lambda: 8 * 10**9)
    message = (
        r"llama-7b needs 13\.5 GB of memory for its bf16 weights, 8\.0 GB are free; remedy: choose a smaller shape"
    )
    with pytest.raises(Unavailable, match=message):
        shape_folder("llama-7b", tmp_path)


def test_too_little_disk_is_refused_with_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "free_memory_bytes", lambda: 10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=2 * 10**9))
    message = r"llama-1b needs 2\.5 GB of disk for its bf16 weights, 2\.0 GB are free; remedy: free some, or set LABKIT"
    with pytest.raises(Unavailable, match=message):
        shape_folder("llama-1b", tmp_path)


def test_a_cache_that_cannot_be_written_is_said_so(small: str, tmp_path: Path) -> None:
    (tmp_path / "shapes").touch()
    with pytest.raises(Unavailable, match=r"cannot write shape small to .*; remedy: free space, or set LABKIT_HOME"):
        shape_folder(small, tmp_path)


def test_a_disk_that_fills_up_is_said_so(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shapes, "write_random_weights", full)
    with pytest.raises(Unavailable, match=r"cannot write shape small to .*: .*No space left on device.*; remedy: free"):
        shape_folder(small, tmp_path)
    assert [path.suffix for path in (tmp_path / "shapes").iterdir()] == [".lock"]


def test_an_unknown_shape_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"unknown shape 'llama-2b'; allowed: llama-125m, qwen3-0\.6b, llama-1b, llama-7b"
    ):
        shape_folder("llama-2b", tmp_path)
