/* SPDX-License-Identifier: Apache-2.0 */
#include "fork.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "lazyfree.h"
#include "pager.h"
#include "raw.h"
#include "signals.h"
#include "tell.h"

static struct {
    _Atomic bool is_prepared;
    bool restart_is_deferred; /* of the parent's pager, to `scratch_fork_finish` */
    sigset_t signals;         /* of the thread that forks */
} fork_state;

/* Before the pager ends, because a process whose owner has gone ends with its last connection. */
static void connect_helpers(void) {
    scratch_hold(&scratch_registry.lock);
    scratch_for_each_range(range) {
        if (range->helper.address)
            scratch_helper_before_fork(&range->helper);
    }
}

static void close_next_connections(void) {
    scratch_for_each_range(range)
        scratch_helper_close_next(&range->helper);
}

static void before_fork(void) {
    scratch_signals_block(&fork_state.signals);
    scratch_lock_acquire(&scratch_control_lock);
    connect_helpers();
    bool is_parked = scratch_pager_park();
    scratch_lock_acquire(&scratch_registry.lock);
    if (!is_parked)
        close_next_connections();
    scratch_board_before_fork();
}

static bool needs_pager(void) { return scratch_pager_is_parked() || scratch_pager_is_needed(); }

/*
 * Whoever touches a missing page waits for the pager; without one, for ever. A thread can be refused
 * for a moment (a limit on tasks), but if it stays so the process must not hang in silence.
 */
static void restart_pager(void) {
    enum { ATTEMPTS = 1000 };
    int error = 0;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        error = scratch_pager_ensure(false);
        if (!error)
            return;
        usleep(1000);
    }
    scratch_tell("mapscratch: after fork the pager can't be started again (%s): this process can't "
                 "go on\n",
                 strerror(error));
    abort();
}

static void after_fork_in_parent(void) {
    bool restart = needs_pager() && !fork_state.restart_is_deferred;
    scratch_for_each_range(range)
        scratch_helper_after_fork_in_parent(&range->helper);
    scratch_board_after_fork_in_parent();
    scratch_lock_release(&scratch_registry.lock);
    if (restart)
        restart_pager();
    scratch_pager_stop_if_idle();
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&fork_state.signals);
}

static bool map_closed(const struct scratch_range *range, int fixed_flag) {
    return mmap(range->address, range->length, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed_flag, -1, 0) == range->address;
}

/*
 * The first thing in the child, before anything is allocated: the hole that MADV_DONTFORK left must
 * not be filled with somebody else's memory, which the range's owner would unmap some day. If it is
 * filled already (by another fork handler), going on would be worse than to end here.
 */
static void reserve(const struct scratch_range *range) {
    if (map_closed(range, MAP_FIXED_NOREPLACE))
        return;
    scratch_tell("mapscratch: after fork, process %d has other memory where the scratch mapping of "
                 "%s was: it can't go on\n",
                 (int)getpid(), range->name);
    abort();
}

/* The pins and the locks of a range are the parent's; its memory is the child's. */
static void forget_parent(struct scratch_range *range) {
    scratch_lock_reset(&range->lock);
    range->generation++;
    scratch_helper_after_fork_in_child(&range->helper);
    memset(&range->streams, 0, sizeof range->streams);
    memset(range->own_figures, 0, sizeof range->own_figures);
    scratch_forget_pins(range);
    if (range->states)
        memset(range->states, SCRATCH_STATE_FILE, scratch_range_pages(range));
    bool is_lock_lost = range->lock_length && raw_mlock_on_fault(range->address, range->lock_length);
    if (is_lock_lost)
        range->lock_length = 0;
}

static void renew(struct scratch_range *range, int pager_error) {
    int error = pager_error;
    if (!error)
        error = scratch_lazyfree_map(range);
    if (!error)
        error = scratch_pager_register(range);
    if (!error)
        return;
    map_closed(range, MAP_FIXED); /* a crash, never zeros */
    /* No pager takes it, and its number may become another file's. */
    scratch_helper_close_next(&range->helper);
    scratch_tell("mapscratch: after fork the scratch mapping of %s can't be used in process %d (%s): "
                 "touching it will crash\n",
                 range->name, (int)getpid(), strerror(error));
}

static void after_fork_in_child(void) {
    scratch_lock_reset(&scratch_registry.lock);
    scratch_pager_abandon();
    scratch_registry.closing = 0; /* the threads that were closing ranges don't exist here */
    bool has_lazyfree = false;
    scratch_for_each_range(range) {
        forget_parent(range);
        scratch_board_keep(range->slot);
        if (range->engine == SCRATCH_ENGINE_LAZYFREE) {
            has_lazyfree = true;
            reserve(range);
        }
    }
    scratch_board_after_fork_in_child();
    int error = scratch_pager_is_needed() ? scratch_pager_ensure(has_lazyfree) : 0;
    scratch_for_each_range(range) {
        if (range->engine == SCRATCH_ENGINE_LAZYFREE)
            renew(range, error);
    }
    scratch_pager_stop_if_idle();
    scratch_lock_reset(&scratch_control_lock);
    fork_state.restart_is_deferred = false;
    scratch_signals_restore(&fork_state.signals);
}

int scratch_fork_prepare_once(void) {
    if (fork_state.is_prepared)
        return 0;
    int error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    atomic_store_explicit(&fork_state.is_prepared, !error, memory_order_release);
    return error;
}

void scratch_fork_prepare(void) {
    /* Called with the interpreter's lock, and who holds ours may wait for a disk, or for that lock. */
    if (atomic_load_explicit(&fork_state.is_prepared, memory_order_acquire))
        return;
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    scratch_fork_prepare_once();
}

void scratch_fork_expect(void) { fork_state.restart_is_deferred = true; }

static bool is_pager_missing(void) {
    scratch_hold(&scratch_registry.lock);
    return needs_pager();
}

void scratch_fork_finish(void) {
    fork_state.restart_is_deferred = false;
    scratch_without_signals();
    scratch_hold(&scratch_control_lock);
    if (is_pager_missing())
        restart_pager();
    scratch_pager_stop_if_idle();
}
