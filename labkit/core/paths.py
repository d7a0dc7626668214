"""Where labkit reads its bundled data and where it writes: one folder, named by `LABKIT_HOME`."""

import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from labkit.core.errors import UsageError

_PACKAGE = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


def data_path(*parts: str) -> Path:
    """The path of a bundled data file or folder, in a checkout and in an installed wheel alike.

    A wheel carries the data inside the package (`labkit/_data`), a checkout beside it (`data`). That the path exists
    is not checked: whoever opens it knows what its absence means.
    """
    bundled = _PACKAGE / "_data"
    root = bundled if bundled.is_dir() else _PACKAGE.parent / "data"
    return root.joinpath(*parts)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Identifies the code of this package: what one state of it worked out says nothing about another.

    A version would not do: in a checkout the code changes from one minute to the next.
    """
    sources = sorted(path for kind in ("*.py", "*.c", "*.h") for path in _PACKAGE.rglob(kind))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def home() -> Path:
    """The only folder labkit writes to: `$LABKIT_HOME`, or `~/.local/share/labkit`; created on demand.

    Raises:
        UsageError: it cannot be created.
    """
    return _created(Path(os.environ.get("LABKIT_HOME", "") or "~/.local/share/labkit"))


def cache_folder() -> Path:
    """The folder of what can be computed again (weights of named shapes, ceilings, reference logits).

    Raises:
        UsageError: it cannot be created.
    """
    return _created(home() / "cache")


def prefix_path(folder: Path, name: str) -> Path:
    """Where the saved prefix of that name lies, in this cache folder.

    Raises:
        UsageError: the name could lead elsewhere, or is none that every file system takes.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"prefix {name[:80]!r} was named; allowed: 1 to 64 of the characters a to z, 0 to 9, _ and -")
    return folder / "prefixes" / f"{name}.safetensors"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file beside `path`, then put it there in one step: whole or not at all.

    Several processes may do so at a time; the last one stays. Raises OSError as the writing does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _created(folder: Path) -> Path:
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the user's home is not known"
        raise UsageError(
            f"folder {str(folder)!r} for labkit's history and cache cannot be created: {reason}; "
            "set LABKIT_HOME to a folder that can be written"
        ) from None
    return folder
