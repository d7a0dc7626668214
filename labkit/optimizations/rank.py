"""Another rank than the first of a model that several processes compute together.

    python -m labkit.optimizations.rank

It is told by its environment who it is and where the others are (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), and by
the first rank all else. It ends when the first one does.

On several hosts `torchrun` starts the same labkit command on each; the command runs on the first, the others serve it:

    torchrun --nnodes 2 --nproc-per-node 1 --node-rank 0 --master-addr 10.0.0.1 --master-port 29400 -m labkit \
        bench --recipe "kv_cache + tensor_parallel(num=2)"

with `--node-rank 1` on the second. GLOO_SOCKET_IFNAME names the network interface between them. Only the first host
needs the model; the others are sent their shards.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labkit.core.errors import UsageError
from labkit.optimizations.ranks import RANK_COMMAND

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig

_TOLD = {"RANK": r"\d{1,6}", "WORLD_SIZE": r"\d{1,6}", "MASTER_ADDR": r"\S+", "MASTER_PORT": r"\d{1,5}"}
"""What torchrun tells each process that it starts, and the form that it has."""


def configured(recipe: str) -> "EngineConfig":
    """The mechanisms of a recipe."""
    from labkit.engine.config import EngineConfig
    from labkit.optimizations import bind

    config = EngineConfig()
    for optimization in bind(recipe).optimizations:
        config = optimization.configure(config)
    return config


def is_elsewhere() -> bool:
    """Whether torchrun started this process to serve the first of several.

    Raises:
        UsageError: torchrun left its mark in the environment, and not what it tells each process.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    for name, form in _TOLD.items():
        if not re.fullmatch(form, told := os.environ.get(name, "")):
            raise UsageError(
                f"TORCHELASTIC_RUN_ID says that torchrun started this, and {name} is {told!r}; "
                "start it with torchrun, or unset TORCHELASTIC_RUN_ID"
            )
    return int(os.environ["RANK"]) > 0


def serve() -> None:
    """Start ranks for the first process until it is done."""
    from labkit.engine import ranks

    ranks.serve(RANK_COMMAND)


@contextmanager
def served() -> Iterator[None]:
    """Where torchrun started this process as the first of several, the others end with what is done inside."""
    try:
        yield
    finally:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            from labkit.engine import ranks

            ranks.release()


def main() -> None:
    """Join and follow, to the end."""
    from labkit.core.errors import WorkerDied
    from labkit.engine.follow import follow
    from labkit.engine.ranks import join
    from labkit.engine.wire import Wire

    join()
    try:
        follow(Wire(), configured)
    except WorkerDied:  # another rank is gone, and with it the model
        os._exit(1)  # at once: a clean exit would wait for threads that wait for the other


if __name__ == "__main__":
    main()
