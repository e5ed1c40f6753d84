/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run of purgeable pages, used and released without pause, while two threads have the kernel reclaim it:
 * when it was taken back every word is the one that was stored. Fails (status 1) on any other word, and
 * if the run was never lost or never found, because then nothing was tested.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "harness.h"
#include "purgeable.h"
#include "word.h"

enum { PAGES = 64, PAGE_WORDS = 512, WORDS = PAGES * PAGE_WORDS, RECLAIMERS = 2 };

static uint64_t *words;
static _Atomic bool is_over;

static void nap(uint64_t microseconds) {
    struct timespec time = {0, (long)microseconds * 1000};
    nanosleep(&time, NULL);
}

static void *reclaim(void *argument) {
    uint64_t random = 7 + (uint64_t)(uintptr_t)argument;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        madvise(words, WORDS * sizeof *words, MADV_PAGEOUT);
        nap(random_next(&random) % 50);
    }
    return NULL;
}

static uint64_t content(uint64_t generation, size_t index) { return generation * 1000003 + index; }

static void fill(uint64_t generation) {
    must("madvise(MADV_DONTNEED)",
         madvise(words, WORDS * sizeof *words, MADV_DONTNEED) ? errno : 0);
    for (size_t index = 0; index < WORDS; index++)
        scratch_word_store(words + index, content(generation, index));
}

static void check(uint64_t generation) {
    for (size_t index = 0; index < WORDS; index++) {
        uint64_t found = scratch_word_load(words + index);
        if (found != content(generation, index)) {
            fprintf(stderr, "word %zu is %llx, not %llx\n", index, (unsigned long long)found,
                    (unsigned long long)content(generation, index));
            exit(1);
        }
    }
}

static double seconds_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
    double end = seconds_now() + (double)option(count, arguments, "--seconds", 3);
    words = mmap(NULL, WORDS * sizeof *words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED)
        die("mmap", errno);
    madvise(words, WORDS * sizeof *words, MADV_NOHUGEPAGE);
    pthread_t reclaimers[RECLAIMERS];
    for (size_t number = 0; number < RECLAIMERS; number++)
        must("pthread_create",
             pthread_create(&reclaimers[number], NULL, reclaim, (void *)(uintptr_t)number));
    uint64_t displaced[PAGES];
    uint64_t random = 1, generation = 0, found = 0, lost = 0;
    fill(generation);
    while (seconds_now() < end) {
        struct scratch_purgeable run = {
            .address = (unsigned char *)words,
            .pages = PAGES,
            .canary = random_next(&random) | 1,
            .displaced = displaced,
        };
        must("release", scratch_purgeable_release(&run, random_next(&random) % 2));
        if (random_next(&random) % 2)
            nap(random_next(&random) % 100);
        if (scratch_purgeable_pin(&run, 0, PAGES)) {
            found++;
            check(generation);
        } else {
            lost++;
            fill(++generation);
        }
    }
    atomic_store(&is_over, true);
    for (size_t number = 0; number < RECLAIMERS; number++)
        pthread_join(reclaimers[number], NULL);
    printf("found %llu times, lost %llu times, no wrong word\n", (unsigned long long)found,
           (unsigned long long)lost);
    return found && lost ? 0 : 1;
}
