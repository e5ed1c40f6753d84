/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

#include "system.h"
#include "uapi.h"

enum { CHUNK_BYTES = 64 << 10, ALIGNMENT = 16, PAGE_BYTES = 4096 };

struct droppable_chunk *droppable_chunks;

/* The start of each chunk of an arena; it lies outside of droppable memory. */
struct chunk {
    unsigned char *memory;
    size_t size;
    size_t used;
};

struct arena {
    struct chunk *current;
    void *(*map)(size_t bytes);
};

static void *map_ordinary(size_t bytes) {
    void *memory = system_allocate(bytes);
    return is_failure(memory) ? NULL : memory;
}

/*
 * MAP_DROPPABLE is trusted only where MAP_SCRATCH is: before its repair a thread could still read a
 * page that had gone to somebody else.
 */
static void *map_droppable(size_t bytes) {
    void *memory =
        system_map(NULL, bytes, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    return is_failure(memory) ? map_ordinary(bytes) : memory;
}

static struct arena ordinary = {NULL, map_ordinary};

static void remember(void *address, size_t length) {
    struct droppable_chunk *made = arena_allocate(sizeof *made);
    if (!made)
        return; /* then it is not dropped */
    made->address = address;
    made->length = length;
    made->next = __atomic_load_n(&droppable_chunks, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&droppable_chunks, &made->next, made, false,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
    }
}

static void *map_for_policy(size_t bytes) {
    void *memory = map_ordinary(bytes);
    if (memory)
        remember(memory, bytes);
    return memory;
}

static struct arena dropped_by_kernel = {NULL, map_droppable};
static struct arena dropped_by_policy = {NULL, map_for_policy};

static size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) & ~(to - 1); }

/* A chunk whose first `bytes` are taken; its description stands in an ordinary page's beginning. */
static struct chunk *make_chunk(const struct arena *arena, size_t bytes) {
    bool is_ordinary = arena == &ordinary;
    size_t head = rounded(sizeof(struct chunk), ALIGNMENT);
    size_t size = rounded(bytes + head, PAGE_BYTES);
    if (size < CHUNK_BYTES)
        size = CHUNK_BYTES;
    unsigned char *memory = arena->map(size);
    if (!memory)
        return NULL;
    struct chunk *made = is_ordinary ? (struct chunk *)memory : arena_allocate(sizeof *made);
    if (!made)
        return NULL;
    made->memory = is_ordinary ? memory + head : memory;
    made->size = is_ordinary ? size - head : size;
    made->used = bytes;
    return made;
}

static void *allocate(struct arena *arena, size_t bytes) {
    bytes = rounded(bytes, ALIGNMENT);
    for (;;) {
        struct chunk *current = __atomic_load_n(&arena->current, __ATOMIC_ACQUIRE);
        if (current) {
            size_t used = __atomic_load_n(&current->used, __ATOMIC_RELAXED);
            while (bytes <= current->size - used) {
                if (__atomic_compare_exchange_n(&current->used, &used, used + bytes, true,
                                                __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                    return current->memory + used;
            }
        }
        /* Whoever loses the race has a chunk of its own, whose rest is lost; that is rare. */
        struct chunk *made = make_chunk(arena, bytes);
        if (!made)
            return NULL;
        __atomic_compare_exchange_n(&arena->current, &current, made, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
        return made->memory;
    }
}

void *arena_allocate(size_t bytes) { return allocate(&ordinary, bytes); }

const char *arena_copy(const char *text) {
    size_t bytes = text ? text_length(text) + 1 : 0;
    char *copy = text ? arena_allocate(bytes) : NULL;
    for (size_t index = 0; copy && index < bytes; index++)
        copy[index] = text[index];
    return copy;
}

void *arena_allocate_droppable(size_t bytes, bool kernel_drops) {
    return allocate(kernel_drops ? &dropped_by_kernel : &dropped_by_policy, bytes);
}
