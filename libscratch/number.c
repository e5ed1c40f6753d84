/* SPDX-License-Identifier: Apache-2.0 */
/* What numbers there are, and which variant of convert.c this processor runs. */
#include "convert.h"

const char *scratch_number_name(enum scratch_number number) {
#define NAME_ENTRY(NAME) #NAME,
    static const char *const names[] = {SCRATCH_NUMBERS(NAME_ENTRY)};
    return names[number];
}

size_t scratch_number_size(enum scratch_number number) {
    static const uint8_t sizes[SCRATCH_NUMBER_COUNT] = {
        [SCRATCH_NUMBER_b1] = 1,   [SCRATCH_NUMBER_i1] = 1,   [SCRATCH_NUMBER_i2] = 2,
        [SCRATCH_NUMBER_i4] = 4,   [SCRATCH_NUMBER_i8] = 8,   [SCRATCH_NUMBER_u1] = 1,
        [SCRATCH_NUMBER_u2] = 2,   [SCRATCH_NUMBER_u4] = 4,   [SCRATCH_NUMBER_u8] = 8,
        [SCRATCH_NUMBER_f2] = 2,   [SCRATCH_NUMBER_f4] = 4,   [SCRATCH_NUMBER_f8] = 8,
        [SCRATCH_NUMBER_f16] = 16, [SCRATCH_NUMBER_bf16] = 2, [SCRATCH_NUMBER_c8] = 8,
        [SCRATCH_NUMBER_i16] = 16, [SCRATCH_NUMBER_c16] = 16, [SCRATCH_NUMBER_c32] = 32,
        [SCRATCH_NUMBER_f8e3m4] = 1,        [SCRATCH_NUMBER_f8e4m3] = 1,
        [SCRATCH_NUMBER_f8e5m2] = 1,        [SCRATCH_NUMBER_f8e4m3fn] = 1,
        [SCRATCH_NUMBER_f8e4m3fnuz] = 1,    [SCRATCH_NUMBER_f8e5m2fnuz] = 1,
        [SCRATCH_NUMBER_f8e4m3b11fnuz] = 1, [SCRATCH_NUMBER_f8e8m0fnu] = 1,
    };
    return sizes[number];
}

scratch_decode_function scratch_convert_function(void) {
#ifdef SCRATCH_HAS_AVX2_VARIANT
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
        return scratch_convert_avx2();
#endif
    return scratch_convert_plain();
}
