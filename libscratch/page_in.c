/* SPDX-License-Identifier: Apache-2.0 */
#include "page_in.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "clock.h"
#include "raw.h"
#include "tell.h"
#include "waiting.h"

/* Where pages are made before anybody sees them, and what they are decoded from. */
static unsigned char staging[SCRATCH_STAGING_BYTES] __attribute__((aligned(4096)));
static unsigned char encoded[SCRATCH_STAGING_BYTES] __attribute__((aligned(4096)));

/* What is decoded may be secret, and can be made again: it is no part of a core file. */
static void leave_out_of_core_files(void) {
    static bool is_left_out;
    if (is_left_out)
        return;
    is_left_out = true;
    madvise(staging, sizeof staging, MADV_DONTDUMP);
    madvise(encoded, sizeof encoded, MADV_DONTDUMP);
}

/* On x86-64, and on aarch64 with small base pages: where it is another size, pages are small. */
enum { HUGE_BYTES = 2 << 20 };

/* Readers for whom something is to be made ahead: a ring of ranges' addresses and streams. */
enum { AHEAD_CAPACITY = 32 };
struct ahead {
    uintptr_t address;
    size_t stream;
};
static struct ahead aheads[AHEAD_CAPACITY];
static size_t ahead_head;
static size_t ahead_count;

/* From so many bytes on the source is not copied before it is decoded. */
enum { DIRECT_BYTES = 32 * 1024 };

enum { REASON_LENGTH = SCRATCH_HELPER_TEXT };

/* Whoever faulted last has a whole window to read, which takes longer than polling is worth. */
static bool has_plenty;

static pid_t own_process; /* asked for once: it is a system call */

static size_t least(size_t one, size_t other) { return one < other ? one : other; }

static size_t unit_bytes(const struct scratch_range *range) {
    return range->decoding.unit_pages * scratch_page_size();
}

/* How many units are decoded at once: what fits into both buffers. */
static size_t batch_units(const struct scratch_range *range) {
    size_t units = SCRATCH_STAGING_BYTES / unit_bytes(range);
    return least(units, SCRATCH_STAGING_BYTES / range->decoding.unit_source_length);
}

static size_t huge_pages(void) { return HUGE_BYTES / scratch_page_size(); }

/* Huge pages, if they hold whole units. */
static void set_huge(const struct scratch_range *range, struct scratch_stream_limits *limits) {
    size_t skew = (uintptr_t)range->address % HUGE_BYTES / scratch_page_size();
    if (huge_pages() % limits->unit || (huge_pages() - skew) % limits->unit)
        return;
    limits->huge = huge_pages();
    limits->huge_skew = skew;
}

static struct scratch_stream_limits limits_of(const struct scratch_range *range) {
    struct scratch_stream_limits limits = {
        .end = scratch_range_pages(range),
        .unit = 1,
        .block = scratch_settings.fault_around_pages,
        .batch = SCRATCH_STAGING_BYTES / scratch_page_size(),
        .window = SCRATCH_STAGING_BYTES / scratch_page_size(),
        .adapts = true,
    };
    if (range->is_decoded) {
        const struct scratch_decoding *decoding = &range->decoding;
        limits.unit = decoding->unit_pages;
        limits.block = decoding->block_pages;
        limits.batch = batch_units(range) * decoding->unit_pages;
        limits.window = scratch_settings.window_pages;
        limits.adapts = !decoding->block_is_fixed;
        limits.windows_ahead = range->helper.address ? SCRATCH_HELPER_QUESTIONS : 1;
        if (range->takes_huge_pages && !range->helper.address)
            set_huge(range, &limits);
    }
    return limits;
}

static void wake_pages(const struct scratch_userfault *userfault, const struct scratch_range *range,
                       size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    scratch_userfault_wake(userfault, (uintptr_t)range->address + first * page_size,
                           (end - first) * page_size);
}

/* From now on a touch ends in SIGBUS, as with mmap; false if the kernel can't do that here. */
static bool poison_page(const struct scratch_userfault *userfault, const struct scratch_range *range,
                        size_t page) {
    size_t page_size = scratch_page_size();
    if (!userfault->poison)
        return false; /* before Linux 6.6 */
    int result;
    do {
        struct uffdio_poison poison = {
            .range = {(uintptr_t)range->address + page * page_size, page_size}};
        result = raw_ioctl(userfault->descriptor, UFFDIO_POISON, &poison);
    } while (result && errno == EAGAIN); /* the address space is changing */
    return !result;
}

/*
 * In place of poison: SIGSEGV, and EFAULT for system calls. Where the process may have no more mappings
 * one page can't be closed, but all of them can.
 */
static void close_page(const struct scratch_range *range, size_t page) {
    size_t page_size = scratch_page_size();
    if (mprotect(range->address + page * page_size, page_size, PROT_NONE))
        mprotect(range->address, range->length, PROT_NONE);
}

/* Nobody may ever see something else than what the file gives. */
static void fail_page(const struct scratch_userfault *userfault, struct scratch_range *range,
                      size_t page, const char *reason) {
    size_t page_size = scratch_page_size();
    if (range->is_decoded)
        scratch_tell("mapscratch: block %zu (items from %llu on) of the array of %s can't be made: %s\n",
                     page / range->decoding.unit_pages,
                     (unsigned long long)(page / range->decoding.unit_pages *
                                          range->decoding.unit_items),
                     range->name, reason);
    else
        scratch_tell("mapscratch: page %zu (byte %zu) of the scratch mapping of %s can't be made: %s\n",
                     page, page * page_size, range->name, reason);
    if (!poison_page(userfault, range, page))
        close_page(range, page);
}

/*
 * From now on the kernel itself refuses stores, as in any read-only memory; a huge page can't be moved in
 * any more.
 */
static void close_to_stores(struct scratch_range *range) {
    mprotect(range->address, range->length, PROT_READ);
    range->takes_huge_pages = false;
}

/*
 * A thread's own store: SIGBUS, and a message. In a system call it may be a store (read), which then gets
 * EFAULT; but to lock memory, or to fill it ahead, the kernel also asks for pages that can be written
 * wherever memory is writable. It looks again when the pager has answered: in read-only memory mlock and
 * mlockall make pages to be read, and MADV_POPULATE_WRITE is refused.
 */
void scratch_page_in_refuse_store(const struct scratch_userfault *userfault,
                                  struct scratch_range *range, size_t page, pid_t thread) {
    bool is_poisoned = false;
    if (scratch_waits_outside_of_system_calls(thread)) {
        scratch_tell(
            "mapscratch: something stored into the array of %s, which is read-only (page %zu): give "
            "it a copy, np.array(a). help(mapscratch.array) names libraries that do so\n",
            range->name, page);
        /* Only what is missing can be poisoned; what is pinned or locked stays. */
        is_poisoned = !scratch_discard_pages(range, page, 1) && poison_page(userfault, range, page);
    }
    if (!is_poisoned)
        close_to_stores(range);
    wake_pages(userfault, range, page, page + 1);
}

/*
 * The source's read-ahead is switched off (MADV_RANDOM), because read-around makes a random
 * page-in read far more than it needs. So ask for what is needed: these pages, and in a sequence
 * a window ahead of them.
 */
static void read_ahead(struct scratch_range *range, const struct scratch_plan *plan) {
    size_t page_size = scratch_page_size();
    size_t from, to;
    scratch_source_of(range, plan->first, plan->end, &from, &to);
    if (plan->in_sequence) {
        size_t window = scratch_settings.readahead_bytes;
        size_t on_its_way_from, on_its_way_to;
        scratch_source_of(range, plan->stream->next, plan->stream->goal, &on_its_way_from, &on_its_way_to);
        if (on_its_way_to > to)
            to = on_its_way_to;
        if (to + window / 2 <= plan->stream->read_to)
            return; /* still well inside what was asked for */
        to += window;
        if (plan->stream->read_to > from && plan->stream->read_to < to)
            from = plan->stream->read_to;
    }
    plan->stream->read_to = to;
    size_t start = (range->source_skip + from) & ~(page_size - 1);
    size_t stop = least(range->source_skip + to, range->source_length);
    bool is_worth_a_call = stop > start + 2 * page_size; /* else reading them asks for them */
    if (start < stop && is_worth_a_call)
        madvise((void *)(range->source + start), stop - start, MADV_WILLNEED);
}

/* Copies bytes of the source; fewer than asked for if the file has shrunk, where memcpy would be killed. */
static size_t read_source(const struct scratch_range *range, size_t offset, size_t length, void *to) {
    struct iovec local = {to, length};
    struct iovec remote = {(void *)(range->source + range->source_skip + offset), length};
    ssize_t got = syscall(SYS_process_vm_readv, own_process, &local, 1, &remote, 1, 0);
    return got > 0 ? (size_t)got : 0;
}

/*
 * Bytes of the source for a decoding function, and how many there are. Much is decoded where it lies,
 * if its last byte can be read just now: to copy it first would cost as much as to decode it. (If the
 * file shrinks in that very moment, or its device fails, the process ends by SIGBUS, as it would a
 * moment later, but without our message.)
 */
static const void *encoded_bytes(const struct scratch_range *range, size_t offset, size_t length,
                                 size_t *ret_length) {
    const unsigned char *bytes = range->source + range->source_skip + offset;
    unsigned char last;
    bool is_aligned = (uintptr_t)bytes % 16 == 0;
    if (length >= DIRECT_BYTES && is_aligned && read_source(range, offset + length - 1, 1, &last)) {
        *ret_length = length;
        return bytes;
    }
    *ret_length = read_source(range, offset, length, encoded);
    return encoded;
}

static void count_fixup_time(struct scratch_range *range, uint64_t started) {
    scratch_range_count(range, SCRATCH_FIXUP_NS, scratch_now_ns() - started);
}

static size_t stage_words(struct scratch_range *range, size_t first, size_t pages) {
    size_t page_size = scratch_page_size();
    size_t staged = read_source(range, first * page_size, pages * page_size, staging) / page_size;
    uint64_t started = scratch_now_ns();
    scratch_word_table_apply(&range->fixup, staging, first * page_size, staged * page_size);
    count_fixup_time(range, started);
    return staged;
}

/* Decodes whole units from `first` on; the pages that could be made, and if not all, why. */
static size_t stage_decoded(struct scratch_range *range, size_t first, size_t pages,
                            unsigned char *to_bytes, char reason[REASON_LENGTH]) {
    const struct scratch_decoding *decoding = &range->decoding;
    uint64_t first_unit = first / decoding->unit_pages;
    uint64_t units = (pages + decoding->unit_pages - 1) / decoding->unit_pages;
    size_t from, to;
    scratch_source_of(range, first, first + pages, &from, &to);
    size_t got;
    const void *bytes = encoded_bytes(range, from, to - from, &got);
    if (got < to - from) {
        snprintf(reason, REASON_LENGTH,
                 "the file no longer has these bytes (it shrank, or its device failed)");
        units = got / decoding->unit_source_length;
        pages = units * decoding->unit_pages;
    }
    uint64_t first_item = first_unit * decoding->unit_items;
    uint64_t items = units * decoding->unit_items;
    if (items > decoding->items - first_item)
        items = decoding->items - first_item;
    if (!items)
        return 0;
    uint64_t started = scratch_now_ns();
    int32_t error = decoding->decode(to_bytes, bytes, (int64_t)items, (int64_t)first_item,
                                     (void *)decoding->user_data);
    count_fixup_time(range, started);
    if (error) {
        snprintf(reason, REASON_LENGTH, "its fixup returned %d", (int)error);
        return 0;
    }
    /* Behind the last item is nobody's, but it can be seen; the same each time. */
    size_t used = items * (unit_bytes(range) / decoding->unit_items);
    memset(to_bytes + used, 0, units * unit_bytes(range) - used);
    return pages;
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

static bool was_filled(const struct scratch_range *range, size_t page) {
    return range->ever_filled[page / 8] & (1u << (page % 8));
}

static bool is_there(const struct scratch_range *range, size_t page) {
    unsigned char residence = 0;
    return !mincore(range->address + page * scratch_page_size(), 1, &residence) && (residence & 1);
}

static void check_filled(struct scratch_range *range, size_t first, size_t pages, bool for_store) {
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
        at_once = least(at_once, first + pages - page);
        struct uffdio_copy copy = {
            .dst = (uintptr_t)range->address + page * page_size,
            .src = (uintptr_t)bytes + (page - first) * page_size,
            .len = at_once * page_size,
            .mode = UFFDIO_COPY_MODE_DONTWAKE | (is_protected ? UFFDIO_COPY_MODE_WP : 0),
        };
        int error = raw_ioctl(userfault->descriptor, UFFDIO_COPY, &copy) ? errno : 0;
        size_t copied = copy.copy > 0 ? (size_t)copy.copy / page_size : 0;
        if (copied) {
            count_filled(range, page, copied);
            check_filled(range, page, copied, for_store);
            page += copied;
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

/* On the processor that made them: see placement.h. */
static void free_unpinned(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t run;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        scratch_userfault_free_lazily(range->address + first * page_size, run * page_size);
        first += run;
    }
}

static const char *reason_of(int error) {
    switch (error) {
    case EFAULT:
        return "the file no longer has these bytes (it shrank, or its device failed)";
    case ENOMEM:
        return "there is no memory for it (see the memory limit of this cgroup)";
    default:
        return strerror(error);
    }
}

/* Copies in what was made, as often as reclaim needs; an error of the awaited page. */
static int try_to_copy_in(const struct scratch_userfault *userfault, struct scratch_range *range,
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

/*
 * Makes at most one batch; once the caller has drained it is droppable. An error is that of `awaited`,
 * the page somebody waits for, if there is one; it has no page then, and `reason` says why.
 */
static int make_pages(const struct scratch_userfault *userfault, struct scratch_range *range,
                      size_t first, size_t end, size_t awaited, bool for_store,
                      char reason[REASON_LENGTH]) {
    size_t pages = end - first;
    const unsigned char *bytes = range->source + first * scratch_page_size();
    reason[0] = 0;
    leave_out_of_core_files();
    if (range->is_decoded)
        pages = stage_decoded(range, first, pages, staging, reason);
    else if (range->has_fixup)
        pages = stage_words(range, first, pages);
    if (range->is_decoded || range->has_fixup)
        bytes = staging;
    int error = try_to_copy_in(userfault, range, first, pages, bytes, awaited, for_store);
    bool is_missing = awaited != SCRATCH_NO_PAGE && awaited >= first + pages;
    free_unpinned(range, first, first + pages);
    if (is_missing)
        error = EFAULT;
    if (error && !reason[0])
        snprintf(reason, REASON_LENGTH, "%s", reason_of(error));
    /* The mapping has changed, or is gone: whoever waits faults again and finds out. */
    return error == ENOENT || error == ESRCH ? 0 : error;
}

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
    static unsigned char *memory;
    if (!memory) {
        unsigned char *mapped = map_huge_staging(NULL, 2 * HUGE_BYTES, 0);
        if (!mapped)
            return NULL;
        memory = mapped + (HUGE_BYTES - (uintptr_t)mapped % HUGE_BYTES) % HUGE_BYTES;
    }
    bool is_ready = map_huge_staging(memory, HUGE_BYTES, MAP_FIXED) &&
                    !madvise(memory, HUGE_BYTES, MADV_HUGEPAGE) &&
                    !madvise(memory, HUGE_BYTES, MADV_DONTDUMP);
    return is_ready ? memory : NULL;
}

static bool move_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                    size_t first, unsigned char *bytes) {
    uintptr_t address = (uintptr_t)range->address + first * scratch_page_size();
    struct uffdio_move move = {
        .dst = address,
        .src = (uintptr_t)bytes,
        .len = HUGE_BYTES,
        .mode = UFFDIO_MOVE_MODE_DONTWAKE,
    };
    /*
     * A fault that waits there has left an empty page table, and only where there is none does the
     * huge page stay one. Linux 6.14 and later free it with the pages (CONFIG_PT_RECLAIM).
     */
    if (scratch_discard_pages(range, first, huge_pages())) {
        errno = EEXIST; /* part of it is pinned */
        return false;
    }
    while (raw_ioctl(userfault->descriptor, UFFDIO_MOVE, &move)) {
        if (errno != EAGAIN || move.move > 0)
            return false;
    }
    count_filled(range, first, huge_pages());
    check_filled(range, first, huge_pages(), false);
    scratch_userfault_write_protect(userfault, address, HUGE_BYTES, true);
    return true;
}

/*
 * Whether what was moved in is still one huge page. Before Linux 6.14 a huge page falls into small ones
 * where somebody has waited for it, and to move these takes longer than to copy them.
 */
static bool is_whole(uintptr_t address) {
    int pagemap = scratch_pagemap_open();
    struct page_region region = {0};
    struct pm_scan_arg scan = {
        .size = sizeof scan,
        .start = address,
        .end = address + HUGE_BYTES,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_mask = PAGE_IS_HUGE,
        .return_mask = PAGE_IS_HUGE,
    };
    bool found = raw_ioctl(pagemap, PAGEMAP_SCAN, &scan) == 1 && region.end - region.start == HUGE_BYTES;
    scratch_pagemap_close(pagemap);
    return found;
}

static bool moved_before; /* and it stayed whole */

/* False if nothing was made of it: then it is to be made of small pages. */
static bool make_huge_page(const struct scratch_userfault *userfault, struct scratch_range *range,
                           const struct scratch_stream_limits *limits, size_t first) {
    unsigned char *memory = huge_staging();
    size_t pages;
    if (!memory)
        return false;
    for (size_t done = 0; done < huge_pages(); done += pages) {
        char reason[REASON_LENGTH];
        pages = least(limits->batch, huge_pages() - done);
        if (stage_decoded(range, first + done, pages, memory + done * scratch_page_size(), reason) <
            pages)
            return false;
    }
    if (!move_in(userfault, range, first, memory)) {
        range->takes_huge_pages = errno == EEXIST; /* else the kernel can't do it */
        return false;
    }
    if (!moved_before)
        range->takes_huge_pages =
            is_whole((uintptr_t)range->address + first * scratch_page_size());
    moved_before = range->takes_huge_pages;
    free_unpinned(range, first, first + huge_pages());
    scratch_userfault_drain();
    return true;
}

static bool is_huge_page(const struct scratch_stream_limits *limits, size_t first, size_t end) {
    return limits->huge && end - first == limits->huge &&
           (first + limits->huge_skew) % limits->huge == 0;
}

/* Whole units around a page, of which at most `limits->end` are in the range. */
static void unit_around(const struct scratch_stream_limits *limits, size_t page, size_t *ret_first,
                        size_t *ret_end) {
    *ret_first = page - page % limits->unit;
    *ret_end = least(*ret_first + limits->unit, limits->end);
}

static void make_awaited(const struct scratch_userfault *userfault, struct scratch_range *range,
                         const struct scratch_stream_limits *limits, size_t first, size_t end,
                         size_t page, bool for_store) {
    char reason[REASON_LENGTH];
    int error = make_pages(userfault, range, first, end, page, for_store, reason);
    if (error && end - first > limits->unit) { /* it may be another part that can't be made */
        unit_around(limits, page, &first, &end);
        error = make_pages(userfault, range, first, end, page, for_store, reason);
    }
    scratch_userfault_drain(); /* so that nobody sees a page that isn't droppable yet */
    if (error)
        fail_page(userfault, range, page, reason);
    wake_pages(userfault, range, first, end);
}

static void make_unawaited(const struct scratch_userfault *userfault, struct scratch_range *range,
                           size_t first, size_t end) {
    char reason[REASON_LENGTH];
    make_pages(userfault, range, first, end, SCRATCH_NO_PAGE, false, reason);
    scratch_userfault_drain();
}

/* What can't be made is told to whoever touches it. */
void scratch_page_in_fetch(const struct scratch_userfault *userfault, struct scratch_range *range,
                           const uint64_t *pages, size_t count) {
    scratch_lock_acquire(&range->lock);
    struct scratch_stream_limits limits = limits_of(range);
    for (size_t index = 0; index < count; index++) {
        char reason[REASON_LENGTH];
        size_t first, end;
        unit_around(&limits, pages[index], &first, &end);
        if (!is_there(range, pages[index]))
            make_pages(userfault, range, first, end, SCRATCH_NO_PAGE, false, reason);
    }
    scratch_userfault_drain();
    scratch_lock_release(&range->lock);
}

/* All of [first, end) but the batch that begins at `made_first`. */
static void make_in_batches(const struct scratch_userfault *userfault, struct scratch_range *range,
                            const struct scratch_stream_limits *limits, size_t first, size_t end,
                            size_t made_first) {
    for (; first < end; first += limits->batch) {
        if (first != made_first)
            make_unawaited(userfault, range, first, least(first + limits->batch, end));
    }
}

static bool try_huge_page(const struct scratch_userfault *userfault, struct scratch_range *range,
                          const struct scratch_stream_limits *limits, size_t first, size_t end) {
    return is_huge_page(limits, first, end) && make_huge_page(userfault, range, limits, first);
}

static void note_ahead(const struct scratch_range *range, const struct scratch_stream *stream) {
    size_t index = (size_t)(stream - range->streams.streams);
    if (stream->next >= stream->goal || ahead_count == AHEAD_CAPACITY)
        return;
    for (size_t noted = 0; noted < ahead_count; noted++) {
        const struct ahead *ahead = &aheads[(ahead_head + noted) % AHEAD_CAPACITY];
        if (ahead->address == (uintptr_t)range->address && ahead->stream == index)
            return;
    }
    aheads[(ahead_head + ahead_count++) % AHEAD_CAPACITY] =
        (struct ahead){(uintptr_t)range->address, index};
}

/* What can't be asked of a helper fails like what can't be decoded. */
static void ask(const struct scratch_userfault *userfault, struct scratch_range *range, size_t first,
                size_t end, size_t awaited) {
    struct scratch_helper *helper = &range->helper;
    size_t unit = range->decoding.unit_pages;
    size_t number = scratch_helper_free_question(helper);
    int error = scratch_helper_connect(helper, (uintptr_t)range->address);
    helper->questions[number].first = first;
    helper->questions[number].end = end;
    helper->questions[number].awaited = awaited;
    helper->questions[number].asked_ns = scratch_now_ns();
    if (!error)
        error = scratch_helper_ask(helper, number, first / unit, (end - first + unit - 1) / unit);
    if (error && awaited != SCRATCH_NO_PAGE) {
        char reason[REASON_LENGTH];
        if (error == ECONNREFUSED || error == EPIPE)
            snprintf(reason, sizeof reason, "the process of its fixup has ended");
        else
            snprintf(reason, sizeof reason, "the process of its fixup can't be asked (%s)",
                     strerror(error));
        fail_page(userfault, range, awaited, reason);
        wake_pages(userfault, range, awaited, awaited + 1);
    }
}

/* Nobody will answer: whoever waits for one of these pages has waited in vain. */
static void give_up_questions(const struct scratch_userfault *userfault, struct scratch_range *range,
                              const char *reason) {
    for (size_t number = 0; number < SCRATCH_HELPER_QUESTIONS; number++) {
        struct scratch_helper_question *question = &range->helper.questions[number];
        if (question->is_asked && question->awaited != SCRATCH_NO_PAGE)
            fail_page(userfault, range, question->awaited, reason);
        question->is_asked = false;
    }
}

static void take_answer(const struct scratch_userfault *userfault, struct scratch_range *range,
                        size_t number, int error, const char *reason) {
    struct scratch_helper_question *question = &range->helper.questions[number];
    struct scratch_stream_limits limits = limits_of(range);
    size_t first = question->first, end = question->end, awaited = question->awaited;
    count_fixup_time(range, question->asked_ns);
    if (!error) {
        error = try_to_copy_in(userfault, range, first, end - first,
                               scratch_helper_answer_bytes(&range->helper, number), awaited, false);
        free_unpinned(range, first, end);
        scratch_userfault_drain();
        reason = reason_of(error);
    } else if (awaited != SCRATCH_NO_PAGE && end - first > limits.unit) {
        unit_around(&limits, awaited, &first, &end); /* it may be another part that can't be made */
        ask(userfault, range, first, end, awaited);
        return;
    }
    if (error && error != ENOENT && error != ESRCH && awaited != SCRATCH_NO_PAGE)
        fail_page(userfault, range, awaited, reason);
}

static void note_all_ahead(struct scratch_range *range) {
    for (size_t index = 0; index < SCRATCH_STREAM_COUNT; index++)
        note_ahead(range, &range->streams.streams[index]);
}

void scratch_page_in_answers(const struct scratch_userfault *userfault) {
    uintptr_t token;
    while ((token = scratch_helpers_next())) {
        struct scratch_range *range = scratch_registry_find_locked(token);
        if (!range)
            return; /* being closed; its connection goes with it */
        char reason[SCRATCH_HELPER_TEXT] = "";
        size_t number;
        int error = scratch_helper_answer(&range->helper, &number, reason);
        if (error == EPIPE)
            give_up_questions(userfault, range, reason);
        else if (error != EAGAIN)
            take_answer(userfault, range, number, error, reason);
        /* Whoever has faulted meanwhile, anywhere, was left waiting: they fault again. */
        wake_pages(userfault, range, 0, scratch_range_pages(range));
        note_all_ahead(range);
        scratch_lock_release(&range->lock);
    }
}

/* In parts that are decoded at once; what is awaited among them, and then the others. */
static void make_planned(const struct scratch_userfault *userfault, struct scratch_range *range,
                         const struct scratch_stream_limits *limits, const struct scratch_plan *plan,
                         size_t page, bool for_store) {
    size_t awaited_first = plan->first + (page - plan->first) / limits->batch * limits->batch;
    size_t awaited_end = least(awaited_first + limits->batch, plan->end);
    if (range->helper.address) {
        ask(userfault, range, awaited_first, awaited_end, page);
        return;
    }
    if (try_huge_page(userfault, range, limits, plan->first, plan->end)) {
        wake_pages(userfault, range, plan->first, plan->end);
        return;
    }
    make_awaited(userfault, range, limits, awaited_first, awaited_end, page, for_store);
    make_in_batches(userfault, range, limits, plan->first, plan->end, awaited_first);
}

/* Made while somebody was already on the way to it. */
static void arrive(const struct scratch_userfault *userfault, struct scratch_range *range,
                   const struct scratch_stream_limits *limits, size_t page) {
    struct scratch_plan plan;
    wake_pages(userfault, range, page, page + 1);
    if (scratch_stream_arrive(&range->streams, limits, page, &plan)) {
        read_ahead(range, &plan);
        note_ahead(range, plan.stream);
        has_plenty = plan.stream->window >= limits->window;
    }
}

bool scratch_page_in_expects_fault(void) { return !has_plenty; }

/* Not what has been asked for already, and not while no question is free. */
static bool may_be_asked_for(struct scratch_range *range, const struct scratch_stream_limits *limits,
                             size_t page) {
    struct scratch_plan plan;
    bool is_asked_for = scratch_helper_is_asked_for(&range->helper, page);
    if (is_asked_for && scratch_stream_arrive(&range->streams, limits, page, &plan))
        note_ahead(range, plan.stream);
    return !is_asked_for &&
           scratch_helper_free_question(&range->helper) < SCRATCH_HELPER_QUESTIONS;
}

void scratch_page_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                     size_t page, bool for_store, bool is_late, size_t *ret_first,
                     size_t *ret_end) {
    *ret_first = *ret_end = page;
    struct scratch_stream_limits limits = limits_of(range);
    if (range->helper.address && !may_be_asked_for(range, &limits, page))
        return; /* an answer wakes everybody */
    bool may_be_there = is_late || scratch_stream_is_ahead(&range->streams, &limits, page);
    if (range->is_decoded && may_be_there && is_there(range, page)) {
        arrive(userfault, range, &limits, page);
        return;
    }
    bool made_before = range->is_decoded && was_filled(range, page);
    struct scratch_plan plan = scratch_stream_plan(&range->streams, &limits, page, made_before);
    read_ahead(range, &plan);
    make_planned(userfault, range, &limits, &plan, page, for_store);
    has_plenty = range->is_decoded && plan.stream->window >= limits.window;
    note_ahead(range, plan.stream);
    *ret_first = plan.first;
    *ret_end = plan.end;
}

bool scratch_page_in_ahead(const struct scratch_userfault *userfault) {
    if (!ahead_count)
        return false;
    struct ahead ahead = aheads[ahead_head];
    ahead_head = (ahead_head + 1) % AHEAD_CAPACITY;
    ahead_count--;
    struct scratch_range *range = scratch_registry_find_locked(ahead.address);
    if (!range)
        return true; /* closed since */
    struct scratch_stream *stream = &range->streams.streams[ahead.stream];
    struct scratch_stream_limits limits = limits_of(range);
    size_t first, end;
    bool is_busy = range->helper.address && scratch_helper_free_question(&range->helper) ==
                                                SCRATCH_HELPER_QUESTIONS; /* noted again at an answer */
    if (range->is_decoded && !is_busy && scratch_stream_go_ahead(stream, &limits, &first, &end)) {
        if (range->helper.address)
            ask(userfault, range, first, end, SCRATCH_NO_PAGE);
        else if (!try_huge_page(userfault, range, &limits, first, end))
            make_in_batches(userfault, range, &limits, first, end, SCRATCH_NO_PAGE);
        note_ahead(range, stream);
    }
    scratch_lock_release(&range->lock);
    return true;
}

void scratch_page_in_forget(void) {
    ahead_count = 0;
    scratch_helpers_forget_descriptors();
}

void scratch_page_in_restart(const struct scratch_userfault *userfault) {
    scratch_page_in_forget();
    own_process = getpid();
    scratch_lock_acquire(&scratch_registry_lock);
    size_t count;
    struct scratch_range **ranges = scratch_registry_ranges(&count);
    for (size_t index = 0; index < count; index++) {
        if (!ranges[index]->helper.address)
            continue;
        scratch_helper_restart(&ranges[index]->helper);
        wake_pages(userfault, ranges[index], 0, scratch_range_pages(ranges[index]));
    }
    scratch_lock_release(&scratch_registry_lock);
}
