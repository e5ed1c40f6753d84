/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aligned 8-byte words in scratch memory (C4 of the contract).
 *
 * One indivisible load, store or compare-exchange each: the word that is seen is one that the file
 * holds or that somebody stored, whatever is dropped meanwhile. Loads acquire and stores release, so
 * that a value that leads to other memory (a pointer to something that was made just before) can be
 * published through a word.
 */
#ifndef SCRATCH_WORD_H
#define SCRATCH_WORD_H

#include <stdatomic.h>
#include <stdint.h>

static inline uint64_t scratch_word_load(const void *address) {
    return atomic_load_explicit((const _Atomic uint64_t *)address, memory_order_acquire);
}

static inline void scratch_word_store(void *address, uint64_t value) {
    atomic_store_explicit((_Atomic uint64_t *)address, value, memory_order_release);
}

/* The value found; it equals `expected` if and only if `desired` was stored. */
static inline uint64_t scratch_word_compare_exchange(void *address, uint64_t expected,
                                                     uint64_t desired) {
    atomic_compare_exchange_strong_explicit((_Atomic uint64_t *)address, &expected, desired,
                                            memory_order_acq_rel, memory_order_acquire);
    return expected;
}

/*
 * Makes the page that a word is in dirty, and the word stays what it is. The compiler must not know what is
 * added: clang has a fence, and no store, for an atomic "add 0" or "or 0" that nobody uses the result of.
 */
static inline void scratch_word_make_dirty(void *address) {
    const volatile uint64_t nothing = 0;
    atomic_fetch_add_explicit((_Atomic uint64_t *)address, nothing, memory_order_seq_cst);
}

#endif
