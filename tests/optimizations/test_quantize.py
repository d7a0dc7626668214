"""Quantization end to end on a small model: methods, rounded activations, what is refused."""

from pathlib import Path

import pytest
import torch

from labkit.core.errors import Unavailable, UsageError
from labkit.core.workload import WorkloadSpec
from labkit.engine.engine import Engine
from labkit.optimizations import Bound, bind, quantize
from labkit.optimizations.build import build_engine, prepare_reference

SPEC = WorkloadSpec("contract", "offline", prompt_tokens=12, new_tokens=6, num_requests=3)


def build(recipe: str, model: str, folder: Path) -> Engine:
    return build_engine(bind(recipe), model=model, device="cpu", cache_folder=folder)


def logits(engine: Engine) -> torch.Tensor:
    tokens = torch.randint(0, 300, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return engine.model(tokens).float()


@pytest.mark.slow
def test_making_up_for_errors_keeps_perplexity_nearer(tmp_path: Path) -> None:
    ratios = []
    prepare_reference([Bound()], model="pylm", device="cpu", effort="quick", cache_folder=tmp_path)
    for method in ("round", "gptq"):
        engine = build(f"quantize(bits=4, group_size=128, method='{method}') + kv_cache", "pylm", tmp_path)
        ratios.append(engine.quality("quick")["perplexity_ratio"])
    nearest, compensated = ratios
    assert compensated - 1 < 0.8 * (nearest - 1)


def test_a_second_process_reads_the_codes_of_the_first(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = "quantize(bits=4, method='gptq')"
    first = logits(build(recipe, tiny_model, tmp_path))
    assert len(list(tmp_path.glob("gptq-*.safetensors"))) == 1
    monkeypatch.setattr(quantize.Quantize, "_compensate", None)
    assert torch.equal(logits(build(recipe, tiny_model, tmp_path)), first)
    with pytest.raises(TypeError):  # another recipe is not served by that file
        build("quantize(bits=4, group_size=64, method='gptq')", tiny_model, tmp_path)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_activations_are_close_and_computed_in_integers(bits: int, tiny_model: str, tmp_path: Path) -> None:
    reference = logits(build("", tiny_model, tmp_path))
    engine = build(f"quantize(bits={bits}, activations='int8')", tiny_model, tmp_path)
    assert {module.activation_bits for module in engine.model.modules() if hasattr(module, "codes")} == {8}
    assert engine.cost(SPEC).phases["prefill"].flops_by_dtype.keys() == {"int8"}
    error = (logits(engine) - reference).norm() / reference.norm()
    assert error < {8: 0.05, 4: 0.3}[bits]


def test_torchao_rounds_by_itself() -> None:
    with pytest.raises(UsageError, match="'gptq' was asked for with kernel 'torchao', which rounds by itself"):
        bind("quantize(kernel='torchao', method='gptq')")


def test_torchao_is_asked_for_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    bind("quantize")
    with pytest.raises(Unavailable, match="quantize needs torchao: torchao is not installed; remedy: pip install"):
        bind("quantize(kernel='torchao')")


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_torchao_multiplies_the_same_integers(activations: str, tiny_model: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    ours = build(f"quantize(activations='{activations}')", tiny_model, tmp_path)
    theirs = build(f"quantize(activations='{activations}', kernel='torchao')", tiny_model, tmp_path)
    first, second = logits(ours), logits(theirs)
    assert (first - second).norm() < 0.05 * first.norm()
    # where torchao writes the weights out as floats, the facts say so
    theirs.serve(theirs.prepare(SPEC.draw(0)))
    excess = theirs.facts()["kernels_by_phase"]["prefill"]["excess"]
    assert excess == {"float": "dequantization", "int8": "kernels"}[activations]
    assert theirs.facts()["weights_bytes"] < 1.2 * ours.facts()["weights_bytes"]


def test_what_torchao_lacks_is_refused_in_one_line(tiny_model: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(Unavailable, match="torchao was asked for 4 bits with 16-bit activations on cpu; its kernels"):
        build("quantize(bits=4, kernel='torchao')", tiny_model, tmp_path)


@pytest.mark.parametrize(
    ("capability", "reason"), [(None, "no NVIDIA GPU is here"), (8.0, "the GPU here has 8.0"), (8.9, ""), (12.0, "")]
)
def test_small_floats_need_a_gpu_that_multiplies_them(
    capability: float | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "compute_capability", lambda: capability)
    if not reason:
        assert bind("quantize(format='fp8')").recipe.text == "quantize(format='fp8')"
        return
    with pytest.raises(Unavailable, match=f"quantize needs fp8 arithmetic: .*, {reason}; remedy"):
        bind("quantize(format='fp8')")


def test_small_floats_are_refused_on_the_cpu_beside_a_gpu(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "compute_capability", lambda: 9.0)
    with pytest.raises(Unavailable, match="format 'fp8' was asked for on cpu; allowed: cuda; remedy: format='int'"):
        build("quantize(format='fp8')", tiny_model, tmp_path)


@pytest.mark.parametrize("knob", ["bits=4", "method='gptq'", "activations='int8'", "kernel='torchao'"])
def test_small_floats_bring_their_own_activations_and_kernel(knob: str) -> None:
    with pytest.raises(UsageError, match=f"format 'fp8' was asked for with {knob}; .* leave those knobs out"):
        bind(f"quantize(format='fp8', {knob})")


def test_a_model_in_small_floats_stays_close_and_takes_a_byte_a_weight(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = logits(build("", tiny_model, tmp_path))
    monkeypatch.setattr(quantize, "compute_capability", lambda: 9.0)
    monkeypatch.setattr(quantize, "_FP8_DEVICES", ("cpu",))  # by the fallback, where there is no GPU
    engine = build("quantize(format='fp8')", tiny_model, tmp_path)
    error = (logits(engine) - reference).norm() / reference.norm()
    assert 0.001 < error < 0.15
    layers = [module for module in engine.model.modules() if hasattr(module, "codes")]
    assert {module.is_float8 for module in layers} == {True}
    num_weights = sum(module.in_features * module.out_features for module in layers)
    decode = engine.cost(SPEC).phases["decode"]
    assert list(decode.flops_by_dtype) == ["fp8"]
    assert num_weights < decode.bytes_by_kind["weights"] < 1.1 * num_weights
