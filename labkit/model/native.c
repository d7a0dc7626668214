/* Products with quantized weights for few rows of activations, where reading the weights is the work.
 *
 * Weights only are integers: activations stay bf16 or fp32 and sums are fp32. A small block of activation rows (M) meets
 * a small block of weight rows (N), so each weight is read from memory and unpacked once. Two ways to the same numbers:
 *   bf16  integers become bf16, exactly (they have at most 8 bits), and vdpbf16ps multiplies pairs; AVX-512 only
 *   f32   vector extensions of GCC and Clang, lowered to whatever the machine has
 *
 * Layouts: int8 codes [out, in] row by row. int4 in 16 bytes for 32 weights: byte j holds weight j in its low half
 * and weight j + 16 in its high half, so unpacking takes a mask and a shift and no shuffle; rows are padded to 64. Scales and zeros are bf16, [out] or [out, in / group].
 *
 * Threads come from the OpenMP runtime that torch already loaded (GOMP_parallel is left undefined here and found there):
 * a second runtime would spin a second pool of threads against the first.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif

extern void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags);
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);

/* AHEAD: bytes between a read and its prefetch into L2; nearer ones, or into L1, reach half of the bandwidth */
enum { AHEAD = 8192, CHUNK = 64, HALF = 32, LANES = 16, MAX_M = 8, MAX_N = 4, MIN_WEIGHTS_PER_THREAD = 1 << 16 };
#define INLINE static inline __attribute__((always_inline))
#define UNALIGNED aligned(1), may_alias

typedef float v16 __attribute__((vector_size(64)));
typedef float v16_at __attribute__((vector_size(64), UNALIGNED));
typedef uint32_t u16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x16_at __attribute__((vector_size(32), UNALIGNED));
typedef int8_t i16x8 __attribute__((vector_size(16)));
typedef int8_t i16x8_at __attribute__((vector_size(16), UNALIGNED));
typedef uint8_t b16x8 __attribute__((vector_size(16)));
typedef uint8_t b16x8_at __attribute__((vector_size(16), UNALIGNED));

typedef struct Job {
    void *y;
    void *x;           /* [rows + padding, width] bf16 or fp32, zeros in the padding */
    float *sums;       /* [rows + padding, sum_width] of each group of x; int4 only */
    const uint8_t *codes;
    const uint16_t *scales, *zeros;
    long rows, out, in, width, group, groups, sum_width;
    int is_bf16;       /* dtype of y */
    void (*span)(const struct Job *, long first, long last);
} Job;

INLINE float from_bf16(uint16_t bits) {
    union { uint32_t u; float f; } value = {.u = (uint32_t)bits << 16};
    return value.f;
}

INLINE v16 from_bf16s(const uint16_t *bits) {
    return (v16)(__builtin_convertvector(*(const u16x16_at *)bits, u16x32) << 16);
}

INLINE uint16_t to_bf16(float number) {
    union { float f; uint32_t u; } value = {.f = number};
    if (number != number) return (uint16_t)(value.u >> 16) | 0x40;
    return (uint16_t)((value.u + 0x7fff + (value.u >> 16 & 1)) >> 16);
}

INLINE float sum(v16 v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) v[i] += v[i + step];
    return v[0];
#endif
}

INLINE void store(const Job *job, long m, long n, float value) {
    if (m >= job->rows) return;
    if (job->is_bf16) ((uint16_t *)job->y)[m * job->out + n] = to_bf16(value);
    else ((float *)job->y)[m * job->out + n] = value;
}

/* Each factor for 32 weights, as fp32; 0 for the padded half of the last chunk. */
INLINE void expand(const Job *job, const uint16_t *factors, float *into) {
    long repeats = job->group / HALF, halves = job->width / HALF;
    into[halves - 1] = 0;
    if (repeats == 1)
        for (long g = 0; g < job->groups; g++) into[g] = from_bf16(factors[g]);
    else
        for (long g = 0; g < job->groups; g++)
            for (long i = 0; i < repeats; i++) into[g * repeats + i] = from_bf16(factors[g]);
}

/* ---- fp32 ---- */

INLINE void int8_f32(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M][MAX_N];
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) total[i][r] = (v16){0};
    const int8_t *codes = (const int8_t *)job->codes + n * job->in;
    const float *x = (const float *)job->x + m * job->width;
    for (long k = 0; k < job->in; k += LANES)
        for (int r = 0; r < N; r++) {
            i16x8 code = {0};
            if (k + LANES <= job->in) code = *(const i16x8_at *)(codes + r * job->in + k);
            else memcpy(&code, codes + r * job->in + k, job->in - k);
            v16 weight = __builtin_convertvector(code, v16);
            for (int i = 0; i < M; i++) total[i][r] += weight * *(const v16_at *)(x + i * job->width + k);
        }
    for (int r = 0; r < N; r++)
        for (int i = 0; i < M; i++) store(job, m + i, n + r, sum(total[i][r]) * from_bf16(job->scales[n + r]));
}

/* 16 int4 codes from weight k on, less 8. */
INLINE v16 codes4(const uint8_t *codes, long k) {
    b16x8 pairs = *(const b16x8_at *)(codes + k / HALF * LANES);
    return __builtin_convertvector((i16x8)(k % HALF ? pairs >> 4 : pairs & 15) - 8, v16);
}

INLINE void int4_f32(const Job *job, long n, long m, const int M, const int N) {
    float scales[job->width / HALF];
    const float *x = (const float *)job->x + m * job->width;
    for (int r = 0; r < N; r++) {
        v16 total[MAX_M];
        for (int i = 0; i < M; i++) total[i] = (v16){0};
        expand(job, job->scales + (n + r) * job->groups, scales);
        const uint8_t *codes = job->codes + (n + r) * job->width / 2;
        for (long k = 0; k < job->width; k += LANES) {
            v16 weight = codes4(codes, k) * scales[k / HALF];
            for (int i = 0; i < M; i++) total[i] += weight * *(const v16_at *)(x + i * job->width + k);
        }
        const uint16_t *zeros = job->zeros + (n + r) * job->groups;
        for (int i = 0; i < M; i++) {
            float offset = 0;
            for (long g = 0; g < job->groups; g++) offset += from_bf16(zeros[g]) * job->sums[(m + i) * job->sum_width + g];
            store(job, m + i, n + r, sum(total[i]) + offset);
        }
    }
}

/* ---- bf16 ---- */
#if HAS_BF16

static uint8_t low_bytes[128], high_bytes[128]; /* of the bf16 of 0 … 127 */
static uint16_t nibbles[32];                    /* bf16 of -8 … 7, twice: the look-up takes 5 bits */

__attribute__((constructor)) static void fill_tables(void) {
    for (int i = 0; i < 128; i++) low_bytes[i] = to_bf16(i) & 255, high_bytes[i] = to_bf16(i) >> 8;
    for (int i = 0; i < 32; i++) nibbles[i] = to_bf16(i % 16 - 8);
}

INLINE __m512 widened(const uint16_t *from, long count) {
    __mmask16 mask = count >= LANES ? 0xffff : count > 0 ? (1u << count) - 1 : 0;
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

INLINE void int8_bf16(const Job *job, long n, long m, const int M, const int N) {
    __m512 total[MAX_M][MAX_N];
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) total[i][r] = _mm512_setzero_ps();
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
                total[i][r] = _mm512_dpbf16_ps(total[i][r], (__m512bh)x0, (__m512bh)even[r]);
                total[i][r] = _mm512_dpbf16_ps(total[i][r], (__m512bh)x1, (__m512bh)odd[r]);
            }
        }
    }
    for (int r = 0; r < N; r++)
        for (int i = 0; i < M; i++)
            store(job, m + i, n + r, _mm512_reduce_add_ps(total[i][r]) * from_bf16(job->scales[n + r]));
}

INLINE void int4_bf16(const Job *job, long n, long m, const int M, const int N) {
    long halves = job->width / HALF;
    float scales[MAX_N][halves + LANES];
    __m512 total[MAX_M][MAX_N];
    const __m512i table = _mm512_loadu_si512(nibbles);
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const uint8_t *codes = job->codes + n * job->width / 2;
    const uint16_t *x = (const uint16_t *)job->x + m * job->width;
    for (int r = 0; r < N; r++) {
        const uint16_t *from = job->scales + (n + r) * job->groups;
        if (job->group == HALF)
            for (long g = 0; g < halves; g += LANES) _mm512_storeu_ps(scales[r] + g, widened(from + g, job->groups - g));
        else expand(job, from, scales[r]);
        for (int i = 0; i < M; i++) total[i][r] = _mm512_setzero_ps();
    }
    for (long k = 0; k < job->width; k += CHUNK) {
        __m512i low[MAX_N], high[MAX_N]; /* the first and the last 16 of two halves; x lies in the same order */
        __m512 scale[MAX_N];
        for (int r = 0; r < N; r++) {
            const uint8_t *at = codes + (r * job->width + k) / 2;
            _mm_prefetch((const char *)(at + AHEAD), _MM_HINT_T1);
            __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)at));
            low[r] = _mm512_permutexvar_epi16(pairs, table);
            high[r] = _mm512_permutexvar_epi16(_mm512_srli_epi16(pairs, 4), table);
            double both; /* two scales, eight lanes each */
            memcpy(&both, &scales[r][k / HALF], sizeof both);
            scale[r] = _mm512_permutexvar_ps(spread, _mm512_castpd_ps(_mm512_set1_pd(both)));
        }
        for (int i = 0; i < M; i++) {
            __m512i x0 = _mm512_loadu_si512(x + i * job->width + k), x1 = _mm512_loadu_si512(x + i * job->width + k + HALF);
            for (int r = 0; r < N; r++) {
                __m512 part = _mm512_dpbf16_ps(_mm512_setzero_ps(), (__m512bh)x0, (__m512bh)low[r]);
                part = _mm512_dpbf16_ps(part, (__m512bh)x1, (__m512bh)high[r]);
                total[i][r] = _mm512_fmadd_ps(part, scale[r], total[i][r]);
            }
        }
    }
    for (int r = 0; r < N; r++)
        for (long g = 0; g < job->groups; g += LANES) {
            __m512 zeros = widened(job->zeros + (n + r) * job->groups + g, job->groups - g);
            for (int i = 0; i < M; i++) {
                __m512 sums = _mm512_loadu_ps(job->sums + (m + i) * job->sum_width + g);
                total[i][r] = _mm512_fmadd_ps(zeros, sums, total[i][r]);
            }
        }
    for (int r = 0; r < N; r++)
        for (int i = 0; i < M; i++) store(job, m + i, n + r, _mm512_reduce_add_ps(total[i][r]));
}
#endif

/* ---- all rows of some outputs ---- */

#define ROWS(kernel, job, n, N)                                             \
    for (long m = 0, left; (left = (job)->rows - m) > 0;) {                 \
        if (left > 4) kernel(job, n, m, 8, N), m += 8;                      \
        else if (left > 2) kernel(job, n, m, 4, N), m += 4;                 \
        else if (left > 1) kernel(job, n, m, 2, N), m += 2;                 \
        else kernel(job, n, m, 1, N), m += 1;                               \
    }
#define SPAN(kernel)                                                        \
    static void kernel##_span(const Job *job, long first, long last) {      \
        long n = first;                                                     \
        if (job->rows == 1)                                                 \
            for (; n + 4 <= last; n += 4) kernel(job, n, 0, 1, 4);          \
        for (; n + 2 <= last; n += 2) ROWS(kernel, job, n, 2)               \
        for (; n < last; n++) ROWS(kernel, job, n, 1)                       \
    }
SPAN(int8_f32)
SPAN(int4_f32)
#if HAS_BF16
SPAN(int8_bf16)
SPAN(int4_bf16)
#endif

static void unpack_span(const Job *job, long first, long last) {
    float scales[job->width / HALF], zeros[job->width / HALF];
    for (long n = first; n < last; n++) {
        expand(job, job->scales + n * job->groups, scales);
        expand(job, job->zeros + n * job->groups, zeros);
        uint16_t *y = (uint16_t *)job->y + n * job->in;
        for (long k = 0; k < job->in; k += LANES) {
            v16 weight = codes4(job->codes + n * job->width / 2, k);
            u16x32 bits = (u16x32)(weight * scales[k / HALF] + zeros[k / HALF]);
            *(u16x16_at *)(y + k) = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, u16x16_at);
        }
    }
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
        if (size == 2) /* the order in which the kernels unpack weights */
            for (long k = 0; k < job->width; k += CHUNK) {
                const __m512i first = is_int8 ? _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13)
                                              : _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 10, 11);
                const __m512i last = _mm512_add_epi64(first, _mm512_set1_epi64(is_int8 ? 2 : 4));
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

/* weight [out, in] bf16 = (codes - 8) · scale + zero. */
void labkit_unpack4(void *weight, const void *codes, const void *scales, const void *zeros, long out, long in,
                    long group, int threads) {
    Job job = {.y = weight, .codes = codes, .scales = scales, .zeros = zeros, .out = out, .in = in, .width = chunks(in),
               .group = group, .groups = in / group, .span = unpack_span};
    share(&job, threads);
}
