/* SPDX-License-Identifier: Apache-2.0 */
#include "huge_pages.h"

#include <errno.h>

#include "drop.h"
#include "fill.h"
#include "free_lazily.h"
#include "raw.h"
#include "stage.h"
#include "uapi.h"

static struct {
    unsigned char *staging;
    bool moved_before; /* and it stayed whole */
} huge;

static size_t huge_pages(void) { return SCRATCH_HUGE_BYTES / scratch_page_size(); }

static void *map_huge_staging(void *address, size_t length, int flags) {
    void *mapped = mmap(address, length, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

/*
 * Where a huge page is made: memory of our own that the kernel may give a huge page, from which it is
 * moved to where it is wanted. Mapped anew each time, because a page table may have stayed in it, and
 * then it gets small pages. NULL: there is none to be had.
 */
static unsigned char *huge_staging(void) {
    if (!huge.staging) {
        unsigned char *mapped = map_huge_staging(NULL, 2 * SCRATCH_HUGE_BYTES, 0);
        if (!mapped)
            return NULL;
        size_t into_one = (uintptr_t)mapped % SCRATCH_HUGE_BYTES;
        huge.staging = mapped + (SCRATCH_HUGE_BYTES - into_one) % SCRATCH_HUGE_BYTES;
    }
    bool is_ready = map_huge_staging(huge.staging, SCRATCH_HUGE_BYTES, MAP_FIXED) &&
                    !madvise(huge.staging, SCRATCH_HUGE_BYTES, MADV_HUGEPAGE) &&
                    !madvise(huge.staging, SCRATCH_HUGE_BYTES, MADV_DONTDUMP);
    return is_ready ? huge.staging : NULL;
}

/* 0 or an errno value: EEXIST if part of it is pinned. */
static int move_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                   size_t first, unsigned char *bytes) {
    uintptr_t address = (uintptr_t)range->address + first * scratch_page_size();
    /*
     * A fault that waits there has left an empty page table, and only where there is none does the
     * huge page stay one. Linux 6.14 and later free it with the pages (CONFIG_PT_RECLAIM).
     */
    if (scratch_discard_pages(range, first, huge_pages()))
        return EEXIST;
    int error = scratch_userfault_move(userfault, address, (uintptr_t)bytes, SCRATCH_HUGE_BYTES);
    if (error)
        return error;
    scratch_fill_note(range, first, huge_pages(), false);
    scratch_userfault_write_protect(userfault, address, SCRATCH_HUGE_BYTES, true);
    return 0;
}

/*
 * Whether what was moved in is still one huge page. Before Linux 6.14 a huge page falls into small ones
 * where somebody has waited for it, and to move these takes longer than to copy them.
 */
static bool is_whole(uintptr_t address) {
    SCRATCH_CLOSES_PAGEMAP int pagemap = scratch_pagemap_open();
    struct page_region region = {0};
    struct pm_scan_arg scan = {
        .size = sizeof scan,
        .start = address,
        .end = address + SCRATCH_HUGE_BYTES,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_mask = PAGE_IS_HUGE,
        .return_mask = PAGE_IS_HUGE,
    };
    return raw_ioctl(pagemap, PAGEMAP_SCAN, &scan) == 1 &&
           region.end - region.start == SCRATCH_HUGE_BYTES;
}

/* False if nothing was made of it: then it is to be made of small pages. */
static bool make_huge_page(const struct scratch_userfault *userfault, struct scratch_range *range,
                           const struct scratch_stream_limits *limits, size_t first) {
    unsigned char *memory = huge_staging();
    size_t pages;
    if (!memory)
        return false;
    for (size_t done = 0; done < huge_pages(); done += pages) {
        char reason[SCRATCH_REASON_LENGTH];
        pages = scratch_least(limits->batch, huge_pages() - done);
        if (scratch_stage_decoded(range, first + done, pages, memory + done * scratch_page_size(), reason) <
            pages)
            return false;
    }
    int error = move_in(userfault, range, first, memory);
    if (error) {
        range->takes_huge_pages = error == EEXIST; /* else the kernel can't do it */
        return false;
    }
    if (!huge.moved_before)
        range->takes_huge_pages =
            is_whole((uintptr_t)range->address + first * scratch_page_size());
    huge.moved_before = range->takes_huge_pages;
    scratch_fill_free(range, first, first + huge_pages());
    scratch_drain_frees();
    return true;
}

static bool is_huge_page(const struct scratch_stream_limits *limits, size_t first, size_t end) {
    return limits->huge && end - first == limits->huge &&
           (first + limits->huge_skew) % limits->huge == 0;
}

bool scratch_fill_huge(const struct scratch_userfault *userfault, struct scratch_range *range,
                          const struct scratch_stream_limits *limits, size_t first, size_t end) {
    return is_huge_page(limits, first, end) && make_huge_page(userfault, range, limits, first);
}
