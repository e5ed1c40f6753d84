/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one native thread of a process: it fills missing pages, re-arms stored ones and watches memory
 * pressure. It starts with the first range that needs it and ends with the last.
 *
 * The thread has a descriptor table of its own, so that an application that closes every descriptor
 * hurts nobody, and blocks all signals. What follows is called by other threads under the control
 * lock, and never while they hold the registry or a range.
 */
#ifndef SCRATCH_PAGER_H
#define SCRATCH_PAGER_H

#include "range.h"

extern struct scratch_lock scratch_control_lock;

/* Starts the thread if there is none; with userfaultfd if the caller needs it. */
int scratch_pager_ensure(bool with_userfault);
int scratch_pager_register(const struct scratch_range *range);
/* Before a range is freed: what the pager holds for it. */
void scratch_pager_release(struct scratch_range *range);
int scratch_pager_rearm(struct scratch_range *range, size_t first, size_t end);
int scratch_pager_fetch(struct scratch_range *range, const uint64_t *pages, size_t count);
int scratch_pager_watch(void);
void scratch_pager_stop_if_idle(void);

/* Under the registry's lock: a range needs the thread; or one is being closed and may come back. */
bool scratch_pager_is_needed(void);

/*
 * Stops the thread and takes its userfaultfd into the caller's descriptor table, because a
 * userfaultfd that nobody holds unregisters its ranges, and a missing page would read as zeros.
 * False if the thread couldn't be stopped so; it then runs on.
 */
bool scratch_pager_park(void);
/* In the child of a fork: forgets the parent's thread and its userfaultfd. */
void scratch_pager_abandon(void);
bool scratch_pager_is_parked(void);

/* Any thread, without a lock: the pager's thread id, 0 if none runs. */
pid_t scratch_pager_thread(void);

#endif
