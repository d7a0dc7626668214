"""Sampler and cache, each alone."""

import pytest
import torch

from labkit.engine.cache import KVCache
from labkit.engine.sampler import Greedy, TopP
from labkit.engine.sequence import Sequence
from labkit.model.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=8, hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=8,
    max_positions=64,
)  # fmt: skip


def sequence(index: int = 0, *, prompt: int = 3, new: int = 2) -> Sequence:
    return Sequence(index, [1] * prompt, new, 0.0)


def test_greedy_takes_the_likeliest_and_the_lowest_of_equals() -> None:
    assert Greedy()(torch.tensor([[0.0, 2.0, 2.0], [5.0, 1.0, 2.0]])).tolist() == [1, 0]


def test_top_p_samples_only_the_nucleus_in_its_proportions() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(20_000, 4)
    counts = torch.bincount(TopP(top_p=0.75, seed=3)(logits), minlength=4) / 20_000
    assert counts[2:].sum() == 0
    assert counts[0].item() == pytest.approx(0.5 / 0.8, abs=0.02)


def test_the_same_seed_samples_the_same_tokens() -> None:
    logits = torch.randn(64, 50)
    first, second, other = (TopP(temperature=0.8, seed=seed)(logits) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_impossible_sampler_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        TopP(**settings)


def make_cache(block_size: int = 4) -> KVCache:
    return KVCache(CONFIG, dtype=torch.float32, compute_dtype=torch.float32, device="cpu", block_size=block_size)


def test_the_cache_grows_in_blocks_and_keeps_what_it_holds() -> None:
    cache = make_cache()
    first = sequence(prompt=3, new=2)
    cache.admit([first])
    assert first.blocks == [0, 1]
    keys = torch.randn(1, 1, 3, 4)
    cache.view([first], 3).append(1, keys, keys)
    second = sequence(prompt=10, new=7)
    cache.admit([second])
    assert second.blocks == [2, 3, 4, 5, 6]
    assert torch.equal(cache.layers[1][0][:, 0, :3], keys[0])
    assert cache.num_bytes == 7 * cache.block_bytes


def test_poisoned_memory_never_reaches_attention() -> None:
    cache = make_cache()
    pair = [sequence(0, prompt=5, new=3), sequence(1, prompt=2, new=3)]
    cache.admit(pair)
    for keys, values in cache.layers:
        keys.fill_(float("nan")), values.fill_(float("nan"))
    lone = pair[:1]
    new = torch.randn(1, 1, 5, 4)
    keys, _ = cache.view(lone, 5).append(0, new, new)
    assert torch.equal(keys, new)


def test_ragged_sequences_append_at_their_own_length() -> None:
    cache = make_cache()
    pair = [sequence(0, prompt=5, new=3), sequence(1, prompt=2, new=3)]
    cache.admit(pair)
    pair[0].num_cached, pair[1].num_cached = 5, 2
    new = torch.randn(2, 1, 1, 4)
    view = cache.view(pair, 1)
    keys, _ = view.append(0, new, new)
    assert view.is_ragged
    assert view.positions.tolist() == [[5], [2]]
    assert torch.equal(keys[0, :, 5], new[0, :, 0])
    assert torch.equal(keys[1, :, 2], new[1, :, 0])


def test_released_blocks_are_used_again() -> None:
    cache = make_cache()
    pair = [sequence(0), sequence(1)]
    cache.admit(pair)
    cache.release(pair)
    cache.admit([sequence(2), sequence(3)])
    assert cache.num_used_blocks == cache.num_blocks == 4


def test_blocks_that_lie_anywhere_hold_what_those_in_a_row_hold() -> None:
    in_row, scattered = make_cache(), make_cache()
    batches = []
    for cache in (in_row, scattered):
        batch = [sequence(0, prompt=5, new=6), sequence(1, prompt=5, new=6)]
        cache.admit(batch)
        batches.append(batch)
    for one in batches[1]:
        one.blocks = one.blocks[::-1]
    for num_cached, num_new in ((0, 5), (5, 1), (6, 4)):
        new = torch.randn(2, 1, num_new, 4)
        for one in (*batches[0], *batches[1]):
            one.num_cached = num_cached
        first, second = (cache.view(batch, num_new).append(1, new, -new)
                         for cache, batch in zip((in_row, scattered), batches, strict=True))  # fmt: skip
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert torch.equal(first[0][:, :, num_cached:], new)
    kept = [in_row.read(block) for block in batches[0][0].blocks]
    scattered.write(batches[1][1].blocks, kept)
    assert all(
        torch.equal(mine, theirs)
        for block, other in zip(batches[1][1].blocks, kept, strict=True)
        for mine, theirs in zip(scattered.read(block), other, strict=True)
    )


def test_a_sequence_grows_block_by_block_until_the_budget_is_used_up() -> None:
    block_bytes = make_cache().block_bytes
    cache = KVCache(
        CONFIG,
        dtype=torch.float32,
        compute_dtype=torch.float32,
        device="cpu",
        block_size=4,
        budget_bytes=5 * block_bytes + 1,
    )
    first, second = sequence(0, prompt=5, new=30), sequence(1, prompt=4, new=30)
    assert cache.extend(first, 5)
    assert cache.extend(second, 4)
    assert cache.extend(first, 8)
    assert (first.blocks, second.blocks) == ([0, 1], [2])
    assert not cache.extend(second, 16)
    assert second.blocks == [2]
    assert cache.extend(second, 12)
    assert cache.num_used_blocks == cache.max_blocks == 5
    assert not cache.extend(first, 9)
    assert cache.num_bytes <= cache.budget_bytes  # type: ignore[operator]
    cache.release([second])
    assert cache.extend(first, 9)


def test_memory_beyond_the_budget_is_given_back_once_nothing_is_stored() -> None:
    cache = make_cache()
    cache.budget_bytes = 2 * cache.block_bytes
    batch = [sequence(0), sequence(1)]
    cache.admit(batch)
    assert cache.num_bytes == 4 * cache.block_bytes
    cache.release(batch)
    assert cache.num_bytes == 0
    assert cache.extend(batch[0], 8)


def test_rounded_keys_and_values_come_back_within_half_a_step() -> None:
    cache = KVCache(CONFIG, dtype=torch.int8, compute_dtype=torch.bfloat16, device="cpu", block_size=4)
    pair = [sequence(0, prompt=5, new=3), sequence(1, prompt=5, new=3)]
    cache.admit(pair)
    keys, values = torch.randn(2, 2, 1, 5, 4).bfloat16()
    stored_keys, stored_values = cache.view(pair, 5).append(0, keys, values)
    for new, stored in ((keys, stored_keys), (values, stored_values)):
        assert stored.dtype is torch.bfloat16
        half_a_step = new.float().abs().amax(-1, keepdim=True) / 254
        rounding = new.float().abs() / 128  # what is handed out are bf16 numbers
        assert ((stored - new).float().abs() <= half_a_step + rounding).all()


def test_rounded_storage_takes_a_byte_a_number_and_a_scale_a_vector() -> None:
    cache = KVCache(CONFIG, dtype=torch.int8, compute_dtype=torch.float32, device="cpu", block_size=4)
    cache.admit([sequence(prompt=3, new=2)])
    assert cache.num_bytes == 2 * 2 * 8 * (4 + 4)  # layers, keys and values, tokens, (codes and scale)
    assert cache.num_bytes == 2 * cache.block_bytes


def test_rounded_storage_keeps_what_it_holds_when_it_grows() -> None:
    cache = KVCache(CONFIG, dtype=torch.int8, compute_dtype=torch.float32, device="cpu", block_size=4)
    first = sequence(prompt=3, new=2)
    cache.admit([first])
    new = torch.randn(1, 1, 3, 4)
    before, _ = cache.view([first], 3).append(1, new, new)
    cache.admit([sequence(prompt=10, new=7)])
    first.num_cached = 3
    after, _ = cache.view([first], 1).append(1, torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert torch.equal(after[:, :, :3], before)


def test_a_lookahead_is_room_beyond_the_last_token() -> None:
    cache = make_cache()
    cache.lookahead = 5
    pair = [sequence(0, prompt=5, new=3), sequence(1, prompt=2, new=1)]
    cache.admit(pair)
    assert [len(one.blocks) for one in pair] == [4, 4]  # 13 tokens in blocks of 4
    pair[0].num_cached, pair[1].num_cached = 7, 2
    new = torch.randn(2, 1, 6, 4)
    view = cache.view(pair, 6)
    keys, _ = view.append(0, new, new)
    assert view.positions.tolist() == [list(range(7, 13)), list(range(2, 8))]
    assert torch.equal(keys[0, :, 7:13], new[0])
    assert torch.equal(keys[1, :, 2:8], new[1])


def test_what_the_cache_lacks_is_told_from_what_it_holds() -> None:
    one = Sequence(0, [1, 2, 3], 4, 0.0, outputs=[4, 5])
    seen = []
    for one.num_cached in (0, 2, 3, 4, 5):
        seen.append(one.uncached)
    assert seen == [[1, 2, 3, 4, 5], [3, 4, 5], [4, 5], [5], []]


@pytest.mark.parametrize("sampler", [Greedy(), TopP(temperature=0.7, top_p=0.8, seed=5)])
def test_a_sampler_draws_from_the_distribution_it_states(sampler: Greedy | TopP) -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0))
    stated = sampler.distribution(logits)
    assert stated.sum().item() == pytest.approx(1)
    assert sampler.is_deterministic == (stated.count_nonzero() == 1)
    drawn = torch.bincount(sampler(logits.expand(20_000, 6)), minlength=6) / 20_000
    torch.testing.assert_close(drawn, stated, rtol=0, atol=0.02)
    assert drawn[stated == 0].sum() == 0
    assert sampler.distribution(logits.expand(2, 3, 6)).shape == (2, 3, 6)
