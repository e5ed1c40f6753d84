/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One measurement in a process of its own, for code_fixups.py: code_fixups WHAT [ARGUMENT…]. Prints a name
 * and a figure a line, in nanoseconds.
 *
 *   first            what a call through each of 1,024 entries takes, the first time, the second, and later;
 *                    and the two mprotect calls that make a page of the same text writable and take that back
 *   refix            a page of entries whose text was dropped: all of them called. With the targets that were
 *                    found before, and without them; and the same done by hand, step by step
 *   window           the two mprotect calls, by how much text they are for
 *   steady ONE OTHER calls through bound entries of the two libraries, in turns
 *   swap             a page of anonymous memory, read back from swap
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "callee.h"

enum { PAGE = 4096, WORDS_A_PAGE = PAGE / 8, ROUNDS = 101, ROUNDS_WITHOUT_TABLE = 31 };

static volatile unsigned long sink;
static double clock_overhead;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double since(double start) { return now() - start - clock_overhead; }

static void tell(const char *name, double nanoseconds) { printf("%s %.3f\n", name, nanoseconds); }

static _Noreturn void give_up(const char *problem) {
    fprintf(stderr, "%s\n", problem);
    exit(2);
}

static int compare_doubles(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare_doubles);
    return values[count / 2];
}

static void measure_clock(void) {
    static double values[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        values[round] = now() - start;
    }
    clock_overhead = median(values, ROUNDS);
}

/* Callers, by number; in no order of their entries, which the linker arranges by a hash of the name. */
struct group {
    unsigned long count;
    unsigned short numbers[FUNCTIONS];
};

static struct group everything, of_middle_page;

static double call(const struct group *group) {
    double start = now();
    for (unsigned long index = 0; index < group->count; index++) {
        unsigned long number = group->numbers[index];
        sink += callers[number](number);
    }
    return since(start);
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
    give_up("a caller has no direct jump");
}

static unsigned char *page_of(unsigned long number) {
    return (unsigned char *)(entry_of(number) & ~(uintptr_t)(PAGE - 1));
}

static void make_groups(void) {
    unsigned char *middle = page_of(FUNCTIONS / 2);
    for (unsigned long number = 0; number < FUNCTIONS; number++) {
        everything.numbers[everything.count++] = (unsigned short)number;
        if (page_of(number) == middle)
            of_middle_page.numbers[of_middle_page.count++] = (unsigned short)number;
    }
}

struct span {
    unsigned char *start;
    size_t length;
};

/* All pages with entries. */
static struct span text(void) {
    unsigned char *first = page_of(0);
    unsigned char *last = first;
    for (unsigned long number = 1; number < FUNCTIONS; number++) {
        unsigned char *page = page_of(number);
        first = page < first ? page : first;
        last = page > last ? page : last;
    }
    return (struct span){first, (size_t)(last - first) + PAGE};
}

static void allow(struct span span, int more) {
    if (mprotect(span.start, span.length, PROT_READ | PROT_EXEC | more))
        give_up("text can't be made writable here");
}

static double make_writable_and_back(struct span span) {
    double start = now();
    allow(span, PROT_WRITE);
    allow(span, 0);
    return since(start);
}

static void first(void) {
    static double windows[ROUNDS];
    /* A converted entry is remembered at the first call and fixed at the second, or later. */
    double times[] = {call(&everything), call(&everything), call(&everything)};
    tell("first", times[0] / FUNCTIONS);
    tell("second", times[1] / FUNCTIONS);
    tell("later", times[2] / FUNCTIONS);
    for (int round = 0; round < ROUNDS; round++)
        windows[round] = make_writable_and_back((struct span){page_of(FUNCTIONS / 2), PAGE});
    tell("window", median(windows, ROUNDS));
}

static uintptr_t callee(unsigned number) {
    char name[32];
    snprintf(name, sizeof name, "callee_0x%03x", number);
    return (uintptr_t)dlsym(RTLD_DEFAULT, name);
}

/*
 * Where the resolver keeps the targets that it found: pages of anonymous memory that are full of addresses
 * of callees, whatever it keeps in their highest bit. False if there is none.
 */
static bool find_table(struct span *ret) {
    uintptr_t first_callee = callee(0), last_callee = callee(FUNCTIONS - 1);
    if (!first_callee || last_callee < first_callee)
        return false;
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    ret->start = NULL;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end, inode;
        char protection[5];
        int fields = sscanf(line, "%lx-%lx %4s %*s %*s %lu", &start, &end, protection, &inode);
        if (fields != 4 || inode || strncmp(protection, "rw", 2) || strchr(line, '['))
            continue;
        for (unsigned long page = start; page < end; page += PAGE) {
            size_t found = 0;
            for (size_t word = 0; word < WORDS_A_PAGE; word++) {
                uintptr_t value = ((const uintptr_t *)page)[word] & ~((uintptr_t)1 << 63);
                found += value >= first_callee && value <= last_callee;
            }
            if (found < WORDS_A_PAGE / 4)
                continue;
            if (!ret->start)
                ret->start = (unsigned char *)page;
            ret->length = page + PAGE - (uintptr_t)ret->start;
        }
    }
    if (maps)
        fclose(maps);
    return ret->start;
}

/* What the kernel and the processor take for it, if all words were known beforehand. */
static void refix_by_hand(const struct group *group, unsigned char *page, struct span pages) {
    enum { FAULT, OPEN, COPY, STORE, CLOSE, CALL, STEPS };
    static const char *const names[] = {"hand_fault", "hand_open",  "hand_copy",
                                        "hand_store", "hand_close", "hand_call"};
    static double times[STEPS][ROUNDS];
    uint64_t fixed[WORDS_A_PAGE];
    volatile uint64_t *words = (volatile uint64_t *)page;
    for (size_t word = 0; word < WORDS_A_PAGE; word++)
        fixed[word] = words[word];
    for (int round = 0; round < ROUNDS; round++) {
        madvise(page, PAGE, MADV_DONTNEED);
        double start = now();
        sink += words[0];
        times[FAULT][round] = since(start);
        start = now();
        allow(pages, PROT_WRITE);
        times[OPEN][round] = since(start);
        start = now();
        words[0] = fixed[0];
        times[COPY][round] = since(start);
        start = now();
        for (size_t word = 0; word < WORDS_A_PAGE; word++) {
            if (words[word] != fixed[word])
                words[word] = fixed[word];
        }
        times[STORE][round] = since(start);
        start = now();
        allow(pages, 0);
        times[CLOSE][round] = since(start);
        double rewritten = call(group);
        times[CALL][round] = rewritten - call(group);
    }
    for (int step = 0; step < STEPS; step++)
        tell(names[step], median(times[step], ROUNDS));
}

static void refix_without_table(const struct group *group, unsigned char *page, double later) {
    static double found[ROUNDS_WITHOUT_TABLE], fixed[ROUNDS_WITHOUT_TABLE];
    struct span table;
    if (!find_table(&table))
        return;
    for (int round = 0; round < ROUNDS_WITHOUT_TABLE; round++) {
        madvise(page, PAGE, MADV_DONTNEED);
        madvise(table.start, table.length, MADV_DONTNEED);
        found[round] = call(group) - later;
        fixed[round] = call(group) - later;
    }
    tell("lost_first", median(found, ROUNDS_WITHOUT_TABLE));
    tell("lost_second", median(fixed, ROUNDS_WITHOUT_TABLE));
    for (int sweep = 0; sweep < 3; sweep++)
        call(&everything);
}

static void refix(void) {
    static double whole[ROUNDS], later[ROUNDS], all[ROUNDS], all_later[ROUNDS];
    const struct group *group = &of_middle_page;
    unsigned char *page = page_of(FUNCTIONS / 2);
    struct span pages = text();
    for (int sweep = 0; sweep < 3; sweep++)
        call(&everything);
    for (int round = 0; round < ROUNDS; round++) {
        madvise(page, PAGE, MADV_DONTNEED);
        whole[round] = call(group);
        call(group);
        later[round] = call(group);
    }
    for (int round = 0; round < ROUNDS; round++) {
        madvise(pages.start, pages.length, MADV_DONTNEED);
        all[round] = call(&everything);
        call(&everything);
        all_later[round] = call(&everything);
    }
    double usual = median(later, ROUNDS);
    double count = (double)pages.length / PAGE;
    tell("entries", (double)group->count);
    tell("pages", count);
    tell("refix", median(whole, ROUNDS) - usual);
    tell("refix_all", (median(all, ROUNDS) - median(all_later, ROUNDS)) / count);
    refix_without_table(group, page, usual);
    refix_by_hand(group, page, pages);
}

/* As most of a library's text is in the long run: fixed, so copied. */
static struct span map_text(size_t pages) {
    char path[] = "/var/tmp/mapscratch-window-XXXXXX";
    int file = mkstemp(path);
    struct span made = {NULL, pages * PAGE};
    if (file < 0 || unlink(path) || ftruncate(file, (off_t)made.length))
        give_up("no room in /var/tmp");
    made.start = mmap(NULL, made.length, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    close(file);
    if (made.start == MAP_FAILED)
        give_up("a file in /var/tmp can't be mapped executable");
    allow(made, PROT_WRITE);
    for (size_t page = 0; page < pages; page++)
        made.start[page * PAGE] = 1;
    allow(made, 0);
    return made;
}

static void window(void) {
    static const size_t sizes[] = {1, 5, 16, 100};
    static double all[ROUNDS], one[ROUNDS];
    for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) {
        struct span pages = map_text(sizes[index]);
        struct span page = {pages.start + sizes[index] / 2 * PAGE, PAGE};
        for (int round = 0; round < ROUNDS; round++) {
            all[round] = make_writable_and_back(pages);
            one[round] = make_writable_and_back(page);
        }
        printf("all_%zu %.3f\n", sizes[index], median(all, ROUNDS));
        printf("one_%zu %.3f\n", sizes[index], median(one, ROUNDS));
        munmap(pages.start, pages.length);
    }
}

typedef unsigned long call_many(unsigned long rounds);

static call_many *open_library(const char *path) {
    /* Bound now: before glibc 2.35 a loader hook gave lazily bound entries a slower way for good. */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        give_up(dlerror());
    return (call_many *)dlsym(library, "call_many");
}

static void steady(const char *one, const char *other) {
    enum { TURNS = 101, CALLS = 64, REPEATS = 1000 };
    static double times[2][TURNS];
    call_many *libraries[] = {open_library(one), open_library(other)};
    for (int index = 0; index < 2; index++)
        sink += libraries[index](REPEATS);
    for (int turn = 0; turn < TURNS; turn++) {
        for (int index = 0; index < 2; index++) {
            int which = index ^ (turn & 1);
            double start = now();
            sink += libraries[which](REPEATS);
            times[which][turn] = since(start) / (CALLS * REPEATS);
        }
    }
    tell("one", median(times[0], TURNS));
    tell("other", median(times[1], TURNS));
}

static void wait_for_starter(void) {
    if (getchar() == EOF)
        exit(2);
}

static void swap(void) {
    enum { PAGES = 8192, STEP = 16, OFFSET = 7 };
    static double each[PAGES / STEP];
    wait_for_starter(); /* who puts us into a control group */
    size_t length = (size_t)PAGES * PAGE;
    unsigned char *memory =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        give_up("no memory");
    madvise(memory, length, MADV_NOHUGEPAGE);
    /* Addresses, as slots hold them: they compress as such pages do. */
    for (size_t word = 0; word < length / sizeof(uint64_t); word++)
        ((uint64_t *)memory)[word] = 0x7f0000000000u + word * 7919 % 0x10000000u * 16;
    madvise(memory, length, 21 /* MADV_PAGEOUT */);
    puts("written");
    fflush(stdout);
    wait_for_starter(); /* who makes the pages leave the swap cache */
    for (size_t index = 0; index < PAGES / STEP; index++) {
        double start = now();
        sink += *(volatile unsigned char *)(memory + (OFFSET + index * STEP) * PAGE);
        each[index] = since(start);
    }
    tell("swap", median(each, PAGES / STEP));
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    measure_clock();
    make_groups();
    if (!strcmp(what, "first"))
        first();
    else if (!strcmp(what, "refix"))
        refix();
    else if (!strcmp(what, "window"))
        window();
    else if (!strcmp(what, "steady") && count == 4)
        steady(arguments[2], arguments[3]);
    else if (!strcmp(what, "swap"))
        swap();
    else
        give_up("code_fixups first|refix|window|steady ONE OTHER|swap");
    return 0;
}
