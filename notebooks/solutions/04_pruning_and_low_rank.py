"""Solutions to the exercises of 04_pruning_and_low_rank."""

rank = 1_024 * 384 // (1_024 + 384)  # r · (in + out) < in · out

sparsity = 1 - 2 / (2 + 4)  # what stays takes 2 bytes and 4 of index: (1 - s) · 6 < 2

recipe = "kv_cache + precision(dtype='bf16') + prune(sparsity=0.5, pattern='channel')"
