"""A link is measured, and the best that was reached is kept."""

from pathlib import Path

from labkit.bench.link import Link, best_link, known_link


def test_the_best_of_all_measurements_is_kept(tmp_path: Path) -> None:
    assert known_link("cpu-2", tmp_path) is None
    assert best_link("cpu-2", tmp_path, lambda: Link(2e-4, 1e9)) == Link(2e-4, 1e9)
    assert best_link("cpu-2", tmp_path, lambda: Link(1e-4, 5e8)) == Link(1e-4, 1e9)
    assert known_link("cpu-2", tmp_path) == Link(1e-4, 1e9)
    assert known_link("cpu-3", tmp_path) is None


def test_a_file_that_cannot_be_read_is_measured_again(tmp_path: Path) -> None:
    best_link("cpu-2", tmp_path, lambda: Link(1e-4, 1e9))
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert best_link("cpu-2", tmp_path, lambda: Link(3e-4, 1e8)) == Link(3e-4, 1e8)
