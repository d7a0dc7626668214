/* Replay: kernels called one after the other with arguments that were recorded before, so that a whole step costs one call
 * from outside. What CUDA calls a graph, for a processor.
 */
#include "kernels.h"

enum kernel { FLOAT, INT8, INT4, INT8_INT8, INT4_INT8, RMS_NORM, SWIGLU, ADD, ROTATE, ATTEND, RECUR, LARGEST };

typedef union Word {
    void *p;
    long n;
    double f;
} Word;

typedef struct Call {
    long kernel;
    Word args[20];
} Call;

#define P(i) a[i].p
#define N(i) a[i].n

static int replayed(const Call *call, int threads) {
    const Word *a = call->args;
    switch ((enum kernel)call->kernel) {
    case FLOAT: return labkit_float(P(0), P(1), P(2), N(3), N(4), N(5), (int)N(6), threads);
    case INT8: return labkit_int8(P(0), P(1), P(2), P(3), N(4), N(5), N(6), (int)N(7), threads);
    case INT4: return labkit_int4(P(0), P(1), P(2), P(3), P(4), N(5), N(6), N(7), N(8), (int)N(9), threads);
    case INT8_INT8: return labkit_int8_int8(P(0), P(1), P(2), P(3), N(4), N(5), N(6), (int)N(7), threads);
    case INT4_INT8: return labkit_int4_int8(P(0), P(1), P(2), P(3), P(4), N(5), N(6), N(7), N(8), (int)N(9), threads);
    case RMS_NORM: return labkit_rms_norm(P(0), P(1), P(2), N(3), N(4), (float)a[5].f, (int)N(6), threads);
    case SWIGLU: return labkit_swiglu(P(0), P(1), N(2), N(3), (int)N(4), threads);
    case ADD: return labkit_add(P(0), P(1), P(2), N(3), N(4), N(5), (int)N(6), threads);
    case ROTATE: return labkit_rotate(P(0), P(1), P(2), N(3), N(4), N(5), N(6), N(7), N(8), (int)N(9), threads);
    case ATTEND:
        return labkit_attend(P(0), P(1), P(2), P(3), P(4), P(5), P(6), P(7), P(8), P(9), N(10), N(11), N(12), N(13), N(14),
                             N(15), N(16), N(17), N(18), (int)N(19), threads);
    case RECUR:
        return labkit_recur(P(0), P(1), P(2), P(3), P(4), P(5), N(6), N(7), N(8), N(9), N(10), (int)N(11), threads);
    case LARGEST: return labkit_largest(P(0), P(1), P(2), N(3), N(4), N(5), threads);
    }
    return -1;
}

/* Returns 0, or -1 where memory is short. */
int labkit_replay(const Call *calls, long num, int threads) {
    for (long i = 0; i < num; i++)
        if (replayed(calls + i, threads)) return -1;
    return 0;
}
