/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Purgeable memory: pages that the kernel may take while nobody uses them, without a trap at their
 * next use.
 *
 * Nothing tells a program that a page which it gave to MADV_FREE has gone: it reads zeros. So in each
 * page one word is displaced, kept here, and a canary put into its place. Whoever wants to use the run
 * of pages puts every word back by compare-exchange. If that finds the canary the page was whole, and is
 * dirty from that moment, so that the kernel keeps it. If it finds anything else the page has been
 * dropped, and the run is lost.
 *
 * It takes no userfaultfd, no signal and no thread. Over fork each process has a copy, of which it may
 * use and lose each page by itself. The caller sees to it that one thread at a time calls for a run.
 */
#ifndef SCRATCH_PURGEABLE_H
#define SCRATCH_PURGEABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct scratch_purgeable {
    unsigned char *address; /* of private anonymous memory */
    size_t pages;
    uint64_t canary;     /* of the first page when it is released; each page has its own, never 0 */
    uint64_t *displaced; /* a word a page */
};

/* Has all its pages at once, which costs less than a page fault each; if not, the faults will. */
void scratch_purgeable_populate(const struct scratch_purgeable *run);

/*
 * Lets the kernel have the run. `was_used`: somebody came back to it, so that reclaim had better take
 * others first. Returns 0, or an errno value if the kernel refuses: then the run is as it was, or lost if
 * scratch_purgeable_pin says so.
 */
int scratch_purgeable_release(const struct scratch_purgeable *run, bool was_used);

/* The steps of that, for whoever frees several at once: the canaries first, then scratch_free_lazily. */
void scratch_purgeable_put_canaries(const struct scratch_purgeable *run);
void scratch_purgeable_make_young(const struct scratch_purgeable *run);

/*
 * Takes pages `first` to `end` back, all of them for a run to be used. False: some page was dropped and
 * the run is lost; then its memory holds nothing that anybody could want.
 */
bool scratch_purgeable_pin(const struct scratch_purgeable *run, size_t first, size_t end);

/* Whether all pages of a released run are still in memory; says nothing about the next moment. */
bool scratch_purgeable_is_whole(const struct scratch_purgeable *run);

#endif
