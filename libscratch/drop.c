/* SPDX-License-Identifier: Apache-2.0 */
#include "drop.h"

#include "check.h"
#include "raw.h"
#include "uapi.h"

/* Memory may be locked by us (on fault) or by the application (mlockall); dropping it is right. */
static int dontneed(struct scratch_range *range, size_t first, size_t pages) {
    size_t page_size = scratch_page_size();
    unsigned char *address = range->address + first * page_size;
    if (!madvise(address, pages * page_size, MADV_DONTNEED_LOCKED) ||
        (errno == EINVAL && !madvise(address, pages * page_size, MADV_DONTNEED)))
        return 0;
    if (errno != EINVAL)
        return errno;
    /* Locked, before Linux 5.18: unlock, drop, and lock again what was locked by us. */
    if (raw_munlock(address, pages * page_size) || madvise(address, pages * page_size, MADV_DONTNEED))
        return errno;
    bool was_locked = first * page_size < range->lock_length;
    return was_locked && raw_mlock_on_fault(address, pages * page_size) ? errno : 0;
}

/* The source's pages that some of ours are made of, in whole. */
static unsigned char *source_pages(const struct scratch_range *range, size_t first, size_t end,
                                   size_t *ret_length) {
    size_t page_size = scratch_page_size();
    size_t from, to;
    scratch_source_of(range, first, end, &from, &to);
    from = (range->source_skip + from) & ~(page_size - 1);
    to = (range->source_skip + to + page_size - 1) & ~(page_size - 1);
    *ret_length = to - from;
    return (unsigned char *)range->source + from;
}

/* Those that are mapped now; where holes cost as much as pages, those that something was made of. */
static uint64_t count_source_pages(const struct scratch_range *range, int pagemap, size_t first,
                                   size_t end) {
    struct scratch_page_counts counts = {0};
    bool scans = scratch_pagemap_scans(pagemap);
    while (first < end) {
        size_t stop = (first / SCRATCH_TOUCHED_PAGES + 1) * SCRATCH_TOUCHED_PAGES;
        if (scans || stop > end)
            stop = end;
        if (scans || scratch_was_touched(range, first)) {
            size_t length;
            uintptr_t start = (uintptr_t)source_pages(range, first, stop, &length);
            scratch_pagemap_count(pagemap, start, length / scratch_page_size(), &counts);
        }
        first = stop;
    }
    return counts.present;
}

/*
 * The source's pages that some of ours are made of: while they are mapped they count as the process's
 * (RssFile). Nothing is lost, the pager only maps them again. How many there were comes back.
 */
static uint64_t unmap_source(struct scratch_range *range, int pagemap, size_t first, size_t end) {
    if (!range->source || first == end)
        return 0;
    size_t length;
    unsigned char *start = source_pages(range, first, end, &length);
    uint64_t present = count_source_pages(range, pagemap, first, end);
    if (madvise(start, length, MADV_DONTNEED_LOCKED) && madvise(start, length, MADV_DONTNEED))
        return 0; /* locked, before Linux 5.18: somebody wants it to stay */
    return present;
}

int scratch_drop_locked(struct scratch_range *range, int pagemap, size_t first, size_t end,
                        struct scratch_dropped *ret) {
    size_t boundary = range->lock_length / scratch_page_size();
    size_t page_size = scratch_page_size();
    size_t run;
    *ret = (struct scratch_dropped){0};
    ret->bytes = unmap_source(range, pagemap, first, end) * page_size;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        if (first < boundary && first + run > boundary)
            run = boundary - first; /* what is locked on fault needs another call */
        struct scratch_page_counts counts = {0};
        scratch_count_pages(range, pagemap, first, run, &counts);
        int error = dontneed(range, first, run);
        if (error)
            return error;
        scratch_check_event(range, first, range->engine == SCRATCH_ENGINE_LAZYFREE ? run : 0,
                            SCRATCH_EVENT_DROP);
        ret->pages += counts.own;
        ret->bytes += counts.present * page_size;
        first += run;
    }
    scratch_range_count(range, SCRATCH_DROPPED, ret->pages);
    return 0;
}
