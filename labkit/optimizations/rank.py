"""Another rank than the first of a model that several processes compute together.

    python -m labkit.optimizations.rank

It is told by its environment who it is and where the others are (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), and by
the first rank all else. It ends when the first one does.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig


def configured(recipe: str) -> "EngineConfig":
    """The mechanisms of a recipe."""
    from labkit.engine.config import EngineConfig
    from labkit.optimizations import bind

    config = EngineConfig()
    for optimization in bind(recipe).optimizations:
        config = optimization.configure(config)
    return config


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
