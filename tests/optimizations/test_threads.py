"""Threads inside an operation, and operations side by side."""

import subprocess
import sys

import pytest

from labkit.core.errors import UsageError
from labkit.optimizations import bind


def test_threads_are_set_read_back_and_given_back() -> None:
    import torch

    before = torch.get_num_threads()
    with bind("threads(num=1)").process() as facts:
        assert facts == {"threads": 1}
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="threads\\(num=1024\\) was asked for; this process may use"):  # noqa: SIM117
        with bind("threads(num=1024)").process():
            pass


def test_operations_side_by_side_are_set_and_read_back_in_a_fresh_process() -> None:
    assert said_by("with bind('threads(interop=1)').process() as facts: print(facts)") == (
        "{'threads': 1, 'interop_threads': 1}"
    )


def test_a_process_in_which_they_were_set_before_says_so_in_one_line() -> None:
    said = said_by(
        "import torch\n"
        "torch.set_num_interop_threads(3)\n"
        "try:\n"
        "    bind('threads(interop=1)').process().__enter__()\n"
        "except Unavailable as error:\n"
        "    print(error)"
    )
    assert said.startswith("threads(interop=1) was asked for; this process has 3, which torch lets be set once; ")
    assert "\n" not in said


def test_a_proof_leaves_them_alone_since_it_shares_its_process() -> None:
    assert bind("kv_cache + threads(num=2, interop=1)").exact.recipe.text == "kv_cache + threads(num=2)"


def said_by(code: str) -> str:
    """What a fresh process prints."""
    head = "from labkit.optimizations import bind\nfrom labkit.core.errors import Unavailable\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
