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
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scratch_pressure_kind {
    SCRATCH_PRESSURE_CGROUP1,
    SCRATCH_PRESSURE_CGROUP2,
    SCRATCH_PRESSURE_STALL,
    SCRATCH_PRESSURE_TIMER, /* for trials: announced every so many milliseconds (`path`, a number) */
};

/*
 * 10 ms of stalls in half a second; or, because that takes CAP_SYS_RESOURCE, 20 ms in 2 s, the shortest
 * window that an ordinary user may ask for (Documentation/accounting/psi.rst, "Monitoring for pressure
 * thresholds"). The first that the kernel grants is taken.
 */
#define SCRATCH_STALL_TRIGGERS "some 10000 500000\nsome 20000 2000000"

enum { SCRATCH_PRESSURE_DESCRIPTORS = 3 };

/* Something was chosen and could be opened. Under the control lock (pager.h), where there is a pager. */
extern bool scratch_pressure_is_watched;

/*
 * What wakes the drop policy; nothing is opened yet. `path` is a cgroup's directory or a PSI file. `trigger`
 * is for PSI: one a line, of which the first is taken that this process may have. Of a cgroup v2 either
 * of memory.pressure (in its place the machine's) and memory.events is enough.
 */
int scratch_pressure_choose(enum scratch_pressure_kind kind, const char *path, const char *trigger);

/* On the pager's thread, or that of somebody who has no pager (runtime/reclaim.c). */
int scratch_pressure_open(void);
void scratch_pressure_close(void);
/* The thread that had opened them is another process's. */
void scratch_pressure_forget(void);
/* Fills in what to poll; how many entries. */
size_t scratch_pressure_poll_entries(struct pollfd entries[SCRATCH_PRESSURE_DESCRIPTORS]);
void scratch_pressure_serve(const struct pollfd *entries, size_t count);

/* Runs the drop policy once, for pressure of level 0 (low) to 2 (critical). */
void scratch_pressure_relieve(int level);
/* How often it ran, and pages that it has dropped in all. */
void scratch_pressure_counts(uint64_t *ret_events, uint64_t *ret_pages);

#endif
