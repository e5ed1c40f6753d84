/* SPDX-License-Identifier: Apache-2.0 */
#include "range.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sparse.h"

struct scratch_registry scratch_registry;

size_t scratch_registry_position(uintptr_t address) {
    size_t low = 0;
    size_t high = scratch_registry.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)scratch_registry.ranges[middle]->address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int scratch_registry_make_room(void) {
    if (scratch_registry.count + scratch_registry.closing < scratch_registry.capacity)
        return 0;
    size_t capacity = scratch_registry.capacity ? 2 * scratch_registry.capacity : 16;
    struct scratch_range **grown = realloc(scratch_registry.ranges, capacity * sizeof *grown);
    if (!grown)
        return ENOMEM;
    scratch_registry.ranges = grown;
    scratch_registry.capacity = capacity;
    return 0;
}

void scratch_registry_insert(struct scratch_range *range) {
    size_t position = scratch_registry_position((uintptr_t)range->address);
    struct scratch_range **place = &scratch_registry.ranges[position];
    memmove(place + 1, place, (scratch_registry.count - position) * sizeof *place);
    *place = range;
    scratch_registry.count++;
}

void scratch_registry_remove(const struct scratch_range *range) {
    size_t position = scratch_registry_position((uintptr_t)range->address) - 1;
    struct scratch_range **place = &scratch_registry.ranges[position];
    memmove(place, place + 1, (scratch_registry.count - position - 1) * sizeof *place);
    scratch_registry.count--;
}

static size_t heat_bytes(const struct scratch_range *range) {
    return scratch_range_pages(range) / SCRATCH_HEAT_CHUNK_PAGES + 1;
}

void scratch_forget_pins(struct scratch_range *range) {
    scratch_sparse_free(range->pins, scratch_pins_bytes(range));
    scratch_sparse_free(range->pinned_in_chunk, scratch_pin_chunks_bytes(range));
    range->pins = NULL;
    range->pinned_in_chunk = NULL;
    range->pinned_pages = 0;
}

void scratch_range_free(struct scratch_range *range) {
    if (range->source)
        munmap((void *)range->source, range->source_length);
    if (range->helper.memory)
        munmap(range->helper.memory, SCRATCH_HELPER_QUESTIONS * SCRATCH_STAGING_BYTES);
    free(range->helper.address);
    free((void *)range->decoding.user_data);
    scratch_sparse_free(range->ever_filled, scratch_filled_bytes(range));
    scratch_sparse_free(range->touched, scratch_touched_bytes(range));
    scratch_forget_pins(range);
    scratch_sparse_free(range->heat, heat_bytes(range));
    scratch_sparse_free(range->dropped_before, heat_bytes(range));
    free((void *)range->fixup.offsets);
    free((void *)range->fixup.operands);
    free(range->states);
    free(range->name);
    free(range);
}

static bool allocate_members(struct scratch_range *range,
                             const struct scratch_description *description) {
    range->name = strdup(description->name);
#ifdef SCRATCH_CHECK_STATES
    range->states = calloc(scratch_range_pages(range), 1);
    if (!range->states)
        return false;
#endif
    if (range->engine == SCRATCH_ENGINE_DONTNEED) {
        range->heat = scratch_sparse_allocate(heat_bytes(range));
        range->dropped_before = scratch_sparse_allocate(heat_bytes(range));
        return range->name && range->heat && range->dropped_before;
    }
    return range->name;
}

struct scratch_range *scratch_range_allocate(enum scratch_engine engine,
                                             const struct scratch_description *description) {
    struct scratch_range *range = calloc(1, sizeof *range);
    if (!range)
        return NULL;
    size_t page_mask = scratch_page_size() - 1;
    range->engine = engine;
    range->address = description->address;
    range->length = (description->length + page_mask) & ~page_mask;
    range->protection = description->protection;
    scratch_helper_prepare(&range->helper);
    if (allocate_members(range, description))
        return range;
    scratch_range_free(range);
    return NULL;
}

static size_t after_chunk(size_t page, size_t end) {
    size_t next = (page / SCRATCH_PIN_CHUNK_PAGES + 1) * SCRATCH_PIN_CHUNK_PAGES;
    return next < end ? next : end;
}

size_t scratch_unpinned_run(const struct scratch_range *range, size_t *first, size_t end) {
    while (*first < end && scratch_page_is_pinned(range, *first))
        ++*first;
    size_t last = *first;
    while (last < end && !scratch_page_is_pinned(range, last))
        last = scratch_has_pins_near(range, last) ? last + 1 : after_chunk(last, end);
    return last - *first;
}

/* Where holes cost as much as pages: the parts in which there can be any. */
static void count_touched(const struct scratch_range *range, int pagemap, size_t first, size_t end,
                          struct scratch_page_counts *counts) {
    while (first < end) {
        size_t stop = (first / SCRATCH_TOUCHED_PAGES + 1) * SCRATCH_TOUCHED_PAGES;
        if (stop > end)
            stop = end;
        if (scratch_was_touched(range, first))
            scratch_pagemap_count(pagemap, (uintptr_t)range->address + first * scratch_page_size(),
                                  stop - first, counts);
        first = stop;
    }
}

void scratch_count_pages(const struct scratch_range *range, int pagemap, size_t first, size_t pages,
                         struct scratch_page_counts *counts) {
    uintptr_t address = (uintptr_t)range->address + first * scratch_page_size();
    if (pages <= SCRATCH_TOUCHED_PAGES || scratch_pagemap_scans(pagemap))
        scratch_pagemap_count(pagemap, address, pages, counts);
    else
        count_touched(range, pagemap, first, first + pages, counts);
}

uint64_t scratch_count_own_pages(const struct scratch_range *range, int pagemap, size_t first,
                                 size_t pages) {
    struct scratch_page_counts counts = {0};
    scratch_count_pages(range, pagemap, first, pages, &counts);
    return counts.own;
}

void scratch_source_of(const struct scratch_range *range, size_t first, size_t end, size_t *ret_from,
                       size_t *ret_to) {
    size_t page_size = scratch_page_size();
    *ret_from = first * page_size;
    *ret_to = end * page_size;
    if (range->is_decoded) {
        size_t unit = range->decoding.unit_pages;
        *ret_from = first / unit * range->decoding.unit_source_length;
        *ret_to = (end + unit - 1) / unit * range->decoding.unit_source_length;
        if (*ret_to > range->decoding.source_length)
            *ret_to = range->decoding.source_length;
    }
}
