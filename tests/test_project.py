"""What a newcomer installs: the extras, the pins, the environment file, the Makefile and the wheel agree."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODEL = "labkit/_data/models/pylm"


def pins() -> dict[str, str]:
    """Versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    entries = [line.partition("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in entries}


def direct_requirements() -> Iterator[Requirement]:
    """Everything that pyproject names, extras that only gather other extras left out."""
    for text in (*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)):
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            yield requirement


def run(*command: str | Path, cwd: Path, exit_codes: tuple[int, ...] = (0,), **environ: str) -> str:
    """Standard output of a command that must end with one of these codes."""
    env = {**os.environ, **environ}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in exit_codes, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built offline with the installed build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("labkit-*.whl")
    return path


def test_extra_all_gathers_every_other_extra() -> None:
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.extras == set(EXTRAS) - {"all"}


def test_every_direct_requirement_is_pinned_within_its_range() -> None:
    versions = pins()
    outside = [
        f"{requirement} is pinned to {versions.get(canonicalize_name(requirement.name))}"
        for requirement in direct_requirements()
        if versions.get(canonicalize_name(requirement.name), "") not in requirement.specifier
    ]
    assert outside == []


def test_pins_are_plain_released_versions() -> None:
    assert [version for version in pins().values() if not re.fullmatch(r"\d+(\.\d+)*(\.post\d+)?", version)] == []


def test_pins_run_on_the_oldest_python_that_is_promised() -> None:
    (oldest,) = re.findall(r">=(\d+\.\d+)", PROJECT["requires-python"])
    installed = {canonicalize_name(found.name): found for found in distributions()}
    found = [installed[name] for name in pins() if name in installed]
    assert len(found) > 100
    asked = {one.name: one.metadata["Requires-Python"] for one in found if "Requires-Python" in one.metadata}
    assert {name: asks for name, asks in asked.items() if f"{oldest}.0" not in SpecifierSet(asks)} == {}


def test_conda_environment_points_at_extras_and_pins_that_exist() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    constraint, editable = (line.split(maxsplit=1) for line in by_pip)
    assert constraint[0] == "--constraint"
    assert (ROOT / constraint[1]).is_file()
    assert editable[0] == "--editable"
    assert Requirement(f"labkit{editable[1].removeprefix('.')}").extras <= set(EXTRAS)


def test_makefile_lists_the_targets_that_the_documents_name() -> None:
    listed = {line.split()[0] for line in run("make", "help", cwd=ROOT).splitlines()}
    named = {"setup", "demo", "lab", "test", "test-full", "check", "notebooks"}
    assert named <= listed
    documents = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"`make ([a-z-]+)`", documents)) <= listed


def test_makefile_installs_only_extras_that_exist() -> None:
    extras = re.findall(r"extras := \[([a-z,]+)\]", (ROOT / "Makefile").read_text())
    assert {name for group in extras for name in group.split(",")} <= set(EXTRAS)


def test_one_sentence_stands_at_the_top_of_the_three_documents() -> None:
    def words(path: str) -> str:
        return " ".join((ROOT / path).read_text().replace(">", " ").split())

    sentence = "A **Workload** of Requests is served by a **System** built under a **Recipe** of **Optimizations**;"
    assert [
        path for path in ("README.md", "CONTRIBUTING.md", "labkit/__init__.py") if sentence not in words(path)
    ] == []


def commands(document: str) -> list[list[str]]:
    """The code blocks of a document, line by line without comments: those speak the document's language."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    return [[line.partition(" #")[0].rstrip() for line in block.splitlines()] for block in blocks]


def test_both_readmes_name_the_same_commands() -> None:
    assert commands("README.zh-CN.md") == commands("README.md")


def test_both_readmes_list_the_same_names_in_their_tables() -> None:
    def names(document: str) -> list[str]:
        rows = re.findall(r"^\| (.+?) \|", (ROOT / document).read_text(), re.MULTILINE)
        return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]

    assert names("README.zh-CN.md") == names("README.md")


def test_wheel_carries_the_model_and_not_what_trained_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{MODEL}/{name}" for name in ("README.md", "config.json", "tokenizer.json")} <= names
    assert any(name.startswith(MODEL) and name.endswith(".safetensors") for name in names)
    assert "labkit/py.typed" in names
    data = {f"labkit/_data/{name}" for name in ("runs/h200-pylm.jsonl", "interview/01_basics.json")}
    assert data | {"labkit/ui/texts/phrases/interview.json"} <= names
    folders = {name.split("/")[0] for name in names}
    assert folders == {"labkit", f"labkit-{PROJECT['version']}.dist-info"}
    assert [name for name in names if "/_data/" in name and name.endswith((".py", ".pyc"))] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bench_runs_from_a_wheel_far_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # Dependencies come from this environment by path; its .pth files, and with them the checkout, are not followed.
    site_packages = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here = run(sys.executable, "-c", site_packages, cwd=tmp_path)
    Path(run(python, "-c", site_packages, cwd=tmp_path).strip(), "dependencies.pth").write_text(here)
    env = {"LABKIT_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    assert run(python, "-c", "import labkit; print(labkit.__file__)", cwd=tmp_path, **env).startswith(str(venv))

    bench = [venv / "bin" / "labkit", "bench", "--model", "pylm", "--prompt-tokens", "16", "--new-tokens", "8"]
    bench += ["--recipe", "", "--recipe", "kv_cache", "--effort", "quick", "--json", "-"]
    # 1 says that a figure is not valid, as on a machine that runs tests beside it: what counts here is that all ran.
    result = json.loads(run(*bench, cwd=tmp_path, exit_codes=(0, 1), **env))
    assert [(found["recipe"], found["status"]) for found in result["runs"]] == [("", "done"), ("kv_cache", "done")]
