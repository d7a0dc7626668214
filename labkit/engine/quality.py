"""Output first, speed second: what a Recipe did to the output, against the fp32 reference.

Quality (lossy techniques) compares logits on held-out text, teacher-forced: half of each window is prefilled and the
rest decoded token by token through the Recipe's own cache and kernels. Proof (exact techniques) compares greedy
tokens in fp32.
References and proofs are cached under a hash of all that they depend on.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.bench.system import System
from labkit.core.effort import EFFORTS
from labkit.core.errors import LabkitError
from labkit.core.machine import machine
from labkit.core.paths import code_digest, write_whole
from labkit.core.stdlib import held_out_text
from labkit.core.workload import WorkloadSpec
from labkit.engine.sequence import Sequence

if TYPE_CHECKING:
    from labkit.engine.engine import Engine
    from labkit.model.source import ModelSource

WINDOW = 128
"""Tokens in a window of text, half of them context."""

TIE_GAP = 1e-4
"""Below this distance between the two best logits, the order of a sum may decide between them."""

MAX_DIVERGED = 0.01
"""Share of sequences that may diverge at such a tie (one sequence always may)."""

PROOF_NEW_TOKENS = 32
PROOF_PROMPT_TOKENS = 48

_REFERENCE_BYTES = 256 * 2**20


class Provable(System, Protocol):
    """A System whose output can be held against an Engine's: an Engine, or what a technique puts around it."""

    @property
    def reusable_tokens(self) -> int:
        """See Engine."""


def evaluate(engine: "Engine", effort: str) -> dict[str, float]:
    """Quality of an engine's logits against the cached reference.

    Returns:
        perplexity; perplexity_ratio (1 is equal, lower is better); kl_mean and kl_p99, the divergence from the
        reference in nats a token; same_top1_rate, how often the likeliest token agrees. {} for a model with random
        weights.

    Raises:
        LabkitError: logits are no finite numbers.
    """
    if engine.source.has_random_weights:
        return {}
    path = write_reference(engine, effort)
    from safetensors.torch import load_file

    reference = load_file(path)
    windows = reference["windows"]
    targets = windows[:, WINDOW // 2 + 1 :]
    nll, nll_reference, kl, same = [], [], [], []
    for index, logits in enumerate(score(engine, windows)):  # one position of all windows at a time
        log_p = F.log_softmax(reference["logits"][:, index].float(), -1)
        log_q = F.log_softmax(logits.float().cpu(), -1)
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))  # below 0 is rounding
        same.append((log_p.argmax(-1) == log_q.argmax(-1)).float())
        target = targets[:, index, None]
        nll.append(-log_q.gather(-1, target))
        nll_reference.append(-log_p.gather(-1, target))
    mean_nll, mean_reference = torch.stack(nll).mean().item(), torch.stack(nll_reference).mean().item()
    divergence = torch.stack(kl).flatten()
    if not math.isfinite(mean_nll) or not divergence.isfinite().all():
        raise LabkitError("logits are no finite numbers: too large for the dtype; use one of wider range, such as bf16")
    return {
        "perplexity": math.exp(min(mean_nll, 700.0)),
        "perplexity_ratio": math.exp(min(mean_nll - mean_reference, 700.0)),
        "kl_mean": divergence.mean().item(),
        "kl_p99": divergence.quantile(0.99).item(),
        "same_top1_rate": torch.stack(same).mean().item(),
    }


@torch.inference_mode()
def score(engine: "Engine", windows: Tensor) -> Iterator[Tensor]:
    """Logits [W, V] at each position of the second half of [W, WINDOW] windows but the last, decoded in step."""
    rows: list[list[int]] = windows.tolist()
    half = WINDOW // 2
    if engine.cache is None:  # decoding computes the whole text again for each token: once gives all positions
        by_window = [_forward(engine, window) for window in windows]
        for position in range(half - 1):
            yield torch.stack([window[position] for window in by_window])
        return
    sequences = [Sequence(index, row[:half], WINDOW - half, 0.0) for index, row in enumerate(rows)]
    try:
        for position in range(half, WINDOW):
            for sequence, row in zip(sequences, rows, strict=True):
                sequence.outputs = row[half:position]
            logits = engine.executor.execute(sequences)
            if position > half:
                yield logits
    finally:
        engine.cache.release(sequences)


def _forward(engine: "Engine", window: Tensor) -> Tensor:
    """Logits [WINDOW / 2 - 1, V] of a window's second half, from one uncached pass."""
    logits = engine.executor.compute(window[None].to(engine.device))
    return logits[0, WINDOW // 2 : -1]


def write_reference(engine: "Engine", effort: str) -> Path:
    """File with `windows` [W, WINDOW] int64 and the reference's `logits` [W, WINDOW / 2 - 1, V]; made if missing.

    `engine` says which model; the reference itself is the same weights in fp32, each window in one forward pass.
    """
    from safetensors.torch import save_file

    path = reference_path(engine.source, engine.device, effort, _folder(engine))
    if engine.source.has_random_weights or _is_whole(path):
        return path
    windows = _windows(engine, EFFORTS[effort].quality_tokens)
    logits = []
    with torch.inference_mode():
        for window in windows:
            logits.append(_forward(engine, window).float().cpu())
    write_whole(path, lambda temporary: save_file({"windows": windows, "logits": torch.stack(logits)}, temporary))
    return path


def _is_whole(path: Path) -> bool:
    """Whether a file is there and as long as its header says, without reading what it holds."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def reference_path(source: "ModelSource", device: str, effort: str, folder: Path) -> Path:
    """Where the reference of a model lies, whether it has been written or not."""
    return _cached(source, device, folder, f"reference/{EFFORTS[effort].quality_tokens}", "safetensors")


def _windows(engine: "Engine", num_tokens: int) -> Tensor:
    """Evenly spread windows of held-out text, as many as the effort asks for and the cache file may hold."""
    text, vocab = held_out_text(), engine.source.config.vocab_size
    fitting = _REFERENCE_BYTES // (vocab * 4 * WINDOW // 2)
    count = max(1, min(num_tokens // (WINDOW // 2), fitting))
    encode = engine.source.tokenizer.encode
    starts = [len(text) * index // count for index in range(count)]
    return torch.tensor([encode(text[start : start + WINDOW * 12])[:WINDOW] for start in starts])


def prove(reference: "Engine", candidate: Provable, recipe: str, effort: str) -> dict[str, Any]:
    """Serve prompts greedily with `candidate` and check every token against the naive reference, both in fp32.

    The reference computes each finished text in one uncached forward pass: under causal attention its logits at a
    position are those that naive decoding would see there.

    Returns:
        num_prompts, num_tokens, num_diverged, is_equal, divergences: [{prompt, position, gap}]. A divergence where the
        reference's two best logits are closer than TIE_GAP is a tie; it counts, but only above MAX_DIVERGED it fails.
        The gap is None where they are no numbers.
    """
    num_prompts = EFFORTS[effort].proof_prompts
    spec = WorkloadSpec(
        "proof",
        "offline",
        prompt_tokens=_proof_prompt_tokens(candidate, reference.model.config.max_positions),
        new_tokens=PROOF_NEW_TOKENS,
        num_requests=num_prompts,
    )
    prepared = candidate.prepare(spec.draw(0))
    if candidate.reusable_tokens:
        candidate.serve(prepared)  # so that what is proven below begins with what this leaves
    trace = candidate.serve(prepared)
    divergences = []
    for index, ((_, prompt), request) in enumerate(zip(prepared.requests, trace.requests, strict=True)):
        found = _first_divergence(reference, prompt, list(request.output_ids))
        if found is not None:
            divergences.append({"prompt": index, "position": found[0], "gap": found[1]})
    are_ties = all(item["gap"] is not None and item["gap"] < TIE_GAP for item in divergences)
    is_equal = are_ties and len(divergences) <= max(1, MAX_DIVERGED * num_prompts)
    proof = {
        "num_prompts": num_prompts,
        "num_tokens": trace.num_outputs,
        "num_diverged": len(divergences),
        "is_equal": is_equal,
        "divergences": divergences,
    }
    path = _proof_path(reference.source, reference.device, recipe, effort, _folder(reference))
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(proof)))
    return proof


def _proof_prompt_tokens(candidate: Provable, max_positions: int) -> int:
    """Length of a proof's prompts; where prefixes are kept, a block more, so that there is something to reuse."""
    return min(PROOF_PROMPT_TOKENS + candidate.reusable_tokens, max_positions - PROOF_NEW_TOKENS)


def read_proof(source: "ModelSource", device: str, recipe: str, effort: str, folder: Path) -> dict[str, Any] | None:
    """The cached outcome of `prove` for a model, or None where it is missing or damaged."""
    try:
        proof: dict[str, Any] = json.loads(_proof_path(source, device, recipe, effort, folder).read_text())
    except (OSError, ValueError):
        return None
    return proof


def _proof_path(source: "ModelSource", device: str, recipe: str, effort: str, folder: Path) -> Path:
    return _cached(source, device, folder, f"proof/{recipe}/{EFFORTS[effort].proof_prompts}", "json")


@torch.inference_mode()
def _first_divergence(reference: "Engine", prompt: list[int], outputs: list[int]) -> tuple[int, float | None] | None:
    """First output that the reference would not have chosen, and the gap between its two best logits."""
    tokens = torch.tensor([prompt + outputs[:-1]], device=reference.device)
    logits = reference.model(tokens)[0, len(prompt) - 1 :]
    wrong = (logits.argmax(-1).cpu() != torch.tensor(outputs)).nonzero()
    if not len(wrong):
        return None
    position = int(wrong[0])
    best = logits[position].float().topk(2).values
    gap = (best[0] - best[1]).item()
    return position, gap if math.isfinite(gap) else None


def _folder(engine: "Engine") -> Path:
    if engine.cache_folder is None:
        raise ValueError("cache_folder: an engine without one has no place for its reference")
    return engine.cache_folder


def _cached(source: "ModelSource", device: str, folder: Path, what: str, suffix: str) -> Path:
    """Where the result `what` for this model, these texts, this code and this machine lies."""
    text = hashlib.sha256(held_out_text().encode()).hexdigest()
    key = json.dumps([what, source.hash, device, text, torch.__version__, code_digest(), machine().fingerprint])
    return folder / f"{what.partition('/')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.{suffix}"
