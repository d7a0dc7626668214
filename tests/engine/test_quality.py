"""Quality and proof: what is equal is found equal, what is broken is found out."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from labkit.core.effort import EFFORTS
from labkit.core.errors import LabkitError
from labkit.engine import quality
from labkit.engine.engine import Engine
from labkit.optimizations import bind
from labkit.optimizations.build import prepare_reference

MakeEngine = Callable[[str], Engine]


def test_the_baseline_equals_its_reference(make_engine: MakeEngine) -> None:
    measured = make_engine("").quality("quick")
    assert measured["perplexity_ratio"] == pytest.approx(1.0, abs=1e-6)
    assert measured["kl_mean"] == pytest.approx(0.0, abs=1e-6)
    assert measured["same_top1_rate"] == 1.0


def test_fewer_bits_move_the_logits_further(make_engine: MakeEngine) -> None:
    recipes = ("kv_cache", "quantize(bits=8) + kv_cache", "quantize(bits=4, group_size=64) + kv_cache")
    divergences = [make_engine(recipe).quality("quick")["kl_mean"] for recipe in recipes]
    assert divergences[0] < 1e-6 < divergences[1] < divergences[2]


def test_perplexity_is_that_of_a_plain_forward_pass(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache")
    windows = quality._windows(engine, EFFORTS["quick"].quality_tokens)
    half = quality.WINDOW // 2
    with torch.inference_mode():
        log_p = engine.model(windows)[:, half:-1].log_softmax(-1)
    expected = -log_p.gather(-1, windows[:, half + 1 :, None]).mean()
    assert engine.quality("quick")["perplexity"] == pytest.approx(expected.exp().item(), rel=1e-4)


def test_scoring_leaves_the_cache_free(make_engine: MakeEngine) -> None:
    engine = make_engine("kv_cache")
    engine.quality("quick")
    assert engine.cache is not None
    assert engine.cache.num_used_blocks == 0


def test_random_shapes_have_no_quality(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("")
    object.__setattr__(engine.source, "has_random_weights", True)
    assert engine.quality("quick") == {}


def test_an_exact_recipe_is_proven_and_the_proof_is_cached(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = [bind("kv_cache + static_batching(size=3)"), bind("quantize + kv_cache"), bind("quantize")]

    def prepare() -> dict[str, dict[str, object]]:
        return prepare_reference(bounds, model=tiny_model, device="cpu", effort="quick", cache_folder=tmp_path)

    proofs = prepare()
    assert list(proofs) == ["kv_cache + static_batching(size=3)", "kv_cache"]
    for proof in proofs.values():
        assert proof["is_equal"]
        assert proof["num_prompts"] == EFFORTS["quick"].proof_prompts
        assert proof["num_tokens"] == EFFORTS["quick"].proof_prompts * quality.PROOF_NEW_TOKENS

    def never(*_: object) -> None:
        raise AssertionError("a cached proof was computed again")

    monkeypatch.setattr(quality, "prove", never)
    assert prepare() == proofs


def test_what_other_code_proved_is_proven_again_and_damaged_results_are_made_anew(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    prove = quality.prove

    def counted(reference: Engine, candidate: quality.Provable, recipe: str, effort: str) -> dict[str, object]:
        made.append(recipe)
        return prove(reference, candidate, recipe, effort)

    def prepare() -> dict[str, dict[str, object]]:
        bounds = [bind("kv_cache"), bind("quantize + kv_cache")]
        return prepare_reference(bounds, model=tiny_model, device="cpu", effort="quick", cache_folder=tmp_path)

    monkeypatch.setattr(quality, "prove", counted)
    first = prepare()
    assert prepare() == first
    assert made == ["kv_cache"]
    monkeypatch.setattr(quality, "code_digest", lambda: "other code")
    assert prepare() == first
    assert made == ["kv_cache"] * 2
    kept = [path for path in tmp_path.iterdir() if path.name.startswith(("proof-", "reference-"))]
    whole = {path: path.read_bytes() for path in kept}
    for path in kept:
        path.write_bytes(whole[path][: len(whole[path]) // 2])
    assert prepare() == first
    assert made == ["kv_cache"] * 3
    written = {path: path.read_bytes() for path in kept}
    assert sum(written[path] == whole[path] for path in kept) == 2  # those of this code; others are not touched


def test_logits_that_are_no_numbers_are_one_line(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("kv_cache")
    engine.quality("quick")  # so that the reference is there
    engine.model.norm.weight.fill_(torch.nan)
    with pytest.raises(LabkitError, match="no finite numbers"):
        engine.quality("quick")
    assert quality._first_divergence(engine, [1, 2, 3], [5, 5]) == (0, None)
    monkeypatch.setattr(quality, "_first_divergence", lambda *_: (0, None))
    assert not quality.prove(engine, engine, "kv_cache", "quick")["is_equal"]


def test_a_broken_cache_fails_the_proof(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.engine.cache import CacheView

    append = CacheView._append

    def late(self: CacheView, layer: int, part: int, new: torch.Tensor) -> torch.Tensor:
        return append(self, layer, part, new) * 0.5  # a wrong scale, as a forgotten dequantization would leave

    baseline, candidate = make_engine(""), make_engine("kv_cache")
    monkeypatch.setattr(CacheView, "_append", late)
    proof = quality.prove(baseline, candidate, "kv_cache", "quick")
    assert not proof["is_equal"]
    assert proof["num_diverged"] == len(proof["divergences"]) > 0
    assert all(item["gap"] > quality.TIE_GAP for item in proof["divergences"])


@pytest.fixture
def tie(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every prompt diverges, but only where two logits are as good as equal."""
    monkeypatch.setattr(quality, "_first_divergence", lambda *_: (3, quality.TIE_GAP / 2))
    return


@pytest.mark.usefixtures("tie")
def test_ties_are_counted_and_too_many_of_them_fail(make_engine: MakeEngine) -> None:
    baseline, candidate = make_engine(""), make_engine("kv_cache")
    proof = quality.prove(baseline, candidate, "kv_cache", "quick")
    assert proof["num_diverged"] == EFFORTS["quick"].proof_prompts
    assert not proof["is_equal"]


def test_a_proof_of_a_prefix_cache_reads_what_it_stored(make_engine: MakeEngine) -> None:
    candidate = make_engine("kv_cache + prefix_cache")
    proof = quality.prove(make_engine(""), candidate, "kv_cache + prefix_cache", "quick")
    assert proof["is_equal"]
    assert candidate.prefixes is not None
    assert candidate.prefixes.num_hit_tokens == 64 * EFFORTS["quick"].proof_prompts


def test_a_broken_prefix_cache_fails_the_proof(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit.engine.cache import Block, KVCache

    write = KVCache.write

    def halved(self: KVCache, table: list[int], blocks: list[Block]) -> None:
        write(self, table, [tuple(part * 0.5 for part in block) for block in blocks])

    monkeypatch.setattr(KVCache, "write", halved)
    candidate = make_engine("kv_cache + prefix_cache")
    assert not quality.prove(make_engine(""), candidate, "kv_cache + prefix_cache", "quick")["is_equal"]


def test_prompts_of_a_proof_fit_whatever_the_block(make_engine: MakeEngine) -> None:
    recipe = "kv_cache(block_size=4096) + prefix_cache"
    assert quality.prove(make_engine(""), make_engine(recipe), recipe, "quick")["is_equal"]
