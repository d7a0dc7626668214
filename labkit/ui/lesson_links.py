"""Links below the first cell of a lesson: its neighbours, its solution, the glossary, and the way to Colab.

They are made of the folder and of the project's address, so that every lesson has the same. `labkit notebooks --links`
puts them below a rule; what stands above it is the author's.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.ui.document import write_text
from labkit.ui.executed import serialized
from labkit.ui.jupyter import require_jupyter
from labkit.ui.notebooks import lessons, read_notebook, title

_RULE = "\n\n---\n\n"
_GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
_COLAB = "https://colab.research.google.com/github"
_BRANCH = "main"
_UPLOAD = """In Colab: upload this notebook and a wheel, which `pip wheel --no-deps .` makes in a checkout; first run
`%pip install labkit-*.whl`.

在 Colab 中：上传本课和 wheel 文件（在代码仓库中运行 `pip wheel --no-deps .` 生成），先运行
`%pip install labkit-*.whl`。"""


def renew(paths: Sequence[Path], *, is_check: bool) -> tuple[Path, ...]:
    """Lessons whose links are not what they should be; unless `is_check` they are written.

    Raises:
        UsageError: a file is no lesson. Unavailable: the extra `notebooks` is missing. LabkitError: writing failed.
    """
    require_jupyter("writing a notebook", ("nbformat",))
    changed = []
    for path in paths:
        title(path)  # what has none is refused
        notebook = read_notebook(path)
        first = notebook.cells[0]
        source = first.source.partition(_RULE)[0] + _RULE + links(path, repository(path.resolve().parents[1]))
        if source != first.source:
            changed.append(path)
            first.source = source
            if not is_check:
                write_text(serialized(notebook), str(path))
    return tuple(changed)


def links(path: Path, address: str) -> str:
    """Markdown: a row of links, and how to run the lesson in Colab. `address` is the repository's, '' if it has none.

    Raises:
        UsageError: the address is no GitHub repository's, from which alone Colab opens notebooks.
    """
    book = lessons(path.parent)
    here = book.index(path)
    row = [
        *(f"[← {_named(before)}]({before.name})" for before in book[max(here - 1, 0) : here]),
        *(f"[{_named(after)} →]({after.name})" for after in book[here + 1 : here + 2]),
        f"[Solution 答案](solutions/{path.stem}.py)",
        "[Glossary 术语表](../docs/glossary.md)",
    ]
    if not address:
        return f"{' | '.join(row)}\n\n{_UPLOAD}"
    if not (github := _GITHUB.fullmatch(address)):
        raise UsageError(
            f"links to Colab were asked for; the project's repository is {address[:200]!r}; "
            "Colab opens https://github.com/OWNER/NAME; change it or remove it from [project.urls] in pyproject.toml"
        )
    opened = f"{_COLAB}/{github[1]}/blob/{_BRANCH}/{path.parent.name}/{path.name}"
    install = f"In Colab, first · 在 Colab 中先运行：`%pip install git+https://github.com/{github[1]}`"
    return f"[Open in Colab 在 Colab 中打开]({opened}) | {' | '.join(row)}\n\n{install}"


def repository(root: Path) -> str:
    """The project's address, or '': `Repository` under `[project.urls]` in a checkout's pyproject.toml, stated once."""
    file = root / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}) if file.is_file() else {}
    return str(project.get("urls", {}).get("Repository", ""))


def _named(path: Path) -> str:
    """Number and English name, as in `03 Quantization`."""
    return " ".join(title(path).split(" · ")[:2])
