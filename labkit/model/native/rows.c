/* What a transformer block does to each token by itself, which torch composes of many passes over memory: RMSNorm, the
 * gate of the feed-forward block, sums, the rotation of queries and keys. Activations are bf16 or fp32, arithmetic is fp32.
 */
#include "kernels.h"
#include "vectors.h"

enum { MIN_VALUES_PER_THREAD = 1 << 15 };

typedef struct Rows {
    void *y;             /* rows of the result */
    const void *x, *z;   /* rows of what it is made of */
    const void *weight;  /* [width]; RMSNorm */
    const void *cos, *sin; /* [tokens, width] of one sequence, or of each with `turn` its size; rotation */
    long rows, width, tokens, turn, stride, heads; /* stride: from a row to the next, of x or z where it is no `width` */
    float eps;
    int is_bf16;
    void (*span)(const struct Rows *, long first, long last);
} Rows;

static void run(void *data) {
    const Rows *a = data;
    long thread = omp_get_thread_num(), threads = omp_get_num_threads();
    a->span(a, a->rows * thread / threads, a->rows * (thread + 1) / threads);
}

/* Every row, by as many threads as there is work for. */
static int share(Rows *a, long row_values, long threads) {
    long most = a->rows * row_values / MIN_VALUES_PER_THREAD;
    if (threads > most) threads = most;
    if (threads > 1) GOMP_parallel(run, a, (unsigned)threads, 0);
    else a->span(a, 0, a->rows);
    return 0;
}

/* LANES values to index k on. */
INLINE void put_floats(void *to, long k, int is_bf16, v16 values) {
    if (is_bf16) to_bf16s((uint16_t *)to + k, values);
    else *(v16_at *)((float *)to + k) = values;
}

/* y = x · weight / root mean square of x. */
INLINE void norm(const Rows *a, long first, long last, const int is_bf16) {
    long width = a->width;
    for (long at = first * width; at < last * width; at += width) {
        v16 squares = {0};
        long k = 0;
        for (; k + LANES <= width; k += LANES) squares += floats(a->x, at + k, is_bf16) * floats(a->x, at + k, is_bf16);
        float total = sum(squares);
        for (; k < width; k++) total += get(a->x, at + k, is_bf16) * get(a->x, at + k, is_bf16);
        float scale = 1 / sqrtf(total / width + a->eps);
        for (k = 0; k + LANES <= width; k += LANES)
            put_floats(a->y, at + k, is_bf16, floats(a->x, at + k, is_bf16) * scale * floats(a->weight, k, is_bf16));
        for (; k < width; k++) put(a->y, at + k, is_bf16, get(a->x, at + k, is_bf16) * scale * get(a->weight, k, is_bf16));
    }
}

/* y [width] = silu(gate) · up of x, [gate, up]. */
INLINE void gated(const Rows *a, long first, long last, const int is_bf16) {
    long width = a->width;
    for (long m = first; m < last; m++) {
        long gate = 2 * m * width, up = gate + width, k = 0;
        for (; k + LANES <= width; k += LANES) {
            v16 value = floats(a->x, gate + k, is_bf16);
            value = value / (exps(-value) + 1.0f) * floats(a->x, up + k, is_bf16);
            put_floats(a->y, m * width + k, is_bf16, value);
        }
        for (; k < width; k++) {
            float value = get(a->x, gate + k, is_bf16);
            put(a->y, m * width + k, is_bf16, value / (expf(-value) + 1) * get(a->x, up + k, is_bf16));
        }
    }
}

/* y = x + z, where z moves on by `stride` from row to row. */
INLINE void added(const Rows *a, long first, long last, const int is_bf16) {
    long width = a->width;
    for (long m = first; m < last; m++) {
        long at = m * width, from = m * a->stride, k = 0;
        for (; k + LANES <= width; k += LANES)
            put_floats(a->y, at + k, is_bf16, floats(a->x, at + k, is_bf16) + floats(a->z, from + k, is_bf16));
        for (; k < width; k++) put(a->y, at + k, is_bf16, get(a->x, at + k, is_bf16) + get(a->z, from + k, is_bf16));
    }
}

/* Turns the pairs (k, k + width / 2) of the first `heads` heads of each token; a row is a token. */
INLINE void turned(const Rows *a, long first, long last, const int is_bf16) {
    long width = a->width, half = width / 2, size = is_bf16 ? 2 : 4;
    for (long m = first; m < last; m++) {
        long turn = (m / a->tokens * a->turn + m % a->tokens * width) * size;
        const char *cos = (const char *)a->cos + turn, *sin = (const char *)a->sin + turn;
        for (long h = 0; h < a->heads; h++) {
            long low = m * a->stride + h * width, high = low + half, k = 0;
            for (; k + LANES <= half; k += LANES) {
                v16 x = floats(a->y, low + k, is_bf16), z = floats(a->y, high + k, is_bf16);
                put_floats(a->y, low + k, is_bf16, x * floats(cos, k, is_bf16) + z * floats(sin, k, is_bf16));
                put_floats(a->y, high + k, is_bf16, z * floats(cos, half + k, is_bf16) + x * floats(sin, half + k, is_bf16));
            }
            for (; k < half; k++) {
                float x = get(a->y, low + k, is_bf16), z = get(a->y, high + k, is_bf16);
                put(a->y, low + k, is_bf16, x * get(cos, k, is_bf16) + z * get(sin, k, is_bf16));
                put(a->y, high + k, is_bf16, z * get(cos, half + k, is_bf16) + x * get(sin, half + k, is_bf16));
            }
        }
    }
}

#define BOTH(name)                                                                                   \
    static void name##_span(const Rows *a, long first, long last) {                                  \
        if (a->is_bf16) name(a, first, last, 1);                                                     \
        else name(a, first, last, 0);                                                                \
    }
BOTH(norm)
BOTH(gated)
BOTH(added)
BOTH(turned)

/* x and y [rows, width]. */
int labkit_rms_norm(void *y, const void *x, const void *weight, long rows, long width, float eps, int is_bf16,
                    int threads) {
    Rows a = {.y = y, .x = x, .weight = weight, .rows = rows, .width = width, .eps = eps, .is_bf16 = is_bf16};
    a.span = norm_span;
    return share(&a, width, threads);
}

/* x [rows, 2 · width], y [rows, width]. */
int labkit_swiglu(void *y, const void *x, long rows, long width, int is_bf16, int threads) {
    Rows a = {.y = y, .x = x, .rows = rows, .width = width, .is_bf16 = is_bf16, .span = gated_span};
    return share(&a, 2 * width, threads);
}

/* x and y [rows, width], z [rows, width] or, with a step of 0 from row to row, [width]; y may be x. */
int labkit_add(void *y, const void *x, const void *z, long rows, long width, long step, int is_bf16, int threads) {
    Rows a = {.y = y, .x = x, .z = z, .rows = rows, .width = width, .stride = step, .is_bf16 = is_bf16,
              .span = added_span};
    return share(&a, width, threads);
}

/* x [rows, stride], in place: rows of `tokens` to a sequence, each with `heads` heads of `width` at its beginning. */
int labkit_rotate(void *x, const void *cos, const void *sin, long rows, long tokens, long turn, long stride, long heads,
                  long width, int is_bf16, int threads) {
    Rows a = {.y = x, .cos = cos, .sin = sin, .rows = rows, .width = width, .tokens = tokens, .turn = turn,
              .stride = stride, .heads = heads, .is_bf16 = is_bf16, .span = turned_span};
    return share(&a, heads * width, threads);
}
