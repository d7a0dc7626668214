"""What text similarity reaches on this machine: searches beside scikit-learn's, int8 beside fp32, fits at equal error,
and on the corpus recall, latency and bytes by rank.

    python -m tests.benches.similarity [--most 1000000]

Vectors are synthetic, of rank 128: numbers of a normal distribution whose spread falls as singular values do, a
thousand clusters of them, of length 1. Times are medians of calls that take turns, in one process.
"""

import argparse
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity, linear_kernel
from sklearn.utils.extmath import randomized_svd as sklearn_svd

from labkit.text.corpus import load_corpus
from labkit.text.scan import DTYPES, Scan
from labkit.text.similarity import Settings
from labkit.text.similarity_system import SimilaritySystem
from labkit.text.svd import randomized_svd, to_torch
from labkit.text.vectorizer import Vectorizer

RANK, K = 128, 10
RANKS = (0, 16, 32, 64, 128, 256, 512)  # 0: plain TF-IDF
KERNELS = {"cosine_similarity": cosine_similarity, "linear_kernel": linear_kernel}


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1_000_000)
    most = parser.parse_args().most
    print(f"threads {torch.get_num_threads()}")
    fits()
    frontier()
    for num in (4_000, 100_000):
        searches(num)
    large(most)


def searches(num: int) -> None:
    """Vector → top-k of `num` vectors, ours and scikit-learn's."""
    vectors, queries = synthetic(num), synthetic(64, seed=1)
    scans: Mapping[str, Scan] = {dtype: make(vectors) for dtype, make in DTYPES.items()}
    dense, rows = vectors.numpy(), [query[None] for query in queries.numpy()]

    def theirs(kernel: Callable[..., np.ndarray]) -> Callable[[int], object]:
        return lambda at: np.argpartition(-kernel(rows[at], dense)[0], K)[:K]

    ways: dict[str, Callable[[int], object]] = {
        f"labkit {dtype} ({scan.kernel})": lambda at, scan=scan: scan.top(queries[at : at + 1], K)
        for dtype, scan in scans.items()
    }
    ways |= {f"sklearn {name}": theirs(kernel) for name, kernel in KERNELS.items()}
    seconds = interleaved(ways, rounds=50 if num < 50_000 else 30)
    exact = [set(row.tolist()) for row in scans["fp32"].top(queries, K).positions]
    print(
        f"\n{num:,} vectors of rank {RANK}, one query: p50, times {' and '.join(KERNELS)}, recall of fp32's ten, bytes"
    )
    for name, times in seconds.items():
        scan = next((scans[dtype] for dtype in scans if f"labkit {dtype} " in name), None)
        note = ""
        if scan is not None:
            found = scan.top(queries, K).positions
            recall = np.mean([len(set(row.tolist()) & want) / K for row, want in zip(found, exact, strict=True)])
            note = f"{recall:.3f}  {scan.num_bytes:,} held, {scan.read_bytes:,} read"
        p50 = np.median(times)
        ratios = "  ".join(f"{np.median(seconds[f'sklearn {other}']) / p50:6.2f}×" for other in KERNELS)
        print(f"  {name:36} {p50 * 1e3:9.3f} ms  {ratios}  {note}")


def large(num: int) -> None:
    """Queries of `num` vectors one by one: p50 and p99 of 700."""
    vectors, queries = synthetic(num), synthetic(700, seed=1)
    print(f"\n{num:,} vectors of rank {RANK}, 700 queries one by one")
    for dtype in ("fp32", "int8"):
        scan = DTYPES[dtype](vectors)
        times = []
        for query in queries:
            start_s = time.perf_counter()
            scan.top(query[None], K)
            times.append(time.perf_counter() - start_s)
        p50, p99 = np.percentile(times, (50, 99)) * 1e3
        print(f"  {dtype} ({scan.kernel}): p50 {p50:.2f} ms, p99 {p99:.2f} ms, {scan.read_bytes:,} bytes read")
        del scan


def fits() -> None:
    """Randomized SVD of the corpus at rank 128: seconds and error, ours and scikit-learn's, by power iterations."""
    matrix = Vectorizer.fit(load_corpus().texts)[1]
    total = float((matrix.data.astype(float) ** 2).sum())
    pair = to_torch(matrix), to_torch(matrix.T.tocsr())
    errors: dict[str, float] = {}

    def ours(count: int) -> None:
        s = randomized_svd(*pair, RANK, iterations=count).s.double().numpy()
        errors[f"labkit, {count} iterations"] = error(s)

    def theirs(count: int) -> None:
        s = sklearn_svd(matrix, RANK, n_iter=count, random_state=0)[1]
        errors[f"sklearn, {count} iterations"] = error(s.astype(float))

    def error(s: np.ndarray) -> float:
        return float(np.sqrt((total - (s**2).sum()) / total))

    ways: dict[str, Callable[[int], object]] = {}
    for count in (3, 4, 5):
        ways[f"labkit, {count} iterations"] = lambda _, count=count: ours(count)
        ways[f"sklearn, {count} iterations"] = lambda _, count=count: theirs(count)
    seconds = interleaved(ways, rounds=7)
    print(f"\nrandomized SVD of {matrix.shape[0]:,} × {matrix.shape[1]:,} at rank {RANK}: seconds, relative error")
    for name, times in seconds.items():
        print(f"  {name:24} {np.median(times):.3f} s  {errors[name]:.4f}")


def frontier() -> None:
    """Both ways to the nearest texts of the corpus, by rank: quality of 500 queries, and p50 of single ones."""
    systems = {rank: SimilaritySystem.build(load_corpus(), Settings(rank=rank)) for rank in RANKS}
    ways: dict[str, Callable[[int], object]] = {}
    for rank, system in systems.items():
        index, texts = system.index, system.texts
        vectors = [index.vectorize([text]) for text in texts[:64]]
        ways[f"text {rank}"] = lambda at, index=index, texts=texts: index.search(index.vectorize([texts[at]]), K)
        ways[f"vector {rank}"] = lambda at, index=index, vectors=vectors: index.search(vectors[at], K)
    p50_ms = {name: np.median(times) * 1e3 for name, times in interleaved(ways, rounds=63).items()}
    print(f"\n{len(systems[0].index):,} texts of the corpus, by rank (0: plain TF-IDF)")
    print("  rank   fit s  text → 10 ms  vector → 10 ms  recall@10  precision@10  bytes")
    for rank, system in systems.items():
        quality, facts = system.quality("standard"), system.facts()
        times = f"{system.fit_s:7.2f}  {p50_ms[f'text {rank}']:12.3f}  {p50_ms[f'vector {rank}']:14.3f}"
        found = f"{quality['recall_at_10']:9.3f}  {quality['precision_at_10']:12.3f}"
        print(f"  {rank:4} {times}  {found}  {facts['index_bytes']:,}")


def interleaved(ways: Mapping[str, Callable[[int], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in turns, after a round that does not count.

    Before each call that counts is one that does not: threads of the way before it still spin, as those of BLAS do.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            run((turn + 1) % 64)
            start_s = time.perf_counter()
            run(turn % 64)
            if turn:
                seconds[name].append(time.perf_counter() - start_s)
    return seconds


def synthetic(num: int, *, seed: int = 0) -> torch.Tensor:
    """See the module; [num, RANK]. The clusters are the same for every seed."""
    spread = torch.arange(1, RANK + 1).float().pow(-0.5)
    centres = torch.randn(1_000, RANK, generator=torch.Generator().manual_seed(99)) * spread
    generator = torch.Generator().manual_seed(seed)
    near = centres[torch.randint(len(centres), (num,), generator=generator)]
    return torch.nn.functional.normalize(near + 0.5 * torch.randn(num, RANK, generator=generator) * spread, dim=1)


if __name__ == "__main__":
    main()
