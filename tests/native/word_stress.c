/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Word operations against drops, by us and by the kernel.
 *
 * Threads load, store and compare-exchange words of one scratch range while one thread drops pages,
 * one has the kernel reclaim them (or announces pressure), and one maps, uses and unmaps other
 * scratch ranges beside memory whose content it checks. Every word that is read must be the file's
 * or one that was stored there, and a page must revert whole.
 *
 * Whole: a thread that owns a page stores to its words 0 to n in this order and then reads them from
 * n down to 0. If word i shows the file, the page was dropped after i was stored, so that every word
 * below i, which was stored earlier and is read later, must show the file too.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "harness.h"
#include "word.h"

enum { THREADS = 3, PAGE_WORDS = 512, MAX_CHURN_PAGES = 16 };

static enum scratch_engine engine;
static size_t pages;
static uint64_t operations_wanted;
static struct scratch_range *range;
static unsigned char *memory;
static int file;

static _Atomic uint64_t operations_done;
static _Atomic uint64_t drops;
static _Atomic uint64_t dropped_pages;
static _Atomic uint64_t reclaims;
static _Atomic uint64_t churned_ranges;
static _Atomic uint64_t reverted_pages;
static _Atomic bool is_over;

/* A word names its place, so that a word from elsewhere, torn or zero is recognised. */
static uint64_t word_of(uint64_t index, uint64_t sequence) {
    uint64_t word = (index + 1) << 32 | (sequence & 0xffffff) << 8;
    return word | ((word >> 8 ^ word >> 16 ^ word >> 24 ^ word >> 32 ^ word >> 40 ^ word >> 48 ^
                    word >> 56 ^ 0x5a) & 0xff);
}

static uint64_t sequence_of(uint64_t word) { return word >> 8 & 0xffffff; }

static uint64_t file_word(uint64_t index) { return word_of(index, 0); }

static void check(uint64_t index, uint64_t word) {
    if (word == word_of(index, sequence_of(word)))
        return;
    fprintf(stderr, "WRONG WORD: %016llx at word %llu, where the file has %016llx\n",
            (unsigned long long)word, (unsigned long long)index,
            (unsigned long long)file_word(index));
    abort();
}

static void *word_address(uint64_t index) { return memory + index * sizeof(uint64_t); }

/* Words 256 to 511 of every page are everybody's. */
static void use_shared_words(uint64_t *random, uint64_t count) {
    for (uint64_t operation = 0; operation < count; operation++) {
        uint64_t dice = random_next(random);
        uint64_t index = (dice >> 20) % pages * PAGE_WORDS + PAGE_WORDS / 2 + dice % (PAGE_WORDS / 2);
        uint64_t value = word_of(index, 1 + (dice >> 40));
        switch (dice >> 60 & 3) {
        case 0:
            scratch_word_store(word_address(index), value);
            break;
        case 1:
            check(index, scratch_word_compare_exchange(word_address(index), file_word(index), value));
            break;
        default:
            check(index, scratch_word_load(word_address(index)));
        }
    }
}

/* Words 0 to 255 of a page belong to one thread. */
static void check_page_reverts_whole(size_t page, uint64_t sequence) {
    enum { OWNED = 64 };
    uint64_t first = page * PAGE_WORDS;
    for (uint64_t index = first; index < first + OWNED; index++)
        scratch_word_store(word_address(index), word_of(index, sequence));
    bool reverted = false;
    for (uint64_t index = first + OWNED; index-- > first;) {
        if (index - first == sequence % OWNED)
            sched_yield(); /* so that a drop often comes in between */
        uint64_t word = scratch_word_load(word_address(index));
        check(index, word);
        bool shows_file = word == file_word(index);
        if (reverted && !shows_file) {
            fprintf(stderr, "HALF A PAGE: word %llu of page %zu outlived a later word\n",
                    (unsigned long long)(index - first), page);
            abort();
        }
        reverted = reverted || shows_file;
    }
    atomic_fetch_add(&reverted_pages, reverted);
}

static void *use_words(void *argument) {
    uint64_t thread = (uint64_t)(uintptr_t)argument;
    uint64_t random = 0x9E3779B97F4A7C15ULL * (thread + 1);
    for (uint64_t round = 1; atomic_load(&operations_done) < operations_wanted; round++) {
        use_shared_words(&random, 1024);
        size_t page = (random_next(&random) % (pages / THREADS)) * THREADS + thread;
        check_page_reverts_whole(page, 1 + round % 0xfffffe);
        atomic_fetch_add(&operations_done, 1024 + 2 * 64);
    }
    atomic_store(&is_over, true);
    return NULL;
}

static void random_pages(uint64_t *random, size_t *ret_offset, size_t *ret_length) {
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
    size_t first = random_next(random) % pages;
    size_t count = 1 + random_next(random) % (random_next(random) % 8 ? 32 : pages);
    if (first + count > pages)
        count = pages - first;
    *ret_offset = first * page_size;
    *ret_length = count * page_size;
}

static void *drop_pages(void *unused) {
    (void)unused;
    uint64_t random = 12345;
    while (!atomic_load(&is_over)) {
        size_t offset, length;
        uint64_t went;
        random_pages(&random, &offset, &length);
        must("scratch_range_drop", scratch_range_drop(range, offset, length, &went));
        atomic_fetch_add(&drops, 1);
        atomic_fetch_add(&dropped_pages, went);
        usleep(random_next(&random) % 3000);
    }
    return NULL;
}

static void *have_kernel_reclaim(void *unused) {
    (void)unused;
    uint64_t random = 54321;
    while (!atomic_load(&is_over)) {
        size_t offset, length;
        random_pages(&random, &offset, &length);
        if (is_reclaimed_by_kernel(engine))
            must("scratch_range_reclaim", scratch_range_reclaim(range, offset, length));
        else
            scratch_pressure_announce((int)(random_next(&random) % 3));
        atomic_fetch_add(&reclaims, 1);
        usleep(random_next(&random) % 5000);
    }
    return NULL;
}

static void *churn_ranges(void *unused) {
    (void)unused;
    uint64_t random = 777;
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
    while (!atomic_load(&is_over)) {
        size_t length = (1 + random_next(&random) % MAX_CHURN_PAGES) * page_size;
        struct scratch_range *other;
        unsigned char *scratch = map_scratch(engine, file, length, &other);
        unsigned char *neighbour = malloc(length);
        memset(neighbour, 0xA5, length);
        for (size_t offset = 0; offset < length; offset += sizeof(uint64_t))
            check(offset / sizeof(uint64_t), scratch_word_load(scratch + offset));
        scratch_word_store(scratch, word_of(0, 1));
        unmap_scratch(other, scratch, length);
        unsigned char *reused = mmap(scratch, length, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(reused, 0x5A, length);
        usleep(random_next(&random) % 3000);
        for (size_t offset = 0; offset < length; offset++) {
            if (neighbour[offset] != 0xA5 || reused[offset] != 0x5A) {
                fprintf(stderr, "SOMEBODY ELSE'S MEMORY was changed at byte %zu\n", offset);
                abort();
            }
        }
        munmap(reused, length);
        free(neighbour);
        atomic_fetch_add(&churned_ranges, 1);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: %s lazyfree|dontneed|kernel [--operations N] [--pages N]\n",
                arguments[0]);
        return 2;
    }
    engine = engine_by_name(arguments[1]);
    operations_wanted = option(count, arguments, "--operations", 10 * 1000 * 1000);
    pages = option(count, arguments, "--pages", 2048);
    size_t length = pages * (size_t)sysconf(_SC_PAGESIZE);
    file = make_file(length / sizeof(uint64_t), file_word);
    skip_without(engine, file);
    memory = map_scratch(engine, file, length, &range);

    void *(*const others[])(void *) = {drop_pages, have_kernel_reclaim, churn_ranges};
    enum { OTHERS = sizeof others / sizeof others[0] };
    pthread_t threads[THREADS + OTHERS];
    for (uintptr_t thread = 0; thread < THREADS; thread++)
        must("pthread_create", pthread_create(&threads[thread], NULL, use_words, (void *)thread));
    for (size_t other = 0; other < OTHERS; other++)
        must("pthread_create",
             pthread_create(&threads[THREADS + other], NULL, others[other], NULL));
    for (size_t thread = 0; thread < THREADS + OTHERS; thread++)
        pthread_join(threads[thread], NULL);

    struct scratch_counts counts;
    scratch_range_counts(range, &counts);
    printf("%s: %llu word operations, 0 wrong; %llu drops of %llu pages, %llu requests to the kernel, "
           "%llu pages made at page-in (%llu again); %llu pages seen to revert, all whole; %llu other "
           "ranges came and went\n",
           arguments[1], (unsigned long long)atomic_load(&operations_done),
           (unsigned long long)atomic_load(&drops), (unsigned long long)atomic_load(&dropped_pages),
           (unsigned long long)atomic_load(&reclaims), (unsigned long long)counts.filled,
           (unsigned long long)counts.rebuilt, (unsigned long long)atomic_load(&reverted_pages),
           (unsigned long long)atomic_load(&churned_ranges));
    unmap_scratch(range, memory, length);
    close(file);
    return 0;
}
