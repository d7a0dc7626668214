"""A benchmarking lab for LLM inference. One sentence holds the whole program:

A **Workload** of Requests is served by a **System** built under a **Recipe** of **Optimizations**; the **Lab** repeats
it in worker processes and writes a **Run** of raw samples with its quality and its Machine; a **Comparison** sets Runs
beside a baseline and beside the machine's limit; the **Panel** chooses the Recipe and draws the answer.

    from labkit import Lab

    lab = Lab(model="pylm", workload="chat")
    lab.compare(["", "kv_cache", "kv_cache + quantize(bits=8)"]).frame()  # the first is the baseline
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.lab import Lab

    __version__: str

__all__ = ["Lab", "__version__"]


def __getattr__(name: str) -> object:
    """Load the façade and the version when they are first asked for, so that `import labkit` costs nothing."""
    if name == "Lab":
        from labkit.lab import Lab

        return Lab
    if name == "__version__":
        from importlib.metadata import version

        return version("labkit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names that completion offers."""
    return __all__
