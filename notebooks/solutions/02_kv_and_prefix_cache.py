"""Solutions to the exercises of 02_kv_and_prefix_cache."""

from labkit.core.workload import workload

token_bytes = 2 * 16 * 8 * 64 * 2  # keys and values · layers · KV heads (not the 32 query heads) · width · bytes

num_requests = 10 * 2**30 // (4_096 * 2 * 32 * 32 * 128 * 2)  # half a MiB a token: 2 GiB each

shared_workload = workload("chat", prompt_tokens=544, shared_prefix_tokens=512)  # eight blocks of 64; 32 tokens are new
