/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is there of some memory of this process, as its page tables have it: for what is there, not for
 * what could be. PAGEMAP_SCAN (Linux 6.7) passes over holes; before it an entry is read for every page.
 */
#ifndef SCRATCH_PAGEMAP_H
#define SCRATCH_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers of pages. */
struct scratch_page_counts {
    uint64_t present; /* in memory and mapped */
    uint64_t swapped; /* private, in swap or on the way to it */
    uint64_t own;     /* of nobody else: of a file mapping, its private copies; in memory or in swap */
};

/* A descriptor of /proc/self/pagemap, -1 if it can't be had: then nothing is counted. */
int scratch_pagemap_open(void);
void scratch_pagemap_close(int pagemap);
static inline void scratch_pagemap_leave(const int *pagemap) { scratch_pagemap_close(*pagemap); }
/* Before the variable that holds it: closed at the end of the block. */
#define SCRATCH_CLOSES_PAGEMAP __attribute__((cleanup(scratch_pagemap_leave)))
/* Whether holes cost nothing here. */
bool scratch_pagemap_scans(int pagemap);
/* Adds pages from `address` on, a page's; 0 or an errno value. */
int scratch_pagemap_count(int pagemap, uintptr_t address, size_t pages,
                          struct scratch_page_counts *counts);

#endif
