/* SPDX-License-Identifier: Apache-2.0 */
#include "vectors.h"

#include <cpuid.h>

#include "system.h"

/* SSE, AVX, bounds and AVX-512: VECTOR_COMPONENTS of entry.S. */
static const unsigned components = 0xee;

__attribute__((visibility("hidden"))) uint32_t vector_save_method = VECTOR_SAVE_LEGACY;

/* Bytes of the area that holds all of our components in the form that is not compacted. */
static unsigned whole_bytes(void) {
    unsigned end = 512 + 64;
    for (unsigned component = 2; component < 8; component++) {
        unsigned size, offset, flags, unused;
        if (!(components & (1u << component)))
            continue;
        __cpuid_count(0xd, component, size, offset, flags, unused);
        if (size && offset + size > end)
            end = offset + size;
    }
    return end;
}

/* Intel SDM volume 1, section 13.2: what CPUID says of XSAVE. */
void vectors_prepare(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return;
    uint32_t method = VECTOR_SAVE_WHOLE;
    __cpuid_count(0xd, 1, a, b, c, d);
    if (a & (1u << 1))
        method = VECTOR_SAVE_COMPACT;
    /* The compacted form is never larger but for padding to 64 bytes, and that fits by far. */
    if (whole_bytes() > VECTOR_STATE_BYTES) {
        system_tell("mapscratch: this processor's vector registers need more room than is known; "
                    "converted libraries can't run here\n");
        system_call(SYS_exit_group, 127, 0, 0, 0, 0, 0);
    }
    __atomic_store_n(&vector_save_method, method, __ATOMIC_RELEASE);
}
