"""Speculative decoding changes nothing but the number of steps, whatever the drafts are."""

import sys
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from labkit.core.trace import Trace
from labkit.core.workload import Request, Workload, WorkloadSpec
from labkit.engine import speculative
from labkit.engine.engine import Engine
from labkit.engine.sampler import Sampler, TopP
from labkit.engine.sequence import Sequence
from labkit.engine.speculative import Drafts, Speculative
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from tests.conftest import write_tiny_model
from tests.engine.test_engine import CountingMode, counted_kernels

MakeEngine = Callable[[str], Engine]

SPEC = WorkloadSpec("made", "offline", prompt_tokens=3, new_tokens=11)

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral, window of 9": {"architectures": ["MistralForCausalLM"], "sliding_window": 9},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "num_key_value_heads": 1},
}


def workload_of(*requests: tuple[tuple[int, ...], int]) -> Workload:
    return Workload("made", "offline", tuple(Request(ids, new, prompt_tokens=len(ids)) for ids, new in requests))


def repetitive() -> Workload:
    """Prompts that repeat themselves, one that does not, and requests that end at different times."""
    return workload_of(
        ((5, 6, 7) * 4, 24),
        (tuple(range(10, 20)) * 2, 9),
        ((9,), 30),
        ((40, 41) * 8 + (40,), 2),
        (tuple(range(50, 80)), 17),
        ((7,) * 12, 1),
    )


def served(engine: Engine, workload: Workload) -> Trace:
    return engine.serve(engine.prepare(workload))


def outputs(trace: Trace) -> list[list[int]]:
    return [list(request.output_ids) for request in trace.requests]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheduling", ["", " + static_batching(size=4)"])
@pytest.mark.parametrize("draft", ["", "(num_tokens=1)", "(num_tokens=16)", "(draft='half')"])
def test_greedy_output_is_that_of_plain_decoding(family: str, scheduling: str, draft: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, **FAMILIES[family])
    plain, engine = (
        build_engine(bind(recipe), model=str(tmp_path), device="cpu", cache_folder=tmp_path)
        for recipe in ("kv_cache", f"kv_cache + speculative{draft}{scheduling}")
    )
    expected = outputs(served(plain, repetitive()))
    for _ in range(2):  # the second pass finds the caches used
        trace = served(engine, repetitive())
        assert outputs(trace) == expected
        assert trace.counters["drafted"] >= trace.counters["accepted"]
        assert trace.counters["drafted"] > 0
    if "half" not in draft:
        assert trace.counters["accepted"] > 0  # else nothing of the above was put to the test


@pytest.mark.parametrize("draft", ["ngram", "half"])
@pytest.mark.parametrize("scheduling", ["", " + static_batching(size=2)"])
def test_a_request_may_fill_the_context_to_its_last_position(
    make_engine: MakeEngine, draft: str, scheduling: str
) -> None:
    workload = workload_of(((5, 6, 7, 8) * 60, 16), ((5, 6, 7, 8) * 2, 60))  # 256 positions, and a longer way to go
    plain, engine = make_engine("kv_cache"), make_engine(f"kv_cache + speculative(draft={draft!r}){scheduling}")
    assert outputs(served(engine, workload)) == outputs(served(plain, workload))


@pytest.mark.parametrize(
    "requests",
    [
        [((5, 6, 7, 8) * 60, 16), ((5, 6, 7, 8) * 2, 60)],  # the context of 256 positions ends
        [((5, 6, 7, 8) * 5, 6), ((5, 6, 7, 8), 12)],  # the memory ends
    ],
)
def test_a_sequence_at_its_end_is_not_pushed_beyond_by_longer_drafts_beside_it(
    make_engine: MakeEngine, requests: list[tuple[tuple[int, ...], int]]
) -> None:
    workload = workload_of(*requests)
    plain, engine = (
        make_engine(f"kv_cache(block_size=1) + static_batching(size=2){more}") for more in ("", " + speculative")
    )
    expected = outputs(served(plain, workload))
    trace = served(with_drafter(engine, Foreseeing(expected, offset=1)), workload)  # one token a step, to the very end
    assert outputs(trace) == expected
    assert trace.counters["accepted"] == 0


class Foreseeing:
    """Drafts made from what plain decoding gave; `offset` 0 foresees it, any other is always wrong."""

    executors = ()
    max_positions = sys.maxsize

    def __init__(self, expected: List[List[int]], offset: int = 0) -> None:
        self.expected, self.offset = expected, offset

    def propose(self, sequences: List[Sequence], most: List[int]) -> Drafts:
        drafts = []
        for sequence, num in zip(sequences, most, strict=True):
            done = len(sequence.outputs)
            following = self.expected[sequence.index][done : done + num]
            drafts.append([(token + self.offset) % 320 for token in following])
        return Drafts(drafts)

    def release(self, sequences: List[Sequence]) -> None:
        pass


def with_drafter(engine: Engine, drafter: Foreseeing) -> Engine:
    assert isinstance(engine.decoding, Speculative)
    engine.decoding.drafter = drafter
    return engine


@pytest.mark.parametrize("scheduling", ["", " + static_batching(size=4)"])
def test_what_is_rejected_leaves_no_trace(make_engine: MakeEngine, scheduling: str) -> None:
    plain, engine = (make_engine(f"kv_cache{more}{scheduling}") for more in ("", " + speculative"))
    expected = served(plain, repetitive())
    trace = served(with_drafter(engine, Foreseeing(outputs(expected), offset=1)), repetitive())
    assert outputs(trace) == outputs(expected)
    assert trace.counters["accepted"] == 0
    assert trace.counters["drafted"] > 0
    assert trace.counters["steps"] == expected.counters["steps"]


def test_right_drafts_are_all_accepted_and_counted(make_engine: MakeEngine) -> None:
    workload = workload_of(((5, 6, 7), 11))
    expected = outputs(served(make_engine("kv_cache"), workload))
    engine = with_drafter(make_engine("kv_cache + speculative"), Foreseeing(expected))
    trace = served(engine, workload)
    assert outputs(trace) == expected
    # the first token is prefill's; then 4 drafted and one more, twice
    assert [trace.counters[name] for name in ("steps", "drafted", "accepted")] == [3, 8, 8]
    assert len(set(trace.requests[0].output_s)) == 3  # tokens of one step are there at one time


def test_a_draft_never_gives_more_tokens_than_were_asked_for(make_engine: MakeEngine) -> None:
    longer = outputs(served(make_engine("kv_cache"), workload_of(((5, 6, 7), 20))))
    for new in (1, 2, 3, 7):
        engine = with_drafter(make_engine("kv_cache + speculative(num_tokens=16)"), Foreseeing(longer))
        trace = served(engine, workload_of(((5, 6, 7), new)))
        assert outputs(trace) == [longer[0][:new]]
        assert trace.counters["drafted"] == max(0, new - 2)


def test_the_cost_is_told_from_what_was_met(make_engine: MakeEngine) -> None:
    workload = workload_of(((5, 6, 7), 11))
    expected = outputs(served(make_engine("kv_cache"), workload))
    engine = with_drafter(make_engine("kv_cache + speculative"), Foreseeing(expected))
    assert engine.cost(SPEC).phases["decode"].num_steps == pytest.approx(10 / 1.9375)  # assumed
    served(engine, workload)
    assert engine.cost(SPEC).phases["decode"].num_steps == pytest.approx(2)


@pytest.mark.parametrize("is_native", [False, True])
def test_the_cost_model_counts_the_dispatches_of_a_step_that_verifies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_native: bool
) -> None:
    calls = counted_kernels(monkeypatch, is_native=is_native)
    write_tiny_model(tmp_path, num_hidden_layers=6)
    plain, engine = (
        build_engine(bind(recipe), model=str(tmp_path), device="cpu", cache_folder=tmp_path)
        for recipe in ("precision + kv_cache", "precision + kv_cache + speculative")
    )
    workloads = [workload_of(((5, 6, 7), new)) for new in (21, 11, 21)]  # the first chooses kernels
    with_drafter(engine, Foreseeing(outputs(served(plain, workloads[0]))))
    counts = []
    for workload in workloads:
        prepared = engine.prepare(workload)
        calls.count = 0
        with CountingMode() as mode:
            engine.serve(prepared)
        counts.append(mode.count + calls.count)
    per_step = (counts[2] - counts[1]) / 2  # five tokens each
    assert abs(per_step / engine.cost(SPEC).phases["decode"].kernel_launches - 1) < 0.15


@pytest.mark.parametrize("draft", ["ngram", "half"])
def test_a_pass_that_breaks_off_leaves_the_engine_usable(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, draft: str
) -> None:
    engine = make_engine(f"kv_cache + speculative(draft={draft!r}) + static_batching(size=3)")
    expected = outputs(served(engine, repetitive()))
    verify, calls = engine.executor.verify, []

    def interrupt(sequences: List[Sequence], drafts: List[list[int]]) -> Tensor:
        calls.append(sequences)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return verify(sequences, drafts)

    with monkeypatch.context() as patch:
        patch.setattr(engine.executor, "verify", interrupt)
        with pytest.raises(KeyboardInterrupt):
            served(engine, repetitive())
    assert outputs(served(engine, repetitive())) == expected
    assert engine.cache is not None
    assert engine.cache.num_used_blocks == 0


def test_quality_is_that_of_the_cache_alone(make_engine: MakeEngine) -> None:
    plain, engine = make_engine("kv_cache"), make_engine("kv_cache + speculative")
    assert engine.quality("quick") == pytest.approx(plain.quality("quick"), abs=1e-6)


NUM_IDS = 3
NUM_SAMPLES = 4000
TARGET = torch.tensor([[0.2, 1.0, -0.5], [0.9, -0.4, 0.3], [-1.0, 0.5, 0.8]])
"""Logits of the next token, by the token before."""


class Chain:
    """An executor whose model looks at the last token only."""

    def execute(self, sequences: List[Sequence]) -> Tensor:
        return TARGET[[sequence.tokens[-1] for sequence in sequences]]

    def verify(self, sequences: List[Sequence], drafts: List[list[int]]) -> Tensor:
        longest = max(map(len, drafts))
        pairs = zip(sequences, drafts, strict=True)
        rows = [[sequence.tokens[-1], *draft, *[0] * (longest - len(draft))] for sequence, draft in pairs]
        return TARGET[torch.tensor(rows)]


class Guess:
    """A drafter for a Chain; with `logits` it samples from them, else it always drafts the same token."""

    executors = ()
    max_positions = sys.maxsize

    def __init__(self, logits: Tensor | None, sampler: Sampler) -> None:
        self.logits, self.sampler = logits, sampler

    def propose(self, sequences: List[Sequence], most: List[int]) -> Drafts:
        # every third draft is a token shorter than it may be
        lengths = [max(0, num - (sequence.index % 3 == 0)) for sequence, num in zip(sequences, most, strict=True)]
        if self.logits is None:
            return Drafts([[1] * length for length in lengths])
        last = torch.tensor([sequence.tokens[-1] for sequence in sequences])
        distributions, drafted = [], []
        for _ in range(max(lengths)):
            distributions.append(self.sampler.distribution(self.logits[last]))
            last = self.sampler.draw(distributions[-1])
            drafted.append(last.tolist())
        drafts = [[step[row] for step in drafted[:length]] for row, length in enumerate(lengths)]
        return Drafts(drafts, torch.stack(distributions, 1) if distributions else torch.zeros(len(last), 0, NUM_IDS))

    def release(self, sequences: List[Sequence]) -> None:
        pass


GUESSES = {"not sampled": None, "sampled": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.5], [0.7, -0.7, 0.0]])}


def p_value(guess: str) -> float:
    """How well three sampled tokens fit the distribution that plain sampling has."""
    sampler = TopP(seed=1)
    decoding = Speculative(Chain(), sampler, Guess(GUESSES[guess], TopP(seed=2)), num_tokens=2, max_positions=100)
    sequences = [Sequence(index, [0], 3, 0.0) for index in range(NUM_SAMPLES)]
    while running := [sequence for sequence in sequences if not sequence.is_finished]:
        for sequence, tokens in zip(running, decoding.advance(running), strict=True):
            sequence.outputs += tokens
    seen = torch.tensor([sequence.outputs for sequence in sequences])
    counts = torch.bincount(seen @ torch.tensor([NUM_IDS**2, NUM_IDS, 1]), minlength=NUM_IDS**3).numpy()
    p = TARGET.double().softmax(-1)
    expected = p[0][:, None, None] * p[:, :, None] * p[None]
    return float(chisquare(counts, NUM_SAMPLES * expected.flatten().numpy()).pvalue)


@pytest.mark.parametrize("guess", GUESSES)
def test_samples_are_distributed_as_without_drafts(guess: str) -> None:
    assert p_value(guess) > 0.001


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every draft is accepted."""

    def accept_sampled(p: Tensor, drafts: Drafts, sampler: Sampler) -> list[list[int]]:
        last = [row[len(draft)] for row, draft in zip(p, drafts.tokens, strict=True)]
        return [[*draft, int(sampler.draw(row[None]))] for draft, row in zip(drafts.tokens, last, strict=True)]

    monkeypatch.setattr(speculative, "accept_equal", lambda chosen, draft: [*draft, chosen[len(draft)]])
    monkeypatch.setattr(speculative, "accept_sampled", accept_sampled)
    return


@pytest.mark.usefixtures("credulous")
@pytest.mark.parametrize("guess", GUESSES)
def test_a_wrong_rule_of_acceptance_would_be_found_out(guess: str) -> None:
    assert p_value(guess) < 1e-6


def test_a_rejected_token_is_replaced_from_what_the_draft_lacks() -> None:
    p, q = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]]), torch.tensor([[[0.0, 0.5, 0.5]]])
    never = Drafts([[2]], q)  # p is 0 there, and larger than q for token 0 alone
    assert {tuple(tokens) for _ in range(50) for tokens in speculative.accept_sampled(p, never, TopP())} == {(0,)}
    always = Drafts([[1]], q)
    assert {tuple(tokens) for _ in range(50) for tokens in speculative.accept_sampled(p, always, TopP())} == {(1, 2)}
