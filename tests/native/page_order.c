/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a word that was stored after a drop ever seen *later* than an older one of the same page?
 *
 * A writer stores ascending numbers to a word and says in ordinary memory, after each, which one it
 * has stored. A reader first reads that and then the word. The word may be the file's (the page was dropped)
 * or a number at least as large. A smaller number is an old page seen after a newer store: a
 * processor that still has the dropped page in its TLB. C4 of the contract doesn't exclude it; this
 * program finds out whether it happens, and prints how often. It fails on a word that nobody stored
 * (status 2).
 *
 * With `kernel` an older number is a failure too (status 1): MAP_SCRATCH promises that no processor
 * has the page in its TLB any more when another takes its place. That is said of reclaim, so there the
 * pages are only reclaimed; MADV_DONTNEED, by which we drop, lets a page fault come before its flush.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "harness.h"
#include "word.h"

enum { PAGES = 64, READERS = 2, PAGE_WORDS = 512 };

static enum scratch_engine engine;
static struct scratch_range *range;
static unsigned char *memory;
static _Atomic uint64_t published[PAGES];
static _Atomic uint64_t loads;
static _Atomic uint64_t stale_loads;
static _Atomic uint64_t reverted_loads;
static _Atomic uint64_t stores;
static _Atomic bool is_over;

static uint64_t zero(uint64_t index) {
    (void)index;
    return 0;
}

static void *word_of_page(size_t page) {
    return memory + page * PAGE_WORDS * sizeof(uint64_t) + 64;
}

static void *write_words(void *unused) {
    (void)unused;
    for (uint64_t number = 1; !atomic_load_explicit(&is_over, memory_order_relaxed); number++) {
        size_t page = number % PAGES;
        scratch_word_store(word_of_page(page), number);
        atomic_store_explicit(&published[page], number, memory_order_seq_cst);
        atomic_store_explicit(&stores, number, memory_order_relaxed);
    }
    return NULL;
}

static void *read_words(void *argument) {
    uint64_t random = 99 + (uint64_t)(uintptr_t)argument;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        size_t page = random_next(&random) % PAGES;
        uint64_t promised = atomic_load_explicit(&published[page], memory_order_seq_cst);
        uint64_t seen = scratch_word_load(word_of_page(page));
        atomic_fetch_add_explicit(&loads, 1, memory_order_relaxed);
        if (seen == 0)
            atomic_fetch_add_explicit(&reverted_loads, 1, memory_order_relaxed);
        else if (seen % PAGES != page)
            die("a word that nobody stored there", 0);
        else if (seen < promised)
            atomic_fetch_add_explicit(&stale_loads, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *take_pages_away(void *unused) {
    (void)unused;
    const size_t length = PAGES * PAGE_WORDS * sizeof(uint64_t);
    for (uint64_t turn = 0; !atomic_load_explicit(&is_over, memory_order_relaxed); turn++) {
        uint64_t went;
        bool by_kernel = engine == SCRATCH_ENGINE_KERNEL ||
                         (is_reclaimed_by_kernel(engine) && turn % 2);
        if (by_kernel)
            must("scratch_range_reclaim", scratch_range_reclaim(range, 0, length));
        else
            must("scratch_range_drop", scratch_range_drop(range, 0, length, &went));
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: %s lazyfree|dontneed|kernel [--seconds N]\n", arguments[0]);
        return 2;
    }
    engine = engine_by_name(arguments[1]);
    uint64_t seconds = option(count, arguments, "--seconds", 10);
    size_t length = PAGES * PAGE_WORDS * sizeof(uint64_t);
    int file = make_file(PAGES * PAGE_WORDS, zero);
    skip_without(engine, file);
    memory = map_scratch(engine, file, length, &range);
    pthread_t threads[READERS + 2];
    for (uintptr_t reader = 0; reader < READERS; reader++)
        must("pthread_create", pthread_create(&threads[reader], NULL, read_words, (void *)reader));
    must("pthread_create", pthread_create(&threads[READERS], NULL, write_words, NULL));
    must("pthread_create", pthread_create(&threads[READERS + 1], NULL, take_pages_away, NULL));
    sleep((unsigned)seconds);
    atomic_store(&is_over, true);
    for (size_t thread = 0; thread < READERS + 2; thread++)
        pthread_join(threads[thread], NULL);
    printf("%s: %llu stores, %llu loads; %llu showed the file, %llu showed an older number than was "
           "already published\n",
           arguments[1], (unsigned long long)atomic_load(&stores),
           (unsigned long long)atomic_load(&loads),
           (unsigned long long)atomic_load(&reverted_loads),
           (unsigned long long)atomic_load(&stale_loads));
    unmap_scratch(range, memory, length);
    close(file);
    return engine == SCRATCH_ENGINE_KERNEL && atomic_load(&stale_loads) ? 1 : 0;
}
