/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The drop policy of `dontneed`: on announced memory pressure, drop private copies of file pages
 * before the kernel swaps them, coldest first.
 *
 * The kernel tells a process nothing about which of its pages are hot. What a process can see is
 * which of its dropped pages have come back: a chunk that was dirtied again soon after it had been dropped
 * is hot, one that stayed away is cold (the idea of refault distance, at a coarser grain). So heat
 * rises by refault and halves at each announcement, and the coldest chunks are dropped first.
 */
#ifndef SCRATCH_PRESSURE_H
#define SCRATCH_PRESSURE_H

#include <poll.h>

#include "range.h"

enum { SCRATCH_HEAT_CHUNK_PAGES = 64, SCRATCH_PRESSURE_DESCRIPTORS = 3 };

bool scratch_pressure_is_watched(void);
/* What to watch, as `scratch_pressure_watch` has it; nothing is opened yet. */
int scratch_pressure_choose(enum scratch_pressure_kind kind, const char *path, const char *trigger);

/* On the pager's thread, or that of somebody who has no pager (runtime/reclaim.c). */
int scratch_pressure_open(void);
void scratch_pressure_close(void);
/* The thread that had opened them is another process's. */
void scratch_pressure_forget(void);
/* Fills in what to poll; how many entries. */
size_t scratch_pressure_poll_entries(struct pollfd entries[SCRATCH_PRESSURE_DESCRIPTORS]);
void scratch_pressure_serve(const struct pollfd *entries, size_t count);

#endif
