/* Sixteen floats at a time, bf16 as numbers, e^x, and the threads that torch already has.
 *
 * Vector extensions of GCC and Clang, lowered to whatever the machine has. Threads come from the OpenMP runtime that
 * torch loaded (GOMP_parallel is left undefined here and found there): a second runtime would spin a second pool of
 * threads against the first.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

extern void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags);
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);

enum { LANES = 16 };
#define INLINE static inline __attribute__((always_inline))
#define UNALIGNED aligned(1), may_alias

typedef float v16 __attribute__((vector_size(64)));
typedef float v16_at __attribute__((vector_size(64), UNALIGNED));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16_at __attribute__((vector_size(32), UNALIGNED));

INLINE float from_bf16(uint16_t bits) {
    union { uint32_t u; float f; } value = {.u = (uint32_t)bits << 16};
    return value.f;
}

INLINE v16 from_bf16s(const uint16_t *bits) {
    return (v16)(__builtin_convertvector(*(const u16x16_at *)bits, u32x16) << 16);
}

/* LANES numbers from index k on, of bf16 or of fp32. */
INLINE v16 floats(const void *from, long k, int is_bf16) {
    if (is_bf16) return from_bf16s((const uint16_t *)from + k);
    return *(const v16_at *)((const float *)from + k);
}

INLINE uint16_t to_bf16(float number) {
    union { float f; uint32_t u; } value = {.f = number};
    if (number != number) return (uint16_t)(value.u >> 16) | 0x40;
    return (uint16_t)((value.u + 0x7fff + (value.u >> 16 & 1)) >> 16);
}

/* LANES numbers, rounded to nearest; NaNs as arithmetic makes them stay NaN. */
INLINE void to_bf16s(uint16_t *to, v16 numbers) {
    u32x16 bits = (u32x16)numbers;
    *(u16x16_at *)to = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, u16x16_at);
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

/* The sum of each of LANES vectors, in a third of the steps that they take one by one: what two have to add up is added
 * crosswise, then what four have, until a lane is left for each. */
INLINE v16 sums(const v16 *v) {
#ifdef __AVX512F__
    __m512 pairs[8], fours[4];
    for (int i = 0; i < 8; i++) {
        __m512 a = (__m512)v[2 * i], b = (__m512)v[2 * i + 1];
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; i++) {
        __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
        fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    __m512 first = _mm512_add_ps(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88), _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd));
    __m512 last = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2], fours[3], 0x88), _mm512_shuffle_f32x4(fours[2], fours[3], 0xdd));
    return (v16)_mm512_add_ps(_mm512_shuffle_f32x4(first, last, 0x88), _mm512_shuffle_f32x4(first, last, 0xdd));
#else
    v16 all;
    for (int i = 0; i < LANES; i++) all[i] = sum(v[i]);
    return all;
#endif
}

INLINE void put(void *to, long k, int is_bf16, float value) {
    if (is_bf16) ((uint16_t *)to)[k] = to_bf16(value);
    else ((float *)to)[k] = value;
}

INLINE float get(const void *from, long k, int is_bf16) {
    return is_bf16 ? from_bf16(((const uint16_t *)from)[k]) : ((const float *)from)[k];
}

INLINE v16 chosen(i32x16 is_first, v16 first, v16 second) {
    return (v16)(((i32x16)first & is_first) | ((i32x16)second & ~is_first));
}

/* e^x within 2 ulp, x held within -87 … 88: 2^n times a polynomial on the rest (Cephes expf, Moshier 1989). */
INLINE v16 exps(v16 x) {
    x = chosen(x < -87.0f, (v16){0} - 87.0f, x);
    x = chosen(x > 88.0f, (v16){0} + 88.0f, x);
    v16 n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* adding 1.5 · 2^23 rounds to whole numbers */
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    v16 p = x * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    return (v16)((i32x16)p + (__builtin_convertvector(n, i32x16) << 23));
}
