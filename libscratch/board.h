/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The board: where a process keeps the figures of its scratch memory, so that others can read them.
 *
 * It is shared memory, made with the first thing that has figures. Whoever may trace the process reads it
 * through /proc/PID/mem or /proc/PID/map_files. So reading takes nothing from the process, and works when its
 * pager can't run. `mapscratch ps` does. How figures lie on it is in figures.h.
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

#include "figures.h"

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
