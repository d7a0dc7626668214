"""What needs a GPU says so in one line where there is none, on every surface, and refuses the wrong device."""

from dataclasses import replace
from pathlib import Path

import pytest

from labkit import cli
from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import machine
from labkit.optimizations import bind
from labkit.optimizations.build import build_system
from labkit.optimizations.offload import Offload
from labkit.optimizations.prefill_on_gpu import PrefillOnGpu
from labkit.ui.inventory import catalog
from labkit.ui.panel.switchboard import missing

Kind = type[Offload | PrefillOnGpu]

PREFILL = "kv_cache + prefill_on_gpu"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(machine(), gpu=None)
    monkeypatch.setattr("labkit.optimizations.base.machine", lambda: here)


@pytest.mark.parametrize(("kind", "recipe"), [(Offload, "offload"), (PrefillOnGpu, PREFILL)])
@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_is_refused_and_the_panel_shows_why(
    kind: Kind, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match=f"{kind.name} needs cuda: nvidia-smi finds no GPU here"):
        bind(recipe)
    assert missing(kind) == "cuda: nvidia-smi finds no GPU here"
    (told,) = [technique for technique in catalog() if technique["name"] == kind.name]
    assert told["missing"] == ["cuda: nvidia-smi finds no GPU here"]
    assert cli.main(["bench", "--recipe", recipe]) == 2
    complaint = capsys.readouterr().err
    assert f"{kind.name} needs cuda" in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_a_torch_without_cuda_is_named_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(machine(), gpu="NVIDIA H100", versions={"torch": "2.13.0+cpu"})
    monkeypatch.setattr("labkit.optimizations.base.machine", lambda: here)
    assert missing(Offload) == "cuda: torch 2.13.0+cpu is built without it; install a build for CUDA"


@pytest.mark.parametrize(
    ("kind", "recipe", "device", "message"),
    [
        (
            Offload,
            "offload(gpu_layers=1)",
            "cpu",
            "offload.* was asked for on device 'cpu'; allowed: cuda",
        ),
        (PrefillOnGpu, PREFILL, "cuda", "prefill_on_gpu was asked for on device 'cuda'; allowed: cpu"),
    ],
)
def test_a_device_that_it_does_not_run_on_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Kind, recipe: str, device: str, message: str
) -> None:
    monkeypatch.setattr(kind, "needs", ())
    with pytest.raises(UsageError, match=message):
        build_system(bind(recipe), model="no such model", device=device, cache_folder=tmp_path)
