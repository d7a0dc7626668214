"""The standard library's sources: found, in a fixed order, and with a part held out."""

import ast
import sysconfig
from pathlib import Path

import pytest

from labkit.core import stdlib
from labkit.core.errors import Unavailable, UsageError


def test_held_out_modules_are_named_once_in_alphabetical_order() -> None:
    assert list(stdlib.HELD_OUT) == sorted(set(stdlib.HELD_OUT))


def test_every_held_out_module_has_source_that_parses() -> None:
    sources = stdlib.held_out_sources()
    assert tuple(module for module, _ in sources) == stdlib.HELD_OUT
    assert all(ast.parse(text).body for _, text in sources)


def test_held_out_text_is_between_half_a_megabyte_and_one() -> None:
    assert 500_000 < len(stdlib.held_out_text().encode()) < 1_000_000


def test_a_package_is_the_text_of_all_its_files_in_path_order() -> None:
    files = stdlib.module_files("json")
    assert list(files) == sorted(files)
    assert {"decoder.py", "encoder.py"} <= {path.name for path in files}
    assert stdlib.module_source("json") == "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_training_files_leave_out_held_out_modules_and_installed_packages() -> None:
    root = stdlib.stdlib_root()
    files = [path.relative_to(root).as_posix() for path in stdlib.training_files()]
    assert files == sorted(files, key=Path)
    assert "argparse.py" in files
    assert not {"textwrap.py", "json/decoder.py", "site-packages"}.intersection(files)
    assert not any(file.startswith("site-packages/") for file in files)


@pytest.mark.parametrize("module", ["no_such_module", "../secrets", "", "_heapq"])
def test_a_module_without_python_source_is_refused_by_name(module: str) -> None:
    with pytest.raises(UsageError, match="no Python source of module") as caught:
        stdlib.module_files(module)
    assert repr(module) in str(caught.value)


def test_an_interpreter_without_sources_is_told_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(Unavailable, match="holds none; use a Python that ships"):
        stdlib.stdlib_root()
