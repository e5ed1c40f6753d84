/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeping KSM away (Documentation/admin-guide/mm/ksm.rst). A page that it has merged with an equal one is no
 * longer lazily freed, so that it is swapped, and userfaultfd no longer sees a store to it.
 */
#ifndef SCRATCH_MERGING_H
#define SCRATCH_MERGING_H

#include <stdbool.h>
#include <stddef.h>

#include "uapi.h"

/* Also takes merged pages apart; these are ordinary pages then. Fails where the kernel has no KSM. */
static inline void scratch_refuse_merging(void *address, size_t length) {
    madvise(address, length, MADV_UNMERGEABLE);
}

/* Whether all memory of this process is merged. Who says so (prctl, at any time) says it of what exists, too. */
static inline bool scratch_all_is_merged(void) {
    return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1;
}

#endif
