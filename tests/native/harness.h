/* SPDX-License-Identifier: Apache-2.0 */
/* What the native drivers share: a file of known words, a scratch range of it, options, random numbers. */
#ifndef HARNESS_H
#define HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scratch.h"

static inline _Noreturn void die(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(2);
}

static inline void must(const char *what, int error) {
    if (error)
        die(what, error);
}

/* xorshift64*, Vigna 2016: each thread has its own state. */
static inline uint64_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1DULL;
}

static inline enum scratch_engine engine_by_name(const char *name) {
    for (int engine = 0; engine < SCRATCH_ENGINE_COUNT; engine++) {
        if (!strcmp(name, scratch_engine_label((enum scratch_engine)engine)))
            return (enum scratch_engine)engine;
    }
    fprintf(stderr, "the engine is lazyfree, dontneed or kernel, not %s\n", name);
    exit(2);
}

/* Exits with 77, which meson counts as skipped, where the engine can't run, and prints why. */
static inline void skip_without(enum scratch_engine engine, int file) {
    enum { SKIPPED = 77 };
    int error = engine == SCRATCH_ENGINE_KERNEL ? scratch_kernel_probe(file) : 0;
    if (!error)
        return;
    printf("skipped: this kernel has no MAP_SCRATCH (mmap: %s)\n", strerror(error));
    exit(SKIPPED);
}

/* Whether the kernel may be asked to reclaim its pages; otherwise we decide what is dropped. */
static inline bool is_reclaimed_by_kernel(enum scratch_engine engine) {
    return engine != SCRATCH_ENGINE_DONTNEED;
}

static inline uint64_t option(int count, char **arguments, const char *name, uint64_t otherwise) {
    for (int index = 2; index + 1 < count; index++) {
        if (!strcmp(arguments[index], name))
            return strtoull(arguments[index + 1], NULL, 0);
    }
    return otherwise;
}

/* A file without a name of `words` words, each `content(index)`. */
static inline int make_file(size_t words, uint64_t (*content)(uint64_t index)) {
    char path[] = "/var/tmp/libscratch-test-XXXXXX";
    int descriptor = mkstemp(path);
    if (descriptor < 0)
        die(path, errno);
    unlink(path);
    enum { BATCH = 4096 };
    static uint64_t batch[BATCH];
    for (size_t first = 0; first < words; first += BATCH) {
        size_t count = words - first < BATCH ? words - first : BATCH;
        for (size_t index = 0; index < count; index++)
            batch[index] = content(first + index);
        if (write(descriptor, batch, count * sizeof batch[0]) !=
            (ssize_t)(count * sizeof batch[0]))
            die("write", errno);
    }
    return descriptor;
}

static inline unsigned char *map_scratch(enum scratch_engine engine, int file, size_t length,
                                         struct scratch_range **ret_range) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (memory == MAP_FAILED)
        die("mmap", errno);
    struct scratch_description description = {
        .address = memory,
        .length = length,
        .protection = PROT_READ | PROT_WRITE,
        .source_fd = file,
        .name = "the driver's file",
    };
    must("scratch_range_create", scratch_range_create(engine, &description, ret_range));
    return memory;
}

static inline void unmap_scratch(struct scratch_range *range, void *memory, size_t length) {
    scratch_range_close_begin(range);
    munmap(memory, length);
    scratch_range_forget(range);
}

#endif
