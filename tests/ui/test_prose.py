from dataclasses import replace

from labkit.bench.comparison import compare
from labkit.core.workload import WORKLOADS
from labkit.ui.explain import explanation
from labkit.ui.facts import flat, lessons, workload
from labkit.ui.prose import proofs, verdicts
from labkit.ui.tables import results


def test_a_verdict_says_factor_interval_quality_and_share(runs, comparison):
    said = verdicts(runs, comparison)[3]
    assert said.kind == "faster"
    assert said.text.startswith("quantize + kv_cache is faster than the baseline: ")
    assert "× its output rate [" in said.text
    assert "perplexity ratio 1.002" in said.text
    assert "% of the machine's limit" in said.text


def test_below_eight_blocks_the_sentence_says_what_is_missing(make):
    pair = (make("", num_blocks=5), make("kv_cache", itl_s=0.005, num_blocks=5))
    said = verdicts(pair, compare(pair))[1]
    assert said.kind == "cannot-tell"
    assert "3 are missing" in said.text


def test_a_refused_run_says_why(make):
    pair = (make(""), make("kv_cache", group="another"))
    assert "measured in another session" in verdicts(pair, compare(pair))[1].text


def test_a_withheld_percentile_shows_what_it_lacks(runs, comparison):
    table = results(runs, comparison)
    p99 = [column.title for column in table.columns].index("ITL p99")
    assert table.lines[0].cells[p99].line == "– needs 62 more"  # 32 if its 630 gaps were worth as many samples


def test_a_column_that_nobody_fills_is_left_out(make):
    titles = [column.title for column in results([make("", quality={}, limit=None)], None).columns]
    assert "perplexity ratio" not in titles
    assert "of limit" not in titles


def test_guesses_that_were_kept_have_a_column_where_there_were_any(make):
    kept = {"acceptance_rate": {"value": 0.625}, "tokens_per_step": {"value": 2.5}}
    guessing = make("kv_cache + speculative")
    pair = [make("kv_cache"), replace(guessing, metrics={**guessing.metrics, **kept})]
    table = results(pair, None)
    column = [column.title for column in table.columns].index("guesses kept")
    assert [line.cells[column].line for line in table.lines] == ["–", "62.5 % 2.50 tokens a step"]
    assert "guesses kept" not in [column.title for column in results(pair[:1], None).columns]


def test_a_hit_rate_has_a_column_where_prefixes_are_kept(make):
    kept = {"prefix_hit_rate": {"value": 0.97}, "prefix_bytes": {"value": 3 * 2.0**20}}
    keeping = make("kv_cache + prefix_cache")
    pair = [make("kv_cache"), replace(keeping, metrics={**keeping.metrics, **kept})]
    table = results(pair, None)
    column = [column.title for column in table.columns].index("prefix hit rate")
    assert [line.cells[column].line for line in table.lines] == ["–", "97.0 % 3.00 MiB kept"]
    assert "prefix hit rate" not in [column.title for column in results(pair[:1], None).columns]


def test_messages_and_the_bubble_have_columns_where_processes_share_the_model(make):
    told = {
        "communication_share": {"value": 0.25},
        "communication_bytes": {"value": 3 * 2.0**10},
        "bubble_share": {"value": 0.4},
    }
    split = make("kv_cache + pipeline_parallel(oversubscribe=True)")
    pair = [make("kv_cache"), replace(split, metrics={**split.metrics, **told})]
    table = results(pair, None)
    titles = [column.title for column in table.columns]
    cells = [[line.cells[titles.index(title)].line for title in ("communication", "bubble")] for line in table.lines]
    assert cells == [["–", "–"], ["25.0 % 3.00 KiB a token", "40.0 %"]]
    assert {"communication", "bubble"}.isdisjoint(column.title for column in results(pair[:1], None).columns)


def test_a_shared_prefix_is_told_with_the_workload():
    told = workload(WORKLOADS["shared_prefix"].to_dict())
    assert "1,056 prompt and 16 new tokens, the first 1,024 of them the same in all, warm cache" in told
    assert "the same in all" not in workload(WORKLOADS["chat"].to_dict())


def test_devices_are_named_where_runs_are_of_several(make):
    lines = results([make(""), make("", device="cuda")], None).lines
    assert [line.name for line in lines] == ["baseline · cpu", "baseline · cuda"]


def test_a_run_of_fewer_tokens_says_so(make):
    assert results([make("", token_share=0.25)], None).lines[0].note == "25.0 % of the new tokens"


def test_a_slower_run_is_explained_by_the_term_that_grew(make):
    terms = {"weights": 0.1, "dispatch": 0.01}
    slow = {"weights": 0.05, "dispatch": 0.4}
    pair = (
        make("", itl_s=0.004, prediction={"terms": terms, "decode_tok_per_s": 100.0}),
        make("quantize", itl_s=0.008, prediction={"terms": slow, "decode_tok_per_s": 50.0}),
    )
    assert "starting operations grew most, from 10.0 ms to 400 ms" in explanation(pair, compare(pair))[1]


def test_a_run_without_prediction_is_not_explained(make):
    assert explanation([make("peer:transformers", prediction={}, limit={})], None) == ()


def test_a_proof_says_on_how_much_it_rests(make):
    (line,) = proofs([make("kv_cache")])
    assert "unchanged (4 prompts, 128 tokens in fp32, none diverged)" in line
    failed = {"num_prompts": 4, "num_tokens": 128, "num_diverged": 2, "is_equal": False, "divergences": []}
    assert "change the output" in proofs([make("kv_cache", proof=failed)])[0]


def test_facts_move_the_unit_from_the_name_to_the_value():
    fields = {"memory_bytes": 2**30, "caches_bytes": {"L1": 2**15}, "event_s": 5e-7, "isa": ["a", "b"], "gpu": None}
    assert flat(fields) == {"memory": "1.00 GiB", "caches L1": "32.0 KiB", "event": "500 ns", "isa": "a, b"}


def test_a_lesson_is_the_docstring_of_the_techniques_module_in_paragraphs():
    (lesson,) = lessons({"kv_cache"})
    assert lesson.title == "KV cache"
    assert [paragraph.split(":")[0] for paragraph in lesson.paragraphs[1:]] == ["Idea", "Price", "No gain", "Reference"]
