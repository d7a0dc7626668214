/* Products of few rows of activations with weights, where reading the weights is the work.
 *
 * Weights are floats or integers; activations stay bf16 or fp32 and sums are fp32. A small block of activation rows (M)
 * meets a small block of weight rows (N), so each weight is read from memory and unpacked once. Two ways to the same
 * numbers:
 *   bf16  integers become bf16, exactly (they have at most 8 bits), and vdpbf16ps multiplies pairs; AVX-512 only
 *   f32   any machine
 *
 * Layouts: floats and int8 codes [out, in] row by row, scales bf16 [out]. int4 in blocks of 16 rows, a lane for each:
 * 32 bytes hold columns k … k + 3, byte 2 r + c the weights of row r in columns k + c (low half) and k + 2 + c (high
 * half), so a lane meets one pair of activations for all rows and no sum crosses lanes; scales and zeros are bf16
 * [out / 16, in / group, 16], the last block padded.
 */
#include "kernels.h"
#include "product.h"
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif

enum { CHUNK = 64, HALF = 32 };

typedef int8_t i16x8 __attribute__((vector_size(16)));
typedef int8_t i16x8_at __attribute__((vector_size(16), UNALIGNED));

/* ---- fp32 ---- */

/* Adds the products of LANES columns of M rows of x with N rows of weights. */
INLINE void add_products(v16 *total, const float *x, long width, const v16 *weight, const int M, const int N) {
    for (int i = 0; i < M; i++) {
        v16 value = *(const v16_at *)(x + i * width);
        for (int r = 0; r < N; r++) total[i * N + r] += weight[r] * value;
    }
}

INLINE void int8_f32(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M * MAX_N], weight[MAX_N];
    for (int i = 0; i < M * N; i++) total[i] = (v16){0};
    const int8_t *codes = (const int8_t *)job->codes + n * job->in;
    const float *x = (const float *)job->x + m * job->width;
    long k = 0;
    for (; k + LANES <= job->in; k += LANES) {
        for (int r = 0; r < N; r++) weight[r] = __builtin_convertvector(*(const i16x8_at *)(codes + r * job->in + k), v16);
        add_products(total, x + k, job->width, weight, M, N);
    }
    if (k < job->in) {
        for (int r = 0; r < N; r++) {
            i16x8 code = {0};
            memcpy(&code, codes + r * job->in + k, job->in - k);
            weight[r] = __builtin_convertvector(code, v16);
        }
        add_products(total, x + k, job->width, weight, M, N);
    }
    float scales[MAX_N];
    for (int r = 0; r < N; r++) scales[r] = from_bf16(job->scales[n + r]);
    store_sums(job, n, m, total, scales, M, N);
}

static const float ones[MAX_N] = {1, 1, 1, 1};

INLINE void floats_f32(const Job *job, long n, long m, const int M, const int N, const int is_bf16) {
    v16 total[MAX_M * MAX_N], weight[MAX_N];
    for (int i = 0; i < M * N; i++) total[i] = (v16){0};
    const float *x = (const float *)job->x + m * job->width;
    const long size = is_bf16 ? 2 : 4, step = job->in * size;
    const uint8_t *rows = job->codes + n * step;
    long k = 0;
    for (; k + LANES <= job->in; k += LANES) {
        for (int r = 0; r < N; r++) {
            __builtin_prefetch(rows + r * step + k * size + AHEAD, 0, 2);
            weight[r] = floats(rows + r * step, k, is_bf16);
        }
        add_products(total, x + k, job->width, weight, M, N);
    }
    if (k < job->in) {
        for (int r = 0; r < N; r++) {
            float padded[LANES] = {0};
            for (long i = k; i < job->in; i++) padded[i - k] = get(rows + r * step, i, is_bf16);
            weight[r] = floats(padded, 0, 0);
        }
        add_products(total, x + k, job->width, weight, M, N);
    }
    store_sums(job, n, m, total, ones, M, N);
}

INLINE void float_f32(const Job *job, long n, long m, const int M, const int N) {
    if (job->is_bf16) floats_f32(job, n, m, M, N, 1);
    else floats_f32(job, n, m, M, N, 0);
}

INLINE void int4_f32(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M][MAX_N];
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) total[i][r] = (v16){0};
    const float *x = (const float *)job->x + m * job->width;
    for (long g = 0; g < job->groups; g++) {
        v16 part[MAX_M][MAX_N];
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++) part[i][r] = (v16){0};
        for (long k = g * job->group; k < (g + 1) * job->group; k += 4)
            for (int r = 0; r < N; r++) {
                u32x16 four = __builtin_convertvector(*(const u16x16_at *)(job->codes + (n + r * LANES) * job->in / 2 + k * 8), u32x16);
                for (int c = 0; c < 4; c++) { /* halves of the two bytes in the order of their columns */
                    v16 weight = __builtin_convertvector((i32x16)(four >> (c % 2 * 8 + c / 2 * 4) & 15) - 8, v16);
                    for (int i = 0; i < M; i++) part[i][r] += weight * x[i * job->width + k + c];
                }
            }
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++) total[i][r] = with_group(job, m + i, n / LANES + r, g, total[i][r], part[i][r]);
    }
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) store_block(job, m + i, n + r * LANES, total[i][r]);
}

/* ---- bf16 ---- */
#if HAS_BF16

static uint8_t low_bytes[128], high_bytes[128]; /* of the bf16 of 0 … 127 */
static uint16_t nibbles[32];                    /* bf16 of -8 … 7, twice: the look-up takes 5 bits */

__attribute__((constructor)) static void fill_tables(void) {
    for (int i = 0; i < 128; i++) low_bytes[i] = to_bf16(i) & 255, high_bytes[i] = to_bf16(i) >> 8;
    for (int i = 0; i < 32; i++) nibbles[i] = to_bf16(i % 16 - 8);
}

INLINE void float_bf16(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M * MAX_N];
    for (int i = 0; i < M * N; i++) total[i] = (v16){0};
    const uint16_t *weights = (const uint16_t *)job->codes + n * job->in;
    const uint16_t *x = (const uint16_t *)job->x + m * job->width;
    for (long k = 0; k < job->in; k += HALF) {
        __mmask32 mask = k + HALF <= job->in ? ~0u : (1u << (job->in - k)) - 1;
        __m512i weight[MAX_N];
        for (int r = 0; r < N; r++) {
            const uint16_t *at = weights + r * job->in + k;
            _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T1);
            weight[r] = _mm512_maskz_loadu_epi16(mask, at);
        }
        for (int i = 0; i < M; i++) {
            __m512i value = _mm512_loadu_si512(x + i * job->width + k);
            for (int r = 0; r < N; r++)
                total[i * N + r] = (v16)_mm512_dpbf16_ps((__m512)total[i * N + r], (__m512bh)value, (__m512bh)weight[r]);
        }
    }
    store_sums(job, n, m, total, ones, M, N);
}

INLINE void int8_bf16(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M * MAX_N];
    for (int i = 0; i < M * N; i++) total[i] = (v16){0};
    const __m512i low0 = _mm512_loadu_si512(low_bytes), low1 = _mm512_loadu_si512(low_bytes + 64);
    const __m512i high0 = _mm512_loadu_si512(high_bytes), high1 = _mm512_loadu_si512(high_bytes + 64);
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const uint8_t *codes = job->codes + n * job->in;
    const uint16_t *x = (const uint16_t *)job->x + m * job->width;
    for (long k = 0; k < job->width; k += CHUNK) {
        __mmask64 mask = k + CHUNK <= job->in ? ~0ull : (1ull << (job->in - k)) - 1;
        __m512i even[MAX_N], odd[MAX_N]; /* eights of weights; x lies in the same order */
        for (int r = 0; r < N; r++) {
            const uint8_t *at = codes + r * job->in + k;
            _mm_prefetch((const char *)(at + AHEAD), _MM_HINT_T1);
            __m512i code = _mm512_maskz_loadu_epi8(mask, at), size = _mm512_abs_epi8(code);
            __m512i low = _mm512_permutex2var_epi8(low0, size, low1);
            __m512i high = _mm512_permutex2var_epi8(high0, size, high1);
            high = _mm512_ternarylogic_epi32(high, code, sign, 0xf8); /* high | (code & sign) */
            even[r] = _mm512_unpacklo_epi8(low, high), odd[r] = _mm512_unpackhi_epi8(low, high);
        }
        for (int i = 0; i < M; i++) {
            __m512i x0 = _mm512_loadu_si512(x + i * job->width + k), x1 = _mm512_loadu_si512(x + i * job->width + k + HALF);
            for (int r = 0; r < N; r++) {
                __m512 first = _mm512_dpbf16_ps((__m512)total[i * N + r], (__m512bh)x0, (__m512bh)even[r]);
                total[i * N + r] = (v16)_mm512_dpbf16_ps(first, (__m512bh)x1, (__m512bh)odd[r]);
            }
        }
    }
    float scales[MAX_N];
    for (int r = 0; r < N; r++) scales[r] = from_bf16(job->scales[n + r]);
    store_sums(job, n, m, total, scales, M, N);
}

INLINE __m512i pair_of(const uint16_t *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
}

INLINE void int4_bf16(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M][MAX_N];
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) total[i][r] = (v16){0};
    const __m512i table = _mm512_loadu_si512(nibbles);
    const uint16_t *x = (const uint16_t *)job->x + m * job->width;
    for (long g = 0; g < job->groups; g++) {
        __m512 part[MAX_M][MAX_N];
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++) part[i][r] = _mm512_setzero_ps();
        for (long k = g * job->group; k < (g + 1) * job->group; k += 4) {
            __m512i low[MAX_N], high[MAX_N];
            for (int r = 0; r < N; r++) {
                const uint8_t *at = job->codes + (n + r * LANES) * job->in / 2 + k * 8;
                if (k % 8 == 0) _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T1);
                __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)at));
                low[r] = _mm512_permutexvar_epi16(pairs, table);
                high[r] = _mm512_permutexvar_epi16(_mm512_srli_epi16(pairs, 4), table);
            }
            for (int i = 0; i < M; i++) {
                __m512i x0 = pair_of(x + i * job->width + k), x1 = pair_of(x + i * job->width + k + 2);
                for (int r = 0; r < N; r++) {
                    part[i][r] = _mm512_dpbf16_ps(part[i][r], (__m512bh)x0, (__m512bh)low[r]);
                    part[i][r] = _mm512_dpbf16_ps(part[i][r], (__m512bh)x1, (__m512bh)high[r]);
                }
            }
        }
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++)
                total[i][r] = with_group(job, m + i, n / LANES + r, g, total[i][r], (v16)part[i][r]);
    }
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) store_block(job, m + i, n + r * LANES, total[i][r]);
}
#endif

/* ---- all rows of some outputs ---- */

SPAN(float_f32, 1, 2)
SPAN(int8_f32, 1, 2)
SPAN(int4_f32, LANES, 1)
#if HAS_BF16
SPAN(float_bf16, 1, 2)
SPAN(int8_bf16, 1, 2)
SPAN(int4_bf16, LANES, 1)
#endif

/* Lays x out for the kernels: padded with zeros to whole chunks and whole blocks of rows. */
static int lay_out(Job *job, const void *x, int is_int8) {
    long left = job->rows % 8, padding = left > 4 ? 8 - left : left == 3; /* see ROWS */
    long padded = job->rows + padding, size = job->is_bf16 && HAS_BF16 ? 2 : 4;
    job->sum_width = (job->groups + LANES - 1) / LANES * LANES;
    char *memory = aligned_alloc(64, padded * (job->width * size + job->sum_width * 4));
    if (!memory) return -1;
    job->x = memory, job->sums = (float *)(memory + padded * job->width * size);
    memset(memory + job->rows * job->width * size, 0, padded * job->sum_width * 4 + padding * job->width * size);
    for (long m = 0; m < job->rows; m++) {
        char *row = memory + m * job->width * size;
        memset(row + job->in * size, 0, (job->width - job->in) * size);
        if (!job->is_bf16) memcpy(row, (const float *)x + m * job->in, job->in * 4);
        else if (HAS_BF16) memcpy(row, (const uint16_t *)x + m * job->in, job->in * 2);
        else
            for (long k = 0; k < job->in; k++) ((float *)row)[k] = from_bf16(((const uint16_t *)x)[m * job->in + k]);
        for (long g = 0; g < job->groups; g++) {
            v16 total = {0};
            for (long k = g * job->group; k < (g + 1) * job->group; k += LANES)
                if (size == 2) total += from_bf16s((const uint16_t *)row + k);
                else total += *(const v16_at *)((const float *)row + k);
            job->sums[m * job->sum_width + g] = sum(total);
        }
#if HAS_BF16
        if (size == 2 && is_int8) /* the order in which the kernel unpacks weights */
            for (long k = 0; k < job->width; k += CHUNK) {
                const __m512i first = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
                const __m512i last = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
                char *at = row + k * 2;
                __m512i a = _mm512_loadu_si512(at), b = _mm512_loadu_si512(at + 64);
                _mm512_storeu_si512(at, _mm512_permutex2var_epi64(a, first, b));
                _mm512_storeu_si512(at + 64, _mm512_permutex2var_epi64(a, last, b));
            }
#endif
    }
    (void)is_int8;
    return 0;
}

static long chunks(long in) { return (in + CHUNK - 1) / CHUNK * CHUNK; }

/* y [rows, out] = x [rows, in] · weightᵀ, all of one dtype. Returns 0, or -1 where memory is short. */
int labkit_float(void *y, const void *x, const void *weight, long rows, long out, long in, int is_bf16, int threads) {
    Job job = {.y = y, .codes = weight, .rows = rows, .out = out, .in = in, .width = chunks(in), .is_bf16 = is_bf16,
               .span = float_f32_span};
#if HAS_BF16
    if (is_bf16) job.span = float_bf16_span;
#endif
    if (lay_out(&job, x, 0)) return -1;
    share(&job, threads);
    free(job.x);
    return 0;
}

/* y [rows, out] = x [rows, in] · (codes · scale)ᵀ. Returns 0, or -1 where memory is short. */
int labkit_int8(void *y, const void *x, const void *codes, const void *scales, long rows, long out, long in, int is_bf16,
                int threads) {
    Job job = {.y = y, .codes = codes, .scales = scales, .rows = rows, .out = out, .in = in, .width = chunks(in),
               .is_bf16 = is_bf16, .span = int8_f32_span};
#if HAS_BF16
    if (is_bf16) job.span = int8_bf16_span;
#endif
    if (lay_out(&job, x, 1)) return -1;
    share(&job, threads);
    free(job.x);
    return 0;
}

/* y [rows, out] = x [rows, in] · ((codes - 8) · scale + zero)ᵀ. Returns 0, or -1 where memory is short. */
int labkit_int4(void *y, const void *x, const void *codes, const void *scales, const void *zeros, long rows, long out,
                long in, long group, int is_bf16, int threads) {
    Job job = {.y = y, .codes = codes, .scales = scales, .zeros = zeros, .rows = rows, .out = out, .in = in,
               .width = chunks(in), .group = group, .groups = in / group, .is_bf16 = is_bf16, .span = int4_f32_span};
#if HAS_BF16
    if (is_bf16) job.span = int4_bf16_span;
#endif
    if (lay_out(&job, x, 0)) return -1;
    share(&job, threads);
    free(job.x);
    return 0;
}
