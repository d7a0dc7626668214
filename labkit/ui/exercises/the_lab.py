"""Exercises of lesson 11."""

from labkit.bench.comparison import Comparison
from labkit.core.errors import UsageError
from labkit.core.workload import WorkloadSpec
from labkit.optimizations import bind
from labkit.ui.exercises.replies import CORRECT, OPEN


def recipe_text(answer: str | None, *, expected: str) -> str:
    """A recipe that means the same as `expected`, in any spelling."""
    if answer is None:
        return OPEN
    try:
        seen, wanted = bind(answer).recipe.text, bind(expected).recipe.text
    except UsageError as error:
        return str(error)
    return CORRECT if seen == wanted else f"that means {seen or 'the baseline'}"


def nearest_to_limit(answer: str | None, comparison: Comparison) -> str:
    """Which recipe of the reader's own Comparison uses the largest share of its machine's limit."""
    if answer is None:
        return OPEN
    shares = comparison.frame().dropna(subset=["limit_share"]).set_index("recipe")["limit_share"]
    if answer not in shares:
        return f"no recipe {answer!r} with a limit; there are: {', '.join(shares.index)}"
    nearest = shares.idxmax()
    return CORRECT if answer == nearest else f"{answer} reached {shares[answer]:.1%}, another one more"


def batching_workload(answer: WorkloadSpec | None) -> str:
    """A workload on which static batching has anything to batch."""
    if answer is None:
        return OPEN
    if answer.num_requests < 2:
        return "one request makes no batch"
    if answer.scenario != "offline":
        return f"{answer.scenario} does not send its requests together"
    return CORRECT
