/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page's life, as data.
 *
 * This table is the one place that says which states a page of a scratch mapping has and how it
 * moves between them. The model in tests/ reads it through the bridge, docs/page-states.md is printed from
 * it, and a build with -Dcheck_states=true asserts it at every transition that libscratch makes.
 *
 * LAZYFREE is anonymous memory that userfaultfd fills; DONTNEED is MAP_PRIVATE of the file; KERNEL is
 * MAP_SCRATCH of the file.
 */
#ifndef SCRATCH_STATES_H
#define SCRATCH_STATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRATCH_PAGE_STATES(STATE)                                                              \
    STATE(FILE, "file", "nothing is here yet; a touch shows the file")                           \
    STATE(FILLING, "filling", "a thread waits while the page is made")                           \
    STATE(CLEAN, "clean", "shows the file (and its page-in fixups); the kernel may drop it")     \
    STATE(DIRTY, "dirty",                                                                        \
          "open to stores; once stored to it can be swapped until it is re-armed or dropped, but not " \
          "with `kernel`")                                                                       \
    STATE(ARMED, "armed", "stored to and re-armed: the kernel may drop it, stores and all")      \
    STATE(PINNED, "pinned", "locked: neither the kernel nor we drop it")                         \
    STATE(DROPPED, "dropped", "gone, stores and all; a touch shows the file again")

#define SCRATCH_PAGE_EVENTS(EVENT)                                                              \
    EVENT(FAULT, "page fault")                                                                   \
    EVENT(FILL_FOR_LOAD, "page-in for a load")                                                   \
    EVENT(FILL_FOR_STORE, "page-in for a store")                                                 \
    EVENT(STORE, "store")                                                                        \
    EVENT(REARM, "re-arm")                                                                       \
    EVENT(RECLAIM, "reclaim by the kernel")                                                      \
    EVENT(DROP, "drop by us")                                                                    \
    EVENT(PIN, "pin")                                                                            \
    EVENT(UNPIN, "release of the last pin")

#define SCRATCH_STATE_ENUMERATOR(name, label, meaning) SCRATCH_STATE_##name,
enum scratch_page_state { SCRATCH_PAGE_STATES(SCRATCH_STATE_ENUMERATOR) SCRATCH_STATE_COUNT };

#define SCRATCH_EVENT_ENUMERATOR(name, label) SCRATCH_EVENT_##name,
enum scratch_page_event { SCRATCH_PAGE_EVENTS(SCRATCH_EVENT_ENUMERATOR) SCRATCH_EVENT_COUNT };

#define SCRATCH_ENGINES(ENGINE)                                                                 \
    ENGINE(LAZYFREE, "lazyfree")                                                                 \
    ENGINE(DONTNEED, "dontneed")                                                                 \
    ENGINE(KERNEL, "kernel")

#define SCRATCH_ENGINE_ENUMERATOR(name, label) SCRATCH_ENGINE_##name,
enum scratch_engine { SCRATCH_ENGINES(SCRATCH_ENGINE_ENUMERATOR) SCRATCH_ENGINE_COUNT };

struct scratch_transition {
    enum scratch_engine engine;
    enum scratch_page_state from;
    enum scratch_page_event event;
    enum scratch_page_state to;
};

extern const struct scratch_transition scratch_transitions[];
extern const size_t scratch_transition_count;

const char *scratch_engine_label(enum scratch_engine engine);
const char *scratch_state_label(enum scratch_page_state state);
const char *scratch_state_meaning(enum scratch_page_state state);
const char *scratch_event_label(enum scratch_page_event event);

/* False if the table has no such transition; otherwise *state moves on. */
bool scratch_state_step(enum scratch_engine engine, uint8_t *state, enum scratch_page_event event);

#endif
