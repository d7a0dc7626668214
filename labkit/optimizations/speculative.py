"""Speculative decoding: guess the next tokens cheaply, check them all in one pass of the model.

Idea: a step of few tokens takes as long as a step of one, namely the time to read the weights. So a cheap drafter
guesses k tokens, the model computes its own choice after each of them in one step, and the guesses that agree are kept:
of a + a² + … + aᵏ expected ones, if each is right with probability a, and one token of the model's own on top. Greedy
output stays the same and sampled output keeps its distribution, since a guess is kept as often as the model would have
chosen it. `ngram` copies what stood behind an earlier place that reads like the end; `half` runs half of the
model's own layers; or name a smaller model with the same tokenizer.
Price: arithmetic for every guess that is thrown away; a draft model's own steps, cache and (unless it shares them)
weights; tokens that arrive several at a time.
No gain: where arithmetic is the bound (large batches, few cores), where guesses fail (n-grams on text that repeats
nothing), or where the draft costs too much: k steps of a model of relative size c pay only if a step yields more than
1 + k·c tokens, so `half` needs guesses that are right three times out of four.
Reference: Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding; Chen et al. 2023,
Accelerating Large Language Model Decoding with Speculative Sampling; Saxena 2023, Prompt Lookup Decoding.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.config import EngineConfig
    from labkit.engine.cost import DecoderCost
    from labkit.engine.decoding import Decoding
    from labkit.engine.executor import Executor
    from labkit.engine.speculative import Drafter
    from labkit.model.source import ModelSource
    from labkit.model.transformer import Transformer

ASSUMED_ACCEPTANCE = 0.5
"""Probability that a guess is right where those before it were, as long as nothing has been measured."""


@dataclass(frozen=True)
class Speculative(Optimization):
    """Let a drafter guess up to `num_tokens` tokens and the model check them in one step."""

    name: ClassVar[str] = "speculative"
    title: ClassVar[str] = "Speculative decoding"
    slot: ClassVar[Slot] = Slot.DECODING
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("kv_cache",)

    draft: str = knob("ngram", "what guesses: n-grams of the text, half of the model's layers, or a model by its name",
                      choices=("ngram", "half"), is_open=True)  # fmt: skip
    num_tokens: int = knob(4, "tokens guessed in a step", low=1, high=16)

    def configure(self, config: "EngineConfig") -> "EngineConfig":
        """Give the engine the way of decoding."""
        return replace(config, decoding=self._make)

    def _make(
        self, model: "Transformer", source: "ModelSource", executor: "Executor", config: "EngineConfig"
    ) -> "Decoding":
        from labkit.engine import speculative

        return speculative.Speculative(
            executor,
            config.sampler,
            self._drafter(model, source, config),
            num_tokens=self.num_tokens,
            max_positions=model.config.max_positions,
        )

    def _drafter(self, model: "Transformer", source: "ModelSource", config: "EngineConfig") -> "Drafter":
        from labkit.engine.draft_model import DraftModel, open_draft
        from labkit.engine.prompt_lookup import PromptLookup
        from labkit.model.depth import shallow

        if self.draft == "ngram":
            return PromptLookup()
        if self.draft == "half":
            draft = shallow(model, half(model.config.num_layers))
        else:
            draft = open_draft(self.draft, source=source, model=model)
        assert config.cache is not None  # kv_cache is required
        cache = config.cache(draft.config, draft.dtype, str(model.embed_tokens.weight.device))
        cache.budget_bytes = None  # which requests run is decided by the model's own cache
        return DraftModel(draft, cache, config.sampler)

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """Fewer steps, each of more tokens and behind steps of the draft model.

        Before anything is measured, as many guesses as allowed are made, each right with probability
        `ASSUMED_ACCEPTANCE`; k of them yield (1 - aᵏ⁺¹) / (1 - a) tokens a step (Leviathan et al. 2023). An engine that
        has decoded puts what it met in place of both.
        """
        from labkit.engine.cost import VERIFY_LAUNCHES_PER_LAYER

        tokens_per_step = (1 - ASSUMED_ACCEPTANCE ** (self.num_tokens + 1)) / (1 - ASSUMED_ACCEPTANCE)
        return replace(
            cost,
            tokens_per_step=tokens_per_step,
            num_drafted=float(self.num_tokens),
            draft=self._draft_cost(cost),
            decode_launches=VERIFY_LAUNCHES_PER_LAYER,
        )

    def _draft_cost(self, cost: "DecoderCost") -> "DecoderCost | None":
        """Cost of the draft model; None without one, or where its sizes are not known here."""
        from labkit.model.source import sizes_of

        if self.draft == "ngram":
            return None
        if self.draft == "half":
            sizes = replace(cost.config, num_layers=half(cost.config.num_layers))
            return replace(cost, config=sizes, has_weights=False)
        found = sizes_of(self.draft)
        return None if found is None else cost.beside(found)


def half(num_layers: int) -> int:
    """Layers of a draft made of half of a model's: at least one."""
    return max(1, num_layers // 2)
