/* SPDX-License-Identifier: Apache-2.0 */
#include "look.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base.h"
#include "pagemap.h"
#include "raw.h"
#include "uapi.h"

/*
 * A descriptor of /proc/self/pagemap shows the mapping of the process that opened it, also to a child that
 * has inherited it. `*here` is in a page that a child finds wiped, however it was made, so that it opens
 * its own.
 */
static struct {
    bool *here;
    int pagemap;
    struct stat identity; /* of the descriptor: an application that closes all gets its number for another file */
    const char *why_not;
} look = {.pagemap = -1};

static bool is_ours(void) {
    struct stat found;
    return look.pagemap >= 0 && !fstat(look.pagemap, &found) &&
           found.st_dev == look.identity.st_dev && found.st_ino == look.identity.st_ino;
}

/* Both bits, over the whole, in one region: it is one entry, and in memory. */
static bool is_huge_by(int pagemap, const void *address) {
    const uint64_t wanted = PAGE_IS_PRESENT | PAGE_IS_HUGE;
    struct page_region found;
    struct pm_scan_arg request = {
        .size = sizeof request,
        .start = (uintptr_t)address,
        .end = (uintptr_t)address + SCRATCH_HUGE_BYTES,
        .vec = (uintptr_t)&found,
        .vec_len = 1,
        .category_mask = wanted,
        .return_mask = wanted,
    };
    return raw_ioctl(pagemap, PAGEMAP_SCAN, &request) == 1 && found.start == request.start &&
           found.end == request.end && found.categories == wanted;
}

static bool are_huge_pages_of_that_size(void) {
    char text[32] = "";
    int file = raw_open("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", O_RDONLY);
    if (file < 0)
        return false;
    long length = raw_read(file, text, sizeof text - 1);
    raw_close(file);
    return length > 0 && strtoull(text, NULL, 10) == SCRATCH_HUGE_BYTES;
}

static bool have_a_page_that_is_wiped(void) {
    size_t size = scratch_page_size();
    if (look.here)
        return true;
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    if (madvise(page, size, MADV_WIPEONFORK)) { /* before Linux 4.14 */
        munmap(page, size);
        return false;
    }
    look.here = page;
    return true;
}

static const char *open_here(void) {
    if (!have_a_page_that_is_wiped())
        return "a child could not be told from its parent (MADV_WIPEONFORK)";
    if (is_ours())
        scratch_pagemap_close(look.pagemap);
    look.pagemap = scratch_pagemap_open();
    if (look.pagemap < 0 || fstat(look.pagemap, &look.identity))
        return "/proc/self/pagemap can't be opened"; /* it is tried again: descriptors may be short */
    *look.here = true;
    if (!scratch_pagemap_scans(look.pagemap))
        return "PAGEMAP_SCAN isn't there (Linux 6.7)";
    return are_huge_pages_of_that_size() ? NULL : "there are no huge pages of 2 MiB";
}

static bool can_look(void) {
    if (!look.here || !*look.here)
        look.why_not = open_here();
    return !look.why_not;
}

bool scratch_is_mapped_huge(const void *address) {
    if (look.here && !is_ours())
        *look.here = false; /* somebody has closed all descriptors */
    return can_look() && is_huge_by(look.pagemap, address);
}

const char *scratch_why_no_look(void) {
    can_look();
    return look.why_not;
}
