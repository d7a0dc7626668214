/* The kernels that are called from outside, each in the source named above it. All return 0, or -1 where memory is short;
 * `threads` is how many to use at most.
 */
/* products.c */
int labkit_float(void *y, const void *x, const void *weight, long rows, long out, long in, int is_bf16, int threads);
int labkit_int8(void *y, const void *x, const void *codes, const void *scales, long rows, long out, long in, int is_bf16,
                int threads);
int labkit_int4(void *y, const void *x, const void *codes, const void *scales, const void *zeros, long rows, long out,
                long in, long group, int is_bf16, int threads);
/* integers.c */
int labkit_int8_int8(void *y, const void *x, const void *codes, const void *scales, long rows, long out, long in,
                     int is_bf16, int threads);
int labkit_int4_int8(void *y, const void *x, const void *codes, const void *scales, const void *zeros, long rows, long out,
                     long in, long group, int is_bf16, int threads);
/* rows.c */
int labkit_rms_norm(void *y, const void *x, const void *weight, long rows, long width, float eps, int is_bf16,
                    int threads);
int labkit_swiglu(void *y, const void *x, long rows, long width, int is_bf16, int threads);
int labkit_add(void *y, const void *x, const void *z, long rows, long width, long step, int is_bf16, int threads);
int labkit_rotate(void *x, const void *cos, const void *sin, long rows, long tokens, long turn, long stride, long heads,
                  long width, int is_bf16, int threads);
/* attention.c */
int labkit_attend(void *y, const void *qkv, const void *cos, const void *sin, void *keys, void *values, void *key_scales,
                  void *value_scales, const void *tables, const void *lengths, long batch, long heads, long kv_heads,
                  long width, long blocks, long block, long columns, long window, long turn, int is_bf16, int threads);
/* recurrence.c */
int labkit_recur(void *y, const void *ids, const void *inputs, const void *scales, const void *recurrent,
                 const void *bias, long batch, long tokens, long hidden, long cell, long is_table, int format,
                 int threads);
/* largest.c */
int labkit_largest(void *values, void *positions, const void *scores, long rows, long n, long k, int threads);
