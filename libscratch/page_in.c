/* SPDX-License-Identifier: Apache-2.0 */
#include "page_in.h"

#include "ahead.h"
#include "fill.h"
#include "free_lazily.h"
#include "helper_pages.h"
#include "huge_pages.h"
#include "registry.h"
#include "stage.h"

/* Whoever faulted last has a whole window to read, which takes longer than polling is worth. */
static bool has_plenty;

static bool was_filled(const struct scratch_range *range, size_t page) {
    return range->ever_filled[page / 8] & (1u << (page % 8));
}

static bool is_there(const struct scratch_range *range, size_t page) {
    unsigned char residence = 0;
    return !mincore(range->address + page * scratch_page_size(), 1, &residence) && (residence & 1);
}

static void make_awaited(const struct scratch_userfault *userfault, struct scratch_range *range,
                         const struct scratch_stream_limits *limits, size_t first, size_t end,
                         size_t page, bool for_store) {
    char reason[SCRATCH_REASON_LENGTH];
    int error = scratch_fill(userfault, range, first, end, page, for_store, reason);
    if (error && end - first > limits->unit) { /* it may be another part that can't be made */
        scratch_stream_unit_around(limits, page, &first, &end);
        error = scratch_fill(userfault, range, first, end, page, for_store, reason);
    }
    scratch_drain_frees(); /* so that nobody sees a page that isn't droppable yet */
    if (error)
        scratch_fill_fail(userfault, range, page, reason);
    scratch_wake_pages(userfault, range, first, end);
}

static void make_unawaited(const struct scratch_userfault *userfault, struct scratch_range *range,
                           size_t first, size_t end) {
    char reason[SCRATCH_REASON_LENGTH];
    scratch_fill(userfault, range, first, end, SCRATCH_NO_PAGE, false, reason);
    scratch_drain_frees();
}

/* What can't be made is told to whoever touches it. */
void scratch_page_in_fetch(const struct scratch_userfault *userfault, struct scratch_range *range,
                           const uint64_t *pages, size_t count) {
    scratch_hold(&range->lock);
    struct scratch_stream_limits limits = scratch_stage_limits(range);
    for (size_t index = 0; index < count; index++) {
        char reason[SCRATCH_REASON_LENGTH];
        size_t first, end;
        scratch_stream_unit_around(&limits, pages[index], &first, &end);
        if (!is_there(range, pages[index]))
            scratch_fill(userfault, range, first, end, SCRATCH_NO_PAGE, false, reason);
    }
    scratch_drain_frees();
}

/* All of [first, end) but the batch that begins at `made_first`. */
static void make_in_batches(const struct scratch_userfault *userfault, struct scratch_range *range,
                            const struct scratch_stream_limits *limits, size_t first, size_t end,
                            size_t made_first) {
    for (; first < end; first += limits->batch) {
        if (first != made_first)
            make_unawaited(userfault, range, first, scratch_least(first + limits->batch, end));
    }
}

/* In parts that are decoded at once; what is awaited among them, and then the others. */
static void make_planned(const struct scratch_userfault *userfault, struct scratch_range *range,
                         const struct scratch_stream_limits *limits, const struct scratch_plan *plan,
                         size_t page, bool for_store) {
    size_t awaited_first = plan->first + (page - plan->first) / limits->batch * limits->batch;
    size_t awaited_end = scratch_least(awaited_first + limits->batch, plan->end);
    if (range->helper.address) {
        scratch_helper_pages_ask(userfault, range, awaited_first, awaited_end, page);
        return;
    }
    if (scratch_fill_huge(userfault, range, limits, plan->first, plan->end)) {
        scratch_wake_pages(userfault, range, plan->first, plan->end);
        return;
    }
    make_awaited(userfault, range, limits, awaited_first, awaited_end, page, for_store);
    make_in_batches(userfault, range, limits, plan->first, plan->end, awaited_first);
}

/* Made while somebody was already on the way to it. */
static void arrive(const struct scratch_userfault *userfault, struct scratch_range *range,
                   const struct scratch_stream_limits *limits, size_t page) {
    struct scratch_plan plan;
    scratch_wake_pages(userfault, range, page, page + 1);
    if (scratch_stream_arrive(&range->streams, limits, page, &plan)) {
        scratch_stage_read_ahead(range, &plan);
        scratch_ahead_note(range, plan.stream);
        has_plenty = plan.stream->window >= limits->window;
    }
}

bool scratch_page_in_expects_fault(void) { return !has_plenty; }

/* Not what has been asked for already, and not while no question is free. */
static bool may_be_asked_for(struct scratch_range *range, const struct scratch_stream_limits *limits,
                             size_t page) {
    struct scratch_plan plan;
    bool is_asked_for = scratch_helper_is_asked_for(&range->helper, page);
    if (is_asked_for && scratch_stream_arrive(&range->streams, limits, page, &plan))
        scratch_ahead_note(range, plan.stream);
    return !is_asked_for &&
           scratch_helper_free_question(&range->helper) < SCRATCH_HELPER_QUESTIONS;
}

void scratch_page_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                     size_t page, bool for_store, bool is_late, size_t *ret_first,
                     size_t *ret_end) {
    *ret_first = *ret_end = page;
    struct scratch_stream_limits limits = scratch_stage_limits(range);
    if (range->helper.address && !may_be_asked_for(range, &limits, page))
        return; /* an answer wakes everybody */
    bool may_be_there = is_late || scratch_stream_is_ahead(&range->streams, &limits, page);
    if (range->is_decoded && may_be_there && is_there(range, page)) {
        arrive(userfault, range, &limits, page);
        return;
    }
    bool made_before = range->is_decoded && was_filled(range, page);
    struct scratch_plan plan = scratch_stream_plan(&range->streams, &limits, page, made_before);
    scratch_stage_read_ahead(range, &plan);
    make_planned(userfault, range, &limits, &plan, page, for_store);
    has_plenty = range->is_decoded && plan.stream->window >= limits.window;
    scratch_ahead_note(range, plan.stream);
    *ret_first = plan.first;
    *ret_end = plan.end;
}

static void go_ahead(const struct scratch_userfault *userfault, struct scratch_range *range,
                     struct scratch_stream *stream) {
    struct scratch_stream_limits limits = scratch_stage_limits(range);
    size_t first, end;
    bool is_busy = range->helper.address && scratch_helper_free_question(&range->helper) ==
                                                SCRATCH_HELPER_QUESTIONS; /* noted again at an answer */
    if (!range->is_decoded || is_busy || !scratch_stream_go_ahead(stream, &limits, &first, &end))
        return;
    if (range->helper.address)
        scratch_helper_pages_ask(userfault, range, first, end, SCRATCH_NO_PAGE);
    else if (!scratch_fill_huge(userfault, range, &limits, first, end))
        make_in_batches(userfault, range, &limits, first, end, SCRATCH_NO_PAGE);
    scratch_ahead_note(range, stream);
}

bool scratch_page_in_ahead(const struct scratch_userfault *userfault) {
    uintptr_t address;
    size_t stream;
    if (!scratch_ahead_take(&address, &stream))
        return false;
    SCRATCH_UNLOCKS_RANGE struct scratch_range *range = scratch_registry_find_locked(address);
    if (range) /* else closed since */
        go_ahead(userfault, range, &range->streams.streams[stream]);
    return true;
}

void scratch_page_in_forget(void) {
    scratch_ahead_forget();
    scratch_helpers_forget_descriptors();
}

void scratch_page_in_restart(const struct scratch_userfault *userfault) {
    scratch_page_in_forget();
    scratch_stage_restart();
    scratch_helper_pages_restart(userfault);
}
