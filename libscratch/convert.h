/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers of one type made out of numbers of another: what a file of big-endian, scaled or quantised
 * numbers takes to be seen as an ordinary array: `source.astype(output)` by NumPy's rules, or scaled,
 * `(source.astype(through) * scale + zero).astype(output)`. It runs on the pager's thread and calls nothing.
 */
#ifndef SCRATCH_CONVERT_H
#define SCRATCH_CONVERT_H

#include "decode.h"
#include "number.h"

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

/* The function for this processor; its user data is a `scratch_conversion`. */
scratch_decode_function scratch_convert_function(void);

/* The variants that it chooses from; they make the same numbers. */
scratch_decode_function scratch_convert_plain(void);
scratch_decode_function scratch_convert_avx2(void);

#endif
