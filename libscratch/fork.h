/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scratch memory over fork.
 *
 * The parent's pager is stopped around the fork, because a caller may refuse to fork with a thread
 * that it doesn't know (Python from 3.12 on warns). The child has no pager and, of `lazyfree`
 * ranges, not even the memory (MADV_DONTFORK): here they are mapped and registered anew, empty, so
 * that every page shows the file. A child that these handlers never see (a raw clone) has a hole there
 * and crashes, instead of reading zeros. Ranges of `dontneed` and `kernel` are inherited like any private
 * mapping; those of `kernel` need no pager on either side.
 */
#ifndef SCRATCH_FORK_H
#define SCRATCH_FORK_H

/* Installs the fork handlers once, under the control lock (pager.h). 0 or an errno value. */
int scratch_fork_prepare_once(void);
/* For who has no range but something on the board (board.h): installs the fork handlers, if they aren't. */
void scratch_fork_prepare(void);
/*
 * Around a fork by a caller that counts threads right after it: the pager is then restarted in the
 * parent only by `scratch_fork_finish`.
 */
void scratch_fork_expect(void);
void scratch_fork_finish(void);

#endif
