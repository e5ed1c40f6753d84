/* SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include <stdlib.h>

#include "signals.h"
#include "tell.h"

void scratch_check_event(struct scratch_range *range, size_t first, size_t pages,
                         enum scratch_page_event event) {
    for (size_t page = first; page < first + pages; page++) {
        uint8_t *state = &range->states[page];
        bool is_absent = *state == SCRATCH_STATE_FILE || *state == SCRATCH_STATE_DROPPED;
        /* These come too late for a page that went in the meantime, and do nothing to it. */
        if (is_absent && (event == SCRATCH_EVENT_DROP || event == SCRATCH_EVENT_REARM ||
                          event == SCRATCH_EVENT_STORE))
            continue;
        /* The kernel drops pages without telling: seen when they fault again. */
        if (!is_absent && event == SCRATCH_EVENT_FAULT &&
            !scratch_state_step(range->engine, state, SCRATCH_EVENT_RECLAIM))
            goto impossible;
        if (scratch_state_step(range->engine, state, event))
            continue;
    impossible:
        scratch_tell("libscratch: page %zu of %s: no way from '%s' by '%s'\n", page, range->name,
                     scratch_state_label((enum scratch_page_state)*state),
                     scratch_event_label(event));
        abort();
    }
}

void scratch_check_pinned(struct scratch_range *range, size_t first, size_t end) {
    scratch_without_signals();
    scratch_hold(&range->lock);
    for (size_t page = first; range->engine == SCRATCH_ENGINE_LAZYFREE && page < end; page++) {
        if (range->pins[page] && range->states[page] != SCRATCH_STATE_PINNED)
            scratch_check_event(range, page, 1, SCRATCH_EVENT_PIN);
    }
}
