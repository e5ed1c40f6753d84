/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the kernel maps 2 MiB of this process by one entry of the page tables, as a huge page: then they
 * have one dirty bit, and are dropped or kept together.
 *
 * PAGEMAP_SCAN (Linux 6.7) tells, to anybody. Where nothing tells (an older kernel, no /proc or /sys, huge
 * pages of another size, a system call filter) the answer is "no", which is always safe. One thread at a
 * time looks; over fork each process looks at its own mapping.
 */
#ifndef SCRATCH_LOOK_H
#define SCRATCH_LOOK_H

#include <stdbool.h>

/* Of the 2 MiB at an address that is a multiple of 2 MiB; says nothing about the next moment. */
bool scratch_is_mapped_huge(const void *address);

/* Why it always says "no" here; NULL: it doesn't. */
const char *scratch_why_no_look(void);

#endif
