/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the resolver did. Under `mapscratch run` the counts of all processes are one shared page of a
 * file, so that they outlive whoever is killed. `ResolverCounts` of mapscratch.run.launch has the same names in
 * the same order (tests/run/test_runtime_build.py).
 */
#ifndef MAPSCRATCH_COUNTS_H
#define MAPSCRATCH_COUNTS_H

#include <stdint.h>

struct counts {
    uint64_t libraries;  /* whose first entry was called */
    uint64_t resolved;   /* looked up by ld.so */
    uint64_t remembered; /* taken from the targets found before */
    uint64_t patched;    /* words stored into text, one by one */
    uint64_t batched;    /* words stored along with another of their page */
    uint64_t far;        /* of these, through a slot because the target is further than 2 GiB */
    uint64_t busy;       /* not patched: another thread or an interrupted one was patching */
    uint64_t unwritable; /* not patched: the text can't be made writable */
    uint64_t scratch;    /* libraries whose text is mapped MAP_SCRATCH */
    uint64_t overlaid;   /* libraries that the loader hook converted */
    uint64_t missed;     /* libraries that were not in its cache */
    uint64_t refused;    /* in the cache, but the memory holds something else, or no room */
    uint64_t dropped;    /* pages, by the drop policy */
    uint64_t reclaimers; /* threads that ran it */
};

extern struct counts *counts;

static inline void count(uint64_t *number) { __atomic_fetch_add(number, 1, __ATOMIC_RELAXED); }

/* Maps the file of counts that the environment names, if it does. */
void counts_share(char *const *environment);

#endif
