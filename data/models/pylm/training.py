"""pylm's training loop: seeded batches, Muon and AdamW, a budgeted schedule, a state that can be resumed.

A batch is a function of (seed, step) and the progress through the budget, and a checkpoint holds the weights with both
optimizers' moments: under a budget of steps a resumed run ends in the state of an uninterrupted one. Under a budget of
minutes the learning rate follows the clock, so that it has reached zero when the time is up, however fast the machine.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

TokenPool = np.ndarray[tuple[int], np.dtype[np.uint16]]

LOG_EVERY_STEPS = 20


@dataclass(frozen=True)
class TrainConfig:
    """Knobs of a run of `budget` minutes of training, or steps."""

    budget: float = 80.0
    budget_unit: Literal["minutes", "steps"] = "minutes"
    seed: int = 0
    batch_tokens: int = 4096
    micro_tokens: int = 4096
    """Tokens per backward pass: what fits in memory and cache, of no effect on the result but rounding."""
    short_context: int = 512
    long_context: int = 2048
    long_from: float = 0.8
    """Progress at which batches change from the short to the long context."""
    stdlib_share: tuple[float, float] = (0.5, 0.9)
    """Share of windows from the standard library, at the start and at the end."""
    muon_lr: float = 4e-3
    adamw_lr: float = 3e-3
    weight_decay: float = 0.1
    warmup: float = 0.02
    """Progress over which the learning rate rises."""
    decay: float = 0.6
    """Progress, at the end, over which it falls to zero."""
    clip_norm: float = 1.0
    checkpoint_s: float = 300.0
    device: str = "cpu"
    dtype: str = "bfloat16"
    is_compiled: bool = True

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the budget used, in [0, 1]."""
        used = step if self.budget_unit == "steps" else elapsed_s / 60
        return min(1.0, used / self.budget)

    def lr_factor(self, progress: float) -> float:
        """Learning rate over its peak: linear warm-up, plateau, linear decay to zero."""
        # The offset keeps the very first step from being lost.
        return min(1.0, progress / self.warmup + 1e-3, max(0.0, (1.0 - progress) / self.decay))


def initialise(model: nn.Module, seed: int) -> None:
    """Gains one, matrices normal with std 0.02; those that write to the residual stream are scaled down (GPT-2)."""
    generator = torch.Generator().manual_seed(seed)
    num_layers = sum(name.endswith("o_proj.weight") for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.ones_(parameter)
        else:
            writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * num_layers) if writes_residual else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)


class Trainer:
    """A model under training, its optimizers and its place in the budget.

    Args:
        model: maps tokens [B, T] int64 to logits [B, T, V].
        pools: token ids of the packages and of the standard library, usually memory-mapped.
        folder: where `checkpoint.safetensors` and `log.jsonl` are kept.
    """

    def __init__(self, model: nn.Module, pools: tuple[TokenPool, TokenPool], config: TrainConfig, folder: Path) -> None:
        self.model = model.to(config.device)
        self.pools = pools
        self.config = config
        self.folder = folder
        self.step = 0
        self.tokens = 0
        self.elapsed_s = 0.0
        # Muon orthogonalises the updates of hidden matrices; embeddings and gains are no such maps.
        hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                hidden, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self._peak_lrs = (config.muon_lr, config.adamw_lr)
        # Two context lengths are used: a kernel for each beats one for all.
        self._loss = torch.compile(self._plain_loss, dynamic=False) if config.is_compiled else self._plain_loss

    @property
    def checkpoint(self) -> Path:
        """The file that `save` writes and `resume` reads."""
        return self.folder / "checkpoint.safetensors"

    @property
    def progress(self) -> float:
        """Share of the budget used, in [0, 1]."""
        return self.config.progress(self.step, self.elapsed_s)

    def run(self, evaluate: Callable[[nn.Module], float], until_step: int | None = None) -> None:
        """Train to the end of the budget, or to `until_step`, logging and saving on the way and at the end.

        Args:
            evaluate: held-out bits per byte of the model, logged at every checkpoint.
        """
        started = time.perf_counter() - self.elapsed_s
        saved_s = self.elapsed_s
        losses: list[float] = []
        while self.progress < 1.0 and self.step != until_step:
            losses.append(self.train_step())
            self.elapsed_s = time.perf_counter() - started
            if self.step % LOG_EVERY_STEPS == 0:
                self._log(loss=sum(losses) / len(losses))
                losses.clear()
            if self.elapsed_s - saved_s >= self.config.checkpoint_s:
                self.save()
                saved_s = self.elapsed_s
                self._log(held_out_bpb=evaluate(self.model))
        self.save()
        self._log(held_out_bpb=evaluate(self.model))

    def train_step(self) -> float:
        """One optimizer step over `batch_tokens` tokens; returns the mean loss in nats per token."""
        factor = self.config.lr_factor(self.progress)
        for optimizer, peak in zip(self.optimizers, self._peak_lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        windows = self.batch()
        context = windows.shape[1] - 1
        total = torch.zeros((), device=self.config.device)
        for part in windows.split(max(1, self.config.micro_tokens // context)):
            loss = self._loss(part[:, :-1], part[:, 1:]) * (len(part) / len(windows))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.tokens += len(windows) * context
        return float(total)

    def batch(self) -> Tensor:
        """Windows [B, T + 1] int64 at random places of the pools, a function of seed, step and progress."""
        config, progress = self.config, self.progress
        context = config.long_context if progress >= config.long_from else config.short_context
        first, last = config.stdlib_share
        stdlib_share = first + (last - first) * progress
        generator = np.random.default_rng((config.seed, self.step))
        rows = []
        for _ in range(max(1, config.batch_tokens // context)):
            pool = self.pools[int(generator.random() < stdlib_share)]
            start = int(generator.integers(len(pool) - context))
            rows.append(pool[start : start + context + 1].astype(np.int64))
        return torch.from_numpy(np.stack(rows)).to(config.device)

    def _plain_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        dtype = getattr(torch, self.config.dtype)
        with torch.autocast(self.config.device, dtype=dtype, enabled=dtype != torch.float32):
            logits = self.model(inputs)  # [B, T, V]
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def state(self) -> dict[str, Tensor]:
        """Weights (`model.` and their name) and moments (`optimizer.`, its index, the parameter's index, the name)."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, optimizer in enumerate(self.optimizers):
            for parameter, moments in optimizer.state_dict()["state"].items():
                for name, tensor in moments.items():
                    tensors[f"optimizer.{index}.{parameter}.{name}"] = tensor
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def save(self) -> None:
        """Write the checkpoint; a crash leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"step": self.step, "tokens": self.tokens, "elapsed_s": self.elapsed_s, "config": asdict(self.config)}
        partial = self.checkpoint.with_suffix(".partial")
        # The facts travel in the header of the same file, so that one rename replaces everything.
        save_file(self.state(), partial, metadata={"facts": json.dumps(facts)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        """Take weights, moments and place in the budget from the checkpoint.

        Raises:
            FileNotFoundError: there is none in the folder.
        """
        tensors = load_file(self.checkpoint)
        with safe_open(self.checkpoint, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
        self.step, self.tokens, self.elapsed_s = facts["step"], facts["tokens"], facts["elapsed_s"]
        self.model.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        )
        for index, optimizer in enumerate(self.optimizers):
            moments: dict[int, dict[str, Any]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer.{index}."):
                    _, _, parameter, moment = name.split(".")
                    moments.setdefault(int(parameter), {})[moment] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})

    def _log(self, **values: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = {"step": self.step, "tokens": self.tokens, "elapsed_s": round(self.elapsed_s, 1), **values}
        line = json.dumps(entry)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
