"""SavedPrefix: the keys and values of a text in a safetensors file, with all that they depend on."""

from collections.abc import Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labkit.core.errors import Unavailable, UsageError
from labkit.core.paths import write_whole

if TYPE_CHECKING:
    from labkit.engine.cache import Block

_TOKENS = "tokens"
_PART = "part_{}"


@dataclass(frozen=True)
class SavedPrefix:
    """Tokens and their blocks: `parts[i]` holds part i of every block, [blocks, *shape of that part]."""

    facts: Mapping[str, str]
    tokens: list[int]
    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, facts: Mapping[str, str], tokens: List[int], blocks: "List[Block]") -> "SavedPrefix":
        """What a prefix cache holds of a text."""
        return cls(facts, list(tokens), tuple(torch.stack(part) for part in zip(*blocks, strict=True)))

    @classmethod
    def read(
        cls, path: Path, facts: Mapping[str, str], layout: List[tuple[tuple[int, ...], torch.dtype]]
    ) -> "SavedPrefix":
        """Read a file that must have been made with these facts and hold blocks of this layout.

        Raises:
            Unavailable: there is no such file. UsageError: it is cut short or no such file at all, it was made with
            something else, or it holds other tensors than it says.
        """
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in path.parent.glob("*.safetensors"))) or "none"
            raise Unavailable(
                f"saved prefix {path.stem!r} was asked for; {path.parent} holds: {there}; {_remedy(path.stem)}"
            )
        try:
            with safe_open(path, framework="pt") as file:
                _check(path.stem, file.metadata() or {}, facts)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"saved prefix {path} cannot be read: {reason}; {_remedy(path.stem)}") from None
        names = [_PART.format(index) for index in range(len(layout))]
        tokens = tensors.get(_TOKENS, torch.empty(0))
        num_blocks = len(tensors[names[0]]) if names[0] in tensors else 0
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        block_size = int(facts["block size"])
        expected = {name: ((num_blocks, *shape), dtype) for name, (shape, dtype) in zip(names, layout, strict=True)}
        if not num_blocks or found != {**expected, _TOKENS: ((num_blocks * block_size,), torch.int64)}:
            raise UsageError(f"saved prefix {path} does not hold the tensors that it names; {_remedy(path.stem)}")
        return cls(facts, tokens.tolist(), tuple(tensors[name] for name in names))

    def block(self, index: int, device: str) -> "Block":
        """One of the blocks, in memory of its own."""
        return tuple(part[index].to(device, copy=True) for part in self.parts)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            Unavailable: the folder cannot be written.
        """
        tensors = {_PART.format(index): part.cpu() for index, part in enumerate(self.parts)}
        tensors[_TOKENS] = torch.tensor(self.tokens)
        try:
            write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=dict(self.facts)))
        except OSError as error:
            raise Unavailable(
                f"saved prefix {path} cannot be written: {error.strerror}; free space, or set LABKIT_HOME"
            ) from None


def _check(name: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for fact, ours in expected.items():
        if (theirs := found.get(fact)) != ours:
            raise UsageError(
                f"saved prefix {name!r} was made with {fact} {theirs!r}, this engine has {ours!r}; {_remedy(name)}"
            )


def _remedy(name: str) -> str:
    return f"save it with this model and recipe: labkit prefix {name}"
