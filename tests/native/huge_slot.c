/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots of purgeable memory in huge pages, taken and released without pause, while others have the kernel
 * reclaim them, split them, try to make huge pages of what is split, and move memory about; and children
 * come at any moment and take what they have inherited. What was taken back holds what was stored, at once
 * and until it is released. Fails (status 1) on any other word, and if none was lost, none found, or none
 * found in one piece, because then nothing was tested.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "harness.h"
#include "look.h"
#include "huge_slot.h"
#include "uapi.h"
#include "word.h"

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { SLOTS = 12, PAGE = 4096, PAGES = SCRATCH_HUGE_BYTES / PAGE, PAGE_WORDS = PAGE / 8, SKIPPED = 77 };

static unsigned char *memory;
static _Atomic bool is_over;
static uint64_t calm; /* how much longer the others wait between two things that they do */

static struct {
    struct scratch_huge_slot slot;
    uint64_t words[PAGES];
    uint64_t generation;
} all[SLOTS];

static struct {
    uint64_t found, found_huge, lost, split, children;
} counts;

static void nap(uint64_t microseconds) {
    struct timespec time = {0, (long)microseconds * 1000};
    nanosleep(&time, NULL);
}

static unsigned char *slot_at(uint64_t number) { return memory + number % SLOTS * SCRATCH_HUGE_BYTES; }

/* What others do to a slot, all of it allowed at any moment. */
static void *reclaim(void *argument) {
    uint64_t random = 7 + (uint64_t)(uintptr_t)argument;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        madvise(slot_at(random_next(&random)), SCRATCH_HUGE_BYTES, MADV_PAGEOUT);
        nap(random_next(&random) % (200 * calm));
    }
    return NULL;
}

static void *split(void *argument) {
    uint64_t random = 99 + (uint64_t)(uintptr_t)argument;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        unsigned char *slot = slot_at(random_next(&random));
        madvise(slot + random_next(&random) % PAGES * PAGE, PAGE, MADV_COLD);
        nap(random_next(&random) % (2000 * calm));
    }
    return NULL;
}

static void *collapse(void *argument) {
    uint64_t random = 55 + (uint64_t)(uintptr_t)argument;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        madvise(slot_at(random_next(&random)), SCRATCH_HUGE_BYTES, MADV_COLLAPSE);
        nap(random_next(&random) % (500 * calm));
    }
    return NULL;
}

static void *compact(void *argument) {
    (void)argument;
    int file = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
    while (file >= 0 && !atomic_load_explicit(&is_over, memory_order_relaxed)) {
        if (write(file, "1", 1) != 1)
            break;
        nap(20000 * calm);
    }
    return NULL;
}

static uint64_t content(uint64_t generation, uint64_t index) { return generation * 1000003 + index; }

static void fill(size_t number, uint64_t generation) {
    uint64_t *words = (uint64_t *)slot_at(number);
    must("madvise(MADV_DONTNEED)", madvise(words, SCRATCH_HUGE_BYTES, MADV_DONTNEED) ? errno : 0);
    scratch_huge_slot_populate(&all[number].slot);
    all[number].generation = generation;
    for (uint64_t index = 0; index < PAGES * PAGE_WORDS; index++)
        words[index] = content(generation, index);
}

/* The first word of each page, and another. */
static bool is_as_stored(size_t number, uint64_t *random) {
    const uint64_t *words = (const uint64_t *)slot_at(number);
    uint64_t other = random_next(random) % PAGE_WORDS;
    for (uint64_t page = 0; page < PAGES; page++) {
        uint64_t first = page * PAGE_WORDS, second = first + other;
        if (scratch_word_load(words + first) != content(all[number].generation, first) ||
            scratch_word_load(words + second) != content(all[number].generation, second)) {
            fprintf(stderr, "slot %zu, page %llu: a wrong word\n", number, (unsigned long long)page);
            return false;
        }
    }
    return true;
}

static void release(size_t number, uint64_t *random) {
    all[number].slot.pages.canary = random_next(random) | 1;
    must("release", scratch_huge_slot_release(&all[number].slot, random_next(random) % 2));
}

static bool take(size_t number, uint64_t *random) {
    struct scratch_huge_slot *slot = &all[number].slot;
    bool was_huge = slot->is_huge;
    if (!scratch_huge_slot_pin(slot)) {
        counts.lost++;
        return false;
    }
    counts.found++;
    counts.found_huge += slot->is_huge;
    counts.split += was_huge && !slot->is_huge;
    if (!is_as_stored(number, random))
        exit(1);
    if (random_next(random) % 4 == 0) {
        nap(random_next(random) % 300);
        if (!is_as_stored(number, random))
            exit(1);
    }
    return true;
}

/* A child takes what it has inherited, while the parent goes on. */
static void fork_once(uint64_t *random) {
    pid_t child = fork();
    if (child < 0)
        die("fork", errno);
    if (!child) {
        for (size_t number = 0; number < SLOTS; number++) {
            if (random_next(random) % 2)
                madvise(slot_at(number) + random_next(random) % PAGES * PAGE, PAGE, MADV_DONTNEED);
            if (scratch_huge_slot_pin(&all[number].slot) && !is_as_stored(number, random))
                _exit(1);
        }
        _exit(0);
    }
    counts.children++;
    for (size_t number = 0; number < SLOTS; number++) {
        if (take(number, random))
            release(number, random);
        else {
            fill(number, all[number].generation + SLOTS);
            release(number, random);
        }
    }
    int status;
    waitpid(child, &status, 0);
    if (status) {
        fprintf(stderr, "a child: %s\n", WIFEXITED(status) ? "a wrong word" : "killed");
        exit(1);
    }
}

static void use(uint64_t takes, double forks, uint64_t *random) {
    uint64_t fork_below = (uint64_t)(forks * 1e6);
    while (counts.found < takes) {
        size_t number = random_next(random) % SLOTS;
        bool is_there = take(number, random);
        /* What isn't huge any more is made again now and then, so that most are. */
        if (!is_there || (!all[number].slot.is_huge && random_next(random) % 4 == 0))
            fill(number, all[number].generation + SLOTS);
        release(number, random);
        if (random_next(random) % 1000000 < fork_below)
            fork_once(random);
    }
}

static void map_slots(void) {
    size_t size = (SLOTS + 1) * SCRATCH_HUGE_BYTES;
    unsigned char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        die("mmap", errno);
    madvise(mapped, size, MADV_NOHUGEPAGE);
    memory = mapped + (SCRATCH_HUGE_BYTES - (uintptr_t)mapped % SCRATCH_HUGE_BYTES);
    for (size_t number = 0; number < SLOTS; number++) {
        struct scratch_huge_slot *slot = &all[number].slot;
        slot->pages.address = slot_at(number);
        slot->pages.pages = PAGES;
        slot->pages.displaced = all[number].words;
        scratch_huge_slot_note(slot, 0, PAGES, true);
    }
}

int main(int count, char **arguments) {
    uint64_t takes = option(count, arguments, "--takes", 10000), random = 1;
    static void *(*const others[])(void *) = {reclaim, split, collapse, compact};
    enum { OTHERS = sizeof others / sizeof *others };
    pthread_t threads[OTHERS];
    calm = option(count, arguments, "--calm", 1);
    map_slots();
    for (size_t number = 0; number < SLOTS; number++) {
        fill(number, number + 1);
        if (!all[number].slot.is_huge) {
            const char *why = scratch_why_no_look();
            printf("skipped: %s\n", why ? why : "there is no huge page to be had");
            return SKIPPED;
        }
        release(number, &random);
    }
    for (size_t number = 0; number < OTHERS; number++)
        must("pthread_create",
             pthread_create(&threads[number], NULL, others[number], (void *)(uintptr_t)number));
    use(takes, (double)option(count, arguments, "--forks-of-1000", 2) / 1000, &random);
    atomic_store(&is_over, true);
    for (size_t number = 0; number < OTHERS; number++)
        pthread_join(threads[number], NULL);
    printf("found %llu times, in one piece %llu times, split %llu times, lost %llu times, %llu "
           "children, no wrong word\n",
           (unsigned long long)counts.found, (unsigned long long)counts.found_huge,
           (unsigned long long)counts.split, (unsigned long long)counts.lost,
           (unsigned long long)counts.children);
    return counts.found_huge && counts.split && counts.lost ? 0 : 1;
}
