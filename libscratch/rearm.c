/* SPDX-License-Identifier: Apache-2.0 */
#include "rearm.h"

#include "check.h"
#include "free_lazily.h"
#include "merging.h"
#include "registry.h"

enum { MARK_CAPACITY = 1024 };
static struct {
    struct scratch_mark marks[MARK_CAPACITY]; /* oldest first, from `head` on */
    size_t head;
    size_t count;
} ring;

/* Whether the kernel merges all memory of the process. */
static struct {
    bool was_seen;
    uint64_t looked_ns; /* when */
} merging;

static int write_protect(const struct scratch_userfault *userfault, const struct scratch_range *range,
                         size_t first, size_t pages) {
    size_t page_size = scratch_page_size();
    return scratch_userfault_write_protect(
        userfault, (uintptr_t)range->address + first * page_size, pages * page_size, true);
}

/*
 * The order is what keeps a store from being lost out of our books: once the run is
 * write-protected, a store waits in a page fault until we have freed the run, and marks it again.
 */
static void rearm_locked(const struct scratch_userfault *userfault, struct scratch_range *range,
                         size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    bool is_read_only = !(range->protection & PROT_WRITE);
    size_t run;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        if (is_read_only || !write_protect(userfault, range, first, run))
            scratch_free_by_batch(range->address + first * page_size, run * page_size);
        scratch_check_event(range, first, run, SCRATCH_EVENT_REARM);
        first += run;
    }
}

/*
 * All ranges refuse to be merged when they are made. Who tells the kernel later to merge all memory of the
 * process overrules that: then refuse again, and free again what was merged meanwhile.
 */
static void refuse_merging(const struct scratch_userfault *userfault, bool rearm) {
    scratch_hold(&scratch_registry.lock);
    scratch_for_each_range(range) {
        scratch_hold(&range->lock);
        scratch_refuse_merging(range->address, range->length);
        if (rearm && range->engine == SCRATCH_ENGINE_LAZYFREE)
            rearm_locked(userfault, range, 0, scratch_range_pages(range));
    }
}

static void rearm_merged(const struct scratch_userfault *userfault) {
    bool is_merged = scratch_all_is_merged();
    if (is_merged)
        refuse_merging(userfault, !merging.was_seen);
    merging.was_seen = is_merged;
}

void scratch_rearm_merged_at_times(const struct scratch_userfault *userfault, uint64_t now) {
    const uint64_t interval_ns = 100 * 1000 * 1000;
    if (now - merging.looked_ns < interval_ns)
        return;
    merging.looked_ns = now;
    rearm_merged(userfault);
}

void scratch_rearm(const struct scratch_userfault *userfault, struct scratch_range *range,
                   size_t first, size_t end) {
    rearm_merged(userfault);
    scratch_hold(&range->lock);
    rearm_locked(userfault, range, first, end);
    scratch_drain_frees();
}

void scratch_rearm_mark(const struct scratch_userfault *userfault, const struct scratch_mark *mark) {
    SCRATCH_UNLOCKS_RANGE struct scratch_range *range =
        scratch_registry_find_locked(mark->address);
    if (!range || range->engine != SCRATCH_ENGINE_LAZYFREE)
        return; /* unmapped since */
    size_t page_size = scratch_page_size();
    size_t first = (mark->address - (uintptr_t)range->address) / page_size;
    size_t end = scratch_least(first + mark->length / page_size, scratch_range_pages(range));
    rearm_locked(userfault, range, first, end);
}

static struct scratch_mark take_oldest_mark(void) {
    struct scratch_mark oldest = ring.marks[ring.head];
    ring.head = (ring.head + 1) % MARK_CAPACITY;
    ring.count--;
    return oldest;
}

uint64_t scratch_rearm_due(const struct scratch_userfault *userfault, uint64_t now) {
    while (ring.count && ring.marks[ring.head].deadline <= now) {
        struct scratch_mark oldest = take_oldest_mark();
        scratch_rearm_mark(userfault, &oldest);
    }
    return ring.count ? ring.marks[ring.head].deadline : 0;
}

void scratch_rearm_forget_marks(void) { ring.count = 0; }

/*
 * True if an older mark had to give way: the caller re-arms that when it holds no lock. Marks of one
 * range that follow each other become one; it is due with the older, sooner and never later.
 */
bool scratch_rearm_later(const struct scratch_range *range, uintptr_t address, size_t length,
                         uint64_t now, struct scratch_mark *ret_displaced) {
    if (ring.count) {
        struct scratch_mark *newest = &ring.marks[(ring.head + ring.count - 1) % MARK_CAPACITY];
        if (newest->address + newest->length == address &&
            newest->address >= (uintptr_t)range->address) {
            newest->length += length;
            return false;
        }
    }
    bool is_full = ring.count == MARK_CAPACITY;
    if (is_full)
        *ret_displaced = take_oldest_mark();
    ring.marks[(ring.head + ring.count++) % MARK_CAPACITY] =
        (struct scratch_mark){address, length, now + scratch_settings.rearm_window_ns};
    return is_full;
}
