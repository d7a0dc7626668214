/* Products of activations rounded to 8 bits with integer weights: sums of whole numbers are exact, and scales come last.
 *
 * Each row of x is rounded to -127 … 127 by a scale of its own. Weights are unsigned bytes, as vpdpbusd takes them, which
 * multiplies four neighbours by four signed bytes and adds them up; elsewhere plain vectors do the same.
 *
 * Layouts, in blocks of 16 rows, a lane for each: 64 bytes hold columns k … k + 3 of codes + 128 (8 bits), or in their low
 * halves columns k … k + 3 and in their high halves k + 4 … k + 7 (4 bits). Scales of 8 bits are bf16 [out / 16, 16]; scales
 * and zeros of 4 bits are bf16 [out / 16, in / group, 16]. The last block is padded.
 */
#include <math.h>
#include "kernels.h"
#include "product.h"

typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef uint8_t u8x64_at __attribute__((vector_size(64), UNALIGNED));
typedef int8_t i8x16_at __attribute__((vector_size(16), UNALIGNED));

/* Each lane's four weights times the four activations at x, added to its total. */
INLINE i32x16 with_four(i32x16 total, u8x64 weights, const int8_t *x) {
#ifdef __AVX512VNNI__
    int32_t four;
    memcpy(&four, x, sizeof four);
    return (i32x16)_mm512_dpbusd_epi32((__m512i)total, (__m512i)weights, _mm512_set1_epi32(four));
#else
    for (int c = 0; c < 4; c++) total += (i32x16)((u32x16)weights >> (8 * c) & 255) * x[c];
    return total;
#endif
}

INLINE void int8_int8(const Job *job, long n, long m, const int M, const int N) {
    i32x16 total[MAX_M][MAX_N];
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) total[i][r] = (i32x16){0};
    const int8_t *x = (const int8_t *)job->x + m * job->width;
    for (long k = 0; k < job->width; k += 4)
        for (int r = 0; r < N; r++) {
            const uint8_t *at = job->codes + (n + r * LANES) * job->width + k * LANES;
            __builtin_prefetch(at + AHEAD, 0, 2);
            u8x64 weights = *(const u8x64_at *)at;
            for (int i = 0; i < M; i++) total[i][r] = with_four(total[i][r], weights, x + i * job->width + k);
        }
    for (int r = 0; r < N; r++)
        for (int i = 0; i < M; i++) {
            v16 value = __builtin_convertvector(total[i][r], v16) - 128 * job->sums[m + i];
            store_block(job, m + i, n + r * LANES, value * from_bf16s(job->scales + n + r * LANES) * job->x_scales[m + i]);
        }
}

INLINE void int4_int8(const Job *job, long n, long m, const int M, const int N) {
    v16 total[MAX_M][MAX_N];
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) total[i][r] = (v16){0};
    const int8_t *x = (const int8_t *)job->x + m * job->width;
    for (long g = 0; g < job->groups; g++) {
        i32x16 part[MAX_M][MAX_N];
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++) part[i][r] = (i32x16){0};
        for (long k = g * job->group; k < (g + 1) * job->group; k += 8)
            for (int r = 0; r < N; r++) {
                const uint8_t *at = job->codes + (n + r * LANES) * job->in / 2 + k * LANES / 2;
                __builtin_prefetch(at + AHEAD, 0, 2);
                u8x64 both = *(const u8x64_at *)at, low = both & 15, high = both >> 4;
                for (int i = 0; i < M; i++) {
                    part[i][r] = with_four(part[i][r], low, x + i * job->width + k);
                    part[i][r] = with_four(part[i][r], high, x + i * job->width + k + 4);
                }
            }
        for (int i = 0; i < M; i++)
            for (int r = 0; r < N; r++) {
                v16 sum_of_codes = __builtin_convertvector(part[i][r], v16);
                v16 centred = sum_of_codes - 8 * job->sums[(m + i) * job->sum_width + g];
                total[i][r] = with_group(job, m + i, n / LANES + r, g, total[i][r], centred);
            }
    }
    for (int i = 0; i < M; i++)
        for (int r = 0; r < N; r++) store_block(job, m + i, n + r * LANES, total[i][r] * job->x_scales[m + i]);
}

SPAN(int8_int8, LANES, 2)
SPAN(int4_int8, LANES, 1)

/* Rounds row m of x to y, and sums each group of it. What is no number makes the row's scale none, and so its outputs. */
INLINE void round_row(const Job *job, const void *x, long m, int8_t *y, const int is_bf16) {
    long size = is_bf16 ? 2 : 4, k = 0;
    const void *row = (const char *)x + m * job->in * size;
    v16 largest = {0}, poison = {0};
    float most = 0, spoilt = 0;
    for (; k + LANES <= job->in; k += LANES) {
        v16 value = floats(row, k, is_bf16), magnitude = (v16)((u32x16)value & 0x7fffffff);
        i32x16 is_larger = magnitude > largest;
        largest = (v16)(((i32x16)magnitude & is_larger) | ((i32x16)largest & ~is_larger));
        poison += value * 0;
    }
    for (int lane = 0; lane < LANES; lane++) most = largest[lane] > most ? largest[lane] : most;
    spoilt = sum(poison);
    for (long rest = k; rest < job->in; rest++) {
        float value = is_bf16 ? from_bf16(((const uint16_t *)row)[rest]) : ((const float *)row)[rest];
        most = fabsf(value) > most ? fabsf(value) : most;
        spoilt += value * 0;
    }
    float inverse = most > 0 && most <= 3.4e38f ? 127 / most : 0;
    job->x_scales[m] = most / 127 + spoilt;
    for (k = 0; k + LANES <= job->in; k += LANES) { /* adding 1.5 · 2^23 leaves the whole number in the low bits */
        i32x16 bits = (i32x16)(floats(row, k, is_bf16) * inverse + 12582912.0f);
        *(i8x16_at *)(y + k) = __builtin_convertvector(bits - 0x4b400000, i8x16_at);
    }
    for (; k < job->in; k++) {
        float value = is_bf16 ? from_bf16(((const uint16_t *)row)[k]) : ((const float *)row)[k];
        y[k] = (int8_t)lrintf(value == value ? value * inverse : 0);
    }
    for (; k < job->width; k++) y[k] = 0;
    for (long g = 0; g < job->groups; g++) {
        int32_t total = 0;
        for (long at = g * job->group; at < (g + 1) * job->group; at++) total += y[at];
        job->sums[m * job->sum_width + g] = total;
    }
}

static int multiply(Job *job, const void *x, long threads) {
    long padded = job->rows + 8; /* blocks of rows may reach beyond the last, see ROWS */
    long x_bytes = (padded * job->width + 63) / 64 * 64, sums_bytes = padded * job->sum_width * 4;
    char *memory = aligned_alloc(64, (x_bytes + sums_bytes + padded * 4 + 63) / 64 * 64);
    if (!memory) return -1;
    job->x = memory, job->sums = (float *)(memory + x_bytes), job->x_scales = (float *)(memory + x_bytes + sums_bytes);
    memset(memory + job->rows * job->width, 0, 8 * job->width);
    memset(job->sums + job->rows * job->sum_width, 0, 8 * job->sum_width * 4);
    memset(job->x_scales + job->rows, 0, 8 * 4);
    for (long m = 0; m < job->rows; m++)
        if (job->is_bf16) round_row(job, x, m, (int8_t *)job->x + m * job->width, 1);
        else round_row(job, x, m, (int8_t *)job->x + m * job->width, 0);
    share(job, threads);
    free(memory);
    return 0;
}

/* y [rows, out] = rounded x [rows, in] · (codes · scale)ᵀ. Returns 0, or -1 where memory is short. */
int labkit_int8_int8(void *y, const void *x, const void *codes, const void *scales, long rows, long out, long in,
                     int is_bf16, int threads) {
    long width = (in + 3) / 4 * 4;
    Job job = {.y = y, .codes = codes, .scales = scales, .rows = rows, .out = out, .in = in, .width = width, .group = width,
               .groups = 1, .sum_width = 1, .is_bf16 = is_bf16, .span = int8_int8_span};
    return multiply(&job, x, threads);
}

/* y [rows, out] = rounded x [rows, in] · ((codes - 8) · scale + zero)ᵀ. Returns 0, or -1 where memory is short. */
int labkit_int4_int8(void *y, const void *x, const void *codes, const void *scales, const void *zeros, long rows, long out,
                     long in, long group, int is_bf16, int threads) {
    Job job = {.y = y, .codes = codes, .scales = scales, .zeros = zeros, .rows = rows, .out = out, .in = in, .width = in,
               .group = group, .groups = in / group, .sum_width = in / group, .is_bf16 = is_bf16, .span = int4_int8_span};
    return multiply(&job, x, threads);
}
