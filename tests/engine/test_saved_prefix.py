"""A saved prefix comes back bit for bit, and only where it belongs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.core.errors import Unavailable, UsageError
from labkit.core.workload import Request, Workload
from labkit.engine.engine import Engine
from labkit.optimizations import bind
from labkit.optimizations.build import build_engine, prepare_reference

MakeEngine = Callable[[str], Engine]

RECIPE = "kv_cache(block_size=8) + prefix_cache"
LOADING = f"{RECIPE} + preload(prefix='faq')"
TEXT = tuple(range(10, 53))  # 43 tokens: 5 blocks and a rest


@pytest.fixture
def saved(make_engine: MakeEngine) -> Path:
    """The file of a prefix saved under `RECIPE`."""
    return make_engine(RECIPE).save_prefix("faq", Request(TEXT, 1, len(TEXT)))


def test_it_comes_back_bit_for_bit_in_a_fresh_engine(make_engine: MakeEngine, tmp_path: Path) -> None:
    first = make_engine(RECIPE)
    path = first.save_prefix("faq", Request(TEXT, 1, len(TEXT)))
    assert path == tmp_path / "prefixes" / "faq.safetensors"
    second = make_engine(LOADING)
    assert first.prefixes is not None
    assert second.prefixes is not None
    mine, theirs = first.prefixes._blocks, second.prefixes._blocks
    assert list(mine) == list(theirs)
    for block, loaded in zip(mine.values(), theirs.values(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(block, loaded, strict=True))
    assert second.prefixes.num_bytes == first.prefixes.num_bytes == 5 * first.prefixes.cache.block_bytes


@pytest.mark.parametrize("more", ["", " + static_batching(size=2)"])
def test_the_first_request_already_finds_it_and_gets_the_tokens_of_the_baseline(
    make_engine: MakeEngine, saved: Path, more: str
) -> None:
    requests = tuple(Request((*TEXT[:41], *own), 5, 41 + len(own)) for own in ((7, 8, 9), (200,)))
    workload = Workload("asked", "offline", requests)
    baseline, engine = make_engine(""), make_engine(LOADING + more)
    expected = [request.output_ids for request in baseline.serve(baseline.prepare(workload)).requests]
    trace = engine.serve(engine.prepare(workload))
    assert trace.counters["prefix_hit_tokens"] == 80
    assert [request.output_ids for request in trace.requests] == expected


def test_what_is_stored_as_16_bits_is_saved_so(make_engine: MakeEngine) -> None:
    recipe = "precision + kv_cache(dtype='fp16', block_size=8) + prefix_cache"
    path = make_engine(recipe).save_prefix("faq", Request(TEXT, 1, len(TEXT)))
    assert load_file(path)["part_0"].dtype == torch.float16
    engine = make_engine(f"{recipe} + preload(prefix='faq')")
    assert engine.prefixes is not None
    assert engine.prefixes.num_bytes == 5 * engine.prefixes.cache.block_bytes


def test_a_cold_pass_finds_nothing_that_was_preloaded(make_engine: MakeEngine, saved: Path) -> None:
    engine = make_engine(LOADING)
    engine.drop_caches()
    assert engine.prefixes is not None
    assert engine.prefixes.num_bytes == 0


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("kv_cache(block_size=16) + prefix_cache", "was made with block size '8', this engine has '16'"),
        ("kv_cache(block_size=8, dtype='bf16') + prefix_cache", "dtype 'float32', this engine has 'bfloat16'"),
        (f"precision + {RECIPE}", "was made with weight steps '', this engine has 'precision'"),
        (f"quantize(bits=4) + {RECIPE}", "weight steps '', this engine has 'quantize(bits=4)'"),
    ],
)
def test_another_recipe_is_refused_and_both_sides_are_named(
    make_engine: MakeEngine, saved: Path, recipe: str, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        make_engine(f"{recipe} + preload(prefix='faq')")
    assert "saved prefix 'faq' was made with" in str(refused.value)
    assert message in str(refused.value)
    assert "labkit prefix faq" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_model_is_refused(make_engine: MakeEngine, saved: Path, tiny_model: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    with pytest.raises(UsageError, match=r"was made with model '\w{16}', this engine has '\w{16}'"):
        build_engine(bind(LOADING), model=str(other), device="cpu", cache_folder=tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 4, 200, -1])
def test_a_file_that_is_cut_short_is_refused(make_engine: MakeEngine, saved: Path, num_bytes: int) -> None:
    saved.write_bytes(saved.read_bytes()[:num_bytes])
    with pytest.raises(UsageError, match=r"saved prefix .*faq\.safetensors cannot be read: .* prefix faq") as refused:
        make_engine(LOADING)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", ["missing", "other shape", "other dtype", "fewer tokens", "more"])
def test_a_file_that_does_not_hold_what_it_says_is_refused(make_engine: MakeEngine, saved: Path, change: str) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    if change == "missing":
        del tensors["part_1"]
    elif change == "other shape":
        tensors["part_1"] = tensors["part_1"][..., :8].contiguous()
    elif change == "other dtype":
        tensors["part_1"] = tensors["part_1"].half()
    elif change == "fewer tokens":
        tensors["tokens"] = tensors["tokens"][:-1].clone()
    else:
        tensors["part_2"] = torch.zeros(1)
    save_file(tensors, saved, metadata=metadata)
    with pytest.raises(UsageError, match="does not hold the tensors that it names"):
        make_engine(LOADING)


def test_a_file_without_facts_is_refused(make_engine: MakeEngine, saved: Path) -> None:
    save_file(load_file(saved), saved)
    with pytest.raises(UsageError, match="was made with model None, this engine has"):
        make_engine(LOADING)


def test_a_name_that_was_never_saved_tells_those_that_were(make_engine: MakeEngine, saved: Path) -> None:
    with pytest.raises(Unavailable, match=r"saved prefix 'faqs' was asked for; .* holds: faq; .*labkit prefix faqs"):
        make_engine(f"{RECIPE} + preload(prefix='faqs')")


def test_a_prefix_above_the_budget_is_refused_when_it_is_saved_and_when_it_is_loaded(
    make_engine: MakeEngine, saved: Path
) -> None:
    engine = make_engine(RECIPE)
    assert engine.prefixes is not None
    engine.prefixes.budget_bytes = 4 * engine.prefixes.cache.block_bytes
    for use in (lambda: engine.save_prefix("new", Request(TEXT, 1, 43)), lambda: engine.prefixes.load("faq")):
        with pytest.raises(UsageError, match=r"takes 20,480 bytes, prefix_cache keeps up to 16,384; raise its budget"):
            use()
    assert not saved.with_stem("new").exists()


def test_a_text_shorter_than_a_block_is_not_saved(make_engine: MakeEngine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prefix 'faq' of 7 tokens fills no block of 8; save a longer text"):
        make_engine(RECIPE).save_prefix("faq", Request(TEXT[:7], 1, 7))
    assert not (tmp_path / "prefixes").exists()


def test_an_engine_that_keeps_no_prefixes_saves_none(make_engine: MakeEngine) -> None:
    with pytest.raises(UsageError, match="the recipe keeps none; add prefix_cache to it"):
        make_engine("kv_cache").save_prefix("faq", Request(TEXT, 1, 43))


def test_a_recipe_that_loads_a_saved_prefix_is_proven_without_it(
    make_engine: MakeEngine, tiny_model: str, tmp_path: Path
) -> None:
    recipe = f"precision + {RECIPE}"
    make_engine(recipe).save_prefix("faq", Request(TEXT, 1, 43))
    bounds = [bind(f"{recipe} + preload(prefix='faq')")]
    proofs = prepare_reference(bounds, model=tiny_model, device="cpu", effort="quick", cache_folder=tmp_path)
    assert list(proofs) == [RECIPE]
