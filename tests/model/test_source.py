"""Models open by name, and a name that leads nowhere says where it could have led."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.core.errors import CheckpointError, Unavailable, UsageError
from labkit.model.source import MODELS, open_model

Edit = Callable[[Path, str, Callable[[dict[str, Any]], object]], None]


def test_a_folder_opens_by_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_model(str(folder))
    assert (source.folder, source.config.num_layers, source.has_random_weights) == (folder, 2, False)
    assert source.origin == f"folder {folder}"
    monkeypatch.chdir(folder.parent)
    assert open_model("tiny").hash == open_model("./tiny").hash == source.hash


def test_the_embedded_model_is_read_from_the_bundled_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.model.source.data_path", lambda *parts: folder if parts == ("models", "pylm") else None)
    source = open_model("pylm")
    assert (source.folder, source.origin) == (folder, "trained for labkit, ships with it")


@pytest.mark.parametrize("name", ["", "gpt-5", "llama_125m", "a b", "~nobody-here", "x\0y", "x" * 300])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"unknown model .*; allowed: pylm, llama-125m, .*; or name a checkpoint folder"
    ):
        open_model(name)
    assert MODELS == ("pylm", "llama-125m", "qwen3-0.6b", "llama-1b", "llama-7b")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "../x", "./" + "x" * 300])
def test_a_missing_folder_is_said_so(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"model folder .* does not exist; expected a folder with config\.json"):
        open_model(name)


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is a file; expected a folder"):
        open_model(str(folder / "config.json"))


def test_an_unreadable_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tiny/config\.json is no JSON that labkit can read"):
        open_model(str(folder))


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tiny has no config\.json"):
        open_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "model.Model"}}, "auto_map"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
    ],
)
def test_remote_code_and_foreign_families_are_refused(
    change: dict[str, Any], message: str, folder: Path, edit: Edit
) -> None:
    edit(folder, "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=message):
        open_model(str(folder))


LLAMA3 = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": 5}, "holds a value of the wrong kind"),
        ({"architectures": [["x"]]}, "holds a value of the wrong kind"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "lacks 'factor'"),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": "8"}}, "factor is '8'; allowed: numbers above 0"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": "abc"}, "sliding_window is 'abc'; allowed: whole"),
    ],
)
def test_a_value_that_no_config_has_is_named(change: dict[str, Any], message: str, folder: Path, edit: Edit) -> None:
    edit(folder, "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=message):
        open_model(str(folder))


def test_a_hub_name_offline_says_so() -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(
        Unavailable, match=r"'org/name': .* cannot be reached \(offline\); remedy: go online once, name"
    ):
        open_model("org/name")


def test_a_hub_name_without_the_client_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Unavailable, match=r"hub names need huggingface_hub; remedy: pip install 'labkit\[hub\]'"):
        open_model("org/name")


def test_a_hub_model_fetches_safetensors_and_json_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    source = open_model("org/name")
    assert asked["name"] == "org/name"
    assert asked["allow_patterns"] == ["*.safetensors", "*.json"]
    assert source.origin == "Hugging Face hub, revision tiny"


@pytest.mark.parametrize(
    ("fault", "message"),
    [("GatedRepoError", "is gated; remedy: accept"), ("RepositoryNotFoundError", "no such model on the hub")],
)
def test_what_the_hub_refuses_is_told_in_one_line(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    error = getattr(hub.errors, fault)

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(UsageError, match=message):
        open_model("org/name")


def test_opening_a_model_does_not_import_torch(folder: Path) -> None:
    code = f"""
import sys
from labkit.model.source import open_model
open_model({str(folder)!r})
print([name for name in ("torch", "tensorflow", "transformers", "huggingface_hub") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
