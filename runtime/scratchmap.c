/* SPDX-License-Identifier: Apache-2.0 */
#include "scratchmap.h"

#include "system.h"
#include "uapi.h"

static bool can_map(int flags, int file) {
    void *page = system_map(NULL, 4096, PROT_READ, flags, file, 0);
    if (is_failure(page))
        return false;
    system_unmap(page, 4096);
    return true;
}

/*
 * The number is a map type that stock kernels refuse. One that only tests bits would take it for a
 * kind of MAP_PRIVATE, and would take it without a file too, where MAP_SCRATCH is refused.
 */
bool scratchmap_works(int file) {
    enum { UNKNOWN, YES, NO };
    static int answer;
    int known = __atomic_load_n(&answer, __ATOMIC_RELAXED);
    if (known == UNKNOWN) {
        bool works = can_map(MAP_SCRATCH, file) && !can_map(MAP_SCRATCH | MAP_ANONYMOUS, -1);
        known = works ? YES : NO;
        __atomic_store_n(&answer, known, __ATOMIC_RELAXED);
    }
    return known == YES;
}

bool scratchmap_text(uintptr_t first, uintptr_t end, int file, uint64_t offset, bool as_scratch) {
    int flags = (as_scratch ? MAP_SCRATCH : MAP_PRIVATE) | MAP_FIXED;
    return !is_failure(
        system_map((void *)first, end - first, PROT_READ | PROT_EXEC, flags, file, offset));
}
