/* A product y [rows, out] = x [rows, in] · Wᵀ of few rows: what its kernels share. A small block of rows of x (M) meets a
 * small block of rows of W (N), so each weight is read from memory and unpacked once.
 */
#include "vectors.h"

/* AHEAD: bytes between a read and its prefetch into L2; nearer ones, or into L1, reach half of the bandwidth */
enum { AHEAD = 8192, MAX_M = 8, MAX_N = 4, MIN_WEIGHTS_PER_THREAD = 1 << 16 };

typedef struct Job {
    void *y;
    void *x;           /* [rows + padding, width] bf16, fp32 or int8, zeros in the padding */
    float *sums;       /* [rows + padding, sum_width] of each group of x; int4 and int8 x */
    float *x_scales;   /* [rows + padding]; int8 x */
    const uint8_t *codes; /* or floats of the dtype of y */
    const uint16_t *scales, *zeros;
    long rows, out, in, width, group, groups, sum_width;
    int is_bf16;       /* dtype of y */
    void (*span)(const struct Job *, long first, long last);
} Job;

INLINE void store(const Job *job, long m, long n, float value) {
    if (m >= job->rows) return;
    if (job->is_bf16) ((uint16_t *)job->y)[m * job->out + n] = to_bf16(value);
    else ((float *)job->y)[m * job->out + n] = value;
}

/* A block of 16 outputs from n on, those that exist. */
INLINE void store_block(const Job *job, long m, long n, v16 values) {
    if (n + LANES > job->out) {
        for (long r = 0; n + r < job->out; r++) store(job, m, n + r, values[r]);
    } else if (m < job->rows) {
        if (job->is_bf16) to_bf16s((uint16_t *)job->y + m * job->out + n, values);
        else *(v16_at *)((float *)job->y + m * job->out + n) = values;
    }
}

/* M · N sums, total[i · N + r] for row m + i of x and row n + r of W, each times the scale of its row of W. */
INLINE void store_sums(const Job *job, long n, long m, const v16 *total, const float *scales, const int M, const int N) {
    if (M * N < LANES / 2) {
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++) store(job, m + i, n + r, sum(total[i * N + r]) * scales[r]);
        return;
    }
    v16 every[LANES] = {0}, scale = {0};
    for (int i = 0; i < M * N; i++) every[i] = total[i], scale[i] = scales[i % N];
    v16 values = sums(every) * scale;
    uint16_t halves[LANES];
    to_bf16s(halves, values);
    for (long i = 0; i < M && m + i < job->rows; i++) {
        long at = (m + i) * job->out + n;
        if (job->is_bf16) memcpy((uint16_t *)job->y + at, halves + i * N, N * sizeof *halves);
        else memcpy((float *)job->y + at, (float *)&values + i * N, N * sizeof(float));
    }
}

/* Adds what group g of the columns gives: its sum of products times the scales, its sum of activations times zeros. */
INLINE v16 with_group(const Job *job, long m, long block, long g, v16 total, v16 part) {
    long at = (block * job->groups + g) * LANES;
    return total + part * from_bf16s(job->scales + at) + from_bf16s(job->zeros + at) * job->sums[m * job->sum_width + g];
}

/* All rows of some outputs. */
#define ROWS(kernel, job, n, N)                                             \
    for (long m = 0, left; (left = (job)->rows - m) > 0;) {                 \
        if (left > 4) kernel(job, n, m, 8, N), m += 8;                      \
        else if (left > 2) kernel(job, n, m, 4, N), m += 4;                 \
        else if (left > 1) kernel(job, n, m, 2, N), m += 2;                 \
        else kernel(job, n, m, 1, N), m += 1;                               \
    }
/* UNIT rows of weights at a time, MANY times that where there are several rows of activations, four times where one */
#define SPAN(kernel, UNIT, MANY)                                            \
    static void kernel##_span(const Job *job, long first, long last) {      \
        long n = first;                                                     \
        if (job->rows == 1)                                                 \
            for (; n + 4 * UNIT <= last; n += 4 * UNIT) kernel(job, n, 0, 1, 4); \
        for (; n + MANY * UNIT <= last; n += MANY * UNIT) ROWS(kernel, job, n, MANY) \
        for (; n < last; n += UNIT) ROWS(kernel, job, n, 1)                 \
    }

static void run(void *data) {
    const Job *job = data;
    long thread = omp_get_thread_num(), threads = omp_get_num_threads(), blocks = (job->out + LANES - 1) / LANES;
    long first = blocks * thread / threads * LANES, last = blocks * (thread + 1) / threads * LANES;
    job->span(job, first, last < job->out ? last : job->out);
}

static void share(Job *job, long threads) {
    long most = job->out * job->in / MIN_WEIGHTS_PER_THREAD;
    if (threads > most) threads = most;
    if (threads > 1) GOMP_parallel(run, job, (unsigned)threads, 0);
    else job->span(job, 0, job->out);
}
