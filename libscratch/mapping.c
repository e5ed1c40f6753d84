/* SPDX-License-Identifier: Apache-2.0 */
#include "mapping.h"

#include <errno.h>
#include <sys/mman.h>

#include "board.h"
#include "drop.h"
#include "fork.h"
#include "lazyfree.h"
#include "merging.h"
#include "pager.h"
#include "raw.h"
#include "registry.h"
#include "signals.h"
#include "uapi.h"

static int lazyfree_start(struct scratch_range *range, const struct scratch_description *from) {
    int error = scratch_lazyfree_open_source(range, from);
    if (!error)
        error = scratch_pager_ensure(true);
    if (!error)
        error = scratch_lazyfree_map(range);
    if (!error)
        error = scratch_pager_register(range);
    return error;
}

static int dontneed_start(struct scratch_range *range, const struct scratch_description *from) {
    scratch_refuse_merging(range->address, range->length);
    if (from->lock_length && !raw_mlock_on_fault(range->address, from->lock_length))
        range->lock_length = from->lock_length;
    return scratch_pressure_is_watched ? scratch_pager_ensure(false) : 0;
}

/* No thread, nothing to watch, and fork needs no help: it is a MAP_PRIVATE in all but reclaim. */
static int kernel_start(struct scratch_range *range, const struct scratch_description *from) {
    /* After mlockall(MCL_FUTURE) what it takes the place of counts against RLIMIT_MEMLOCK. */
    raw_munlock(range->address, range->length);
    if (mmap(range->address, range->length, range->protection, MAP_SCRATCH | MAP_FIXED,
             from->source_fd, from->source_offset) == MAP_FAILED)
        return errno;
    /* Then it is locked too, all of it copied, and the kernel would drop nothing. */
    if (raw_munlock(range->address, range->length) ||
        madvise(range->address, range->length, MADV_DONTNEED))
        return errno;
    scratch_refuse_merging(range->address, range->length);
    return 0;
}

static int range_start(struct scratch_range *range, const struct scratch_description *from) {
    switch (range->engine) {
    case SCRATCH_ENGINE_LAZYFREE:
        return lazyfree_start(range, from);
    case SCRATCH_ENGINE_DONTNEED:
        return dontneed_start(range, from);
    case SCRATCH_ENGINE_KERNEL:
        return kernel_start(range, from);
    default:
        return EINVAL;
    }
}

static void range_take_slot(struct scratch_range *range) {
    range->slot = scratch_board_allot(&(struct scratch_slot_description){
        .kind = range->is_decoded ? SCRATCH_KIND_ARRAY : SCRATCH_KIND_MAP,
        .engine = (uint16_t)range->engine,
        .address = (uintptr_t)range->address,
        .length = range->length,
        .name = range->name,
    });
}

static struct scratch_range *allocate(enum scratch_engine engine,
                                      const struct scratch_description *description) {
    struct scratch_range *range = scratch_range_allocate(engine, description);
    if (range && engine == SCRATCH_ENGINE_LAZYFREE && !scratch_lazyfree_allocate(range, description)) {
        scratch_range_free(range);
        return NULL;
    }
    return range;
}

static int publish(struct scratch_range *range) {
    scratch_hold(&scratch_registry.lock);
    int error = scratch_registry_make_room();
    if (error)
        return error;
    range_take_slot(range); /* before anybody finds the range, and counts */
    scratch_registry_insert(range);
    return 0;
}

static int start_and_publish(struct scratch_range *range,
                             const struct scratch_description *description) {
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    int error = scratch_fork_prepare_once();
    if (!error)
        error = range_start(range, description);
    if (!error)
        error = publish(range);
    if (error) {
        scratch_pager_release(range);
        scratch_pager_stop_if_idle();
    }
    return error;
}

int scratch_range_create(enum scratch_engine engine, const struct scratch_description *description,
                         struct scratch_range **ret) {
    struct scratch_range *range = allocate(engine, description);
    int error = range ? start_and_publish(range, description) : ENOMEM;
    if (!error)
        *ret = range;
    else if (range)
        scratch_range_free(range);
    return error;
}

/* The kernel refuses to change sealed memory even to what it is. */
bool scratch_range_is_sealed(struct scratch_range *range) {
    scratch_without_signals();
    scratch_hold(&range->lock);
    int protection = range->protection | (range->takes_huge_pages ? PROT_WRITE : 0);
    return mprotect(range->address, range->length, protection) && errno == EPERM;
}

void scratch_range_close_begin(struct scratch_range *range) { scratch_registry_begin_closing(range); }

void scratch_range_close_abort(struct scratch_range *range) { scratch_registry_abort_closing(range); }

static void withdraw(struct scratch_range *range) {
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    scratch_registry_end_closing();
    scratch_board_release(range->slot);
    scratch_pager_release(range);
    scratch_pager_stop_if_idle();
}

void scratch_range_forget(struct scratch_range *range) {
    withdraw(range);
    scratch_range_free(range);
}

int scratch_range_drop(struct scratch_range *range, size_t offset, size_t length,
                       uint64_t *ret_pages) {
    size_t page_size = scratch_page_size();
    SCRATCH_CLOSES_PAGEMAP int pagemap = scratch_pagemap_open();
    struct scratch_dropped dropped;
    scratch_without_signals();
    scratch_hold(&range->lock);
    int error = scratch_drop_locked(range, pagemap, offset / page_size,
                                    (offset + length) / page_size, &dropped);
    *ret_pages = dropped.pages;
    return error;
}

/* One range at a time, so that page faults of the others are served meanwhile. */
uint64_t scratch_release_all(void) {
    uint64_t bytes = 0;
    uintptr_t address = 0;
    SCRATCH_CLOSES_PAGEMAP int pagemap = scratch_pagemap_open();
    scratch_without_signals();
    for (;;) {
        SCRATCH_UNLOCKS_RANGE struct scratch_range *range = scratch_registry_next_locked(address);
        struct scratch_dropped dropped;
        if (!range)
            return bytes;
        address = (uintptr_t)range->address + range->length;
        scratch_drop_locked(range, pagemap, 0, scratch_range_pages(range), &dropped);
        bytes += dropped.bytes;
    }
}

static int page_out_unpinned(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t run;
    scratch_without_signals();
    scratch_hold(&range->lock);
    while ((run = scratch_unpinned_run(range, &first, end))) {
        if (madvise(range->address + first * page_size, run * page_size, MADV_PAGEOUT))
            return errno;
        first += run;
    }
    return 0;
}

int scratch_range_reclaim(struct scratch_range *range, size_t offset, size_t length) {
    size_t page_size = scratch_page_size();
    int error = scratch_range_rearm(range, offset, length);
    return error ? error
                 : page_out_unpinned(range, offset / page_size, (offset + length) / page_size);
}

int scratch_range_rearm(struct scratch_range *range, size_t offset, size_t length) {
    if (range->engine != SCRATCH_ENGINE_LAZYFREE)
        return 0;
    size_t page_size = scratch_page_size();
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    int error = scratch_pager_ensure(true);
    return error ? error
                 : scratch_pager_rearm(range, offset / page_size, (offset + length) / page_size);
}

static bool has_pages(const struct scratch_range *range, const uint64_t *pages, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (pages[index] >= scratch_range_pages(range))
            return false;
    }
    return true;
}

int scratch_range_residence(const struct scratch_range *range, const uint64_t *pages, size_t count,
                            unsigned char *ret) {
    size_t page_size = scratch_page_size();
    if (!has_pages(range, pages, count))
        return EINVAL;
    size_t run;
    for (size_t index = 0; index < count; index += run) {
        run = 1;
        while (index + run < count && pages[index + run] == pages[index] + run)
            run++;
        if (mincore(range->address + pages[index] * page_size, run * page_size, ret + index))
            return errno;
    }
    return 0;
}

int scratch_range_fetch(struct scratch_range *range, const uint64_t *pages, size_t count) {
    if (!range->is_decoded || range->helper.address || !has_pages(range, pages, count))
        return EINVAL;
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    int error = scratch_pager_ensure(true);
    return error ? error : scratch_pager_fetch(range, pages, count);
}

static void count_pinned(struct scratch_range *range, struct scratch_counts *ret) {
    scratch_without_signals();
    scratch_hold(&range->lock);
    ret->pinned = range->pinned_pages;
    ret->locked_bytes = range->lock_length;
}

void scratch_range_counts(struct scratch_range *range, struct scratch_counts *ret) {
    count_pinned(range, ret);
    _Atomic uint64_t *figures = scratch_range_figures(range);
    ret->filled = atomic_load_explicit(&figures[SCRATCH_FILLED], memory_order_relaxed);
    ret->rebuilt = atomic_load_explicit(&figures[SCRATCH_REBUILT], memory_order_relaxed);
    ret->dropped = atomic_load_explicit(&figures[SCRATCH_DROPPED], memory_order_relaxed);
    ret->fixup_ns = atomic_load_explicit(&figures[SCRATCH_FIXUP_NS], memory_order_relaxed);
}

int scratch_range_page_counts(struct scratch_range *range, struct scratch_page_counts *ret) {
    *ret = (struct scratch_page_counts){0};
    SCRATCH_CLOSES_PAGEMAP int pagemap = scratch_pagemap_open();
    if (pagemap < 0)
        return errno;
    scratch_without_signals();
    scratch_hold(&range->lock);
    scratch_count_pages(range, pagemap, 0, scratch_range_pages(range), ret);
    return 0;
}

int scratch_pressure_watch(enum scratch_pressure_kind kind, const char *path, const char *trigger) {
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    int error = scratch_fork_prepare_once();
    if (!error)
        error = scratch_pressure_choose(kind, path, trigger);
    if (error)
        return error;
    error = scratch_pager_watch();
    scratch_pressure_is_watched = !error;
    scratch_pager_stop_if_idle();
    return error;
}

void scratch_pressure_announce(int level) {
    scratch_without_signals();
    scratch_pressure_relieve(level < 0 ? 0 : level > 2 ? 2 : level);
}
