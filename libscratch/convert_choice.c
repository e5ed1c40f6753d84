/* SPDX-License-Identifier: Apache-2.0 */
/* Which variant of convert.c this processor runs. */
#include "convert.h"

scratch_decode_function scratch_convert_function(void) {
#ifdef SCRATCH_HAS_AVX2_VARIANT
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
        return scratch_convert_avx2();
#endif
    return scratch_convert_plain();
}
