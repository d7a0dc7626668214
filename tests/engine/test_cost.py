"""The cost of decoding, against figures worked out by hand."""

from dataclasses import replace

import pytest

from labkit.core.recipe import Recipe
from labkit.core.replay import Line
from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import DecoderCost
from labkit.model.config import ModelConfig
from labkit.optimizations import bind
from labkit.runner.memory import recipe_need

CONFIG = ModelConfig(
    vocab_size=100, hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=16,
    max_positions=64,
)  # fmt: skip
LINEAR = 2 * (8 * (8 + 2 * 4) + 8 * 8 + 3 * 8 * 16)  # q, k, v; o; gate, up, down
HEAD = 100 * 8
SPEC = WorkloadSpec("hand", "offline", prompt_tokens=10, new_tokens=5, num_requests=4)


def cost(recipe: str, spec: WorkloadSpec = SPEC) -> DecoderCost:
    return bind(recipe).cost(DecoderCost.baseline(CONFIG, spec))


def test_parameters_are_counted() -> None:
    assert CONFIG.num_linear_parameters == LINEAR
    assert CONFIG.num_parameters == LINEAR + 2 * HEAD + 5 * 8


def test_the_baseline_reads_all_weights_for_every_token_of_every_request() -> None:
    decode = cost("").phases().phases["decode"]
    assert decode.num_steps == 4 * 4
    assert decode.bytes_by_kind == {"weights": 4.0 * (LINEAR + HEAD), "kv_cache": 0.0}


def test_the_baseline_computes_the_whole_text_again_in_each_step() -> None:
    phases = cost("").phases().phases
    mean_context = 10 + 5 / 2
    attention = 4 * 2 * 2 * 4 * (mean_context * (mean_context + 1) / 2)
    assert phases["decode"].flops_by_dtype["fp32"] == pytest.approx(2 * LINEAR * mean_context + 2 * HEAD + attention)


def test_a_cache_leaves_one_token_to_compute_and_its_past_to_read() -> None:
    decode = cost("kv_cache").phases().phases["decode"]
    attention = 4 * 2 * 2 * 4 * (12.5 + 1)
    assert decode.flops_by_dtype["fp32"] == pytest.approx(2 * LINEAR + 2 * HEAD + attention)
    assert decode.bytes_by_kind["kv_cache"] == pytest.approx(2 * 2 * 1 * 4 * 4 * (12.5 + 1))


def test_a_batch_shares_the_weights() -> None:
    single, batch = (cost(recipe).phases().phases["decode"] for recipe in ("kv_cache", "kv_cache + static_batching"))
    assert batch.num_steps == single.num_steps / 4
    assert batch.bytes_by_kind["weights"] == single.bytes_by_kind["weights"]
    assert batch.bytes_by_kind["kv_cache"] == 4 * single.bytes_by_kind["kv_cache"]


def test_a_single_stream_never_forms_a_batch() -> None:
    alone = replace(SPEC, scenario="single_stream")
    assert cost("static_batching", alone).phases() == cost("", alone).phases()


@pytest.mark.parametrize(
    ("recipe", "bytes_per_weight", "dtype"),
    [
        ("precision(dtype='fp16')", 2.0, "fp16"),
        ("quantize(bits=8)", 1 + 2 / 8, "bf16"),
        ("quantize(bits=4)", 0.5 + 4 / 32, "bf16"),
        ("quantize(bits=4, group_size=128)", 0.5 + 4 / 128, "bf16"),
        ("quantize(bits=8) + precision(dtype='fp32')", 1 + 2 / 8, "bf16"),
    ],
)
def test_fewer_bits_are_fewer_bytes(recipe: str, bytes_per_weight: float, dtype: str) -> None:
    decode = cost(recipe).phases().phases["decode"]
    assert decode.bytes_by_kind["weights"] == pytest.approx(bytes_per_weight * (LINEAR + HEAD))
    assert list(decode.flops_by_dtype) == [dtype]


def test_one_new_token_is_all_prefill() -> None:
    assert list(cost("kv_cache", replace(SPEC, new_tokens=1)).phases().phases) == ["prefill"]


def test_guesses_are_computed_beside_the_last_token_and_save_steps() -> None:
    plain, decode = (cost(recipe).phases().phases["decode"] for recipe in ("kv_cache", "kv_cache + speculative"))
    assert decode.num_steps == pytest.approx(plain.num_steps / (1 + 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16))
    assert decode.num_outputs == plain.num_outputs
    assert decode.bytes_by_kind["weights"] == plain.bytes_by_kind["weights"]
    attention = 4 * 2 * 2 * 4 * (5 * 12.5 + 15)
    assert decode.flops_by_dtype["fp32"] == pytest.approx(5 * (2 * LINEAR + 2 * HEAD) + attention)


def test_a_draft_model_runs_once_for_each_guess() -> None:
    phases = cost("kv_cache + speculative(draft='half', num_tokens=2)").phases().phases
    assert list(phases) == ["prefill", "draft prefill", "draft", "decode"]
    assert phases["draft"].num_steps == pytest.approx(2 * phases["decode"].num_steps)
    assert phases["draft"].num_outputs == phases["draft prefill"].num_outputs == 0
    assert phases["draft"].bytes_by_kind == pytest.approx(
        {
            "weights": 4.0 * (LINEAR / 2 + HEAD),
            "kv_cache": phases["decode"].bytes_by_kind["kv_cache"] / 2 * 13.5 / 15.5,
        }
    )
    assert phases["draft prefill"].num_steps == phases["prefill"].num_steps == 4


def test_another_model_as_draft_is_read_in_the_dtype_of_the_activations() -> None:
    quantized = cost("quantize(bits=4) + kv_cache + speculative(draft='llama-125m')")
    assert quantized.draft is not None
    assert quantized.draft.config.num_layers == 12
    assert quantized.draft.weights_bytes == 2.0 * (
        quantized.draft.config.num_linear_parameters + quantized.draft.config.num_head_parameters
    )
    assert cost("kv_cache + speculative(draft='someone/something')").draft is None  # its sizes are not known here


SHARED = replace(SPEC, shared_prefix_tokens=9)
KEPT = "kv_cache(block_size=4) + prefix_cache"


def test_a_known_prefix_is_copied_in_whole_blocks_and_attended_to() -> None:
    prefill = cost(KEPT, SHARED).phases().phases["prefill"]
    token_bytes = 2 * 2 * 1 * 4 * 4
    attention = 4 * 2 * 2 * 4 * (2 * 8 + 3)  # two queries behind eight known tokens
    assert prefill.flops_by_dtype["fp32"] == pytest.approx(2 * 2 * LINEAR + 2 * HEAD + attention)
    assert prefill.bytes_by_kind["kv_cache"] == token_bytes * 10
    assert prefill.bytes_by_kind["kv_copy"] == 2 * token_bytes * 8
    plain = cost("kv_cache", SHARED).phases().phases["prefill"]
    assert prefill.kernel_launches == plain.kernel_launches + 2 * 2
    assert (prefill.num_steps, prefill.num_outputs) == (plain.num_steps, plain.num_outputs)


def test_a_known_prefix_changes_nothing_in_decoding() -> None:
    assert cost(KEPT, SHARED).phases().phases["decode"] == cost("kv_cache", SHARED).phases().phases["decode"]


def test_without_a_shared_prefix_there_is_nothing_to_copy() -> None:
    assert cost(KEPT).phases() == cost("kv_cache").phases()


def test_a_cold_pass_finds_what_its_own_first_requests_left() -> None:
    def copied(recipe: str, **changes: object) -> float:
        spec = replace(SHARED, cache_state="cold", **changes)  # type: ignore[arg-type]
        return cost(recipe, spec).phases().phases["prefill"].bytes_by_kind.get("kv_copy", 0.0)

    warm = cost(KEPT, SHARED).phases().phases["prefill"].bytes_by_kind["kv_copy"]
    assert copied(KEPT, num_requests=1) == 0
    assert copied(KEPT) == pytest.approx(3 / 4 * warm)
    assert copied(f"{KEPT} + static_batching(size=4)") == 0  # all start together


def test_no_more_is_known_than_the_budget_holds() -> None:
    wide = replace(CONFIG, num_layers=64, head_dim=1024)
    recipe = "kv_cache(block_size=1) + prefix_cache(budget_bytes=3145728)"
    result = bind(recipe).cost(DecoderCost.baseline(wide, SHARED))
    assert result.kv_token_bytes == 2**19
    assert result.cached_prompt_tokens == 6


def test_a_batch_of_mixed_lengths_takes_the_steps_of_its_longest_and_the_attention_of_each() -> None:
    lines = (Line(0.0, 4, 2), Line(0.0, 16, 8), Line(0.0, 10, 3), Line(0.0, 10, 3))
    mixed = cost("kv_cache + static_batching(size=2)", replace(SPEC, new_tokens=8, prompt_tokens=16, replay=lines))
    phases = mixed.phases().phases
    assert phases["decode"].num_steps == 7 + 2
    assert phases["decode"].num_outputs == 1 + 7 + 2 + 2
    assert phases["prefill"].num_steps == 2
    pairs = sum(length * (length + 1) / 2 for length in (4, 16, 10, 10)) / 4
    expected = 2 * (2 * LINEAR * 10 + 2 * HEAD + 4 * 2 * 2 * 4 * pairs)
    assert phases["prefill"].flops_by_dtype["fp32"] == pytest.approx(expected)


def test_a_closed_loop_forms_batches_of_those_that_are_outstanding() -> None:
    closed = replace(SPEC, scenario="closed_loop", concurrency=2)
    widest, two = cost("static_batching(size=8)", closed).phases(), cost("static_batching(size=2)").phases()
    assert widest == two


@pytest.mark.parametrize(
    ("scheduler", "num_blocks", "num_fitting"),
    [
        ("static_batching(size=4)", 15, 1),  # of 15 tokens each, in blocks of 2
        ("static_batching(size=4)", 16, 2),
        ("continuous_batching(max_batch=4)", 15, 2),  # of 12.5 tokens each, halfway
        ("continuous_batching(max_batch=4)", 21, 3),
        ("continuous_batching(max_batch=4)", 6, 1),  # the oldest always runs
        ("continuous_batching(max_batch=4)", 1000, 4),
    ],
)
def test_a_batch_is_no_wider_than_its_memory(scheduler: str, num_blocks: int, num_fitting: int) -> None:
    token_bytes = 2 * 2 * 1 * 4 * 4
    narrow = cost(f"kv_cache(block_size=2, budget_bytes={num_blocks * 2 * token_bytes}) + {scheduler}")
    as_wide = replace(cost(f"kv_cache(block_size=2) + {scheduler}"), batch=num_fitting)
    assert narrow.phases() == as_wide.phases()


def test_memory_is_that_of_the_longest_request() -> None:
    ranged = replace(SPEC, min_prompt_tokens=1, min_new_tokens=1)
    needs = [recipe_need(Recipe.parse("kv_cache"), CONFIG, spec, device="cpu") for spec in (SPEC, ranged)]
    assert needs[0] == needs[1]


def test_ranks_that_share_every_layer_read_their_part_and_sum_twice_a_layer() -> None:
    plain, split = (
        cost(f"kv_cache + static_batching{way}").phases().phases["decode"]
        for way in ("", " + tensor_parallel(num=2, oversubscribe=True)")
    )
    assert split.num_steps == plain.num_steps
    assert split.bytes_by_kind == {
        "weights": plain.bytes_by_kind["weights"] / 2,
        "kv_cache": plain.bytes_by_kind["kv_cache"],  # of the one KV head each has a copy
    }
    assert split.flops_by_dtype["fp32"] == plain.flops_by_dtype["fp32"] / 2
    assert split.num_messages == 2 * 2 + 2
    x_bytes, logits_bytes = 4 * 4 * 8, 4 * 4 * 100
    assert split.communication_bytes == (2 * 2 * 2 * x_bytes + logits_bytes / 2) / 2
    assert plain.communication_bytes == plain.num_messages == 0


def test_a_pipeline_fills_and_drains_and_reads_the_weights_for_every_microbatch() -> None:
    plain, split = (
        cost(f"kv_cache + static_batching{way}").phases().phases["decode"]
        for way in ("", " + pipeline_parallel(num=2, microbatches=4, oversubscribe=True)")
    )
    assert split.num_steps == plain.num_steps * (4 + 2 - 1)
    assert split.bytes_by_kind == {
        "weights": plain.bytes_by_kind["weights"] / 2,
        "kv_cache": plain.bytes_by_kind["kv_cache"] / (2 * 4),
    }
    assert split.num_outputs == plain.num_outputs


def test_one_request_cannot_be_cut_into_microbatches() -> None:
    alone = replace(SPEC, scenario="single_stream")
    split = cost("kv_cache + pipeline_parallel(num=2, microbatches=4, oversubscribe=True)", alone)
    assert split.phases().phases["decode"].num_steps == 2 * cost("kv_cache", alone).phases().phases["decode"].num_steps
