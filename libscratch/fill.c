/* SPDX-License-Identifier: Apache-2.0 */
#include "fill.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "free_lazily.h"
#include "tell.h"

/*
 * In place of poison: SIGSEGV, and EFAULT for system calls. Where the process may have no more mappings
 * one page can't be closed, but all of them can.
 */
static void close_page(const struct scratch_range *range, size_t page) {
    size_t page_size = scratch_page_size();
    if (mprotect(range->address + page * page_size, page_size, PROT_NONE))
        mprotect(range->address, range->length, PROT_NONE);
}

void scratch_fill_fail(const struct scratch_userfault *userfault, struct scratch_range *range,
                       size_t page, const char *reason) {
    size_t page_size = scratch_page_size();
    uintptr_t address = (uintptr_t)range->address + page * page_size;
    if (range->is_decoded)
        scratch_tell("mapscratch: block %zu (items from %llu on) of the array of %s can't be made: %s\n",
                     page / range->decoding.unit_pages,
                     (unsigned long long)(page / range->decoding.unit_pages *
                                          range->decoding.unit_items),
                     range->name, reason);
    else
        scratch_tell("mapscratch: page %zu (byte %zu) of the scratch mapping of %s can't be made: %s\n",
                     page, page * page_size, range->name, reason);
    if (scratch_userfault_poison(userfault, address))
        close_page(range, page);
}

static void count_filled(struct scratch_range *range, size_t first, size_t pages) {
    uint64_t rebuilt = 0;
    for (size_t page = first; page < first + pages; page++) {
        size_t chunk = page / SCRATCH_TOUCHED_PAGES;
        range->touched[chunk / 8] |= (unsigned char)(1u << (chunk % 8));
        unsigned char bit = (unsigned char)(1u << (page % 8));
        rebuilt += (range->ever_filled[page / 8] & bit) != 0;
        range->ever_filled[page / 8] |= bit;
    }
    scratch_range_count(range, SCRATCH_FILLED, pages);
    scratch_range_count(range, SCRATCH_REBUILT, rebuilt);
}

void scratch_fill_note(struct scratch_range *range, size_t first, size_t pages, bool for_store) {
    count_filled(range, first, pages);
    scratch_check_event(range, first, pages, SCRATCH_EVENT_FAULT);
    scratch_check_event(range, first, pages,
                        for_store ? SCRATCH_EVENT_FILL_FOR_STORE : SCRATCH_EVENT_FILL_FOR_LOAD);
}

/*
 * Puts `pages` pages of `bytes` where no page is yet. Pages that are there are left alone, and so
 * are pages that can't be read, unless it is the very page that somebody waits for: then its error
 * comes back.
 */
static int copy_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                   size_t first, size_t pages, const unsigned char *bytes, size_t awaited,
                   bool for_store) {
    size_t page_size = scratch_page_size();
    /*
     * Also where no store is possible: khugepaged and MADV_COLLAPSE pass over what is protected, and a
     * debugger's poke is refused.
     */
    bool is_protected =
        userfault->write_protect && !(for_store && (range->protection & PROT_WRITE));
    size_t page = first;
    size_t at_once = pages;
    int awaited_error = 0;
    while (page < first + pages) {
        at_once = scratch_least(at_once, first + pages - page);
        size_t copied;
        int error = scratch_userfault_copy(
            userfault, (uintptr_t)range->address + page * page_size,
            (uintptr_t)bytes + (page - first) * page_size, at_once * page_size, is_protected, &copied);
        if (copied / page_size) {
            scratch_fill_note(range, page, copied / page_size, for_store);
            page += copied / page_size;
        } else if (error == EAGAIN) {
            continue; /* the address space is changing; nothing was copied */
        } else if (error == ENOENT && at_once > 1) {
            at_once = 1; /* across the edge of a pinned part, where mlock has split the mapping */
        } else {
            if (page == awaited && error != EEXIST)
                awaited_error = error;
            page++;
        }
    }
    return awaited_error;
}

int scratch_fill_from(const struct scratch_userfault *userfault, struct scratch_range *range,
                      size_t first, size_t pages, const unsigned char *bytes, size_t awaited,
                      bool for_store) {
    int error = 0;
    for (int attempt = 0; attempt < 1000; attempt++) {
        error = copy_in(userfault, range, first, pages, bytes, awaited, for_store);
        if (error != ENOMEM)
            break;
        usleep(1000); /* reclaim is under way: that is what we are for */
    }
    return error;
}

/* On the processor that made them: see placement.h. */
void scratch_fill_free(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t run;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        scratch_free_by_batch(range->address + first * page_size, run * page_size);
        first += run;
    }
}

const char *scratch_fill_reason(int error) {
    switch (error) {
    case EFAULT:
        return "the file no longer has these bytes (it shrank, or its device failed)";
    case ENOMEM:
        return "there is no memory for it (see the memory limit of this cgroup)";
    default:
        return strerror(error);
    }
}

int scratch_fill(const struct scratch_userfault *userfault, struct scratch_range *range, size_t first,
                 size_t end, size_t awaited, bool for_store, char reason[SCRATCH_REASON_LENGTH]) {
    const unsigned char *bytes;
    reason[0] = 0;
    size_t pages = scratch_stage(range, first, end - first, &bytes, reason);
    int error = scratch_fill_from(userfault, range, first, pages, bytes, awaited, for_store);
    bool is_missing = awaited != SCRATCH_NO_PAGE && awaited >= first + pages;
    scratch_fill_free(range, first, first + pages);
    if (is_missing)
        error = EFAULT;
    if (error && !reason[0])
        snprintf(reason, SCRATCH_REASON_LENGTH, "%s", scratch_fill_reason(error));
    /* The mapping has changed, or is gone: whoever waits faults again and finds out. */
    return error == ENOENT || error == ESRCH ? 0 : error;
}
