"""A draft model keeps up with the target, and one that does not speak its tokens is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers

from labkit.core.errors import UsageError
from labkit.core.workload import Request, Workload
from labkit.engine.draft_model import DraftModel
from labkit.engine.engine import Engine, weights_bytes
from labkit.engine.sampler import TopP
from labkit.engine.speculative import Speculative
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine
from tests.conftest import timeless, write_tiny_model

MakeEngine = Callable[[str], Engine]


def mixed_lengths() -> Workload:
    lengths = ((3, 19), (20, 2), (11, 15), (7, 12), (1, 1), (5, 9))
    return Workload(
        "mixed", "offline", tuple(Request(tuple(range(5, 5 + n)), new, prompt_tokens=n) for n, new in lengths)
    )


def drafter_of(engine: Engine) -> DraftModel:
    assert isinstance(engine.decoding, Speculative)
    assert isinstance(engine.decoding.drafter, DraftModel)
    return engine.decoding.drafter


@pytest.mark.parametrize("scheduling", ["", " + static_batching(size=3)"])
@pytest.mark.parametrize("is_greedy", [True, False])
def test_the_target_as_its_own_draft_is_always_right(
    make_engine: MakeEngine, tiny_model: str, scheduling: str, is_greedy: bool
) -> None:
    engine = make_engine(f"kv_cache + speculative(draft={tiny_model!r}, num_tokens=3){scheduling}")
    if not is_greedy:
        engine = Engine(engine.model, engine.source, replace(engine.config, sampler=TopP(top_p=0.9, seed=4)))
    for _ in range(2):
        trace = engine.serve(engine.prepare(mixed_lengths()))
        assert trace.counters["drafted"] == trace.counters["accepted"] > 20
        assert [len(request.output_ids) for request in trace.requests] == [19, 2, 15, 12, 1, 9]


def test_the_same_seed_samples_the_same_tokens_with_a_draft(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + speculative(draft='half') + static_batching(size=3)")
    made = []
    for seed in (1, 1, 2):
        again = Engine(engine.model, engine.source, replace(engine.config, sampler=TopP(seed=seed)))
        made.append([request.output_ids for request in again.serve(again.prepare(mixed_lengths())).requests])
    assert made[0] == made[1] != made[2]


def test_no_follower_outlives_its_sequence(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache + speculative(draft='half') + static_batching(size=3)")
    engine.serve(engine.prepare(mixed_lengths()))
    drafter = drafter_of(engine)
    assert drafter.followers == {}
    assert drafter.cache.num_blocks > drafter.cache.num_used_blocks == 0


def test_half_of_the_model_adds_no_weights_and_another_model_does(make_engine: MakeEngine, tiny_model: str) -> None:
    plain, half, other = (
        make_engine(f"kv_cache{more}").facts()["weights_bytes"]
        for more in ("", " + speculative(draft='half')", f" + speculative(draft={tiny_model!r})")
    )
    assert half == plain
    assert other == 2 * plain


def test_weights_of_the_draft_move_with_those_of_the_target(make_engine: MakeEngine, tiny_model: str) -> None:
    for draft in ("half", tiny_model):
        engine = make_engine(f"kv_cache + speculative(draft={draft!r})")
        expected = engine.serve(engine.prepare(mixed_lengths()))
        weight = drafter_of(engine).model.embed_tokens.weight
        before, size = weight.data_ptr(), weights_bytes(engine._models())
        engine.relocate()
        assert weight.data_ptr() != before
        assert weights_bytes(engine._models()) == size
        again = engine.serve(engine.prepare(mixed_lengths()))
        assert again.checksum == expected.checksum
        assert timeless(again.counters) == timeless(expected.counters)


@pytest.mark.parametrize(("prompt_tokens", "can_draft"), [(10, True), (60, False)])
def test_a_draft_with_a_shorter_context_stops_at_its_end(
    tiny_model: str, tmp_path: Path, prompt_tokens: int, can_draft: bool
) -> None:
    write_tiny_model(tmp_path, max_position_embeddings=32)
    recipes = ("kv_cache", f"kv_cache + speculative(draft={str(tmp_path)!r}) + static_batching(size=2)")
    prompt = tuple(range(5, 5 + prompt_tokens))
    workload = Workload(
        "long",
        "offline",
        (Request(prompt, 60, prompt_tokens=prompt_tokens), Request(prompt[:40], 50, prompt_tokens=len(prompt[:40]))),
    )
    plain, engine = (
        build_engine(bind(recipe), model=tiny_model, device="cpu", cache_folder=tmp_path) for recipe in recipes
    )
    expected, trace = (one.serve(one.prepare(workload)) for one in (plain, engine))
    assert trace.checksum == expected.checksum
    assert (trace.counters["drafted"] > 0) == can_draft


def test_a_draft_takes_the_dtype_of_the_activations(make_engine: MakeEngine, tiny_model: str) -> None:
    engine = make_engine(f"precision(dtype='bf16') + kv_cache + speculative(draft={tiny_model!r})")
    assert drafter_of(engine).model.dtype == engine.model.dtype


def test_a_draft_of_another_vocabulary_is_refused(make_engine: MakeEngine, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, vocab_size=400)
    with pytest.raises(UsageError, match=r"another tokenizer than '.*': 400 ids, not 320; allowed: ngram, half, or a"):
        make_engine(f"kv_cache + speculative(draft={str(tmp_path)!r})")


def test_a_draft_of_the_same_size_that_reads_otherwise_is_refused(make_engine: MakeEngine, tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    changed = tokenizers.Tokenizer.from_file(path)
    changed.add_tokens(["words"])
    changed.save(path)
    with pytest.raises(UsageError, match=r"another tokenizer than '.*': the same text becomes other ids; allowed"):
        make_engine(f"kv_cache + speculative(draft={str(tmp_path)!r})")


def test_a_draft_that_is_no_model_is_one_line(make_engine: MakeEngine) -> None:
    with pytest.raises(UsageError, match="unknown model 'nonsense'; allowed: pylm") as caught:
        make_engine("kv_cache + speculative(draft='nonsense')")
    assert "\n" not in str(caught.value)
