"""What an optimization is: a frozen dataclass whose fields are its knobs, with five optional hooks."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.core.errors import UsageError
from labkit.core.machine import DEVICES, machine
from labkit.core.paths import code_digest, write_whole
from labkit.core.recipe import KnobValue, Step

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost
    from labkit.engine.quality import Provable
    from labkit.model.transformer import Transformer


class Slot(Enum):
    """Where a technique sits. WEIGHTS, CACHE_EXTRA and RUNTIME hold several; the others hold one."""

    WEIGHTS = "weights"
    KV_STORE = "kv_store"
    CACHE_EXTRA = "cache_extra"
    SCHEDULER = "scheduler"
    EXECUTOR = "executor"
    DECODING = "decoding"
    RUNTIME = "runtime"

    @property
    def is_stacking(self) -> bool:
        """Whether several techniques of this slot may be on at once."""
        return self in (Slot.WEIGHTS, Slot.CACHE_EXTRA, Slot.RUNTIME)


@dataclass(frozen=True)
class Context:
    """What `transform` may use besides the model.

    `calibrate(n)` gives token ids [n, T] of text that quality is not measured on. `key` tells what the weights are
    before this step: the model's hash and the text of the steps so far, this one included.
    """

    device: str
    seed: int
    cache_folder: "Path"
    key: str
    calibrate: "Callable[[int], Tensor]"
    recipe: str = ""

    def cached(self, what: str, compute: "Callable[[], dict[str, Tensor]]") -> "dict[str, Tensor]":
        """Tensors that depend on nothing but `key`, seed and code: computed once, then read by every process.

        A Recipe is built in many worker processes, and some transforms take minutes.
        """
        import torch
        from safetensors.torch import load_file, save_file

        text = json.dumps([what, self.key, self.seed, self.device, torch.__version__, code_digest()])
        path = self.cache_folder / f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
        if not path.exists():
            tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in compute().items()}
            write_whole(path, lambda temporary: save_file(tensors, temporary))
        # copies: tensors in a file lie at any address, and kernels of torch take only aligned ones
        return {name: tensor.clone() for name, tensor in load_file(path, device=self.device).items()}


@dataclass(frozen=True)
class Blueprint:
    """What an Engine is built from, as plain data that another process can build it from as well."""

    recipe: str
    model: str
    device: str
    cache_folder: str


@dataclass(frozen=True)
class Need:
    """Something the machine must have; `missing` gives the reason why it has not, or ''."""

    name: str
    missing: Callable[[], str]


def _missing_cuda() -> str:
    here = machine()
    if here.gpu is None:
        return "nvidia-smi finds no GPU here"
    torch = here.versions.get("torch", "")
    return f"torch {torch} is built without it; install a build for CUDA" if torch.endswith("+cpu") else ""


CUDA = Need("cuda", _missing_cuda)


def knob(
    default: KnobValue,
    help: str,
    *,
    choices: tuple[KnobValue, ...] = (),
    low: float | None = None,
    high: float | None = None,
    is_open: bool = False,
) -> Any:
    """A field that is a knob: its default, what it does, and the values it takes (a set or a range).

    The choices of an open one are suggestions: any other text may be tried, and what it means shows when it is used.
    """
    rule = {"choices": choices, "low": low, "high": high, "is_open": is_open}
    return field(default=default, metadata={"help": help, **rule})


@dataclass(frozen=True)
class Optimization:
    """Base of all techniques; its docstrings and class facts are what panel, CLI and report show.

    `transform`, `configure`, `wrap` and `cost` are for the engine, `settle` for the Systems that `systems` names
    besides, `process` for all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    slot: ClassVar[Slot]
    exact: ClassVar[bool]
    systems: ClassVar[tuple[str, ...]] = ("engine",)
    needs: ClassVar[tuple[Need, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[Mapping[str, str]] = {}
    devices: ClassVar[tuple[str, ...]] = DEVICES
    loads_on: ClassVar[str | None] = None
    """Where weights are loaded and changed, if not on the device of the Run."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            check_knob(self.name, spec.name, getattr(self, spec.name), spec.default, spec.metadata)

    @property
    def is_exact(self) -> bool:
        """Whether outputs must be identical with these knobs; never more than the class states."""
        return self.exact

    @property
    def required(self) -> tuple[Need, ...]:
        """What the machine must have for these knobs; the class states what all of them need."""
        return self.needs

    @property
    def partners(self) -> tuple[str, ...]:
        """Techniques that must stand beside it with these knobs; the class states what all of them require."""
        return self.requires

    @property
    def provable(self) -> "Optimization":
        """It as a proof runs it: without knobs that a process can set only once, since a proof shares its process."""
        return self

    @cached_property
    def step(self) -> Step:
        """The canonical step: only knobs that differ from their default, in the order they are declared."""
        changed = ((f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default)
        return Step(self.name, tuple(changed))

    @contextmanager
    def process(self) -> Iterator[Mapping[str, Any]]:
        """Set process-wide state before weights load; yields the values read back."""
        yield {}

    def transform(self, model: "Transformer", ctx: Context) -> "Transformer":
        """Change weights, layer by layer."""
        return model

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Hand the engine the mechanism."""
        return config

    def settle(self, settings: Any) -> Any:
        """Change what a System of texts is built from: `text.similarity.Settings` and its like."""
        return settings

    def wrap(self, build: "Callable[[], Provable]", blueprint: Blueprint) -> "Provable":
        """Build a System around the whole one, or around others that are built from its blueprint elsewhere."""
        return build()

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """What the technique changes in bytes, FLOPs and launches."""
        return cost


def check_knob(name: str, key: str, value: Any, default: Any, rule: Mapping[str, Any]) -> None:
    """Raise a UsageError unless `value` is one of the choices, or a number of the default's type within the range.

    An open knob takes any text; the empty one only where it is the default.
    """
    choices, low, high = rule["choices"], rule["low"], rule["high"]
    if rule["is_open"]:
        if not (isinstance(value, str) and (value or default == "")):
            allowed, remedy = (choices, "or any other text") if choices else (("any text",), "")
            raise UsageError.unknown(f"value of {name}'s knob {key}", value, allowed, remedy=remedy)
        return
    if choices:
        # by type too: True equals 1, and 8.0 equals 8, but neither is what was declared
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            remedy = "or any other text" if rule["is_open"] else ""
            raise UsageError.unknown(f"value of {name}'s knob {key}", value, choices, remedy=remedy)
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int) and is_number:
        is_number = isinstance(value, int)
    if not (is_number and low <= value <= high):
        kind = "whole numbers" if isinstance(default, int) else "numbers"
        raise UsageError(f"{name}: knob {key} is {value!r}; allowed: {kind} from {low:.15g} to {high:.15g}")
