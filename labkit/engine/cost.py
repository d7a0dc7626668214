"""DecoderCost: what serving a Workload with a decoder needs, from its sizes alone.

Decoding reads every weight once a step for the whole batch and, with a cache, the keys and values of each sequence;
without one it computes every earlier token again. Arithmetic is 2 FLOPs a weight and token, plus 4 a query-key pair
and head element for attention (the accounting of Kaplan et al. 2020 and Pope et al. 2022).
"""

import math
from dataclasses import dataclass, replace

from labkit.core.cost import Cost, Phase, csr_bytes
from labkit.core.workload import WorkloadSpec
from labkit.engine.offload_plan import NUM_BUFFERS, fetches_per_step
from labkit.model.config import ModelConfig

LAUNCHES_PER_LAYER = 30
"""Operations that a block dispatches in one step, views included; counted, and kept true by a test."""

NATIVE_LAUNCHES_PER_LAYER = 24
"""The same where native kernels do what lies between the matrix products."""

REPLAYED_LAUNCHES_PER_LAYER = 0
"""The same where the whole step is replayed by one call."""

COMPILED_LAUNCHES_PER_LAYER = 20
"""The same where torch.compile made kernels of what lies between two attentions; its checks are counted as launches."""

VERIFY_LAUNCHES_PER_LAYER = 41
"""The same where a step checks drafted tokens: attention of several tokens is torch's, native kernels or not."""

COPY_LAUNCHES_PER_LAYER = 2
"""What copying stored keys and values into a slot adds."""

LAUNCHES_OUTSIDE = 20
"""Operations of a step outside the blocks: input tensors, embedding, rotation, norm, head, sampling."""

REPLAYED_LAUNCHES_OUTSIDE = 12
"""The same where the step is replayed, which takes tables and lengths as they are."""


DRAFT_PHASES = ("draft prefill", "draft")
"""Phases of a draft model: of the text so far, and of each token that it guesses."""


@dataclass(frozen=True)
class DecoderCost:
    """Sizes that cost follows from; optimizations replace fields.

    `linear_bytes` and `head_bytes` are bytes a weight, scales included. `kv_bytes` is bytes of one stored key or value
    element. `batch` requests run together, or as many as `kv_budget_bytes` hold the keys and values of; what those that
    are preempted compute twice is not counted. `dtype_is_fixed`: quantized layers compute in `dtype`, whatever others
    do. Prompts are computed in chunks of `prefill_chunk` tokens beside the others' decoding; None: each in one step.
    `prefill_launches` and `decode_launches` operations are dispatched in a layer and step of their phase; a step that
    `is_compiled` is not replayed on a CPU, and only one that `is_graphed` is on a GPU. `block_size` is tokens in a
    block of the cache. The first `cached_prompt_tokens` of a prompt are copied from what earlier requests left, which
    takes up to `prefix_bytes`.
    `num_linear_parameters` are those of the blocks' linear layers where they differ from what `config` says, `density`
    is the share of them that is not zero, and `num_build_copies` is how many fp32 copies of all weights building holds.
    Weights of `num_fetched_layers` are brought to the device in each step; prompts are computed on `prefill_device`, if
    it is another. All of this is held `replicas` times, by processes that each run batches of their own at the same
    time.

    A decoding step gives a sequence `tokens_per_step` tokens; for that `num_drafted` are computed beside the last one,
    after a `draft` model, if there is one, has run once for each. `has_weights`: it holds its own, none are another's.

    `num_ranks` processes share the work: by heads and neurons, or by layers where a step's batch goes through in
    `num_microbatches`. A step is then what one of them does; they are at it at the same time.
    """

    config: ModelConfig
    spec: WorkloadSpec
    batch: int = 1
    linear_bytes: float = 4.0
    head_bytes: float = 4.0
    activation_bytes: float = 4.0
    dtype: str = "fp32"
    dtype_is_fixed: bool = False
    is_cached: bool = False
    kv_bytes: float = 4.0
    block_size: int = 1
    kv_budget_bytes: float = math.inf
    prefill_chunk: int | None = None
    cached_prompt_tokens: int = 0
    prefix_bytes: int = 0
    prefill_launches: float = LAUNCHES_PER_LAYER
    decode_launches: float = LAUNCHES_PER_LAYER
    is_compiled: bool = False
    is_graphed: bool = False
    tokens_per_step: float = 1.0
    num_drafted: float = 0.0
    draft: "DecoderCost | None" = None
    has_weights: bool = True
    num_linear_parameters: float | None = None
    density: float = 1.0
    num_build_copies: float = 1.0
    replicas: int = 1
    num_ranks: int = 1
    num_microbatches: int = 0
    num_fetched_layers: int = 0
    prefill_device: str = ""

    @classmethod
    def baseline(cls, config: ModelConfig, spec: WorkloadSpec) -> "DecoderCost":
        """The naive System: fp32, no cache, one request at a time."""
        return cls(config, spec)

    @property
    def linear_parameters(self) -> float:
        """Weights of the blocks' linear layers, zeros included."""
        if self.num_linear_parameters is None:
            return self.config.num_linear_parameters
        return self.num_linear_parameters

    @property
    def is_sparse(self) -> bool:
        """Whether so many weights are zero that compressed rows are fewer bytes; their kernels know fp32 only."""
        return self.dtype == "fp32" and csr_bytes(self.density, self.linear_bytes) < self.linear_bytes

    @property
    def weights_bytes(self) -> float:
        """Weights that one step reads, in bytes."""
        linear_bytes = csr_bytes(self.density, self.linear_bytes) if self.is_sparse else self.linear_bytes
        return self.linear_parameters * linear_bytes + self.config.num_head_parameters * self.head_bytes

    @property
    def held_bytes(self) -> float:
        """Weights that memory holds, in bytes: beside compressed rows the matrix stays, for steps of many rows."""
        all_bytes = self.weights_bytes + self.is_sparse * self.linear_parameters * self.linear_bytes
        return all_bytes - max(0, self.num_fetched_layers - NUM_BUFFERS) * self.layer_bytes

    @property
    def layer_bytes(self) -> float:
        """Weights of a layer, in bytes."""
        return self.linear_parameters * self.linear_bytes / self.config.num_layers

    def beside(self, config: ModelConfig) -> "DecoderCost":
        """Cost of another model with its own weights, in the dtype of this one's activations."""
        size = self.activation_bytes
        return replace(
            self,
            config=config,
            linear_bytes=size,
            head_bytes=size,
            prefill_launches=LAUNCHES_PER_LAYER,
            decode_launches=LAUNCHES_PER_LAYER,
            is_compiled=False,
            num_linear_parameters=None,
            density=1.0,
            num_ranks=1,
            num_microbatches=0,
        )

    @property
    def kv_token_bytes(self) -> float:
        """Stored keys and values of one token over all layers, in bytes."""
        return 2.0 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim * self.kv_bytes

    def phases(self) -> Cost:
        """Prefill (up to the first token of every request) and decode (all tokens after it).

        A draft model adds phases of its own, `draft prefill` and `draft`, both in the time of decoding.
        """
        spec, lengths = self.spec, self.spec.lengths
        width, waves, num_busy = self._waves()
        mean_prompt, mean_new = (total / len(lengths) for total in (spec.num_prompt_tokens, spec.num_new_tokens))
        mean_context = mean_prompt + mean_new / 2
        num_empty = 1 if spec.cache_state == "cold" else 0  # waves that find nothing stored
        copied = self.cached_prompt_tokens * (waves - num_empty) / waves
        phases = {"prefill": self._prefill(width, waves, mean_prompt, copied)}
        num_decoded = spec.num_new_tokens - spec.num_requests
        if not num_decoded:
            return _at_once(phases, num_busy)
        if self.prefill_chunk is None:
            # those who start together take as many steps as the longest of them, in which fewer and fewer take part
            firsts = range(0, len(lengths), width)
            num_together = float(sum(max(each.new_tokens for each in lengths[at : at + width]) - 1 for at in firsts))
        else:
            num_together = max(num_decoded / width, max(each.new_tokens for each in lengths) - 1)
        num_steps = num_together / num_busy / self.tokens_per_step
        mean_width = num_decoded / num_together
        num_logits = 1 + self.num_drafted
        new, past = (num_logits, mean_context) if self.is_cached else (mean_context, 0.0)
        if self.draft is not None:
            ahead = self.draft._step(width, mean_prompt, num_steps=waves, launches=self.draft.prefill_launches)
            guess = self.draft._step(
                mean_width,
                1.0,
                past=mean_context,
                num_steps=num_steps * self.num_drafted,
                launches=self.draft.decode_launches,
            )
            phases |= {
                phase: replace(step, told_as="drafts") for phase, step in zip(DRAFT_PHASES, (ahead, guess), strict=True)
            }
        phases["decode"] = self._step(
            mean_width,
            new,
            past=past,
            num_logits=num_logits,
            num_steps=num_steps,
            num_outputs=num_decoded,
            launches=self.decode_launches,
        )
        return _at_once(phases, num_busy)

    def _waves(self) -> tuple[int, int, float]:
        """Requests in a batch, batches one after another, and how many replicas run one at a time on average."""
        num_busy = min(self.replicas, self.spec.num_at_once)
        width = min(self.batch, -(-self.spec.num_at_once // num_busy), self._num_fitting())
        num_batches = -(-self.spec.num_requests // width)
        waves = -(-num_batches // num_busy)
        return width, waves, num_batches / waves

    def _num_fitting(self) -> int:
        """Requests whose blocks the budget holds, one at least: of their full length, as those that start together are
        given at once, or of what they have halfway through their answers, where blocks are given as they grow."""
        if not self.is_cached or math.isinf(self.kv_budget_bytes):
            return self.batch
        lengths = self.spec.lengths
        if self.prefill_chunk is None:
            num_tokens = float(max(each.prompt_tokens + each.new_tokens for each in lengths))
        else:
            num_tokens = (self.spec.num_prompt_tokens + self.spec.num_new_tokens / 2) / len(lengths)
        num_blocks = self.kv_budget_bytes // (self.kv_token_bytes * self.block_size)
        return max(1, int(num_blocks // math.ceil(num_tokens / self.block_size)))

    def _prefill(self, width: int, waves: int, mean_prompt: float, copied: float) -> Phase:
        """All prompts, of each of which so many tokens are copied and the rest is computed."""
        lengths, new = self.spec.lengths, mean_prompt - copied
        spread = sum((length.prompt_tokens - mean_prompt) ** 2 for length in lengths) / len(lengths)
        num_steps, past = float(waves), copied
        if self.prefill_chunk is not None:  # which may hold the ends of several prompts
            num_steps = max(1.0, len(lengths) * new / self.prefill_chunk)
            width, new, spread = 1, len(lengths) * new / num_steps, 0.0
            past += max(0.0, mean_prompt - copied - new) / 2
            copied *= len(lengths) / num_steps
        phase = self._step(
            width,
            new,
            spread=spread,
            past=past,
            copied=copied,
            num_steps=num_steps,
            num_outputs=len(lengths),
            launches=self.prefill_launches,
        )
        if not self.prefill_device:
            return phase
        sent_bytes = width * self.kv_token_bytes * mean_prompt
        return replace(phase, device=self.prefill_device, transfer_bytes=sent_bytes)

    def _step(
        self,
        width: float,
        new: float,
        *,
        spread: float = 0.0,
        past: float = 0.0,
        copied: float = 0.0,
        num_steps: float,
        num_outputs: float = 0.0,
        num_logits: float = 1.0,
        launches: float,
    ) -> Phase:
        """One step of `width` sequences that copy, then compute `new` tokens each behind `past` stored ones.

        `width` and `new` are means, `spread` is the variance of `new` between the sequences.
        """
        config = self.config
        pairs = new * past + (new * (new + 1) + spread) / 2  # query-key pairs under the causal mask
        attention = 4.0 * config.num_layers * config.num_heads * config.head_dim * pairs
        density = self.density if self.is_sparse else 1.0
        linear = 2.0 * self.linear_parameters * density * new + 2.0 * config.num_head_parameters * num_logits
        fetched = self.num_fetched_layers
        kv = width * self.kv_token_bytes * (past + new) if self.is_cached else 0.0
        copies = {"kv_copy": 2 * width * self.kv_token_bytes * copied} if copied else {}  # read and written
        step = Phase(
            num_steps=num_steps,
            num_outputs=num_outputs,
            bytes_by_kind={"weights": self.weights_bytes, "kv_cache": kv, **copies},
            flops_by_dtype={self.dtype: width * (linear + attention)},
            transfer_bytes=self.layer_bytes * fetches_per_step(fetched),
            is_overlapped=fetched > 0,
            kernel_launches=(launches + COPY_LAUNCHES_PER_LAYER * bool(copied)) * config.num_layers
            + (LAUNCHES_OUTSIDE if launches else REPLAYED_LAUNCHES_OUTSIDE),
        )
        if self.num_ranks == 1:
            return step
        x_bytes = width * new * config.hidden_size * self.activation_bytes
        logits_bytes = width * num_logits * config.vocab_size * self.activation_bytes
        if self.num_microbatches:
            return self._stage(step, width, x_bytes, logits_bytes)
        return self._tensor_part(step, x_bytes, logits_bytes)

    def _tensor_part(self, step: Phase, x_bytes: float, logits_bytes: float) -> Phase:
        """A rank's part of a step: two all-reduces a layer, the logits, and a word to say what is to be done."""
        part = 1 / self.num_ranks
        kv_part = max(part, 1 / self.config.num_kv_heads)  # a head is held whole
        num_sums = 2 * self.config.num_layers
        return replace(
            step,
            bytes_by_kind={
                kind: num_bytes * (part if kind == "weights" else kv_part)
                for kind, num_bytes in step.bytes_by_kind.items()
            },
            flops_by_dtype={dtype: flops * part for dtype, flops in step.flops_by_dtype.items()},
            communication_bytes=(1 - part) * (num_sums * 2 * x_bytes + part * logits_bytes),  # the first has its own
            num_messages=num_sums + 2.0,
        )

    def _stage(self, step: Phase, width: float, x_bytes: float, logits_bytes: float) -> Phase:
        """What a rank does between two messages: one microbatch through its layers.

        The last microbatch leaves after m + n - 1 of these: m by n ranks, n - 1 to fill and drain the pipeline.
        """
        m, n = max(1.0, min(self.num_microbatches, width)), self.num_ranks
        return replace(
            step,
            num_steps=step.num_steps * (m + n - 1),
            bytes_by_kind={
                kind: num_bytes / n / (1 if kind == "weights" else m) for kind, num_bytes in step.bytes_by_kind.items()
            },
            flops_by_dtype={dtype: flops / (n * m) for dtype, flops in step.flops_by_dtype.items()},
            kernel_launches=step.kernel_launches / n,
            communication_bytes=(x_bytes * (n - 1) + logits_bytes) / (n * (m + n - 1)),  # m of these slots send
            num_messages=1.0,
        )


def _at_once(phases: dict[str, Phase], num: float) -> Cost:
    """Cost of phases that so many processes run at the same time: they share memory and arithmetic, not dispatch."""
    return Cost(
        {
            name: replace(
                phase,
                bytes_by_kind={kind: num * num_bytes for kind, num_bytes in phase.bytes_by_kind.items()},
                flops_by_dtype={dtype: num * flops for dtype, flops in phase.flops_by_dtype.items()},
            )
            for name, phase in phases.items()
        }
    )
