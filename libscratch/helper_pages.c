/* SPDX-License-Identifier: Apache-2.0 */
#include "helper_pages.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ahead.h"
#include "clock.h"
#include "fill.h"
#include "free_lazily.h"
#include "registry.h"

void scratch_helper_pages_ask(const struct scratch_userfault *userfault, struct scratch_range *range,
                              size_t first, size_t end, size_t awaited) {
    struct scratch_helper *helper = &range->helper;
    size_t unit = range->decoding.unit_pages;
    size_t number = scratch_helper_free_question(helper);
    int error = scratch_helper_connect(helper, (uintptr_t)range->address);
    helper->questions[number].first = first;
    helper->questions[number].end = end;
    helper->questions[number].awaited = awaited;
    helper->questions[number].asked_ns = scratch_now_ns();
    if (!error)
        error = scratch_helper_ask(helper, number, first / unit, (end - first + unit - 1) / unit);
    if (error && awaited != SCRATCH_NO_PAGE) {
        char reason[SCRATCH_REASON_LENGTH];
        if (error == ECONNREFUSED || error == EPIPE)
            snprintf(reason, sizeof reason, "the process of its fixup has ended");
        else
            snprintf(reason, sizeof reason, "the process of its fixup can't be asked (%s)",
                     strerror(error));
        scratch_fill_fail(userfault, range, awaited, reason);
        scratch_wake_pages(userfault, range, awaited, awaited + 1);
    }
}

/* Nobody will answer: whoever waits for one of these pages has waited in vain. */
static void give_up_questions(const struct scratch_userfault *userfault, struct scratch_range *range,
                              const char *reason) {
    for (size_t number = 0; number < SCRATCH_HELPER_QUESTIONS; number++) {
        struct scratch_helper_question *question = &range->helper.questions[number];
        if (question->is_asked && question->awaited != SCRATCH_NO_PAGE)
            scratch_fill_fail(userfault, range, question->awaited, reason);
        question->is_asked = false;
    }
}

static void take_answer(const struct scratch_userfault *userfault, struct scratch_range *range,
                        size_t number, int error, const char *reason) {
    struct scratch_helper_question *question = &range->helper.questions[number];
    struct scratch_stream_limits limits = scratch_stage_limits(range);
    size_t first = question->first, end = question->end, awaited = question->awaited;
    scratch_count_fixup_time(range, question->asked_ns);
    if (!error) {
        error = scratch_fill_from(userfault, range, first, end - first,
                                  scratch_helper_answer_bytes(&range->helper, number), awaited,
                                  false);
        scratch_fill_free(range, first, end);
        scratch_drain_frees();
        reason = scratch_fill_reason(error);
    } else if (awaited != SCRATCH_NO_PAGE && end - first > limits.unit) {
        /* It may be another part that can't be made. */
        scratch_stream_unit_around(&limits, awaited, &first, &end);
        scratch_helper_pages_ask(userfault, range, first, end, awaited);
        return;
    }
    if (error && error != ENOENT && error != ESRCH && awaited != SCRATCH_NO_PAGE)
        scratch_fill_fail(userfault, range, awaited, reason);
}

void scratch_helper_pages_answers(const struct scratch_userfault *userfault) {
    uintptr_t token;
    while ((token = scratch_helpers_next())) {
        SCRATCH_UNLOCKS_RANGE struct scratch_range *range = scratch_registry_find_locked(token);
        if (!range)
            return; /* being closed; its connection goes with it */
        char reason[SCRATCH_HELPER_TEXT] = "";
        size_t number;
        int error = scratch_helper_answer(&range->helper, &number, reason);
        if (error == EPIPE)
            give_up_questions(userfault, range, reason);
        else if (error != EAGAIN)
            take_answer(userfault, range, number, error, reason);
        /* Whoever has faulted meanwhile, anywhere, was left waiting: they fault again. */
        scratch_wake_pages(userfault, range, 0, scratch_range_pages(range));
        scratch_ahead_note_all(range);
    }
}

void scratch_helper_pages_restart(const struct scratch_userfault *userfault) {
    scratch_hold(&scratch_registry.lock);
    scratch_for_each_range(range) {
        if (!range->helper.address)
            continue;
        scratch_helper_restart(&range->helper);
        scratch_wake_pages(userfault, range, 0, scratch_range_pages(range));
    }
}
