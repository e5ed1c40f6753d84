/* SPDX-License-Identifier: Apache-2.0 */
#include "states.h"

#define LAZYFREE(from, event, to)                                                              \
    {SCRATCH_ENGINE_LAZYFREE, SCRATCH_STATE_##from, SCRATCH_EVENT_##event, SCRATCH_STATE_##to}
#define DONTNEED(from, event, to)                                                              \
    {SCRATCH_ENGINE_DONTNEED, SCRATCH_STATE_##from, SCRATCH_EVENT_##event, SCRATCH_STATE_##to}
#define KERNEL(from, event, to)                                                                \
    {SCRATCH_ENGINE_KERNEL, SCRATCH_STATE_##from, SCRATCH_EVENT_##event, SCRATCH_STATE_##to}

const struct scratch_transition scratch_transitions[] = {
    LAZYFREE(FILE, FAULT, FILLING),
    LAZYFREE(DROPPED, FAULT, FILLING),
    LAZYFREE(FILLING, FILL_FOR_LOAD, CLEAN),
    LAZYFREE(FILLING, FILL_FOR_STORE, DIRTY),
    LAZYFREE(CLEAN, STORE, DIRTY),
    LAZYFREE(ARMED, STORE, DIRTY),
    LAZYFREE(DIRTY, STORE, DIRTY),
    LAZYFREE(DIRTY, REARM, ARMED),
    LAZYFREE(ARMED, REARM, ARMED),
    LAZYFREE(CLEAN, REARM, CLEAN),
    LAZYFREE(CLEAN, RECLAIM, DROPPED),
    LAZYFREE(ARMED, RECLAIM, DROPPED),
    LAZYFREE(DIRTY, RECLAIM, DROPPED), /* opened with its neighbours, and nobody stored to it */
    LAZYFREE(CLEAN, DROP, DROPPED),
    LAZYFREE(DIRTY, DROP, DROPPED),
    LAZYFREE(ARMED, DROP, DROPPED),
    LAZYFREE(CLEAN, PIN, PINNED),
    LAZYFREE(DIRTY, PIN, PINNED),
    LAZYFREE(ARMED, PIN, PINNED),
    LAZYFREE(PINNED, STORE, PINNED),
    LAZYFREE(PINNED, UNPIN, DIRTY),

    DONTNEED(FILE, FAULT, CLEAN),
    DONTNEED(DROPPED, FAULT, CLEAN),
    DONTNEED(FILE, STORE, DIRTY),
    DONTNEED(DROPPED, STORE, DIRTY),
    DONTNEED(CLEAN, STORE, DIRTY),
    DONTNEED(DIRTY, STORE, DIRTY),
    DONTNEED(CLEAN, RECLAIM, FILE),
    DONTNEED(CLEAN, DROP, DROPPED),
    DONTNEED(DIRTY, DROP, DROPPED),
    DONTNEED(CLEAN, PIN, PINNED),
    DONTNEED(DIRTY, PIN, PINNED),
    DONTNEED(PINNED, STORE, PINNED),
    DONTNEED(PINNED, UNPIN, DIRTY),

    KERNEL(FILE, FAULT, CLEAN),
    KERNEL(DROPPED, FAULT, CLEAN),
    KERNEL(FILE, STORE, DIRTY),
    KERNEL(DROPPED, STORE, DIRTY),
    KERNEL(CLEAN, STORE, DIRTY),
    KERNEL(DIRTY, STORE, DIRTY),
    KERNEL(CLEAN, RECLAIM, FILE),
    KERNEL(DIRTY, RECLAIM, DROPPED), /* what MAP_SCRATCH is for */
    KERNEL(CLEAN, DROP, DROPPED),
    KERNEL(DIRTY, DROP, DROPPED),
    KERNEL(CLEAN, PIN, PINNED),
    KERNEL(DIRTY, PIN, PINNED),
    KERNEL(PINNED, STORE, PINNED),
    KERNEL(PINNED, UNPIN, DIRTY),
};

const size_t scratch_transition_count =
    sizeof scratch_transitions / sizeof scratch_transitions[0];

#define STATE_LABEL(name, label, meaning) label,
#define STATE_MEANING(name, label, meaning) meaning,
#define EVENT_LABEL(name, label) label,
#define ENGINE_LABEL(name, label) label,
static const char *const state_labels[] = {SCRATCH_PAGE_STATES(STATE_LABEL)};
static const char *const state_meanings[] = {SCRATCH_PAGE_STATES(STATE_MEANING)};
static const char *const event_labels[] = {SCRATCH_PAGE_EVENTS(EVENT_LABEL)};
static const char *const engine_labels[] = {SCRATCH_ENGINES(ENGINE_LABEL)};

const char *scratch_engine_label(enum scratch_engine engine) { return engine_labels[engine]; }

const char *scratch_state_label(enum scratch_page_state state) { return state_labels[state]; }

const char *scratch_state_meaning(enum scratch_page_state state) { return state_meanings[state]; }

const char *scratch_event_label(enum scratch_page_event event) { return event_labels[event]; }

bool scratch_state_step(enum scratch_engine engine, uint8_t *state, enum scratch_page_event event) {
    for (size_t index = 0; index < scratch_transition_count; index++) {
        const struct scratch_transition *transition = &scratch_transitions[index];
        if (transition->engine == engine && transition->from == *state &&
            transition->event == event) {
            *state = (uint8_t)transition->to;
            return true;
        }
    }
    return false;
}
