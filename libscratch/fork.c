/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scratch memory over fork.
 *
 * The parent's pager is stopped around the fork, because a caller may refuse to fork with a thread
 * that it doesn't know (Python from 3.12 on warns). The child has no pager and, of `lazyfree`
 * ranges, not even the memory (MADV_DONTFORK): here they are mapped and registered anew, empty, so
 * that every page shows the file. A child that these handlers never see (a raw clone) has a hole there
 * and crashes, instead of reading zeros.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pager.h"
#include "range.h"
#include "tell.h"
#include "uapi.h"

static sigset_t signals_before_fork;
static bool restart_is_deferred;

static void before_fork(void) {
    scratch_signals_block(&signals_before_fork);
    scratch_lock_acquire(&scratch_control_lock);
    scratch_pager_park();
    scratch_lock_acquire(&scratch_registry_lock);
}

static bool needs_pager(void) {
    if (scratch_pager_is_parked())
        return true;
    size_t count;
    scratch_registry_ranges(&count);
    return count > 0;
}

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
    bool restart = needs_pager() && !restart_is_deferred;
    scratch_lock_release(&scratch_registry_lock);
    if (restart)
        restart_pager();
    scratch_pager_stop_if_idle();
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals_before_fork);
}

/* The pins and the locks of a range are the parent's; its memory is the child's. */
static int renew(struct scratch_range *range) {
    scratch_lock_reset(&range->lock);
    range->generation++;
    range->pinned_pages = 0;
    if (range->pins)
        memset(range->pins, 0, scratch_range_pages(range) * sizeof *range->pins);
    if (range->closing)
        return 0; /* the thread that was closing it doesn't exist here */
    if (range->engine == SCRATCH_ENGINE_DONTNEED) {
        if (range->lock_length &&
            syscall(SYS_mlock2, range->address, range->lock_length, MLOCK_ONFAULT))
            range->lock_length = 0;
        return 0;
    }
    if (range->states)
        memset(range->states, SCRATCH_STATE_FILE, scratch_range_pages(range));
    int error = scratch_lazyfree_map(range, MAP_FIXED_NOREPLACE);
    if (!error)
        error = scratch_pager_register(range);
    if (error)
        munmap(range->address, range->length); /* a crash, never zeros */
    return error;
}

static void after_fork_in_child(void) {
    scratch_lock_reset(&scratch_registry_lock);
    scratch_pager_abandon();
    size_t count;
    struct scratch_range **ranges = scratch_registry_ranges(&count);
    bool has_lazyfree = false;
    for (size_t index = 0; index < count; index++)
        has_lazyfree |= ranges[index]->engine == SCRATCH_ENGINE_LAZYFREE;
    int error = count ? scratch_pager_ensure(has_lazyfree) : 0;
    for (size_t index = 0; index < count; index++) {
        int range_error = has_lazyfree && error ? error : renew(ranges[index]);
        if (range_error)
            scratch_tell("mapscratch: after fork the scratch mapping of %s can't be used in process "
                         "%d (%s): touching it will crash\n",
                         ranges[index]->name, (int)getpid(), strerror(range_error));
    }
    scratch_pager_stop_if_idle();
    scratch_lock_reset(&scratch_control_lock);
    restart_is_deferred = false;
    scratch_signals_restore(&signals_before_fork);
}

int scratch_fork_prepare_once(void) {
    static bool is_installed;
    if (is_installed)
        return 0;
    int error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    is_installed = !error;
    return error;
}

void scratch_fork_expect(void) { restart_is_deferred = true; }

void scratch_fork_finish(void) {
    sigset_t signals;
    restart_is_deferred = false;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_control_lock);
    scratch_lock_acquire(&scratch_registry_lock);
    bool restart = needs_pager();
    scratch_lock_release(&scratch_registry_lock);
    if (restart)
        restart_pager();
    scratch_pager_stop_if_idle();
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals);
}
