/* Attention of one new token of each sequence over what is stored of it.
 *
 * Activations are bf16 or fp32, sums are fp32. Keys and values are stored in the dtype of the activations, or as int8 with
 * a scale for each token and head. A sequence lies in blocks of tokens, wherever its table says (Kwon et al. 2023,
 * PagedAttention).
 */
#include "kernels.h"
#include "vectors.h"

enum { KEYS = 64, MIN_VALUES_PER_THREAD = 1 << 16 }; /* KEYS: stored tokens whose scores are held at a time */

typedef int8_t i8x16_at __attribute__((vector_size(16), UNALIGNED));
enum { FP32, BF16, INT8 }; /* how keys and values are stored */

INLINE long size_of(const int kind) { return kind == FP32 ? 4 : kind == BF16 ? 2 : 1; }

INLINE v16 stored(const void *from, long k, const int kind) {
    if (kind == INT8) return __builtin_convertvector(*(const i8x16_at *)((const int8_t *)from + k), v16);
    return floats(from, k, kind == BF16);
}

typedef struct Attention {
    void *y;                  /* [batch, heads, width] */
    const void *qkv;          /* [batch, heads + 2 · kv_heads, width] */
    const void *cos, *sin;    /* [batch, width] or, with `turn` 0, [width] for all; sin carries the sign of its half */
    void *keys, *values;      /* [kv_heads, blocks, block, width] */
    float *key_scales, *value_scales; /* [kv_heads, blocks, block]; int8 only */
    const int64_t *tables;    /* [batch, columns]: the blocks that a sequence lies in, in order */
    const int64_t *lengths;   /* [batch]: how many of its tokens are stored */
    long batch, heads, kv_heads, width, blocks, block, columns, window, turn;
    int is_bf16, kind;
} Attention;

/* What is stored of one KV head, and where in it a sequence lies. */
typedef struct Past {
    char *keys, *values;
    float *key_scales, *value_scales;
    const int64_t *table;
    long block;
} Past;

/* Where token j of the sequence lies. */
INLINE long place(const Past *past, long j) { return past->table[j / past->block] * past->block + j % past->block; }

/* The same of `num` tokens from `first` on: those of a block lie in a row. */
INLINE void places(const Past *past, long first, long num, long *at) {
    for (long j = 0; j < num;) {
        long from = place(past, first + j), end = j + past->block - (first + j) % past->block;
        for (end = end < num ? end : num; j < end; j++) at[j] = from++;
    }
}

/* Scores of the KEYS stored tokens at most that lie at `at` under H query heads; [H, KEYS]. */
INLINE void score(const float *q, const Past *past, const long *at, long width, long num, float *scores, const int H,
                  const int kind) {
    for (long j = 0; j < num; j++) {
        v16 total[H];
        for (int h = 0; h < H; h++) total[h] = (v16){0};
        for (long k = 0; k < width; k += LANES) {
            v16 key = stored(past->keys, at[j] * width + k, kind);
            for (int h = 0; h < H; h++) total[h] += floats(q, h * width + k, 0) * key;
        }
        float scale = kind == INT8 ? past->key_scales[at[j]] : 1;
        for (int h = 0; h < H; h++) scores[h * KEYS + j] = sum(total[h]) * scale;
    }
}

/* H query heads of one KV head over stored tokens first … last: softmax computed in one sweep, whose sums shrink when a
 * larger score turns up (Milakov and Gimelshein 2018, Online normalizer calculation for softmax). y [H, width]. */
INLINE void heads_over(long width, const float *q, const Past *past, long first, long last, float *y, const int H,
                       const int kind) {
    float scores[H * KEYS], largest[H], weight[H];
    long at[KEYS];
    for (int h = 0; h < H; h++) largest[h] = -INFINITY, weight[h] = 0;
    memset(y, 0, H * width * sizeof *y);
    for (long j = first; j < last; j += KEYS) {
        long num = last - j < KEYS ? last - j : KEYS, padded = (num + LANES - 1) / LANES * LANES;
        places(past, j, num, at);
        score(q, past, at, width, num, scores, H, kind);
        for (int h = 0; h < H; h++) {
            float *s = scores + h * KEYS, most = largest[h];
            for (long i = 0; i < num; i++) most = s[i] > most ? s[i] : most;
            for (long i = num; i < padded; i++) s[i] = -INFINITY;
            float shrink = largest[h] == most ? 1 : expf(largest[h] - most);
            v16 total = {0};
            for (long i = 0; i < padded; i += LANES) {
                v16 p = exps(floats(s, i, 0) - most);
                total += *(v16_at *)(s + i) = p;
            }
            /* exps ends at e^-87, which no fp32 sum with a 1 in it can see */
            weight[h] = weight[h] * shrink + sum(total), largest[h] = most;
            if (kind == INT8)
                for (long i = 0; i < num; i++) s[i] *= past->value_scales[at[i]];
            if (shrink != 1)
                for (long k = 0; k < width; k++) y[h * width + k] *= shrink;
        }
        for (long k = 0; k < width; k += LANES) {
            v16 total[H];
            for (int h = 0; h < H; h++) total[h] = floats(y, h * width + k, 0);
            for (long i = 0; i < num; i++) {
                v16 value = stored(past->values, at[i] * width + k, kind);
                for (int h = 0; h < H; h++) total[h] += value * scores[h * KEYS + i];
            }
            for (int h = 0; h < H; h++) *(v16_at *)(y + h * width + k) = total[h];
        }
    }
    for (int h = 0; h < H; h++)
        for (long k = 0; k < width; k++) y[h * width + k] /= weight[h];
}

INLINE void turned(const Attention *a, long b, const void *x, long at, float scale, float *y, const int is_bf16) {
    const char *cos = (const char *)a->cos + b * a->turn * (is_bf16 ? 2 : 4);
    const char *sin = (const char *)a->sin + b * a->turn * (is_bf16 ? 2 : 4);
    for (long k = 0, half = a->width / 2; k < a->width; k++) {
        float other = get(x, at + (k < half ? k + half : k - half), is_bf16);
        y[k] = (get(x, at + k, is_bf16) * get(cos, k, is_bf16) + other * get(sin, k, is_bf16)) * scale;
    }
}

/* Stores a key or value, [width] floats, as token `at`. */
INLINE void keep(char *to, float *scales, long at, const float *x, long width, const int kind) {
    if (kind != INT8) {
        for (long k = 0; k < width; k++) put(to, at * width + k, kind == BF16, x[k]);
        return;
    }
    float most = 0;
    for (long k = 0; k < width; k++) most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
    float scale = scales[at] = most / 127;
    for (long k = 0; k < width; k++) ((int8_t *)to)[at * width + k] = (int8_t)lrintf(scale > 0 ? x[k] / scale : 0);
}

/* One sequence and KV head: store the new key and value, then attend. */
INLINE void attend(const Attention *a, long b, long kv, const int is_bf16, const int kind) {
    long width = a->width, group = a->heads / a->kv_heads, length = a->lengths[b];
    long row = b * (a->heads + 2 * a->kv_heads), head = kv * a->blocks * a->block, offset = head * width * size_of(kind);
    long first = a->window > 0 && length + 1 > a->window ? length + 1 - a->window : 0;
    Past past = {(char *)a->keys + offset,
                 (char *)a->values + offset,
                 kind == INT8 ? a->key_scales + head : 0,
                 kind == INT8 ? a->value_scales + head : 0,
                 a->tables + b * a->columns,
                 a->block};
    long at = place(&past, length);
    float q[group * width], y[group * width], new[width];
    turned(a, b, a->qkv, (row + a->heads + kv) * width, 1, new, is_bf16);
    keep(past.keys, past.key_scales, at, new, width, kind);
    for (long k = 0; k < width; k++) new[k] = get(a->qkv, (row + a->heads + a->kv_heads + kv) * width + k, is_bf16);
    keep(past.values, past.value_scales, at, new, width, kind);
    for (long g = 0; g < group; g++)
        turned(a, b, a->qkv, (row + kv * group + g) * width, 1 / sqrtf(width), q + g * width, is_bf16);
    for (long g = 0, left; (left = group - g) > 0;) {
#define HEADS(H) heads_over(width, q + g * width, &past, first, length + 1, y + g * width, H, kind), g += H
        if (left >= 4) HEADS(4);
        else if (left == 3) HEADS(3);
        else if (left == 2) HEADS(2);
        else HEADS(1);
    }
    for (long i = 0; i < group * width; i++) put(a->y, (b * a->heads + kv * group) * width + i, is_bf16, y[i]);
}

static void part(const Attention *a, long first, long last) {
    for (long i = first; i < last; i++) {
        long b = i / a->kv_heads, kv = i % a->kv_heads;
        if (a->kind == INT8 && a->is_bf16) attend(a, b, kv, 1, INT8);
        else if (a->kind == INT8) attend(a, b, kv, 0, INT8);
        else if (a->is_bf16) attend(a, b, kv, 1, BF16);
        else attend(a, b, kv, 0, FP32);
    }
}

static void run(void *data) {
    const Attention *a = data;
    long thread = omp_get_thread_num(), threads = omp_get_num_threads(), units = a->batch * a->kv_heads;
    part(a, units * thread / threads, units * (thread + 1) / threads);
}

/* Key and value scales are NULL unless keys and values are int8; tables and lengths are int64. */
int labkit_attend(void *y, const void *qkv, const void *cos, const void *sin, void *keys, void *values, void *key_scales,
                  void *value_scales, const void *tables, const void *lengths, long batch, long heads, long kv_heads,
                  long width, long blocks, long block, long columns, long window, long turn, int is_bf16, int threads) {
    Attention a = {y,     qkv,   cos,      sin,   keys,   values, key_scales, value_scales, tables, lengths,
                   batch, heads, kv_heads, width, blocks, block,  columns,    window,       turn,   is_bf16,
                   key_scales ? INT8 : is_bf16 ? BF16 : FP32};
    long work = 0;
    for (long b = 0; b < batch; b++) work += (a.lengths[b] + 1) * heads * width;
    if (threads > work / MIN_VALUES_PER_THREAD) threads = work / MIN_VALUES_PER_THREAD;
    if (threads > 1) GOMP_parallel(run, &a, (unsigned)threads, 0);
    else part(&a, 0, batch * kv_heads);
    return 0;
}
