"""Lessons that pytest runs keep their history in a folder that ends with the tests, and know no settings of IPython."""

import os
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Name the folder before any kernel starts: kernels inherit the environment."""
    folder = tempfile.TemporaryDirectory(prefix="labkit-notebooks-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ.update(LABKIT_HOME=folder.name, IPYTHONDIR=f"{folder.name}/ipython")
