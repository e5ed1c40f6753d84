/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of scratch memory: how they lie on the board of their process (board.h), where others read them, and
 * where to count. `mapscratch ps` has the same layout (mapscratch/ps/board.py).
 */
#ifndef SCRATCH_FIGURES_H
#define SCRATCH_FIGURES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCRATCH_BOARD_VERSION = 1,
    SCRATCH_BOARD_SLOTS = 16384, /* 4 MiB of addresses; memory only for what was used of it */
    SCRATCH_SLOT_FIGURES = 8,
    SCRATCH_SLOT_NAME_BYTES = 160,
};

enum scratch_kind {
    SCRATCH_KIND_NONE, /* the slot is free */
    SCRATCH_KIND_MAP,
    SCRATCH_KIND_ARRAY,
    SCRATCH_KIND_CACHE,
    SCRATCH_KIND_REGION, /* memory of a cache */
};

/* Of maps and arrays. */
enum scratch_figure {
    SCRATCH_FILLED,
    SCRATCH_REBUILT,
    SCRATCH_DROPPED,
    SCRATCH_FIXUP_NS,
    SCRATCH_PINNED,
};

/* Of caches. */
enum scratch_cache_figure {
    SCRATCH_CACHE_HITS,
    SCRATCH_CACHE_MADE,
    SCRATCH_CACHE_LOST,
    SCRATCH_CACHE_EVICTED,
    SCRATCH_CACHE_UNCACHED,
    SCRATCH_CACHE_ENTRIES,
    SCRATCH_CACHE_BYTES,
};

struct scratch_slot {
    _Atomic uint32_t sequence; /* odd while the slot is being written */
    uint16_t kind;
    uint16_t engine;
    uint64_t address;
    uint64_t length;
    int32_t owner; /* of a region: the slot of its cache */
    uint32_t name_length;
    _Atomic uint64_t figures[SCRATCH_SLOT_FIGURES];
    char name[SCRATCH_SLOT_NAME_BYTES]; /* its end, if it is longer */
};

/* In place of the first slot. */
struct scratch_board_header {
    char magic[8];
    uint32_t version;
    uint32_t slot_bytes;
    uint32_t slots;
    uint32_t process; /* as it knows itself: others may be in another namespace */
    _Atomic uint32_t used;   /* so many slots, this one included, were ever used */
    _Atomic uint32_t beyond; /* things without a slot, because there is none left */
    /* The sums of what is gone, so that totals never fall. */
    _Atomic uint64_t ended_ranges[SCRATCH_SLOT_FIGURES];
    _Atomic uint64_t ended_caches[SCRATCH_SLOT_FIGURES];
    char unused[96];
};

_Static_assert(sizeof(struct scratch_slot) == 256, "the layout that others read");
_Static_assert(sizeof(struct scratch_board_header) == sizeof(struct scratch_slot), "likewise");

struct scratch_board {
    struct scratch_slot *slots; /* NULL until there is one; then it stays there */
    _Atomic uint32_t *is_ours;  /* in a page that is wiped on fork */
};
extern struct scratch_board scratch_board;

/* A slot's number; less than 1 if there is none for somebody. */
typedef int32_t scratch_slot_number;

/* Where to count: in the slot, or, for who has none, in memory of one's own. */
static inline _Atomic uint64_t *scratch_board_figures(scratch_slot_number number,
                                                      _Atomic uint64_t *own) {
    bool has_slot =
        number > 0 && atomic_load_explicit(scratch_board.is_ours, memory_order_relaxed);
    return has_slot ? scratch_board.slots[number].figures : own;
}

#endif
