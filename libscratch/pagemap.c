/* SPDX-License-Identifier: Apache-2.0 */
#include "pagemap.h"

#include <errno.h>

#include "base.h"
#include "raw.h"
#include "uapi.h"

/* Documentation/admin-guide/mm/pagemap.rst */
static const uint64_t entry_present = 1ULL << 63;
static const uint64_t entry_swapped = 1ULL << 62;
static const uint64_t entry_file = 1ULL << 61;
static const uint64_t entry_guard = 1ULL << 58;

int scratch_pagemap_open(void) { return raw_open("/proc/self/pagemap", O_RDONLY); }

void scratch_pagemap_close(int pagemap) {
    if (pagemap >= 0)
        raw_close(pagemap);
}

/* A file's page on its way to another place, and a guard region, look as if they were in swap. */
static void add(struct scratch_page_counts *counts, uint64_t pages, bool present, bool swapped,
                bool of_file, bool guard) {
    bool in_swap = swapped && !of_file && !guard;
    counts->present += present ? pages : 0;
    counts->swapped += in_swap ? pages : 0;
    counts->own += in_swap || (present && !of_file) ? pages : 0;
}

/* 0 or an errno value: EINVAL for a category that this kernel doesn't know. */
static int scan(int pagemap, uintptr_t address, size_t pages, uint64_t categories,
                struct scratch_page_counts *counts) {
    enum { REGIONS = 64 };
    struct page_region regions[REGIONS];
    size_t page_size = scratch_page_size();
    struct pm_scan_arg request = {
        .size = sizeof request,
        .start = address,
        .end = address + pages * page_size,
        .vec = (uintptr_t)regions,
        .vec_len = REGIONS,
        .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        .return_mask = categories,
    };
    while (request.start < request.end) {
        int found = raw_ioctl(pagemap, PAGEMAP_SCAN, &request);
        if (found < 0)
            return errno;
        for (int index = 0; index < found; index++) {
            uint64_t is = regions[index].categories;
            add(counts, (regions[index].end - regions[index].start) / page_size,
                is & PAGE_IS_PRESENT, is & PAGE_IS_SWAPPED, is & PAGE_IS_FILE, is & PAGE_IS_GUARD);
        }
        request.start = request.walk_end;
    }
    return 0;
}

static int read_entries(int pagemap, uintptr_t address, size_t pages,
                        struct scratch_page_counts *counts) {
    enum { ENTRIES = 512 };
    uint64_t entries[ENTRIES];
    uint64_t number = address / scratch_page_size();
    while (pages) {
        size_t wanted = pages < ENTRIES ? pages : ENTRIES;
        long got = raw_pread(pagemap, entries, wanted * sizeof entries[0],
                             (off_t)(number * sizeof entries[0]));
        if (got <= 0)
            return got < 0 ? errno : ESRCH;
        size_t count = (size_t)got / sizeof entries[0];
        for (size_t index = 0; index < count; index++)
            add(counts, 1, entries[index] & entry_present, entries[index] & entry_swapped,
                entries[index] & entry_file, entries[index] & entry_guard);
        pages -= count;
        number += count;
    }
    return 0;
}

bool scratch_pagemap_scans(int pagemap) {
    struct scratch_page_counts nothing = {0};
    return !scan(pagemap, 0, 1, PAGE_IS_PRESENT, &nothing);
}

int scratch_pagemap_count(int pagemap, uintptr_t address, size_t pages,
                          struct scratch_page_counts *counts) {
    const uint64_t categories = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_FILE;
    struct scratch_page_counts here = {0};
    if (pagemap < 0)
        return EBADF;
    int error = scan(pagemap, address, pages, categories | PAGE_IS_GUARD, &here);
    if (error == EINVAL) /* guard regions are older than their category */
        error = scan(pagemap, address, pages, categories, &here);
    if (error) {
        here = (struct scratch_page_counts){0};
        error = read_entries(pagemap, address, pages, &here);
    }
    counts->present += here.present;
    counts->swapped += here.swapped;
    counts->own += here.own;
    return error;
}
