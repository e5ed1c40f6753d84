/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place that tells the kernel it may take pages: engine `lazyfree` and purgeable memory.
 *
 * MADV_FREE makes a page droppable in two steps: the processor notes it in a batch, and moves the
 * batch to the lists of reclaim when it is full, or when its next MADV_FREE begins. Until then
 * reclaim on another processor takes the page for an ordinary one and swaps it. So before the pager
 * wakes who waits for a page, sleeps, or answers that pages are armed, it begins one more: on a page
 * of its own that is never touched.
 */
#ifndef SCRATCH_FREE_LAZILY_H
#define SCRATCH_FREE_LAZILY_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/uio.h>

/* Returns 0, or an errno value: EINVAL where the memory is locked or the kernel has no MADV_FREE. */
static inline int scratch_free_lazily(void *address, size_t length) {
    return madvise(address, length, MADV_FREE) ? errno : 0;
}

/* Several at once, which costs less. False: where the kernel can't (before Linux 6.15), or one failed. */
bool scratch_free_all_lazily(const struct iovec *places, size_t count);

/* On the pager's thread: the same from the next `scratch_drain_frees` on, by reclaim on any processor. */
void scratch_free_by_batch(void *address, size_t length);
void scratch_drain_frees(void);

#endif
