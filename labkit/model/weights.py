"""Checkpoint: a Hugging Face model folder, its weights checked before they are believed and read tensor by tensor."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from labkit.core.errors import CheckpointError, Unavailable
from labkit.core.machine import free_memory_bytes
from labkit.model.header import TensorEntry, read_header, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from labkit.model.transformer import Transformer

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
_REDUNDANT = re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # old exports; follows from the config


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose files agree with each other. `tensors` is keyed by our decoder's parameter names."""

    folder: Path
    shards: tuple[Path, ...]
    tensors: Mapping[str, TensorEntry]

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the headers (not the weights) of a folder with one or sharded safetensors.

        Raises:
            CheckpointError: a file is missing, lies, or is of a kind labkit does not read.
        """
        if not os.path.isdir(folder):  # unlike Path.is_dir, also False for what can be no path
            seen = "is a file" if os.path.exists(folder) else "does not exist"
            raise CheckpointError(
                f"model folder {folder} {seen}; expected a folder with config.json, tokenizer.json and *.safetensors"
            )
        if (folder / SINGLE).is_file():
            shard = folder / SINGLE
            return cls(folder, (shard,), _merged(read_header(shard).values()))
        if (folder / INDEX).is_file():
            return _sharded(folder)
        raise CheckpointError(_no_weights(folder))

    def load(self, model: "Transformer", *, dtype: "torch.dtype", device: str = "cpu") -> None:
        """Fill the parameters of a model built on the meta device, in `dtype` on `device`.

        Each tensor is copied out of its memory-mapped shard, which is unmapped again at once: the peak is the loaded
        model and one tensor, and weights lie in aligned memory of our own (decoding out of mapped pages was slower).

        Raises:
            CheckpointError: tensors are missing, unexpected, of another shape, or not finite in `dtype`; all are named.
            Unavailable: the weights do not fit in the free memory of `device`.
        """
        import torch

        entries = self._matched(model)
        needed = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
        free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory_bytes()
        if needed > free:
            raise Unavailable(
                f"the weights of {self.folder.name} need {needed / 1e9:.1f} GB in {_word(dtype)}, {device} has "
                f"{free / 1e9:.1f} GB free; remedy: a narrower dtype, a smaller model or a larger machine"
            )
        faults = []
        for name, entry in entries.items():
            try:
                with safe_open(entry.shard, framework="pt") as file:
                    stored = file.get_tensor(entry.name)  # a view of the mapped file, gone with `stored`
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{entry.shard} has changed since it was opened: {error}") from error
            loaded = torch.empty(entry.shape, dtype=dtype, device=device).copy_(stored)
            if not _is_finite(loaded):
                fault = f"overflows {_word(dtype)}" if _is_finite(stored) else "holds NaN or infinity"
                faults.append(f"{entry.name} {fault}")
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(loaded, requires_grad=False))
        if faults:
            raise CheckpointError(f"{self.folder}: weights cannot be used: {_listed(faults)}")

    def hash(self, cache_folder: Path) -> str:
        """16 hex digits that change with any byte of config, tokenizer or weights.

        sha256 over the sha256 of each whole file. A file's digest is kept under its path, size and modification time
        in ns, so a folder is read in full once (about 1 s per GB) and costs a few `stat` calls from then on.
        """
        files = [self.folder / "config.json", self.folder / "tokenizer.json", *self.shards]
        return hashlib.sha256("\n".join(_digests(files, cache_folder / "digests")).encode()).hexdigest()[:16]

    def _matched(self, model: "Transformer") -> dict[str, TensorEntry]:
        """Entries for all parameters of the model, in the model's order."""
        wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        missing = wanted.keys() - self.tensors.keys()
        if missing:
            raise CheckpointError(f"{self.folder}: tensors missing for its config.json: {_listed(missing)}")
        extra = {name for name in self.tensors.keys() - wanted.keys() if not _REDUNDANT.fullmatch(name)}
        if model.config.is_tied:
            extra.discard("lm_head.weight")  # some exports repeat the embedding
        if extra:
            raise CheckpointError(f"{self.folder}: tensors unexpected for its config.json: {_listed(extra)}")
        for name, shape in wanted.items():
            if self.tensors[name].shape != shape:
                raise CheckpointError(
                    f"{self.folder}: tensor {self.tensors[name].name!r} has shape {list(self.tensors[name].shape)}; "
                    f"config.json asks for {list(shape)}"
                )
        return {name: self.tensors[name] for name in wanted}


def _sharded(folder: Path) -> Checkpoint:
    index = folder / INDEX
    mapped = read_json(index).get("weight_map")
    if not (isinstance(mapped, dict) and mapped and all(isinstance(name, str) for name in mapped.values())):
        raise CheckpointError(f"{index} holds no weight_map from tensor names to files")
    entries: list[TensorEntry] = []
    for name in sorted(set(mapped.values())):
        if not _SHARD_NAME.fullmatch(name):
            raise CheckpointError(f"{index} names the file {name!r}; allowed: *.safetensors of the same folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} names shard {name}, which is missing; remedy: copy the whole folder")
        entries += read_header(folder / name).values()
    tensors = _merged(entries)
    seen = {entry.name: entry.shard.name for entry in entries}
    astray = {name for name in mapped.keys() | seen.keys() if mapped.get(name) != seen.get(name)}
    if astray:
        raise CheckpointError(f"{index} and the shards disagree where these tensors lie: {_listed(astray)}")
    return Checkpoint(folder, tuple(sorted({entry.shard for entry in entries})), tensors)


def _merged(entries: Iterable[TensorEntry]) -> dict[str, TensorEntry]:
    """Entries by our decoder's parameter names: Hugging Face's without the leading `model.`."""
    tensors: dict[str, TensorEntry] = {}
    for entry in entries:
        name = entry.name.removeprefix("model.")
        if name in tensors:
            raise CheckpointError(f"{entry.shard}: tensor {entry.name!r} appears twice in the checkpoint")
        tensors[name] = entry
    return tensors


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        return (
            f"{folder} holds its weights as pickle ({_listed(pickles)}), which can run code when opened; allowed: "
            "safetensors; remedy: convert with transformers: AutoModelForCausalLM.from_pretrained(A).save_pretrained(B)"
        )
    return f"model folder {folder} has no {SINGLE} and no {INDEX}; remedy: copy or download the whole folder"


def _digests(files: Iterable[Path], folder: Path) -> Iterator[str]:
    for file in files:
        status = file.stat()
        key = f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
        kept = folder / hashlib.sha256(key.encode()).hexdigest()
        if not kept.is_file():
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            _keep(kept, digest)
        yield kept.read_text(encoding="ascii")


def _keep(path: Path, text: str) -> None:
    partial = path.with_suffix(f".{os.getpid()}")  # workers may write the same digest at the same time
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="ascii")
        partial.replace(path)
    except OSError as error:
        raise Unavailable(
            f"cannot write {path.parent}: {error.strerror}; remedy: free space, or set LABKIT_HOME to a folder of yours"
        ) from error


def _is_finite(tensor: "Tensor") -> bool:
    import torch

    # one NaN or infinity spoils the sum, which costs 1/50 of a look at every element; a sum may overflow by itself
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _word(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def _listed(names: Iterable[str], most: int = 5) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(repr(name) for name in ordered[:most]) + rest
