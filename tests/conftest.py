"""Every test session has its own LABKIT_HOME, two threads unless told otherwise, and no network."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

LeftBehind = Callable[[], list[psutil.Process]]

NURSERY = "labkit.processes.nursery"

# Set before any test module is imported: OpenMP and the hub client read their environment once, when they load.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TF_CPP_MIN_LOG_LEVEL="3",
    OMP_WAIT_POLICY="passive",  # tests run side by side, and a thread that spins takes the core another one needs
)
os.environ.setdefault("OMP_NUM_THREADS", "2")  # one, on a machine that is busy


@pytest.fixture(scope="session", autouse=True)
def labkit_home() -> Iterator[Path]:
    """The folder that this session's history and cache go to; child processes inherit it."""
    with tempfile.TemporaryDirectory(prefix="labkit-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["LABKIT_HOME"] = folder
        yield Path(folder)
        del os.environ["LABKIT_HOME"]


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A test that reaches for another machine fails; loopback stays open."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not str(address).startswith(("('127.", "('localhost'", "('::1'")):
            raise AssertionError(f"a test tried to connect to {address!r}")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture
def left_behind() -> LeftBehind:
    """Tells which processes of this test still run; those that a fixture of others holds are not meant.

    Nor is the nursery of this process, which lives as long as it does; the workers that it started are.
    """
    before = psutil.Process().children(recursive=True)

    def left() -> list[psutil.Process]:
        lab = psutil.Process()
        nurseries = [child for child in lab.children() if NURSERY in command_of(child)]
        return [child for child in lab.children(recursive=True) if child not in [*before, *nurseries]]

    return left


def command_of(process: psutil.Process) -> list[str]:
    """Its command line, or nothing where it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def every_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of this test report every step, not only what a screen can show."""
    monkeypatch.setattr("labkit.runner.session._PROGRESS_INTERVAL_S", 0.0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a two-layer Llama with random weights and a byte tokenizer, sized so that every kernel takes it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    write_tiny_model(folder)
    return str(folder)


def write_tiny_model(folder: Path, **changes: Any) -> None:
    """Write the tiny model, or one whose config.json differs from its in these entries."""
    from labkit.model.config import ModelConfig
    from labkit.model.random_weights import write_random_weights
    from labkit.model.tokenizer import write_byte_tokenizer

    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 320,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_random_weights(ModelConfig.from_dict(config), folder)
    write_byte_tokenizer(folder / "tokenizer.json")


def timeless(counters: Mapping[str, float]) -> dict[str, float]:
    """What a pass counted, without the seconds."""
    return {name: count for name, count in counters.items() if not name.endswith("_s")}
