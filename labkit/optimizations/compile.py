"""Compile: have torch.compile make one kernel of the small operations between two matrix products.

Idea: norm, rotation, gate and sum each read and write all activations and are each started from Python. A compiler
sees them together, keeps what one hands to the next in registers and starts one kernel for several. Products are what
they are without it, the fastest kernel that a probe finds, and where torch's is the only one the compiler may fuse it,
as on a GPU. `reduce-overhead` also records on a GPU each whole step that decodes and replays it as one CUDA graph, by a
single call instead of some hundred; `max-autotune` does, too, and tries several kernels for each product. What is
compiled lies between two attentions, where only the number of rows varies, so
nothing is compiled again as the cache grows: once for one row and once for several.
Price: warm-up takes tens of seconds where nothing is cached, and a C++ compiler; each call checks that its inputs are
as they were when it was compiled. Products of integers are kernels that a compiler cannot fuse with. In a graph shapes
are fixed: attention copies and reads as many positions as the next power of two holds, 128 at least, and a batch is
filled up to one. A step whose keys and values are too many to copy is started kernel by kernel.
No gain: where products take almost all the time, or where one call replays a whole step already: on a CPU with native
kernels a decoding step of `kv_cache` is such a call, and compiled blocks, which take its place, start more of them.
Reference: Ansel et al. 2024, PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and
Graph Compilation; gpt-fast.
"""

import os
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from labkit.core.machine import CPP_COMPILERS, cpp_compiler
from labkit.optimizations.base import Need, Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost
    from labkit.model.transformer import Transformer

_MOST_COMPILED = 64
"""Variants of one region; a model whose layers all differ in size has two for each layer."""


def _missing() -> str:
    if cpp_compiler() is None:
        return f"none was found ({', '.join(CPP_COMPILERS)}); install one, such as g++"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"{header} is missing; install the headers of this Python"


@dataclass(frozen=True)
class Compile(Optimization):
    """Compile the decoder's blocks, but for attention and for products that have better kernels than torch's."""

    name: ClassVar[str] = "compile"
    title: ClassVar[str] = "torch.compile"
    slot: ClassVar[Slot] = Slot.RUNTIME
    exact: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (Need("a C++ compiler", _missing),)

    mode: str = knob("default", "how far to go; CUDA graphs of the last two are for a GPU",
                     choices=("default", "reduce-overhead", "max-autotune"))  # fmt: skip

    @contextmanager
    def process(self) -> Iterator[Mapping[str, str]]:
        """Compile in this process alone, for its threads, into labkit's cache folder, and never more than is stated."""
        import torch
        import torch._dynamo
        import torch._inductor.config

        from labkit.core.paths import cache_folder

        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
        settings = {
            "compile_threads": 1,  # others would be processes that live on beside the measured one
            "cpp.threads": torch.get_num_threads(),
            "cpp.cxx": (None, cpp_compiler()),
        }
        limits = {"recompile_limit": _MOST_COMPILED, "fail_on_recompile_limit_hit": True}
        with ExitStack() as stack:
            stack.enter_context(torch._inductor.config.patch(settings))
            stack.enter_context(torch._dynamo.config.patch(limits))
            yield {"compiler": str(cpp_compiler())}

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Have the finished blocks compiled."""
        return replace(config, finish=partial(self._finish, config.finish))

    def _finish(self, finish: "Callable[[Transformer], Transformer]", model: "Transformer") -> "Transformer":
        from labkit.engine.compiled import compile_blocks

        return compile_blocks(finish(model), mode=self.mode)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Fewer launches, in every phase; a draft that is made of the model's own layers has the same."""
        from labkit.engine.cost import COMPILED_LAUNCHES_PER_LAYER as LAUNCHES

        draft = cost.draft
        if draft is not None and not draft.has_weights:
            draft = self.cost(draft)
        is_graphed = self.mode != "default"
        return replace(
            cost,
            is_compiled=True,
            is_graphed=is_graphed,
            prefill_launches=LAUNCHES,
            decode_launches=min(cost.decode_launches, LAUNCHES),  # none of a graph
            draft=draft,
        )
