"""Effort: how long a measurement may take, and so how much it can say."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from labkit.core.errors import UsageError
from labkit.core.inference import MIN_BLOCKS

GLANCE = "glance"
MAX_REPEATS = 64
MIN_PASS_S = 0.1
"""Length of one pass in seconds below which a single stream runs its requests more than once.

No longer than it must be: what disturbs a machine lasts seconds, so recipes that take turns often share it fairly.
"""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """One level of care.

    Attributes:
        warmup_cap_s: longest warm-up of one recipe, in seconds; three windows are always run.
        target_pass_s: length of one pass in seconds above which a recipe runs fewer tokens.
        num_processes: fresh processes that the blocks of each recipe are spread over; where there are several, each is
            one observation, the mean of its blocks, since these share its luck with memory.
        min_blocks, max_blocks: fewest and most blocks in each process.
        measured_s: seconds of passes in each process that a recipe should get, as far as these bounds allow.
        quality_tokens: tokens on which the output is compared with the fp32 reference.
        proof_prompts: prompts on which exact techniques are proven to leave the output as it was.
    """

    name: str
    warmup_cap_s: float
    target_pass_s: float
    num_processes: int
    min_blocks: int
    max_blocks: int
    measured_s: float
    quality_tokens: int
    proof_prompts: int

    @property
    def can_compare(self) -> bool:
        """Whether it measures enough for a verdict on two recipes."""
        return self.num_processes > 1 or self.max_blocks >= MIN_BLOCKS

    def token_share(self, pass_s: float) -> float:
        """Part of the new tokens (0 to 1) that a recipe runs whose whole pass takes `pass_s` seconds."""
        return min(1.0, self.target_pass_s / pass_s)

    def repeats(self, pass_s: float) -> int:
        """How often a pass goes through the requests of a single stream that takes `pass_s` seconds for them once."""
        return max(1, min(MAX_REPEATS, math.ceil(MIN_PASS_S / max(pass_s, 1e-9))))

    def num_blocks(self, pass_s: float) -> int:
        """Blocks in each process where the longest pass of a block takes `pass_s` seconds: the shorter, the more."""
        wanted = math.ceil(self.measured_s / max(pass_s, 1e-9))
        return min(max(wanted, self.min_blocks), self.max_blocks)


EFFORTS: dict[str, Effort] = {
    effort.name: effort
    for effort in (
        Effort(
            name=GLANCE,
            warmup_cap_s=0.3,
            target_pass_s=0.25,
            num_processes=1,
            min_blocks=1,
            max_blocks=1,
            measured_s=0.0,
            quality_tokens=128,
            proof_prompts=1,
        ),
        Effort(
            name="quick",
            warmup_cap_s=2.0,
            target_pass_s=0.5,
            num_processes=1,
            min_blocks=MIN_BLOCKS,
            max_blocks=MIN_BLOCKS,
            measured_s=1.0,
            quality_tokens=512,
            proof_prompts=4,
        ),
        Effort(
            name="standard",
            warmup_cap_s=60.0,
            target_pass_s=2.0,
            num_processes=10,
            min_blocks=4,
            max_blocks=16,
            measured_s=3.0,
            quality_tokens=4096,
            proof_prompts=16,
        ),
        Effort(
            name="rigorous",
            warmup_cap_s=60.0,
            target_pass_s=4.0,
            num_processes=15,
            min_blocks=6,
            max_blocks=24,
            measured_s=6.0,
            quality_tokens=16384,
            proof_prompts=32,
        ),
    )
}
"""The levels, from one that shows no more than that all of it runs to the one that a published table needs."""


def forced_effort() -> str:
    """The effort that the variable LABKIT_EFFORT has every measurement of lessons and panels take, or ''.

    Raises:
        UsageError: the variable names no effort.
    """
    name = os.environ.get("LABKIT_EFFORT", "")
    if name and name not in EFFORTS:
        raise UsageError.unknown("effort in LABKIT_EFFORT", name, EFFORTS)
    return name


def effort_of(name: str) -> str:
    """The effort that was asked for, or the one that LABKIT_EFFORT forces.

    Raises:
        UsageError: the variable names no effort.
    """
    return forced_effort() or name
