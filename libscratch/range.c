/* SPDX-License-Identifier: Apache-2.0 */
#include "range.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "merging.h"
#include "pager.h"
#include "pressure.h"
#include "raw.h"
#include "tell.h"
#include "uapi.h"

struct scratch_settings scratch_settings = {
    .fault_around_pages = 16,
    .window_pages = 512,
    .rearm_window_ns = 10 * 1000 * 1000,
    .poll_after_fault_ns = 50 * 1000,
    .readahead_bytes = 1 << 20,
    .drop_percent_low = 50,
    .drop_percent_medium = 100,
    .drop_percent_critical = 100,
};

struct scratch_lock scratch_control_lock;
struct scratch_lock scratch_registry_lock;

static struct scratch_range **ranges;
static size_t range_count;
static size_t range_capacity;
static size_t closing_count; /* ranges that were taken out and are neither forgotten nor back */

size_t scratch_page_size(void) {
    static size_t page_size;
    if (!page_size)
        page_size = (size_t)sysconf(_SC_PAGESIZE);
    return page_size;
}

void scratch_configure(const struct scratch_settings *settings) { scratch_settings = *settings; }

void scratch_signals_block(sigset_t *ret_previous) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, ret_previous);
}

void scratch_signals_restore(const sigset_t *previous) {
    pthread_sigmask(SIG_SETMASK, previous, NULL);
}

void scratch_check_event(struct scratch_range *range, size_t first, size_t pages,
                         enum scratch_page_event event) {
#ifdef SCRATCH_CHECK_STATES
    for (size_t page = first; page < first + pages; page++) {
        uint8_t *state = &range->states[page];
        bool is_absent = *state == SCRATCH_STATE_FILE || *state == SCRATCH_STATE_DROPPED;
        /* These come too late for a page that went in the meantime, and do nothing to it. */
        if (is_absent && (event == SCRATCH_EVENT_DROP || event == SCRATCH_EVENT_REARM ||
                          event == SCRATCH_EVENT_STORE))
            continue;
        /* The kernel drops pages without telling: seen when they fault again. */
        if (!is_absent && event == SCRATCH_EVENT_FAULT &&
            !scratch_state_step(range->engine, state, SCRATCH_EVENT_RECLAIM))
            goto impossible;
        if (scratch_state_step(range->engine, state, event))
            continue;
    impossible:
        scratch_tell("libscratch: page %zu of %s: no way from '%s' by '%s'\n", page, range->name,
                     scratch_state_label((enum scratch_page_state)*state),
                     scratch_event_label(event));
        abort();
    }
#else
    (void)range, (void)first, (void)pages, (void)event;
#endif
}

/* The registry: ranges by ascending address. */

static size_t registry_position(uintptr_t address) {
    size_t low = 0;
    size_t high = range_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)ranges[middle]->address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct scratch_range *scratch_registry_find_locked(uintptr_t address) {
    struct scratch_range *found = NULL;
    scratch_lock_acquire(&scratch_registry_lock);
    size_t position = registry_position(address);
    if (position > 0 && address - (uintptr_t)ranges[position - 1]->address <
                            ranges[position - 1]->length) {
        found = ranges[position - 1];
        scratch_lock_acquire(&found->lock);
    }
    scratch_lock_release(&scratch_registry_lock);
    return found;
}

/* The first range that begins at `address` or above, locked, or NULL. */
static struct scratch_range *registry_next_locked(uintptr_t address) {
    struct scratch_range *next = NULL;
    scratch_lock_acquire(&scratch_registry_lock);
    size_t position = address ? registry_position(address - 1) : 0;
    if (position < range_count) {
        next = ranges[position];
        scratch_lock_acquire(&next->lock);
    }
    scratch_lock_release(&scratch_registry_lock);
    return next;
}

struct scratch_range **scratch_registry_ranges(size_t *ret_count) {
    *ret_count = range_count;
    return ranges;
}

/* Room for one more, besides the ranges that are being closed and may have to come back. */
static int registry_make_room(void) {
    if (range_count + closing_count < range_capacity)
        return 0;
    size_t capacity = range_capacity ? 2 * range_capacity : 16;
    struct scratch_range **grown = realloc(ranges, capacity * sizeof *grown);
    if (!grown)
        return ENOMEM;
    ranges = grown;
    range_capacity = capacity;
    return 0;
}

static void registry_insert(struct scratch_range *range) {
    size_t position = registry_position((uintptr_t)range->address);
    memmove(&ranges[position + 1], &ranges[position], (range_count - position) * sizeof *ranges);
    ranges[position] = range;
    range_count++;
}

static void registry_remove(const struct scratch_range *range) {
    size_t position = registry_position((uintptr_t)range->address) - 1;
    memmove(&ranges[position], &ranges[position + 1],
            (range_count - position - 1) * sizeof *ranges);
    range_count--;
}

/* A range of `kernel` needs nobody: the kernel drops its pages and brings them back. */
static bool range_needs_pager(const struct scratch_range *range) {
    return range->engine == SCRATCH_ENGINE_LAZYFREE ||
           (range->engine == SCRATCH_ENGINE_DONTNEED && scratch_pressure_is_watched());
}

bool scratch_registry_needs_pager(void) {
    bool needed = closing_count > 0;
    for (size_t index = 0; index < range_count && !needed; index++)
        needed = range_needs_pager(ranges[index]);
    return needed;
}

void scratch_registry_forget_closing(void) { closing_count = 0; }

/* A small table isn't worth pages of its own. */
enum { SPARSE_BYTES = 1024 };

/* Memory that costs nothing until it is touched: one entry for each page of a large mapping. */
static void *sparse_allocate(size_t bytes) {
    if (bytes < SPARSE_BYTES)
        return calloc(1, bytes);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void sparse_free(void *memory, size_t bytes) {
    if (bytes < SPARSE_BYTES)
        free(memory);
    else if (memory)
        munmap(memory, bytes);
}

static size_t bitmap_bytes(const struct scratch_range *range) {
    return (scratch_range_pages(range) + 7) / 8;
}

static size_t touched_bytes(const struct scratch_range *range) {
    return scratch_range_pages(range) / SCRATCH_TOUCHED_PAGES / 8 + 1;
}

static size_t heat_bytes(const struct scratch_range *range) {
    return scratch_range_pages(range) / SCRATCH_HEAT_CHUNK_PAGES + 1;
}

static size_t pins_bytes(const struct scratch_range *range) {
    return scratch_range_pages(range) * sizeof *range->pins;
}

static size_t pin_chunks_bytes(const struct scratch_range *range) {
    return (scratch_range_pages(range) / SCRATCH_PIN_CHUNK_PAGES + 1) *
           sizeof *range->pinned_in_chunk;
}

static bool has_room_for_pins(struct scratch_range *range) {
    if (!range->pins)
        range->pins = sparse_allocate(pins_bytes(range));
    if (!range->pinned_in_chunk)
        range->pinned_in_chunk = sparse_allocate(pin_chunks_bytes(range));
    return range->pins && range->pinned_in_chunk;
}

void scratch_forget_pins(struct scratch_range *range) {
    sparse_free(range->pins, pins_bytes(range));
    sparse_free(range->pinned_in_chunk, pin_chunks_bytes(range));
    range->pins = NULL;
    range->pinned_in_chunk = NULL;
    range->pinned_pages = 0;
}

static void range_free(struct scratch_range *range) {
    if (range->source)
        munmap((void *)range->source, range->source_length);
    if (range->helper.memory)
        munmap(range->helper.memory, SCRATCH_HELPER_QUESTIONS * SCRATCH_STAGING_BYTES);
    free(range->helper.address);
    free((void *)range->decoding.user_data);
    sparse_free(range->ever_filled, bitmap_bytes(range));
    sparse_free(range->touched, touched_bytes(range));
    scratch_forget_pins(range);
    sparse_free(range->heat, heat_bytes(range));
    sparse_free(range->dropped_before, heat_bytes(range));
    free((void *)range->fixup.offsets);
    free((void *)range->fixup.operands);
    free(range->states);
    free(range->name);
    free(range);
}

static uint64_t *copy_words(const uint64_t *words, size_t count) {
    uint64_t *copy = malloc(count ? count * sizeof *copy : sizeof *copy);
    if (copy && count)
        memcpy(copy, words, count * sizeof *copy);
    return copy;
}

static bool copy_decoding(struct scratch_range *range, const struct scratch_decoding *decoding) {
    range->is_decoded = true;
    range->decoding = *decoding;
    /* At least one byte: the function may not expect a NULL. calloc aligns it for any type. */
    void *user_data = calloc(1, decoding->user_data_length + 1);
    if (user_data && decoding->user_data_length)
        memcpy(user_data, decoding->user_data, decoding->user_data_length);
    range->decoding.user_data = user_data;
    if (decoding->helper) {
        range->helper.address = strdup(decoding->helper);
        memcpy(range->helper.key, decoding->helper_key, sizeof range->helper.key);
    }
    return user_data && (!decoding->helper || range->helper.address);
}

/* Does a unit fit into the pager's buffers, and into whole pages? */
static bool decoding_is_sound(const struct scratch_decoding *decoding) {
    return decoding->unit_pages && decoding->unit_items && decoding->unit_source_length &&
           decoding->items && (decoding->decode || decoding->helper) &&
           decoding->unit_pages * scratch_page_size() <= SCRATCH_STAGING_BYTES &&
           decoding->unit_source_length <= SCRATCH_STAGING_BYTES && decoding->block_pages &&
           decoding->block_pages % decoding->unit_pages == 0;
}

static struct scratch_range *range_allocate(enum scratch_engine engine,
                                            const struct scratch_description *description) {
    struct scratch_range *range = calloc(1, sizeof *range);
    if (!range)
        return NULL;
    size_t page_mask = scratch_page_size() - 1;
    range->engine = engine;
    range->address = description->address;
    range->length = (description->length + page_mask) & ~page_mask;
    range->protection = description->protection;
    scratch_helper_prepare(&range->helper);
    range->name = strdup(description->name);
    bool complete = range->name;
#ifdef SCRATCH_CHECK_STATES
    range->states = calloc(scratch_range_pages(range), 1);
    complete = complete && range->states;
#endif
    if (engine == SCRATCH_ENGINE_LAZYFREE) {
        range->ever_filled = sparse_allocate(bitmap_bytes(range));
        range->touched = sparse_allocate(touched_bytes(range));
        complete = complete && range->ever_filled && range->touched;
        if (description->decoding)
            complete = complete && copy_decoding(range, description->decoding);
        if (description->fixup) {
            range->has_fixup = true;
            range->fixup = *description->fixup;
            range->fixup.offsets = copy_words(description->fixup->offsets, range->fixup.count);
            range->fixup.operands = copy_words(description->fixup->operands, range->fixup.count);
            complete = complete && range->fixup.offsets && range->fixup.operands;
        }
    } else if (engine == SCRATCH_ENGINE_DONTNEED) {
        range->heat = sparse_allocate(heat_bytes(range));
        range->dropped_before = sparse_allocate(heat_bytes(range));
        complete = complete && range->heat && range->dropped_before;
    }
    if (!complete) {
        range_free(range);
        return NULL;
    }
    return range;
}

/*
 * Closed at first: after mlockall(MCL_FUTURE) it is locked, and would be filled with zeros that must
 * not be seen, all of it.
 */
static int map_anonymous(struct scratch_range *range, int protection) {
    void *mapped = mmap(range->address, range->length, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED || raw_munlock(range->address, range->length) ||
        mprotect(range->address, range->length, protection))
        return errno;
    return 0;
}

/*
 * The kernel moves huge pages into memory only if that is writable. Then userfaultfd protects every
 * page of it, and a store ends as it would in memory that isn't. Where so much writable memory isn't
 * to be had the memory is read-only, and takes small pages.
 */
static int map_decoded(struct scratch_range *range) {
    range->is_guarded =
        range->decoding.huge_pages && !map_anonymous(range, PROT_READ | PROT_WRITE);
    range->takes_huge_pages = range->is_guarded;
    return range->is_guarded ? 0 : map_anonymous(range, PROT_READ);
}

int scratch_lazyfree_map(struct scratch_range *range) {
    int error = range->is_decoded ? map_decoded(range) : map_anonymous(range, range->protection);
    if (error)
        return error;
    /*
     * DONTFORK: a child that our fork handlers didn't prepare (a raw clone) must crash, because it
     * has no registration and would read zeros. DONTDUMP: what can be made again needs no core
     * file, and dumping it would fault all of it in. NOHUGEPAGE: userfaultfd fills base pages.
     */
    if (madvise(range->address, range->length, MADV_DONTFORK) ||
        madvise(range->address, range->length, MADV_DONTDUMP))
        return errno;
    if (madvise(range->address, range->length, MADV_NOHUGEPAGE) && errno != EINVAL)
        return errno; /* EINVAL: a kernel without transparent huge pages */
    scratch_refuse_merging(range->address, range->length);
    return 0;
}

/*
 * Some files can't be shared (FUSE with direct_io; a memfd sealed against writing, before Linux 6.7). A
 * private mapping that nobody stores to shows the same page cache, later changes of the file included.
 */
static void *map_source(size_t length, int file, off_t offset) {
    void *mapped = mmap(NULL, length, PROT_READ, MAP_SHARED, file, offset);
    if (mapped == MAP_FAILED)
        mapped = mmap(NULL, length, PROT_READ, MAP_PRIVATE, file, offset);
    return mapped == MAP_FAILED ? NULL : mapped;
}

static int lazyfree_start(struct scratch_range *range, const struct scratch_description *from) {
    /*
     * The source is a mapping and not a descriptor: an application can close any descriptor, but
     * this stays, over fork too.
     */
    range->source_skip = (size_t)from->source_offset & (scratch_page_size() - 1);
    range->source_length = range->length;
    if (range->is_decoded) {
        if (!decoding_is_sound(&range->decoding))
            return EINVAL;
        if (range->helper.address)
            scratch_helper_set_owner(&range->helper, from->decoding->helper_owner);
        range->source_length = range->source_skip + range->decoding.source_length;
    }
    void *source = map_source(range->source_length, from->source_fd,
                              from->source_offset - (off_t)range->source_skip);
    if (!source)
        return errno;
    range->source = source;
    raw_munlock(source, range->source_length); /* mlockall would keep the file in memory */
    /* Read-ahead is the pager's: the kernel's read-around would make a random page-in read 128 KiB. */
    madvise(source, range->source_length, MADV_RANDOM);
    int error = scratch_pager_ensure(true);
    if (!error)
        error = scratch_lazyfree_map(range);
    if (!error)
        error = scratch_pager_register(range);
    return error;
}

static int lock_on_fault(void *address, size_t length) {
    return raw_mlock_on_fault(address, length) ? errno : 0;
}

static int dontneed_start(struct scratch_range *range, const struct scratch_description *from) {
    scratch_refuse_merging(range->address, range->length);
    if (from->lock_length && !lock_on_fault(range->address, from->lock_length))
        range->lock_length = from->lock_length;
    return scratch_pressure_is_watched() ? scratch_pager_ensure(false) : 0;
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

int scratch_range_create(enum scratch_engine engine, const struct scratch_description *description,
                         struct scratch_range **ret) {
    struct scratch_range *range = range_allocate(engine, description);
    if (!range)
        return ENOMEM;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_control_lock);
    int error = scratch_fork_prepare_once();
    if (!error)
        error = range_start(range, description);
    if (!error) {
        scratch_lock_acquire(&scratch_registry_lock);
        error = registry_make_room();
        if (!error) {
            range_take_slot(range); /* before anybody finds the range, and counts */
            registry_insert(range);
        }
        scratch_lock_release(&scratch_registry_lock);
    }
    if (error) {
        scratch_pager_release(range);
        scratch_pager_stop_if_idle();
    }
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals);
    if (error) {
        range_free(range);
        return error;
    }
    *ret = range;
    return 0;
}

int scratch_range_adopt(const struct scratch_description *description, struct scratch_range **ret) {
    struct scratch_range *range = range_allocate(SCRATCH_ENGINE_DONTNEED, description);
    if (!range)
        return ENOMEM;
    scratch_lock_acquire(&scratch_registry_lock);
    int error = registry_make_room();
    if (!error)
        registry_insert(range);
    scratch_lock_release(&scratch_registry_lock);
    if (error) {
        range_free(range);
        return error;
    }
    *ret = range;
    return 0;
}

void scratch_registry_reset(void) {
    scratch_lock_reset(&scratch_registry_lock);
    range_count = 0;
    closing_count = 0;
}

void scratch_range_disown(struct scratch_range *range) {
    scratch_lock_acquire(&scratch_registry_lock);
    registry_remove(range);
    scratch_lock_release(&scratch_registry_lock);
    range_free(range);
}

/* The kernel refuses to change sealed memory even to what it is. */
bool scratch_range_is_sealed(struct scratch_range *range) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    int protection = range->protection | (range->takes_huge_pages ? PROT_WRITE : 0);
    bool is_sealed = mprotect(range->address, range->length, protection) && errno == EPERM;
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    return is_sealed;
}

void scratch_range_close_begin(struct scratch_range *range) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_registry_lock);
    registry_remove(range);
    closing_count++;
    scratch_lock_release(&scratch_registry_lock);
    /* Whoever found it before holds its lock; nobody finds it any more. */
    scratch_lock_acquire(&range->lock);
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
}

void scratch_range_close_abort(struct scratch_range *range) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_registry_lock);
    registry_insert(range);
    closing_count--;
    scratch_lock_release(&scratch_registry_lock);
    scratch_signals_restore(&signals);
}

void scratch_range_forget(struct scratch_range *range) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_control_lock);
    scratch_lock_acquire(&scratch_registry_lock);
    closing_count--;
    scratch_lock_release(&scratch_registry_lock);
    scratch_board_release(range->slot);
    scratch_pager_release(range);
    scratch_pager_stop_if_idle();
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals);
    range_free(range);
}

static size_t after_chunk(size_t page, size_t end) {
    size_t next = (page / SCRATCH_PIN_CHUNK_PAGES + 1) * SCRATCH_PIN_CHUNK_PAGES;
    return next < end ? next : end;
}

size_t scratch_unpinned_run(const struct scratch_range *range, size_t *first, size_t end) {
    while (*first < end && scratch_page_is_pinned(range, *first))
        ++*first;
    size_t last = *first;
    while (last < end && !scratch_page_is_pinned(range, last))
        last = scratch_has_pins_near(range, last) ? last + 1 : after_chunk(last, end);
    return last - *first;
}

static bool page_can_be_lock_on_fault(const struct scratch_range *range, size_t page) {
    return page * scratch_page_size() < range->lock_length;
}

static bool was_touched(const struct scratch_range *range, size_t page) {
    size_t chunk = page / SCRATCH_TOUCHED_PAGES;
    return !range->touched || range->touched[chunk / 8] & (1u << (chunk % 8));
}

/* Where holes cost as much as pages: the parts in which there can be any. */
static void count_touched(const struct scratch_range *range, int pagemap, size_t first, size_t end,
                          struct scratch_page_counts *counts) {
    while (first < end) {
        size_t stop = (first / SCRATCH_TOUCHED_PAGES + 1) * SCRATCH_TOUCHED_PAGES;
        if (stop > end)
            stop = end;
        if (was_touched(range, first))
            scratch_pagemap_count(pagemap, (uintptr_t)range->address + first * scratch_page_size(),
                                  stop - first, counts);
        first = stop;
    }
}

void scratch_count_pages(const struct scratch_range *range, int pagemap, size_t first, size_t pages,
                         struct scratch_page_counts *counts) {
    uintptr_t address = (uintptr_t)range->address + first * scratch_page_size();
    if (pages <= SCRATCH_TOUCHED_PAGES || scratch_pagemap_scans(pagemap))
        scratch_pagemap_count(pagemap, address, pages, counts);
    else
        count_touched(range, pagemap, first, first + pages, counts);
}

uint64_t scratch_count_own_pages(const struct scratch_range *range, int pagemap, size_t first,
                                 size_t pages) {
    struct scratch_page_counts counts = {0};
    scratch_count_pages(range, pagemap, first, pages, &counts);
    return counts.own;
}

void scratch_source_of(const struct scratch_range *range, size_t first, size_t end, size_t *ret_from,
                       size_t *ret_to) {
    size_t page_size = scratch_page_size();
    *ret_from = first * page_size;
    *ret_to = end * page_size;
    if (range->is_decoded) {
        size_t unit = range->decoding.unit_pages;
        *ret_from = first / unit * range->decoding.unit_source_length;
        *ret_to = (end + unit - 1) / unit * range->decoding.unit_source_length;
        if (*ret_to > range->decoding.source_length)
            *ret_to = range->decoding.source_length;
    }
}

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
    return page_can_be_lock_on_fault(range, first) ? lock_on_fault(address, pages * page_size) : 0;
}

int scratch_discard_pages(struct scratch_range *range, size_t first, size_t pages) {
    size_t start = first, end = first + pages;
    if (scratch_unpinned_run(range, &start, end) != pages)
        return EBUSY;
    size_t page_size = scratch_page_size();
    return madvise(range->address + first * page_size, pages * page_size, MADV_DONTNEED) ? errno : 0;
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
        if (scans || was_touched(range, first)) {
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

int scratch_range_drop(struct scratch_range *range, size_t offset, size_t length,
                       uint64_t *ret_pages) {
    size_t page_size = scratch_page_size();
    int pagemap = scratch_pagemap_open();
    struct scratch_dropped dropped;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    int error = scratch_drop_locked(range, pagemap, offset / page_size,
                                    (offset + length) / page_size, &dropped);
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    scratch_pagemap_close(pagemap);
    *ret_pages = dropped.pages;
    return error;
}

/* One range at a time, so that page faults of the others are served meanwhile. */
uint64_t scratch_release_all(void) {
    uint64_t bytes = 0;
    uintptr_t address = 0;
    int pagemap = scratch_pagemap_open();
    struct scratch_range *range;
    sigset_t signals;
    scratch_signals_block(&signals);
    while ((range = registry_next_locked(address))) {
        struct scratch_dropped dropped;
        address = (uintptr_t)range->address + range->length;
        scratch_drop_locked(range, pagemap, 0, scratch_range_pages(range), &dropped);
        bytes += dropped.bytes;
        scratch_lock_release(&range->lock);
    }
    scratch_signals_restore(&signals);
    scratch_pagemap_close(pagemap);
    return bytes;
}

static int page_out_unpinned(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t run;
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
    if (error)
        return error;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    error = page_out_unpinned(range, offset / page_size, (offset + length) / page_size);
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    return error;
}

int scratch_range_rearm(struct scratch_range *range, size_t offset, size_t length) {
    if (range->engine != SCRATCH_ENGINE_LAZYFREE)
        return 0;
    size_t page_size = scratch_page_size();
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_control_lock);
    int error = scratch_pager_ensure(true);
    if (!error)
        error = scratch_pager_rearm(range, offset / page_size, (offset + length) / page_size);
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals);
    return error;
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
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_control_lock);
    int error = scratch_pager_ensure(true);
    if (!error)
        error = scratch_pager_fetch(range, pages, count);
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals);
    return error;
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
 * "or 0" also makes it writable, so that a system call can store into it. Not under any lock,
 * because each of these may wait for the pager.
 */
static void touch_pages(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    for (size_t page = first; page < end; page++) {
        _Atomic uint8_t *byte = (_Atomic uint8_t *)(range->address + page * page_size);
        if (range->protection & PROT_WRITE)
            atomic_fetch_or_explicit(byte, 0, memory_order_relaxed);
        else
            (void)atomic_load_explicit(byte, memory_order_relaxed);
    }
}

static void check_pinned(struct scratch_range *range, size_t first, size_t end) {
#ifdef SCRATCH_CHECK_STATES
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    for (size_t page = first; range->engine == SCRATCH_ENGINE_LAZYFREE && page < end; page++) {
        if (range->pins[page] && range->states[page] != SCRATCH_STATE_PINNED)
            scratch_check_event(range, page, 1, SCRATCH_EVENT_PIN);
    }
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
#else
    (void)range, (void)first, (void)end;
#endif
}

int scratch_range_pin(struct scratch_range *range, size_t offset, size_t length,
                      uint64_t *ret_generation) {
    size_t page_size = scratch_page_size();
    size_t first = offset / page_size;
    size_t end = (offset + length) / page_size;
    int error = 0;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    if (!has_room_for_pins(range)) {
        error = ENOMEM;
    } else {
        count_pins(range, first, end, 1);
        error = lock_on_fault(range->address + offset, length);
        if (error) {
            count_pins(range, first, end, -1);
            unlock_unpinned(range, first, end);
        }
        *ret_generation = range->generation;
    }
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    if (!error) {
        touch_pages(range, first, end);
        check_pinned(range, first, end);
    }
    return error;
}

int scratch_range_unpin(struct scratch_range *range, size_t offset, size_t length,
                        uint64_t generation) {
    size_t page_size = scratch_page_size();
    size_t first = offset / page_size;
    size_t end = (offset + length) / page_size;
    bool is_ours;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    is_ours = range->pins && generation == range->generation;
    if (is_ours) {
        count_pins(range, first, end, -1);
        unlock_unpinned(range, first, end);
        if (!range->pinned_pages)
            scratch_forget_pins(range);
    }
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    return is_ours ? scratch_range_rearm(range, offset, length) : 0;
}

void scratch_range_counts(struct scratch_range *range, struct scratch_counts *ret) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    ret->pinned = range->pinned_pages;
    ret->locked_bytes = range->lock_length;
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    _Atomic uint64_t *figures = scratch_range_figures(range);
    ret->filled = atomic_load_explicit(&figures[SCRATCH_FILLED], memory_order_relaxed);
    ret->rebuilt = atomic_load_explicit(&figures[SCRATCH_REBUILT], memory_order_relaxed);
    ret->dropped = atomic_load_explicit(&figures[SCRATCH_DROPPED], memory_order_relaxed);
    ret->fixup_ns = atomic_load_explicit(&figures[SCRATCH_FIXUP_NS], memory_order_relaxed);
}

int scratch_range_page_counts(struct scratch_range *range, struct scratch_page_counts *ret) {
    *ret = (struct scratch_page_counts){0};
    int pagemap = scratch_pagemap_open();
    if (pagemap < 0)
        return errno;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&range->lock);
    scratch_count_pages(range, pagemap, 0, scratch_range_pages(range), ret);
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
    scratch_pagemap_close(pagemap);
    return 0;
}

static int try_to_map(int flags, int fd) {
    void *mapped = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (mapped == MAP_FAILED)
        return errno;
    munmap(mapped, scratch_page_size());
    return 0;
}

/*
 * The number contains the bit of MAP_PRIVATE. Whoever imitates Linux and looks at that bit alone would
 * take it for a MAP_PRIVATE, and would also map it without a file, which MAP_SCRATCH refuses.
 */
int scratch_kernel_probe(int fd) {
    int error = try_to_map(MAP_SCRATCH, fd);
    if (!error && !try_to_map(MAP_SCRATCH | MAP_ANONYMOUS, -1))
        error = EINVAL;
    return error;
}
