/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers of one type made out of numbers of another: what a file of big-endian, scaled or quantised
 * numbers takes to be seen as an ordinary array: `source.astype(output)` by NumPy's rules, or scaled,
 * `(source.astype(through) * scale + zero).astype(output)`. It runs on the pager's thread and calls nothing.
 */
#ifndef SCRATCH_CONVERT_H
#define SCRATCH_CONVERT_H

#include "decode.h"

/*
 * Named as NumPy names them: kind and size in bytes; `f16` and `c32` are long double. Sources only: bf16 and
 * the floats of eight bits, which are named as ml_dtypes names them (f8e4m3fn: float8_e4m3fn). i16, a 128-bit
 * integer, is only on the way.
 */
#define SCRATCH_NUMBERS(NUMBER)                                                                  \
    NUMBER(b1) NUMBER(i1) NUMBER(i2) NUMBER(i4) NUMBER(i8) NUMBER(u1) NUMBER(u2) NUMBER(u4)      \
    NUMBER(u8) NUMBER(f2) NUMBER(f4) NUMBER(f8) NUMBER(f16) NUMBER(i16) NUMBER(c8) NUMBER(c16) NUMBER(c32) \
    NUMBER(bf16) NUMBER(f8e3m4) NUMBER(f8e4m3) NUMBER(f8e5m2) NUMBER(f8e4m3fn)                   \
    NUMBER(f8e4m3fnuz) NUMBER(f8e5m2fnuz) NUMBER(f8e4m3b11fnuz) NUMBER(f8e8m0fnu)

enum scratch_number {
#define SCRATCH_NUMBER_ENUM(NAME) SCRATCH_NUMBER_##NAME,
    SCRATCH_NUMBERS(SCRATCH_NUMBER_ENUM)
#undef SCRATCH_NUMBER_ENUM
    SCRATCH_NUMBER_COUNT
};

/* Followed by `scale_count` scales and as many zeros, of the type `through`. */
struct scratch_conversion {
    _Alignas(16) enum scratch_number source;
    enum scratch_number output;
    enum scratch_number through; /* in which products and sums are made; a real one that holds the source */
    bool source_is_swapped;      /* its bytes are in the order that is not this machine's */
    bool output_is_swapped;
    bool zero_is_point; /* `(source - zero) * scale` instead */
    bool has_blank;     /* what equals `blank` in the source becomes a NaN */
    _Alignas(16) char blank[16]; /* of the source's type, or float if that is widened to it */
    uint64_t block_items;        /* so many items after each other share a scale and a zero */
    uint64_t scale_count;        /* 0: nothing is scaled */
};

const char *scratch_number_name(enum scratch_number number);
size_t scratch_number_size(enum scratch_number number);
/* The function for this processor; its user data is a `scratch_conversion`. */
scratch_decode_function scratch_convert_function(void);

/* The variants that it chooses from; they make the same numbers. */
scratch_decode_function scratch_convert_plain(void);
scratch_decode_function scratch_convert_avx2(void);

#endif
