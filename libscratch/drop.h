/* SPDX-License-Identifier: Apache-2.0 */
/* The one place that drops pages. */
#ifndef SCRATCH_DROP_H
#define SCRATCH_DROP_H

#include <errno.h>

#include "range.h"

/* What a drop has given back. */
struct scratch_dropped {
    uint64_t pages; /* of our own, in memory or in swap */
    uint64_t bytes; /* of memory, the source's included */
};
/* MADV_DONTNEED in the form that the range needs, on unpinned runs, and on what they were made of. */
int scratch_drop_locked(struct scratch_range *range, int pagemap, size_t first, size_t end,
                        struct scratch_dropped *ret);

/* Whatever is there, before something is put there; not if any of it is pinned. */
static inline int scratch_discard_pages(struct scratch_range *range, size_t first, size_t pages) {
    size_t start = first, end = first + pages;
    if (scratch_unpinned_run(range, &start, end) != pages)
        return EBUSY;
    size_t page_size = scratch_page_size();
    return madvise(range->address + first * page_size, pages * page_size, MADV_DONTNEED) ? errno : 0;
}

#endif
