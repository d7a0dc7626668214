/* The k largest of each row of scores, falling, and where they are. One reading does: after a while hardly a score is
 * above the k-th largest so far, and sixteen are compared with it at once.
 */
#include "kernels.h"
#include "vectors.h"

enum { VECTORS = 4, STEP = VECTORS * LANES, MIN_SCORES_PER_THREAD = 1 << 16 };

typedef struct Rows {
    float *values;      /* [rows, k] */
    int64_t *positions; /* [rows, k] */
    const float *scores; /* [rows, n], finite */
    long rows, n, k;
} Rows;

INLINE int is_any_above(v16 scores, float least) {
#ifdef __AVX512F__
    return _mm512_cmp_ps_mask((__m512)scores, _mm512_set1_ps(least), _CMP_GT_OQ) != 0;
#else
    int found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= scores[lane] > least;
    return found;
#endif
}

/* Puts the score at `at` among the k so far, if it belongs there; of equals the first stays ahead. */
INLINE void offer(float *values, int64_t *positions, long k, float score, long at) {
    if (!(score > values[k - 1])) return;
    long i = k - 1;
    for (; i > 0 && values[i - 1] < score; i--) values[i] = values[i - 1], positions[i] = positions[i - 1];
    values[i] = score, positions[i] = at;
}

static void row(const Rows *a, long m) {
    const float *scores = a->scores + m * a->n;
    float *values = a->values + m * a->k;
    int64_t *positions = a->positions + m * a->k;
    for (long i = 0; i < a->k; i++) values[i] = -INFINITY, positions[i] = i;
    long at = 0;
    for (; at + STEP <= a->n; at += STEP) {
        v16 largest = *(const v16_at *)(scores + at);
        for (int i = 1; i < VECTORS; i++) {
            v16 next = *(const v16_at *)(scores + at + i * LANES);
            largest = chosen(next > largest, next, largest);
        }
        if (!is_any_above(largest, values[a->k - 1])) continue;
        for (long i = at; i < at + STEP; i++) offer(values, positions, a->k, scores[i], i);
    }
    for (; at < a->n; at++) offer(values, positions, a->k, scores[at], at);
}

static void run(void *data) {
    const Rows *a = data;
    long thread = omp_get_thread_num(), threads = omp_get_num_threads();
    for (long m = a->rows * thread / threads; m < a->rows * (thread + 1) / threads; m++) row(a, m);
}

/* scores fp32 [rows, n]; values fp32 and positions int64 [rows, k], k from 1 to n. */
int labkit_largest(void *values, void *positions, const void *scores, long rows, long n, long k, int threads) {
    Rows a = {.values = values, .positions = positions, .scores = scores, .rows = rows, .n = n, .k = k};
    long most = rows * n / MIN_SCORES_PER_THREAD;
    if (most > rows) most = rows;
    if (threads > most) threads = (int)most;
    if (threads > 1) GOMP_parallel(run, &a, (unsigned)threads, 0);
    else
        for (long m = 0; m < rows; m++) row(&a, m);
    return 0;
}
