"""From a bound Recipe to a running Engine, and the reference that its output is held against."""

import gc
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.core.errors import Unavailable, UsageError
from labkit.optimizations import Blueprint, Bound, Context, Optimization, Slot

if TYPE_CHECKING:
    from labkit.engine.engine import Engine
    from labkit.engine.quality import Provable
    from labkit.model.source import ModelSource


def build_engine(bound: Bound, *, model: str, device: str, cache_folder: Path) -> "Engine":
    """Load a model, let each technique change it, and put the Engine together.

    Args:
        bound: the Recipe. Its `process()` must be entered before.
        model: name, folder or hub name; see `labkit.model.source.open_model`.
        device: "cpu" or "cuda".

    Raises:
        UsageError: the model, the device or their combination cannot be had.
    """
    from labkit.model.source import open_model

    check_device(device)
    return _build(bound, open_model(model), device, cache_folder)


def build_system(bound: Bound, *, model: str, device: str, cache_folder: Path) -> "Provable":
    """The same, with what techniques put around the whole Engine; raises like `build_engine`."""
    build = partial(build_engine, bound, model=model, device=device, cache_folder=cache_folder)
    return _wrapped(bound, build, Blueprint(bound.recipe.text, model, device, str(cache_folder)))


def _wrapped(bound: Bound, build: "Callable[[], Provable]", blueprint: Blueprint) -> "Provable":
    for optimization in bound.optimizations:
        check_runs_on(optimization, blueprint.device)
        build = partial(optimization.wrap, build, blueprint)
    return build()


def _build(bound: Bound, source: "ModelSource", device: str, cache_folder: Path) -> "Engine":
    import torch

    from labkit.compression.calibration import calibration_tokens
    from labkit.engine.config import EngineConfig
    from labkit.engine.engine import Engine
    from labkit.model.transformer import Transformer

    model = Transformer(source.config, dtype=torch.float32, device="meta")
    places = [optimization.loads_on for optimization in bound.optimizations if optimization.loads_on]
    loads_on = places[0] if places else device
    source.load(model, torch.float32, loads_on)
    calibrate = partial(calibration_tokens, source.tokenizer.encode)
    config = EngineConfig()
    for index, optimization in enumerate(bound.optimizations, start=1):
        key = f"{source.hash} {Bound(bound.optimizations[:index]).recipe.text}"
        context = Context(
            device=loads_on,
            seed=0,
            cache_folder=cache_folder,
            key=key,
            calibrate=calibrate,
            recipe=bound.recipe.text,
        )
        model = optimization.transform(model, context)
        config = optimization.configure(config)
    weight_steps = Bound(tuple(one for one in bound.optimizations if one.slot is Slot.WEIGHTS)).recipe.text
    model = config.finish(model)
    gc.collect()

    return Engine(
        model.eval(),
        source,
        config,
        device=device,
        weight_steps=weight_steps,
        adjust_cost=bound.cost,
        cache_folder=cache_folder,
    )


def prepare_reference(
    bounds: Sequence[Bound], *, model: str, device: str, effort: str, cache_folder: Path
) -> dict[str, dict[str, Any]]:
    """Compute and cache what outputs are held against: reference logits, and the proof of each Recipe's exact part.

    Returns:
        Outcome of the proof by the canonical text of the exact part, in fp32; see `engine.quality.prove`.

    Raises:
        UsageError: a Recipe cannot serve what its proof asks.
    """
    from labkit.engine import quality
    from labkit.model.source import open_model

    check_device(device)
    source = open_model(model)
    exacts = {bound.exact.recipe.text: bound.exact for bound in bounds if bound.exact.optimizations}
    known = {text: quality.read_proof(source, device, text, effort, cache_folder) for text in exacts}
    proofs = {text: proof for text, proof in known.items() if proof is not None}
    has_reference = source.has_random_weights or quality.reference_path(source, device, effort, cache_folder).exists()
    if has_reference and len(proofs) == len(exacts):
        return proofs
    baseline = _build(Bound(), source, device, cache_folder)
    quality.write_reference(baseline, effort)
    for text, exact in exacts.items():
        if text not in proofs:
            build = partial(_build, exact, source, device, cache_folder)
            blueprint = Blueprint(text, model, device, str(cache_folder))
            with exact.process(), closing(_wrapped(exact, build, blueprint)) as candidate:
                try:
                    proofs[text] = quality.prove(baseline, candidate, text, effort)
                except UsageError as error:  # its requests are not those that were asked for
                    raise UsageError(f"the proof that {text} gives equal outputs cannot be made: {error}") from None
    return proofs


def check_runs_on(optimization: Optimization, device: str) -> None:
    """Raise UsageError unless a Run on this device can have the technique."""
    kind = device.partition(":")[0]
    if kind not in optimization.devices:
        raise UsageError(
            f"{optimization.step.text} was asked for on device {device!r}; allowed: {', '.join(optimization.devices)}"
        )


def check_device(device: str) -> None:
    """Raise Unavailable unless this machine has the device."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable(f"device {device!r} was asked for, torch sees no CUDA device here; allowed: cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise Unavailable(f"unknown device {device!r}; allowed: cpu, cuda")
