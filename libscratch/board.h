/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The board: where a process keeps the figures of its scratch memory, so that others can read them.
 *
 * It is shared memory, made with the first thing that has figures. Whoever may trace the process reads it
 * through /proc/PID/mem or /proc/PID/map_files. So reading takes nothing from the process, and works when its
 * pager can't run. `mapscratch ps` does (mapscratch/ps/board.py has the same layout).
 *
 * At first it is of no file ("/dev/zero (deleted)" in /proc/PID/maps) and known by its size and by what it begins
 * with: a descriptor, for however short a time, could be closed by the application, and its number be given to
 * a file of the application's. Only the pager has a descriptor table that nobody else touches. When it starts it
 * moves the board into a memfd, /memfd:mapscratch-board, and keeps that open, for those who may look at the
 * process and not trace it.
 *
 * It is for statistics only: where it can't be made (a sandbox, no memory) or is full, the figures are kept in
 * the range itself, and all that is lost is that nobody else sees them. Nothing is decided by what it says.
 *
 * Over fork the child gets a board of its own. A child that our fork handlers never see (a raw clone) has the
 * parent's in its memory and must not write there: so whether the board is ours stands in a page that the
 * kernel wipes on fork.
 */
#ifndef SCRATCH_BOARD_H
#define SCRATCH_BOARD_H

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

struct scratch_slot_description {
    enum scratch_kind kind;
    uint16_t engine;
    uint64_t address;
    uint64_t length;
    scratch_slot_number owner;
    const char *name;
};

/* A leaf lock is taken, with signals blocked: allowed under any other, in any thread. */
scratch_slot_number scratch_board_allot(const struct scratch_slot_description *description);
/* Whatever scratch_board_allot has returned. */
void scratch_board_release(scratch_slot_number number);

/* Where to count: in the slot, or, for who has none, in memory of one's own. */
static inline _Atomic uint64_t *scratch_board_figures(scratch_slot_number number,
                                                      _Atomic uint64_t *own) {
    bool has_slot =
        number > 0 && atomic_load_explicit(scratch_board.is_ours, memory_order_relaxed);
    return has_slot ? scratch_board.slots[number].figures : own;
}

/* Before anything is on it: there will be none. */
void scratch_board_turn_off(void);

/*
 * The pager's, when it starts: makes the board, or moves it into a new file. The caller has a descriptor table of its
 * own, and that is where the descriptor is. Returns it, or -1: then all stays as it was.
 */
int scratch_board_open(void);

/* Around a fork; between the first and one of the others the board stays as it is, but for the figures. */
void scratch_board_before_fork(void);
void scratch_board_after_fork_in_parent(void);
/* In the child, before the last of these: who is still there. */
void scratch_board_keep(scratch_slot_number number);
/* The figures of maps and arrays start at 0; those that were just being made or closed are gone. */
void scratch_board_after_fork_in_child(void);

#endif
