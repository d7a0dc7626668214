/* A recurrent layer over sequences of token ids, from h = 0 to the last h: tanh cells, GRU (reset after) and LSTM.
 *
 * A step is a product of h [hidden] with the recurrent weights, which stay in the nearest cache, and a few functions of
 * the result: less work than it costs to dispatch an operation. So all the steps are one call, and sequences advance
 * ROWS at a time, for which each weight is read once.
 *
 * Layouts: recurrent weights [hidden, width], row k what h[k] adds; width = gates · hidden, gates side by side in the
 * order of Keras: GRU z, r, h, LSTM i, f, c, o. Inputs are rows of the same width, which are added to each step.
 */
#include "kernels.h"
#include "vectors.h"

enum cell { SIMPLE, GRU, LSTM };
enum format { FP32, BF16, INT8 };
enum { ROWS = 4, COLUMNS = 4, MAX_HIDDEN = 512, MAX_GATES = 4, MIN_PRODUCTS_PER_THREAD = 1 << 20 };

typedef int8_t i8x16_at __attribute__((vector_size(16), UNALIGNED));

typedef struct Layer {
    float *y;              /* [batch, hidden] */
    const int32_t *ids;    /* [batch, tokens]; where 0 stands, h stays */
    const void *inputs;    /* [vocabulary, width], looked up by id, or [batch, tokens, width] */
    const float *scales;   /* of int8 inputs, one a row */
    const float *recurrent, *bias;
    long batch, tokens, hidden, width, is_table;
    enum cell cell;
    enum format format;
} Layer;

typedef struct State {
    float h[ROWS * MAX_HIDDEN], c[ROWS * MAX_HIDDEN], inner[ROWS * MAX_HIDDEN * MAX_GATES];
} State;

INLINE v16 sigmoids(v16 x) { return 1.0f / (exps(-x) + 1.0f); }
INLINE v16 tanhs(v16 x) { return 1.0f - 2.0f / (exps(2.0f * x) + 1.0f); }
INLINE v16 at(const float *from, long k) { return *(const v16_at *)(from + k); }

INLINE v16 input(const Layer *a, long row, long k) {
    k += row * a->width;
    if (a->format == INT8)
        return a->scales[row] * __builtin_convertvector(*(const i8x16_at *)((const int8_t *)a->inputs + k), v16);
    return floats(a->inputs, k, a->format == BF16);
}

/* inner = bias + h · recurrent for M rows and N vectors of columns from j on. Each sum is made of K, which do not wait for
 * each other's additions.
 */
INLINE void products(const Layer *a, State *s, long j, const int M, const int N, const int K) {
    v16 total[ROWS][COLUMNS];
    for (int i = 0; i < M * K; i++)
        for (int n = 0; n < N; n++) total[i][n] = i % K ? (v16){0} : at(a->bias, j + n * LANES);
    for (long k = 0; k < a->hidden; k += K)
        for (int p = 0; p < K; p++)
            for (int n = 0; n < N; n++) {
                v16 weight = at(a->recurrent, (k + p) * a->width + j + n * LANES);
                for (int m = 0; m < M; m++) total[m * K + p][n] += s->h[m * a->hidden + k + p] * weight;
            }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            v16 all = total[m * K][n];
            for (int p = 1; p < K; p++) all += total[m * K + p][n];
            *(v16_at *)(s->inner + m * a->width + j + n * LANES) = all;
        }
}

/* The functions of one cell: h of row m, from what h gave (`inner`) and the input of this step. */
INLINE void advance(const Layer *a, State *s, int m, long row) {
    const float *inner = s->inner + m * a->width;
    long n = a->hidden;
    for (long k = 0; k < n; k += LANES) {
        v16_at *h = (v16_at *)(s->h + m * n + k), *c = (v16_at *)(s->c + m * n + k);
        v16 first = input(a, row, k) + at(inner, k);
        if (a->cell == SIMPLE) {
            *h = tanhs(first);
        } else if (a->cell == GRU) {
            v16 kept = sigmoids(first), reset = sigmoids(input(a, row, n + k) + at(inner, n + k));
            v16 fresh = tanhs(input(a, row, 2 * n + k) + reset * at(inner, 2 * n + k));
            *h = fresh + kept * (*h - fresh);
        } else {
            v16 kept = sigmoids(input(a, row, n + k) + at(inner, n + k));
            *c = kept * *c + sigmoids(first) * tanhs(input(a, row, 2 * n + k) + at(inner, 2 * n + k));
            *h = sigmoids(input(a, row, 3 * n + k) + at(inner, 3 * n + k)) * tanhs(*c);
        }
    }
}

/* M sequences from `first` on, all their steps. */
INLINE void sequences(const Layer *a, long first, const int M) {
    const int K = ROWS / M;
    const int32_t *ids = a->ids + first * a->tokens;
    State s;
    memset(s.h, 0, M * a->hidden * sizeof(float));
    memset(s.c, 0, M * a->hidden * sizeof(float));
    for (long t = 0; t < a->tokens; t++) {
        int is_any = 0;
        for (int m = 0; m < M; m++) is_any |= ids[m * a->tokens + t];
        if (!is_any) continue;
        long j = 0;
        for (; j + COLUMNS * LANES <= a->width; j += COLUMNS * LANES) products(a, &s, j, M, COLUMNS, K);
        for (; j < a->width; j += LANES) products(a, &s, j, M, 1, K);
        for (int m = 0; m < M; m++) {
            long id = ids[m * a->tokens + t];
            if (id) advance(a, &s, m, a->is_table ? id : (first + m) * a->tokens + t);
        }
    }
    memcpy(a->y + first * a->hidden, s.h, M * a->hidden * sizeof(float));
}

/* Sequences from row to end, ROWS together while there are so many. */
static void span(const Layer *a, long row, long end) {
    for (; row + ROWS <= end; row += ROWS) sequences(a, row, ROWS);
    for (; row < end; row++) sequences(a, row, 1);
}

static void run(void *data) {
    const Layer *a = data;
    long thread = omp_get_thread_num(), threads = omp_get_num_threads(), tiles = (a->batch + ROWS - 1) / ROWS;
    long end = tiles * (thread + 1) / threads * ROWS;
    span(a, tiles * thread / threads * ROWS, end < a->batch ? end : a->batch);
}

/* `hidden` is a multiple of 16, at most 512. */
int labkit_recur(void *y, const void *ids, const void *inputs, const void *scales, const void *recurrent,
                 const void *bias, long batch, long tokens, long hidden, long cell, long is_table, int format,
                 int threads) {
    static const long gates[] = {1, 3, 4};
    Layer a = {.y = y, .ids = ids, .inputs = inputs, .scales = scales, .recurrent = recurrent, .bias = bias,
               .batch = batch, .tokens = tokens, .hidden = hidden, .width = gates[cell] * hidden, .is_table = is_table,
               .cell = (enum cell)cell, .format = (enum format)format};
    long most = batch * tokens * hidden * a.width / MIN_PRODUCTS_PER_THREAD;
    if (threads > most) threads = (int)most;
    if (threads > 1) GOMP_parallel(run, &a, (unsigned)threads, 0);
    else span(&a, 0, batch);
    return 0;
}
