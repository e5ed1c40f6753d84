/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One measurement in a process of its own, for code_fixups.py; prints nanoseconds, one figure a line.
 *
 *   first   what the first two calls through each of 1,024 entries take more than later ones, together; and
 *           of a page of the same text the two mprotect calls that make it writable and take that back
 *   steady  calls through entries that are bound
 *   refix   a page of 256 entries whose text was dropped: all of them called; and what the fault on the
 *           dropped page alone takes
 *   swap    a page of anonymous memory, read back from swap
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "callee.h"

enum { PAGE = 4096, ENTRIES_A_PAGE = 256, SWEEPS = 100000, REFIXES = 200, SWAPPED_PAGES = 8192 };

static volatile unsigned long sink;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void tell(const char *name, double nanoseconds) { printf("%s %.3f\n", name, nanoseconds); }

static double sweep(void) {
    double start = now();
    for (unsigned long number = 0; number < FUNCTIONS; number++)
        sink += callers[number](number);
    return (now() - start) / FUNCTIONS;
}

/* The PLT entry that a caller goes through: the target of its one direct jump or call. */
static uintptr_t entry_of(unsigned long number) {
    const unsigned char *code = (const unsigned char *)callers[number];
    for (int offset = 0; offset < 32; offset++) {
        if (code[offset] != 0xe9 && code[offset] != 0xe8)
            continue;
        int32_t distance;
        memcpy(&distance, code + offset + 1, sizeof distance);
        return (uintptr_t)code + (size_t)offset + 5 + (uintptr_t)(intptr_t)distance;
    }
    fprintf(stderr, "caller %lu has no direct jump\n", number);
    exit(2);
}

static double make_writable_and_back(unsigned char *page) {
    double start = now();
    mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    return now() - start;
}

static void first(void) {
    unsigned char *page = (unsigned char *)(entry_of(FUNCTIONS / 2) & ~(uintptr_t)(PAGE - 1));
    /* Ours remembers at the first call and fixes at the second; the third is what it is from then on. */
    double both = sweep() + sweep();
    tell("bound", both - 2 * sweep());
    double total = 0;
    for (int round = 0; round < 100; round++)
        total += make_writable_and_back(page);
    tell("window", total / 100);
}

static void steady(void) {
    /* Until everything is bound: ours fixes an entry after some calls, and its page with it. */
    for (int round = 0; round < 100; round++)
        sweep();
    double start = now();
    for (int round = 0; round < SWEEPS; round++) {
        /* Few enough that all of it stays in the processor's caches. */
        for (unsigned long number = 0; number < 64; number++)
            sink += callers[number](number);
    }
    tell("steady", (now() - start) / (64.0 * SWEEPS));
}

/* The callers whose entries are on the page in the middle. */
static unsigned long find_page(unsigned long *ret_first, unsigned char **ret_page) {
    uintptr_t page = entry_of(FUNCTIONS / 2) / PAGE;
    unsigned long count = 0;
    for (unsigned long number = 0; number < FUNCTIONS; number++) {
        if (entry_of(number) / PAGE != page)
            continue;
        if (!count++)
            *ret_first = number;
    }
    *ret_page = (unsigned char *)(page * PAGE);
    return count;
}

static int compare_doubles(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare_doubles);
    return values[count / 2];
}

static void refix(void) {
    static double whole[REFIXES], fault[REFIXES], steady_calls[REFIXES];
    unsigned long first_number = 0;
    unsigned char *page = NULL;
    unsigned long count = find_page(&first_number, &page);
    sweep();
    for (int round = 0; round < REFIXES; round++) {
        madvise(page, PAGE, MADV_DONTNEED);
        double start = now();
        sink += *(volatile unsigned char *)page;
        fault[round] = now() - start;
        madvise(page, PAGE, MADV_DONTNEED);
        start = now();
        for (unsigned long number = first_number; number < first_number + count; number++)
            sink += callers[number](number);
        whole[round] = now() - start;
        start = now();
        for (unsigned long number = first_number; number < first_number + count; number++)
            sink += callers[number](number);
        steady_calls[round] = now() - start;
    }
    tell("entries", (double)count);
    tell("refix", median(whole, REFIXES) - median(steady_calls, REFIXES));
    tell("fault", median(fault, REFIXES));
}

static void wait_for_starter(void) {
    if (getchar() == EOF)
        exit(2);
}

static void swap(void) {
    wait_for_starter(); /* who puts us into a control group */
    size_t length = (size_t)SWAPPED_PAGES * PAGE;
    unsigned char *memory =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, length, MADV_NOHUGEPAGE);
    /* Addresses, as slots hold them: they compress as such pages do. */
    for (size_t word = 0; word < length / sizeof(uint64_t); word++)
        ((uint64_t *)memory)[word] = 0x7f0000000000u + word * 7919 % 0x10000000u * 16;
    static double each[SWAPPED_PAGES / 16];
    madvise(memory, length, 21 /* MADV_PAGEOUT */);
    puts("written");
    fflush(stdout);
    wait_for_starter(); /* who makes the pages leave the swap cache */
    size_t measured = 0;
    for (size_t page = 7; page < SWAPPED_PAGES; page += 16) {
        double start = now();
        sink += *(volatile unsigned char *)(memory + page * PAGE);
        each[measured++] = now() - start;
    }
    tell("swap", median(each, measured));
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    if (!strcmp(what, "first"))
        first();
    else if (!strcmp(what, "steady"))
        steady();
    else if (!strcmp(what, "refix"))
        refix();
    else if (!strcmp(what, "swap"))
        swap();
    else
        return 2;
    return 0;
}
