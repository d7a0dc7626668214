"""The process of one replica: it pins itself to its cores, builds the Engine, and serves until its parent is gone.

    python -m labkit.optimizations.replica

Its first command is `open` {blueprint, cores, num_threads}; see `labkit.engine.replica` for the others.
"""

import os
import sys
import traceback
from pathlib import Path

from labkit.optimizations import Blueprint, Bound, bind
from labkit.processes.channel import Channel, error_event


def serve(channel: Channel, *, blueprint: dict[str, str], cores: list[int], num_threads: int) -> None:
    """Build what the blueprint says, less the replicas themselves, and answer until told to close."""
    plan = Blueprint(**blueprint)
    whole = bind(plan.recipe)  # while all cores can be seen, which a technique may need
    os.sched_setaffinity(0, cores)  # before torch loads: its threads inherit it and count the cores that are left
    import torch

    from labkit.engine.replica import Replica
    from labkit.optimizations.build import build_engine

    torch.set_num_threads(min(num_threads, len(cores)))
    inner = Bound(tuple(one for one in whole.optimizations if one.name != "replicas"))
    with inner.process():
        engine = build_engine(whole, model=plan.model, device=plan.device, cache_folder=Path(plan.cache_folder))
        Replica(engine, channel).run()


def main() -> int:
    """Serve one parent; returns the exit status."""
    channel = Channel()
    try:
        command = next(channel.commands())
        if command.pop("command") == "open":
            serve(channel, **command)
    except Exception as error:  # whatever a model or a library raises is the parent's to tell
        traceback.print_exc()
        channel.send("error", **error_event(error))
        return 1
    channel.send("closed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
