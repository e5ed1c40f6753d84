/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mutual-exclusion lock of one futex word, and a one-shot completion.
 *
 * The C library's are not used because libscratch is also linked into code that must run where the
 * C library's own locks can't be touched (while the dynamic linker resolves a symbol, for one), and
 * because after fork the child must be able to declare every lock free.
 *
 * The three states of the lock are those of Ulrich Drepper, "Futexes Are Tricky" (2011), section 5.
 */
#ifndef SCRATCH_LOCK_H
#define SCRATCH_LOCK_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SCRATCH_LOCK_FREE = 0, SCRATCH_LOCK_HELD = 1, SCRATCH_LOCK_CONTENDED = 2 };

struct scratch_lock {
    _Atomic uint32_t state;
};

static inline void scratch_futex_wait(_Atomic uint32_t *word, uint32_t while_value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, NULL, NULL, 0);
}

static inline void scratch_futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static inline void scratch_lock_acquire(struct scratch_lock *lock) {
    uint32_t found = SCRATCH_LOCK_FREE;
    if (atomic_compare_exchange_strong_explicit(&lock->state, &found, SCRATCH_LOCK_HELD,
                                                memory_order_acquire, memory_order_relaxed))
        return;
    while (atomic_exchange_explicit(&lock->state, SCRATCH_LOCK_CONTENDED, memory_order_acquire) !=
           SCRATCH_LOCK_FREE)
        scratch_futex_wait(&lock->state, SCRATCH_LOCK_CONTENDED);
}

static inline void scratch_lock_release(struct scratch_lock *lock) {
    uint32_t found = atomic_exchange_explicit(&lock->state, SCRATCH_LOCK_FREE, memory_order_release);
    if (found == SCRATCH_LOCK_CONTENDED)
        syscall(SYS_futex, &lock->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static inline struct scratch_lock *scratch_lock_enter(struct scratch_lock *lock) {
    scratch_lock_acquire(lock);
    return lock;
}

static inline void scratch_lock_leave(struct scratch_lock **held) { scratch_lock_release(*held); }

/* From here to the end of the block the lock is held, however that is left (as drgn's cleanup.h). */
#define scratch_hold(lock) scratch_hold_in_line_(lock, __LINE__)
#define scratch_hold_in_line_(lock, line) scratch_hold_as_(lock, line)
#define scratch_hold_as_(lock, line)                                                             \
    __attribute__((cleanup(scratch_lock_leave), unused)) struct scratch_lock *held_in_##line =   \
        scratch_lock_enter(lock)

/* Only in the child of a fork, where the thread that held the lock doesn't exist. */
static inline void scratch_lock_reset(struct scratch_lock *lock) {
    atomic_store_explicit(&lock->state, SCRATCH_LOCK_FREE, memory_order_relaxed);
}

/* Starts at zero; `scratch_completion_wait` returns after `scratch_completion_signal`. */
struct scratch_completion {
    _Atomic uint32_t done;
};

static inline void scratch_completion_reset(struct scratch_completion *completion) {
    atomic_store_explicit(&completion->done, 0, memory_order_relaxed);
}

static inline void scratch_completion_signal(struct scratch_completion *completion) {
    atomic_store_explicit(&completion->done, 1, memory_order_release);
    scratch_futex_wake_all(&completion->done);
}

static inline void scratch_completion_wait(struct scratch_completion *completion) {
    while (!atomic_load_explicit(&completion->done, memory_order_acquire))
        scratch_futex_wait(&completion->done, 0);
}

#endif
