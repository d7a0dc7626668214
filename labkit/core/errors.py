"""The one family of errors.

    LabkitError             exit 1   something went wrong that no other input would have avoided
    ├── UsageError          exit 2   what was asked cannot be done; another request can
    │   ├── Unavailable              this machine lacks what was asked for (a device, a package, memory)
    │   └── CheckpointError          a model folder that cannot be trusted or read
    ├── StoreError                   the history could not be written or read
    └── WorkerDied                   a measuring process ended before it answered

Every message is one line: what was asked, what was seen, what is allowed, the remedy.
"""

from collections.abc import Iterable


class LabkitError(Exception):
    """Base of every error that labkit raises on purpose."""

    exit_code = 1


class UsageError(LabkitError):
    """What was asked cannot be done as asked."""

    exit_code = 2

    @classmethod
    def unknown(cls, kind: str, asked: object, allowed: Iterable[object], *, remedy: str = "") -> "UsageError":
        """The error for a name that is not in a closed set."""
        choices = ", ".join(str(choice) for choice in allowed)
        return cls(f"unknown {kind} {str(asked)!r}; allowed: {choices}" + (f"; {remedy}" if remedy else ""))


class Unavailable(UsageError):
    """This machine lacks what was asked for."""


class CheckpointError(UsageError):
    """A model folder is missing a file, lies about its content, or is of a kind labkit does not run."""


class StoreError(LabkitError):
    """The history could not be written or read."""


class WorkerDied(LabkitError):
    """A measuring process ended before it answered."""
