/* SPDX-License-Identifier: Apache-2.0 */
/* Dropping text under memory pressure, where the kernel doesn't. */
#ifndef MAPSCRATCH_RECLAIM_H
#define MAPSCRATCH_RECLAIM_H

#include "text.h"

/*
 * What wakes the drop policy: "off", or a kind and a path ("stall /proc/pressure/memory"). Taken from
 * MAPSCRATCH_RECLAIMER; without it, stalls of the whole machine.
 */
void reclaim_configure(char *const *environment);

/* Sees to it that this process has a reclaimer, if it wants one. Never waits. */
void reclaim_ensure(void);

/* Before the library is unmapped: on return nobody drops its pages any more. */
void reclaim_forget(struct text *text);

#endif
