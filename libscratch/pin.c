/* SPDX-License-Identifier: Apache-2.0 */
#include "pin.h"

#include <errno.h>

#include "check.h"
#include "mapping.h"
#include "range.h"
#include "raw.h"
#include "signals.h"
#include "sparse.h"
#include "word.h"

static bool has_room_for_pins(struct scratch_range *range) {
    if (!range->pins)
        range->pins = scratch_sparse_allocate(scratch_pins_bytes(range));
    if (!range->pinned_in_chunk)
        range->pinned_in_chunk = scratch_sparse_allocate(scratch_pin_chunks_bytes(range));
    return range->pins && range->pinned_in_chunk;
}

/* For others to see; what we go by is in the range. */
static void show_pinned(struct scratch_range *range) {
    atomic_store_explicit(&scratch_range_figures(range)[SCRATCH_PINNED], range->pinned_pages,
                          memory_order_relaxed);
}

/* Unlocks every run of pages whose last pin has gone; what is locked on fault stays so. */
static void unlock_unpinned(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t boundary = range->lock_length / page_size;
    if (first < boundary)
        first = boundary < end ? boundary : end;
    size_t run;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        raw_munlock(range->address + first * page_size, run * page_size);
        first += run;
    }
}

static void count_pins(struct scratch_range *range, size_t first, size_t end, int change) {
    for (size_t page = first; page < end; page++) {
        bool was_pinned = range->pins[page];
        range->pins[page] += (uint32_t)change;
        bool is_pinned = range->pins[page];
        uint32_t *in_chunk = &range->pinned_in_chunk[page / SCRATCH_PIN_CHUNK_PAGES];
        if (is_pinned && !was_pinned) {
            range->pinned_pages++;
            ++*in_chunk;
        }
        if (was_pinned && !is_pinned) {
            range->pinned_pages--;
            --*in_chunk;
            /* A pin that was refused never came so far. */
            if (range->states && range->states[page] == SCRATCH_STATE_PINNED)
                scratch_check_event(range, page, 1, SCRATCH_EVENT_UNPIN);
        }
    }
    show_pinned(range);
}

/*
 * Makes every page be there: a load faults a missing one in, and where stores are allowed an atomic
 * "add 0" also makes it writable, so that a system call can store into it. Not under any lock,
 * because each of these may wait for the pager.
 */
static void touch_pages(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    for (size_t page = first; page < end; page++) {
        unsigned char *address = range->address + page * page_size;
        if (range->protection & PROT_WRITE)
            scratch_word_make_dirty(address);
        else
            scratch_word_load(address);
    }
}

/* 0 or an errno value, and then nothing is pinned that wasn't. */
static int begin_pins(struct scratch_range *range, size_t first, size_t end, uint64_t *ret_generation) {
    size_t page_size = scratch_page_size();
    scratch_without_signals();
    scratch_hold(&range->lock);
    if (!has_room_for_pins(range))
        return ENOMEM;
    *ret_generation = range->generation;
    count_pins(range, first, end, 1);
    if (!raw_mlock_on_fault(range->address + first * page_size, (end - first) * page_size))
        return 0;
    int error = errno;
    count_pins(range, first, end, -1);
    unlock_unpinned(range, first, end);
    return error;
}

/* False: these pins were the parent's. */
static bool end_pins(struct scratch_range *range, size_t first, size_t end, uint64_t generation) {
    scratch_without_signals();
    scratch_hold(&range->lock);
    if (!range->pins || generation != range->generation)
        return false;
    count_pins(range, first, end, -1);
    unlock_unpinned(range, first, end);
    if (!range->pinned_pages)
        scratch_forget_pins(range);
    return true;
}

int scratch_range_pin(struct scratch_range *range, size_t offset, size_t length,
                      uint64_t *ret_generation) {
    size_t first = offset / scratch_page_size();
    size_t end = (offset + length) / scratch_page_size();
    int error = begin_pins(range, first, end, ret_generation);
    if (error)
        return error;
    touch_pages(range, first, end);
    scratch_check_pinned(range, first, end);
    return 0;
}

int scratch_range_unpin(struct scratch_range *range, size_t offset, size_t length,
                        uint64_t generation) {
    size_t first = offset / scratch_page_size();
    size_t end = (offset + length) / scratch_page_size();
    bool is_ours = end_pins(range, first, end, generation);
    return is_ours ? scratch_range_rearm(range, offset, length) : 0;
}
