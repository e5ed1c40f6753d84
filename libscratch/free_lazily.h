/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place that tells the kernel it may take pages: engine `lazyfree` and purgeable memory.
 */
#ifndef SCRATCH_FREE_LAZILY_H
#define SCRATCH_FREE_LAZILY_H

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

/* Returns 0, or an errno value: EINVAL where the memory is locked or the kernel has no MADV_FREE. */
static inline int scratch_free_lazily(void *address, size_t length) {
    return madvise(address, length, MADV_FREE) ? errno : 0;
}

#endif
