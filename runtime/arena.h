/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for what is known about libraries, packed: a page for each library would cost more private
 * memory than droppable text saves. Nothing is given back; lock-free, because a signal handler may have
 * interrupted another allocation.
 */
#ifndef MAPSCRATCH_ARENA_H
#define MAPSCRATCH_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A run of pages whose content may be zeroed at any time, for the drop policy. */
struct droppable_chunk {
    struct droppable_chunk *next;
    void *address;
    size_t length;
    uint32_t adopted_in; /* only for the drop policy: the process that has a range of it */
};

/* All of them, the latest first. */
extern struct droppable_chunk *droppable_chunks;

/* Zeroed, aligned to 16; NULL if there is no memory. */
void *arena_allocate(size_t bytes);

/* A copy; NULL of NULL. What lies in the environment may be overwritten by a program that sets its title. */
const char *arena_copy(const char *text);

/*
 * The same as `arena_allocate`, but it may read as zero at any later time: dropped by the kernel where that has
 * MAP_SCRATCH (`kernel_drops`), else by the drop policy.
 */
void *arena_allocate_droppable(size_t bytes, bool kernel_drops);

#endif
