"""ModelSource: a model by name, opened and checked but not loaded."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.errors import CheckpointError, Unavailable, UsageError
from labkit.core.paths import cache_folder, data_path
from labkit.model.config import ModelConfig
from labkit.model.header import read_json
from labkit.model.shapes import SHAPES, shape_folder
from labkit.model.tokenizer import FileTokenizer, Tokenizer
from labkit.model.weights import Checkpoint

if TYPE_CHECKING:
    import torch

    from labkit.model.transformer import Transformer

EMBEDDED = "pylm"
MODELS = (EMBEDDED, *SHAPES)
"""Names that need neither a folder nor a network."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded.

    Attributes:
        name: as it was asked for.
        hash: 16 hex digits of config, tokenizer and every byte of the weights.
        has_random_weights: speed can be measured, quality means nothing.
        origin: where the weights come from, in words.
    """

    name: str
    config: ModelConfig
    tokenizer: Tokenizer = field(repr=False, compare=False)
    hash: str
    has_random_weights: bool
    origin: str
    checkpoint: Checkpoint = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The Hugging Face checkpoint folder, for engines that open it themselves."""
        return self.checkpoint.folder

    def check_positions(self, prompt_tokens: int, new_tokens: int) -> None:
        """Refuse a request that needs more positions than the model has.

        Raises:
            UsageError: it does.
        """
        if prompt_tokens + new_tokens > self.config.max_positions:
            raise UsageError(
                f"{prompt_tokens} prompt and {new_tokens} new tokens were asked for; "
                f"{self.name} holds {self.config.max_positions} positions; lower --prompt-tokens or --new-tokens"
            )

    def load(self, model: "Transformer", dtype: "torch.dtype", device: str = "cpu") -> None:
        """Fill a model built on the meta device; see `Checkpoint.load`."""
        self.checkpoint.load(model, dtype=dtype, device=device)


def open_model(name: str) -> ModelSource:
    """Open a model: "pylm", a named shape, a checkpoint folder, or a hub name org/name. Loads no weights.

    A folder wins over the hub. A shape is generated on first use (seconds for llama-125m, minutes for llama-7b).

    Raises:
        UsageError: no such name.
        CheckpointError: the folder cannot be trusted or read.
        Unavailable: the hub cannot be reached, or disk or memory is too small.
    """
    if name == EMBEDDED:
        return _opened(name, data_path("models", EMBEDDED), "trained for labkit, ships with it")
    if name in SHAPES:
        folder = shape_folder(name, cache_folder())
        return _opened(name, folder, "random weights: speed only", has_random_weights=True)
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):  # unlike Path.is_dir, also False for what can be no path
        return _opened(name, path, f"folder {path.resolve()}")
    if _HUB_NAME.fullmatch(name):
        folder = _download(name)
        return _opened(name, folder, f"Hugging Face hub, revision {folder.name}")
    if name and ("/" in name or os.path.exists(path)):
        Checkpoint.open(path)  # says what is wrong with it
    raise UsageError.unknown("model", name, MODELS, remedy="or name a checkpoint folder, or a hub model as org/name")


def sizes_of(name: str) -> ModelConfig | None:
    """Sizes of a model that is at hand, without opening or generating weights; None where they are not known here.

    Raises:
        CheckpointError: the folder's config.json cannot be read or is of a family that labkit does not run.
    """
    if name in SHAPES:
        return ModelConfig.from_dict(SHAPES[name])
    folder = data_path("models", EMBEDDED) if name == EMBEDDED else Path(os.path.expanduser(name))
    path = folder / "config.json"
    is_here = name and os.path.isfile(path)
    return ModelConfig.from_dict(read_json(path)) if is_here else None


def _opened(name: str, folder: Path, origin: str, *, has_random_weights: bool = False) -> ModelSource:
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    checkpoint = Checkpoint.open(folder)
    tokenizer = FileTokenizer(folder / "tokenizer.json", vocab_size=config.vocab_size)
    return ModelSource(
        name=name,
        config=config,
        tokenizer=tokenizer,
        hash=checkpoint.hash(cache_folder()),
        has_random_weights=has_random_weights,
        origin=origin,
        checkpoint=checkpoint,
    )


def _download(name: str) -> Path:
    """The folder of a hub model's newest revision, from the hub's own cache where it is there already."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise Unavailable(
            f"model {name!r}: no such folder, and hub names need huggingface_hub; remedy: pip install 'labkit[hub]'"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=["*.safetensors", "*.json"], ignore_patterns=["*/*", "consolidated*"]
        )
    except errors.GatedRepoError:
        raise UsageError(
            f"hub model {name!r} is gated; remedy: accept its terms on the hub, then run: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError(f"model {name!r}: no such folder, and no such model on the hub (or a private one)") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise Unavailable(
            f"model {name!r}: no such folder, not in the hub's cache, and the hub cannot be reached (offline); "
            f"remedy: go online once, name a folder, or use one of: {', '.join(MODELS)}"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"hub model {name!r} cannot be downloaded: {' '.join(str(error).split())}") from error
    return Path(folder)
