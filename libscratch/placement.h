/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On which processor the pager runs, which decides how long a page fault takes.
 *
 * If the pager runs on the processor of the thread that faults, the fault costs two context
 * switches and no interrupt between processors. A thread that may run on one processor only is
 * followed there. A thread that may run anywhere can't be followed: when the pager wakes it the
 * scheduler sees that the pager occupies that processor and moves the thread to an idle one, fault after fault.
 * For such a thread the pager stays where it is and polls for a moment after each fault.
 */
#ifndef SCRATCH_PLACEMENT_H
#define SCRATCH_PLACEMENT_H

#include <stdbool.h>
#include <sys/types.h>

/* Once, on the pager's thread: remembers where it may run. */
void scratch_placement_start(void);
/* Moves to the only processor of `thread`, if it has only one. */
void scratch_placement_follow(pid_t thread);
/* Runs on `cpu` for a moment. */
void scratch_placement_visit(int cpu);
void scratch_placement_return(void);
/* More than one processor to run on: polling doesn't take it from the thread that faults. */
bool scratch_placement_may_poll(void);

#endif
