/* SPDX-License-Identifier: Apache-2.0 */
#include "board.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base.h"
#include "lock.h"
#include "raw.h"
#include "signals.h"
#include "uapi.h"

enum {
    SLOT_BEYOND = -1, /* counted as such, and to be taken off again */
    BOARD_BYTES = SCRATCH_BOARD_SLOTS * (int)sizeof(struct scratch_slot),
};
static const char board_name[] = "mapscratch-board";

/* What stands on the board itself isn't trusted. */
static struct {
    struct scratch_lock lock; /* a leaf: nothing else is taken under it */
    uint32_t used_slots;      /* with the header */
    uint32_t first_free;      /* no slot before it is */
    struct scratch_slot *copy_for_child;
    size_t copy_bytes;
    bool is_off;
} own = {.used_slots = 1, .first_free = 1};

static struct scratch_board_header *header(void) {
    return (struct scratch_board_header *)scratch_board.slots;
}

static bool is_ours(void) {
    return scratch_board.is_ours &&
           atomic_load_explicit(scratch_board.is_ours, memory_order_relaxed);
}

static bool make_mark(void) {
    if (scratch_board.is_ours)
        return true;
    void *page = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    if (madvise(page, scratch_page_size(), MADV_WIPEONFORK)) {
        munmap(page, scratch_page_size());
        return false;
    }
    scratch_board.is_ours = page;
    return true;
}

/* A system call fails where a store would be a SIGBUS. Before Linux 5.14 there is none. */
static bool make_pages(void *start, size_t bytes) {
    return !madvise(start, bytes, MADV_POPULATE_WRITE) || errno == EINVAL;
}

/* Of no file if that is -1. Closed at first: after mlockall(MCL_FUTURE) all 4 MiB of it would be made. */
static void *map_board(int file) {
    int kind = file < 0 ? MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    void *mapped = (void *)syscall(SYS_mmap, NULL, (size_t)BOARD_BYTES, PROT_NONE, kind, file, (off_t)0);
    if (mapped == MAP_FAILED)
        return NULL;
    madvise(mapped, BOARD_BYTES, MADV_NOHUGEPAGE);
    if (raw_munlock(mapped, BOARD_BYTES) ||
        mprotect(mapped, BOARD_BYTES, PROT_READ | PROT_WRITE)) {
        munmap(mapped, BOARD_BYTES);
        return NULL;
    }
    return mapped;
}

/*
 * mremap unmaps what is in its way first, and may fail after that (mm/mremap.c, for want of memory). Then figures
 * are counted elsewhere, and nobody else's memory may come to be where they were.
 */
static void close_hole(void) {
    if (!mprotect(scratch_board.slots, BOARD_BYTES, PROT_READ | PROT_WRITE))
        return;
    atomic_store_explicit(scratch_board.is_ours, 0, memory_order_relaxed);
    mmap(scratch_board.slots, BOARD_BYTES, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

/* Puts it in the place of the board that there is, or makes it the first. If it can't it is gone. */
static bool put_in_place(void *mapped) {
    if (scratch_board.slots &&
        (void *)syscall(SYS_mremap, mapped, (size_t)BOARD_BYTES, (size_t)BOARD_BYTES,
                        MREMAP_MAYMOVE | MREMAP_FIXED, scratch_board.slots) == MAP_FAILED) {
        munmap(mapped, BOARD_BYTES);
        close_hole();
        return false;
    }
    if (!scratch_board.slots)
        scratch_board.slots = mapped;
    header()->process = (uint32_t)getpid();
    atomic_store_explicit(scratch_board.is_ours, 1, memory_order_relaxed);
    return true;
}

/*
 * In any thread, so without a descriptor: whoever closes all of the application's may open a file of theirs
 * under the number of ours, between two of our system calls, and it would be theirs that we write to.
 */
static bool replace_by_memory(const void *content, size_t bytes) {
    void *mapped = make_mark() ? map_board(-1) : NULL;
    if (!mapped)
        return false;
    if (!make_pages(mapped, bytes)) {
        munmap(mapped, BOARD_BYTES);
        return false;
    }
    memcpy(mapped, content, bytes);
    return put_in_place(mapped);
}

static int make_file(const void *content, size_t bytes) {
    struct rlimit limit;
    /* Beyond it there is a SIGXFSZ, which ends a program. */
    if (syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &limit) || limit.rlim_cur < (rlim_t)BOARD_BYTES)
        return -1;
    int file = (int)syscall(SYS_memfd_create, board_name,
                            MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (file < 0 && errno == EINVAL)
        file = (int)syscall(SYS_memfd_create, board_name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0)
        return -1;
    if (syscall(SYS_ftruncate, file, (off_t)BOARD_BYTES) ||
        syscall(SYS_pwrite64, file, content, bytes, (off_t)0) != (long)bytes) {
        raw_close(file);
        return -1;
    }
    return file;
}

/* In a thread with a descriptor table of its own. The file, or -1. */
static int replace_by_file(const void *content, size_t bytes) {
    int file = make_mark() ? make_file(content, bytes) : -1;
    void *mapped = file < 0 ? NULL : map_board(file);
    if (mapped && put_in_place(mapped)) {
        /* Whoever opens it can neither store into it nor cut it off under us. Older kernels: in part. */
        if (syscall(SYS_fcntl, file, F_ADD_SEALS,
                    F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE))
            syscall(SYS_fcntl, file, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW);
        return file;
    }
    if (file >= 0)
        raw_close(file);
    return -1;
}

static const struct scratch_board_header fresh = {
    .magic = {'s', 'c', 'r', 'a', 't', 'c', 'h', '\n'},
    .version = SCRATCH_BOARD_VERSION,
    .slot_bytes = sizeof(struct scratch_slot),
    .slots = SCRATCH_BOARD_SLOTS,
    .used = 1,
};

void scratch_board_turn_off(void) { own.is_off = true; }

static bool ensure_board(void) {
    /* There is one, but not ours: a child that wasn't prepared, or for whom there was no memory. */
    if (is_ours() || scratch_board.slots || own.is_off)
        return is_ours();
    return replace_by_memory(&fresh, sizeof fresh);
}

static struct scratch_slot *copy_of_board(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    uint64_t *copy = memory;
    _Atomic uint64_t *words = (_Atomic uint64_t *)scratch_board.slots;
    for (size_t word = 0; word < bytes / sizeof(uint64_t); word++)
        copy[word] = atomic_load_explicit(&words[word], memory_order_relaxed);
    return memory;
}

static bool is_range(const struct scratch_slot *slot) {
    return slot->kind == SCRATCH_KIND_MAP || slot->kind == SCRATCH_KIND_ARRAY;
}

/* What was counted after the copy was made stands in the old memory alone. */
static void add_missed(const struct scratch_slot *old, const struct scratch_slot *copy) {
    for (uint32_t number = 1; number < own.used_slots; number++) {
        for (size_t figure = 0; figure < SCRATCH_SLOT_FIGURES; figure++) {
            uint64_t copied = copy[number].figures[figure];
            uint64_t last = atomic_load_explicit(&old[number].figures[figure], memory_order_relaxed);
            _Atomic uint64_t *now = &scratch_board.slots[number].figures[figure];
            if (last == copied)
                continue;
            if (is_range(&copy[number]) && figure < SCRATCH_PINNED)
                atomic_fetch_add_explicit(now, last - copied, memory_order_relaxed);
            else /* unless a newer one has been stored by now */
                atomic_compare_exchange_strong(now, &copied, last);
        }
    }
}

static int move_board(void) {
    size_t bytes = own.used_slots * sizeof(struct scratch_slot);
    struct scratch_slot *copy = copy_of_board(bytes);
    /* Of a shared mapping an old size of 0 makes another of the same (mremap(2)). */
    void *old = (void *)syscall(SYS_mremap, scratch_board.slots, (size_t)0, (size_t)BOARD_BYTES,
                                MREMAP_MAYMOVE, NULL);
    int file = copy && old != MAP_FAILED ? replace_by_file(copy, bytes) : -1;
    if (file >= 0)
        add_missed(old, copy);
    if (old != MAP_FAILED)
        munmap(old, BOARD_BYTES);
    if (copy)
        munmap(copy, bytes);
    return file;
}

int scratch_board_open(void) {
    scratch_hold(&own.lock);
    if (is_ours())
        return move_board();
    return scratch_board.slots || own.is_off ? -1 : replace_by_file(&fresh, sizeof fresh);
}

/* Whether the slot's page can be had. */
static bool has_memory(uint32_t number) {
    uintptr_t page = (uintptr_t)&scratch_board.slots[number] & ~(scratch_page_size() - 1);
    return make_pages((void *)page, scratch_page_size());
}

/* A free slot, or SLOT_BEYOND. */
static scratch_slot_number find_slot(void) {
    while (own.first_free < own.used_slots &&
           scratch_board.slots[own.first_free].kind != SCRATCH_KIND_NONE)
        own.first_free++;
    if (own.first_free < own.used_slots)
        return (scratch_slot_number)own.first_free;
    if (own.used_slots == SCRATCH_BOARD_SLOTS || !has_memory(own.used_slots))
        return SLOT_BEYOND;
    atomic_store_explicit(&header()->used, ++own.used_slots, memory_order_release);
    return (scratch_slot_number)own.first_free;
}

/* Between these two a reader takes nothing of the slot. */
static void begin_writing(struct scratch_slot *slot) {
    uint32_t sequence = atomic_load_explicit(&slot->sequence, memory_order_relaxed);
    atomic_store_explicit(&slot->sequence, sequence | 1, memory_order_relaxed);
#ifndef __SANITIZE_THREAD__ /* which has no fences; inside of the process the lock is enough */
    atomic_thread_fence(memory_order_release);
#endif
}

static void end_writing(struct scratch_slot *slot) {
    uint32_t sequence = atomic_load_explicit(&slot->sequence, memory_order_relaxed);
    atomic_store_explicit(&slot->sequence, (sequence | 1) + 1, memory_order_release);
}

static void write_slot(struct scratch_slot *slot,
                       const struct scratch_slot_description *description) {
    size_t length = strlen(description->name);
    size_t kept = length < sizeof slot->name ? length : sizeof slot->name;
    begin_writing(slot);
    slot->kind = (uint16_t)description->kind;
    slot->engine = description->engine;
    slot->address = description->address;
    slot->length = description->length;
    slot->owner = description->owner;
    slot->name_length = (uint32_t)length;
    memcpy(slot->name, description->name + (length - kept), kept);
    for (size_t figure = 0; figure < SCRATCH_SLOT_FIGURES; figure++)
        atomic_store_explicit(&slot->figures[figure], 0, memory_order_relaxed);
    end_writing(slot);
}

scratch_slot_number scratch_board_allot(const struct scratch_slot_description *description) {
    scratch_without_signals();
    scratch_hold(&own.lock);
    if (!ensure_board())
        return 0;
    scratch_slot_number number = find_slot();
    if (number > 0)
        write_slot(&scratch_board.slots[number], description);
    else
        atomic_fetch_add_explicit(&header()->beyond, 1, memory_order_relaxed);
    return number;
}

static _Atomic uint64_t *ended_of(enum scratch_kind kind) {
    switch (kind) {
    case SCRATCH_KIND_MAP:
    case SCRATCH_KIND_ARRAY:
        return header()->ended_ranges;
    case SCRATCH_KIND_CACHE:
        return header()->ended_caches;
    default:
        return NULL;
    }
}

static void erase_slot(struct scratch_slot *slot) {
    _Atomic uint64_t *ended = ended_of((enum scratch_kind)slot->kind);
    begin_writing(slot);
    for (size_t figure = 0; ended && figure < SCRATCH_SLOT_FIGURES; figure++) {
        uint64_t value = atomic_load_explicit(&slot->figures[figure], memory_order_relaxed);
        atomic_fetch_add_explicit(&ended[figure], value, memory_order_relaxed);
    }
    slot->kind = SCRATCH_KIND_NONE;
    end_writing(slot);
}

void scratch_board_release(scratch_slot_number number) {
    if (!number)
        return;
    scratch_without_signals();
    scratch_hold(&own.lock);
    if (is_ours() && number == SLOT_BEYOND) {
        atomic_fetch_sub_explicit(&header()->beyond, 1, memory_order_relaxed);
    } else if (is_ours()) {
        erase_slot(&scratch_board.slots[number]);
        if ((uint32_t)number < own.first_free)
            own.first_free = (uint32_t)number;
    }
}

/*
 * A copy, because the parent goes on writing to the board that the child has in its memory. If there is no
 * memory for it the child has no board.
 */
void scratch_board_before_fork(void) {
    scratch_lock_acquire(&own.lock);
    own.copy_for_child = NULL;
    own.copy_bytes = own.used_slots * sizeof(struct scratch_slot);
    if (is_ours())
        own.copy_for_child = copy_of_board(own.copy_bytes);
}

static void forget_copy(void) {
    if (own.copy_for_child)
        munmap(own.copy_for_child, own.copy_bytes);
    own.copy_for_child = NULL;
}

void scratch_board_after_fork_in_parent(void) {
    forget_copy();
    scratch_lock_release(&own.lock);
}

enum { KEPT = SCRATCH_SLOT_FIGURES - 1 }; /* no figure of maps and arrays */
_Static_assert((int)KEPT > (int)SCRATCH_PINNED, "a figure of no other use");

void scratch_board_keep(scratch_slot_number number) {
    if (own.copy_for_child && number > 0)
        own.copy_for_child[number].figures[KEPT] = 1;
}

static void start_at_zero(void) {
    struct scratch_board_header *first = (struct scratch_board_header *)own.copy_for_child;
    memset(first->ended_ranges, 0, sizeof first->ended_ranges);
    memset(first->ended_caches, 0, sizeof first->ended_caches);
    for (uint32_t number = 1; number < own.used_slots; number++) {
        struct scratch_slot *slot = &own.copy_for_child[number];
        if (!is_range(slot))
            continue;
        if (!slot->figures[KEPT]) { /* a thread that isn't here was making or closing it */
            slot->kind = SCRATCH_KIND_NONE;
            own.first_free = number < own.first_free ? number : own.first_free;
        }
        memset(slot->figures, 0, sizeof slot->figures);
    }
}

void scratch_board_after_fork_in_child(void) {
    scratch_lock_reset(&own.lock);
    if (!own.copy_for_child)
        return;
    start_at_zero();
    replace_by_memory(own.copy_for_child, own.copy_bytes);
    forget_copy();
}
