"""Every notebook as a reader opens it: all cells run, in JupyterLab and under Voilà, and nothing complains."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Seen, browser_page, open_and_run
from tests.browser.servers import NOTEBOOKS, Server, voila

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

THE_LAB = "11_the_lab.ipynb"
LESSONS = [
    pytest.param(path.name, marks=() if path.name == THE_LAB else pytest.mark.slow)
    for path in sorted(NOTEBOOKS.glob("*.ipynb"))
]
ERRORS = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], [data-mime-type$='.stderr']"
VOILA_S = 240.0
VOILAS_ICONS = "https://cdn.jsdelivr.net/npm/@fortawesome/"  # its own page asks for them; the panel needs none


@pytest.fixture(scope="module", autouse=True)
def at_a_glance() -> Iterator[None]:
    """Figures are compared where nothing else runs; here is looked at what a reader sees, at the effort asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_EFFORT", os.environ.get("LABKIT_EFFORT", "glance"))
        yield


@pytest.mark.parametrize("notebook", LESSONS)
def test_all_cells_run_without_an_error_or_a_request_to_elsewhere(
    page: Any, server: Server, seen: Seen, notebook: str
) -> None:
    open_and_run(page, server, notebook)
    assert [error.text_content() for error in page.locator(ERRORS).all()] == []
    assert page.locator(".labkit-panel, .labkit-interview").count() == 1
    assert seen == Seen()


def test_the_lab_works_under_voila(tmp_path: Path, seen: Seen) -> None:
    pytest.importorskip("voila", reason="the extra voila is not installed")
    notebook = THE_LAB
    with voila(tmp_path, notebook) as server, browser_page(server.url, seen) as page:
        page.goto(server.url, wait_until="commit", timeout=VOILA_S * 1e3)  # it answers while cells run
        run = page.locator(".labkit-panel button:text-is('Run')")
        run.wait_for(timeout=VOILA_S * 1e3)
        check = page.locator(".labkit-panel label:has-text('Quantization') input[type=checkbox]")
        check.check()
        recipe = page.locator(".labkit-panel input[placeholder^='the naive']")
        page.wait_for_function("field => field.value.includes('quantize')", arg=recipe.element_handle(), timeout=10_000)
        assert page.locator(ERRORS).count() == 0
        assert [address for address in seen.outside if not address.startswith(VOILAS_ICONS)] == []
