"""Copies in huge pages hold what was copied, and give their memory back."""

from pathlib import Path

import psutil
import pytest
import torch

from labkit.model.pages import HUGE_BYTES, copied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("num_bytes", [16, HUGE_BYTES - 8, HUGE_BYTES, 3 * HUGE_BYTES + 24])
def test_a_copy_is_equal_and_elsewhere(num_bytes: int, dtype: torch.dtype) -> None:
    original = torch.arange(num_bytes // dtype.itemsize).remainder(97).to(dtype).view(2, -1)
    copy = copied(original)
    assert torch.equal(copy, original)
    assert copy.data_ptr() != original.data_ptr()
    assert copy.is_contiguous()
    copy.zero_()
    assert original.any()


def test_what_does_not_lie_in_a_row_is_copied_as_it_is() -> None:
    transposed = torch.randn(1024, 1024).T
    copy = copied(transposed)
    assert torch.equal(copy, transposed)
    assert copy.stride() == transposed.stride()


def test_a_large_copy_asks_for_huge_pages() -> None:
    copy = copied(torch.ones(4 * HUGE_BYTES, dtype=torch.uint8))
    flags = _flags(copy.data_ptr())
    if flags is None:
        pytest.skip("this system does not say how memory is mapped")
    assert "hg" in flags  # what MADV_HUGEPAGE leaves


def test_memory_is_given_back() -> None:
    tensor = torch.ones(16 * HUGE_BYTES, dtype=torch.uint8)
    process = psutil.Process()
    tensor = copied(tensor)
    before = process.memory_info().rss
    for _ in range(8):
        tensor = copied(tensor)
    assert process.memory_info().rss - before < tensor.nbytes


def _flags(address: int) -> list[str] | None:
    """Flags of the mapping that an address lies in."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return None
    inside = False
    for line in lines:
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            first, last = (int(end, 16) for end in head.split("-"))
            inside = first <= address < last
        elif inside and head == "VmFlags:":
            return line.split()[1:]
    return None
