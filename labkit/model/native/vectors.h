/* Sixteen floats at a time, bf16 as numbers, and the threads that torch already has.
 *
 * Vector extensions of GCC and Clang, lowered to whatever the machine has. Threads come from the OpenMP runtime that
 * torch loaded (GOMP_parallel is left undefined here and found there): a second runtime would spin a second pool of
 * threads against the first.
 */
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
