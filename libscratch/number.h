/* SPDX-License-Identifier: Apache-2.0 */
/* What numbers there are. */
#ifndef SCRATCH_NUMBER_H
#define SCRATCH_NUMBER_H

#include <stddef.h>

/*
 * Named as NumPy names them: kind and size in bytes; `f16` and `c32` are long double. Sources only: bf16 and
 * the floats of eight bits, which are named as ml_dtypes names them (f8e4m3fn: float8_e4m3fn). i16, a 128-bit
 * integer, is only on the way. With the size of one in bytes.
 */
#define SCRATCH_NUMBERS(NUMBER)                                                                  \
    NUMBER(b1, 1) NUMBER(i1, 1) NUMBER(i2, 2) NUMBER(i4, 4) NUMBER(i8, 8) NUMBER(u1, 1)          \
    NUMBER(u2, 2) NUMBER(u4, 4) NUMBER(u8, 8) NUMBER(f2, 2) NUMBER(f4, 4) NUMBER(f8, 8)          \
    NUMBER(f16, 16) NUMBER(i16, 16) NUMBER(c8, 8) NUMBER(c16, 16) NUMBER(c32, 32)                \
    NUMBER(bf16, 2) NUMBER(f8e3m4, 1) NUMBER(f8e4m3, 1) NUMBER(f8e5m2, 1)                        \
    NUMBER(f8e4m3fn, 1) NUMBER(f8e4m3fnuz, 1) NUMBER(f8e5m2fnuz, 1) NUMBER(f8e4m3b11fnuz, 1)     \
    NUMBER(f8e8m0fnu, 1)

enum scratch_number {
#define SCRATCH_NUMBER_ENUM(NAME, SIZE) SCRATCH_NUMBER_##NAME,
    SCRATCH_NUMBERS(SCRATCH_NUMBER_ENUM)
#undef SCRATCH_NUMBER_ENUM
    SCRATCH_NUMBER_COUNT
};

const char *scratch_number_name(enum scratch_number number);
size_t scratch_number_size(enum scratch_number number);

#endif
