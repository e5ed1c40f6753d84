/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges and their owners, inside libscratch.
 *
 * An address may be reused by malloc a microsecond after it was unmapped, and to drop somebody
 * else's memory is the worst bug that this library could have. So every madvise happens under the
 * lock of a range that the registry still holds, and a range leaves the registry before its memory
 * is unmapped: from then on the address may belong to another range.
 *
 * Order of locks: control (the pager's start, stop and mailbox) -> registry -> range -> board (board.c). Nobody touches
 * scratch memory, waits for the pager or needs an interpreter's lock while holding registry or
 * range; and an application's thread holds either only with its signals blocked, because a signal
 * handler may touch scratch memory and would then wait for itself.
 */
#ifndef SCRATCH_RANGE_H
#define SCRATCH_RANGE_H

#include <stdatomic.h>
#include <sys/mman.h>

#include "base.h"
#include "description.h"
#include "figures.h"
#include "helper.h"
#include "lock.h"
#include "pagemap.h"
#include "states.h"
#include "stream.h"

/* As many entries of a pagemap are read in few calls, and a bit each of a large range is little. */
enum { SCRATCH_TOUCHED_PAGES = 4096 };
enum { SCRATCH_PIN_CHUNK_PAGES = 512 };
/* The drop policy tells hot from cold by so many pages. */
enum { SCRATCH_HEAT_CHUNK_PAGES = 64 };

struct scratch_range {
    struct scratch_lock lock;
    enum scratch_engine engine;
    unsigned char *address;
    size_t length; /* whole pages */
    int protection;
    char *name;

    /* lazyfree */
    const unsigned char *source; /* what of the file the range is made of, read-only */
    size_t source_length;        /* bytes, from the page in which it begins */
    size_t source_skip;          /* bytes of that page before it */
    struct scratch_word_table fixup;
    bool has_fixup;
    bool is_decoded;
    bool is_guarded;       /* writable memory that nobody may store to */
    bool takes_huge_pages; /* the kernel lets us move them in, and they stay whole */
    struct scratch_decoding decoding;
    struct scratch_helper helper;
    struct scratch_streams streams;
    unsigned char *ever_filled; /* a bit a page */
    unsigned char *touched;     /* a bit for so many pages: one of them was filled */

    /* dontneed */
    size_t lock_length;
    unsigned char *heat; /* a byte a chunk: how often it came back after a drop */
    unsigned char *dropped_before;

    uint32_t *pins;           /* a count a page; NULL while nothing is pinned */
    uint32_t *pinned_in_chunk; /* pinned pages of so many; likewise */
    uint64_t pinned_pages;
    uint64_t generation; /* changes over fork, so that a pin of the parent isn't released here */

    scratch_slot_number slot;                            /* where its figures are, if it has one */
    _Atomic uint64_t own_figures[SCRATCH_SLOT_FIGURES]; /* in place of that */

    uint8_t *states; /* only in builds that check them */
};

static inline size_t scratch_range_pages(const struct scratch_range *range) {
    return range->length / scratch_page_size();
}

/* Stores are possible, and seen by write-protection alone: to be tracked, or where nobody may store, to be refused. */
static inline bool scratch_range_needs_protection(const struct scratch_range *range) {
    return (range->protection & PROT_WRITE) || range->is_guarded;
}

static inline _Atomic uint64_t *scratch_range_figures(struct scratch_range *range) {
    return scratch_board_figures(range->slot, range->own_figures);
}

static inline void scratch_range_count(struct scratch_range *range, enum scratch_figure figure,
                                       uint64_t more) {
    atomic_fetch_add_explicit(&scratch_range_figures(range)[figure], more, memory_order_relaxed);
}

static inline bool scratch_has_pins_near(const struct scratch_range *range, size_t page) {
    return range->pins && range->pinned_in_chunk[page / SCRATCH_PIN_CHUNK_PAGES];
}

static inline bool scratch_page_is_pinned(const struct scratch_range *range, size_t page) {
    return scratch_has_pins_near(range, page) && range->pins[page];
}

/* With what every engine needs, and `dontneed` besides; NULL: there is no memory. */
struct scratch_range *scratch_range_allocate(enum scratch_engine engine,
                                             const struct scratch_description *description);
/* NULL members are allowed: it may be half made. */
void scratch_range_free(struct scratch_range *range);

/* Under the range's lock: nothing is pinned any more. */
void scratch_forget_pins(struct scratch_range *range);
static inline size_t scratch_pins_bytes(const struct scratch_range *range) {
    return scratch_range_pages(range) * sizeof *range->pins;
}
static inline size_t scratch_pin_chunks_bytes(const struct scratch_range *range) {
    return (scratch_range_pages(range) / SCRATCH_PIN_CHUNK_PAGES + 1) *
           sizeof *range->pinned_in_chunk;
}
/* Of `ever_filled` and `touched`. */
static inline size_t scratch_filled_bytes(const struct scratch_range *range) {
    return (scratch_range_pages(range) + 7) / 8;
}
static inline size_t scratch_touched_bytes(const struct scratch_range *range) {
    return scratch_range_pages(range) / SCRATCH_TOUCHED_PAGES / 8 + 1;
}

/*
 * The first run of unpinned pages in [*first, end): *first moves to its start, its length comes
 * back; 0 if there is none. Under the range's lock.
 */
size_t scratch_unpinned_run(const struct scratch_range *range, size_t *first, size_t end);

/* What is there of some pages. Without a pagemap nothing is counted. */
void scratch_count_pages(const struct scratch_range *range, int pagemap, size_t first, size_t pages,
                         struct scratch_page_counts *counts);
/* Pages of ours that are in memory or in swap: of a file mapping, its private copies. */
uint64_t scratch_count_own_pages(const struct scratch_range *range, int pagemap, size_t first,
                                 size_t pages);

/* What of the source pages [first, end) are made of: bytes from `source_skip` on. */
void scratch_source_of(const struct scratch_range *range, size_t first, size_t end, size_t *ret_from,
                       size_t *ret_to);

static inline bool scratch_was_touched(const struct scratch_range *range, size_t page) {
    size_t chunk = page / SCRATCH_TOUCHED_PAGES;
    return !range->touched || range->touched[chunk / 8] & (1u << (chunk % 8));
}

/* The ranges of this process, ascending by address; all of it under the lock. */
struct scratch_registry {
    struct scratch_lock lock;
    struct scratch_range **ranges;
    size_t count;
    size_t capacity;
    size_t closing; /* ranges that were taken out and are neither forgotten nor back */
};
extern struct scratch_registry scratch_registry;

#define scratch_for_each_range(range)                                                            \
    for (struct scratch_range **range##_at = scratch_registry.ranges, *range;                    \
         range##_at < scratch_registry.ranges + scratch_registry.count && (range = *range##_at); \
         range##_at++)

/* Room for one more, besides the ranges that are being closed and may have to come back. */
int scratch_registry_make_room(void);
void scratch_registry_insert(struct scratch_range *range);
void scratch_registry_remove(const struct scratch_range *range);
/* How many ranges begin at `address` or below. */
size_t scratch_registry_position(uintptr_t address);

#endif
