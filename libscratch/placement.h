/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On which processor the pager runs. Two things depend on it.
 *
 * Whether a page is droppable. New pages wait in a batch of the processor that made them before they
 * join the lists of reclaim, and MADV_FREE passes over pages that wait in another processor's batch:
 * they stay ordinary memory and can be swapped. So between making a page and freeing it the pager
 * must not move: it settles on one processor when it wakes, and is loose while it sleeps.
 *
 * How long a page fault takes. If the pager runs on the processor of the thread that faults, the
 * fault costs two context switches and no interrupt between processors. A thread that may run on
 * one processor only is followed there. A thread that may run anywhere can't be followed: when the
 * pager wakes it, the scheduler sees that processor occupied and moves the thread to an idle one,
 * fault after fault. For such a thread the pager stays and polls for a moment after each fault.
 */
#ifndef SCRATCH_PLACEMENT_H
#define SCRATCH_PLACEMENT_H

#include <stdbool.h>
#include <sys/types.h>

/* Once, on the pager's thread: remembers where it may run. */
void scratch_placement_start(void);
/* Before the pager does anything, and before it sleeps. */
void scratch_placement_settle(void);
void scratch_placement_loosen(void);
/* Moves to the only processor of `thread`, if it has only one. */
void scratch_placement_follow(pid_t thread);
/* Polling doesn't take the processor from the thread that faults. */
bool scratch_placement_may_poll(void);

#endif
