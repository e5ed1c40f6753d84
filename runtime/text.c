/* SPDX-License-Identifier: Apache-2.0 */
#include "text.h"

#include <link.h>

#include "arena.h"
#include "counts.h"
#include "linker.h"
#include "scratchmap.h"
#include "system.h"
#include "uapi.h"

static const uintptr_t page_size = 4096;
static const uintptr_t fixed_before = (uintptr_t)1 << 63;

struct text *texts_known __attribute__((visibility("hidden")));

static size_t table_bytes(const struct text *text) {
    return text->relocation_count * sizeof(uintptr_t);
}

/* In a record of a file the word behind the dummy is ours; the loader's copy has room itself. */
static struct text **text_word(struct record *record) {
    if (record->is_private)
        return &record->text;
    return (struct text **)(record_base(record) + record->dummy) + 1;
}

/*
 * Maps the library's own file over the text as MAP_SCRATCH, if the kernel has it. The file that is
 * at the path now need not be the one that ld.so mapped. What makes the exchange right is that the bytes
 * are equal: those of the file, those in memory (which holds no fixups yet) and those that the
 * converter wrote.
 */
static bool map_as_scratch(const struct text *text, const struct record *record) {
    const struct link_map *library = (const struct link_map *)text->link_map;
    const char *path = *library->l_name ? library->l_name : "/proc/self/exe";
    int file = system_open(path, O_RDONLY);
    if (file < 0)
        return false;
    bool done = false;
    size_t length = text->end_page - text->first_page;
    if (scratchmap_works(file)) {
        void *copy = system_map(NULL, length, PROT_READ, MAP_PRIVATE, file, record->text_offset);
        if (!is_failure(copy)) {
            done = check_value(copy, length) == record->converted_text &&
                   check_value((const uint64_t *)text->first_page, length) ==
                       record->converted_text &&
                   scratchmap_text(text->first_page, text->end_page, file, record->text_offset,
                                   true);
            system_unmap(copy, length);
        }
    }
    system_close(file);
    return done;
}

static void publish(struct text *text) {
    struct text *first = __atomic_load_n(&texts_known, __ATOMIC_RELAXED);
    do {
        text->next = first;
    } while (!__atomic_compare_exchange_n(&texts_known, &first, text, false, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
}

uintptr_t library_of(const struct record *record) {
    return record->is_private ? record->link_map
                              : linker_library_at(record_base(record) + record->first_page);
}

static struct text *make_text(const struct record *record, uintptr_t base) {
    struct text *text = arena_allocate(sizeof *text);
    if (!text)
        return NULL;
    text->base = base;
    text->first_page = base + record->first_page;
    text->end_page = base + record->end_page;
    text->entries = (const uint32_t *)(base + record->entries);
    text->relocation_count = record->relocation_count;
    text->link_map = library_of(record);
    if (record->is_private)
        text->is_scratch = record->is_private == RECORD_IS_SCRATCH;
    else if (text->link_map)
        text->is_scratch = map_as_scratch(text, record);
    text->targets = arena_allocate_droppable(table_bytes(text), text->is_scratch);
    size_t pages = (text->end_page - text->first_page) / page_size;
    text->calls = arena_allocate(pages * sizeof *text->calls);
    return text->link_map && text->targets && text->calls ? text : NULL;
}

/*
 * Text is made writable, or mapped anew, by one thread at a time. Whoever comes meanwhile doesn't wait: it
 * may be a signal handler that interrupted that thread, or hold what that thread needs. After a fork in
 * another thread's window the lock is free again in the child, because the kernel wipes it.
 */
static uint32_t *window_lock(void) {
    static uint32_t *lock;
    uint32_t *known = __atomic_load_n(&lock, __ATOMIC_ACQUIRE);
    if (known)
        return known;
    uint32_t *made = system_allocate(page_size);
    if (is_failure(made))
        return NULL;
    system_advise(made, page_size, MADV_WIPEONFORK);
    if (__atomic_compare_exchange_n(&lock, &known, made, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return made;
    system_unmap(made, page_size);
    return known;
}

static bool window_enter(void) {
    uint32_t *lock = window_lock();
    return lock && !__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE);
}

static void window_leave(void) { __atomic_store_n(window_lock(), 0, __ATOMIC_RELEASE); }

struct text *text_of(struct record *record) {
    struct text **word = text_word(record);
    struct text *text = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (text || !window_enter())
        return text;
    text = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (!text) {
        text = make_text(record, record_base(record));
        if (text) {
            publish(text);
            __atomic_store_n(word, text, __ATOMIC_RELEASE);
            count(&counts->libraries);
            if (text->is_scratch)
                count(&counts->scratch);
        }
    }
    window_leave();
    return text;
}

/* Memory for one slot a relocation, within reach of a displacement of 32 bits from all of the text. */
static uintptr_t *allocate_slots(const struct text *text) {
    const uintptr_t step = 1 << 24;
    const uintptr_t reach = 0x70000000;
    uintptr_t middle = text->first_page & ~(step - 1);
    for (uintptr_t distance = step; distance < reach; distance += step) {
        uintptr_t candidates[] = {middle - distance, middle + distance};
        for (int side = 0; side < 2; side++) {
            void *wanted = (void *)candidates[side];
            if (distance > middle && side == 0)
                continue;
            void *slots = system_map(wanted, table_bytes(text), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
                                         MAP_FIXED_NOREPLACE,
                                     -1, 0);
            if (slots == wanted)
                return slots;
            if (!is_failure(slots)) /* a kernel before 4.17, which takes it for a hint */
                system_unmap(slots, table_bytes(text));
        }
    }
    return NULL;
}

/* Where the entry finds a far target; NULL if there is no room near. */
static uintptr_t *slot_for(struct text *text, uint32_t index, uintptr_t target) {
    uintptr_t *slots = __atomic_load_n(&text->slots, __ATOMIC_ACQUIRE);
    if (!slots) {
        uintptr_t *made = allocate_slots(text);
        if (!made)
            return NULL;
        if (__atomic_compare_exchange_n(&text->slots, &slots, made, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            slots = made;
        else
            system_unmap(made, table_bytes(text));
    }
    __atomic_store_n(&slots[index], target, __ATOMIC_RELEASE);
    return &slots[index];
}

/* The word with its first `bytes` replaced by the instruction. */
static inline uint64_t with_instruction(uint64_t word, uint64_t instruction, unsigned bytes) {
    uint64_t mask = (UINT64_C(1) << (8 * bytes)) - 1;
    return (word & ~mask) | (instruction & mask);
}

/* `jmp *slot`, for a target that is too far; the word as it is if there is no room near. */
static uint64_t jump_through_slot(struct text *text, uint32_t index, uintptr_t target,
                                  uint64_t word) {
    enum { INSTRUCTION_BYTES = 6 };
    uintptr_t address = text->base + text->entries[index];
    uintptr_t *slot = slot_for(text, index, target);
    if (!slot)
        return word;
    count(&counts->far);
    int32_t distance = (int32_t)((uintptr_t)slot - (address + INSTRUCTION_BYTES));
    return with_instruction(word, 0x25ff | (uint64_t)(uint32_t)distance << 16, INSTRUCTION_BYTES);
}

uintptr_t text_target(const struct text *text, uint32_t index) {
    return __atomic_load_n(&text->targets[index], __ATOMIC_RELAXED) & ~fixed_before;
}

void text_remember(struct text *text, uint32_t index, uintptr_t target) {
    /* Only the page of the old vsyscalls has such an address; it is looked up each time. */
    if (!(target & fixed_before))
        __atomic_store_n(&text->targets[index], target, __ATOMIC_RELAXED);
}

/*
 * Inside a window: fixes an entry if its target is known; whether a word had to be stored. A page of
 * entries goes through here at once, so it is short.
 */
static inline bool fix_entry(struct text *text, uint32_t index, uintptr_t address) {
    enum { JUMP_BYTES = 5 };
    uintptr_t remembered = __atomic_load_n(&text->targets[index], __ATOMIC_RELAXED);
    uintptr_t target = remembered & ~fixed_before;
    if (!target)
        return false;
    uint64_t *word = (uint64_t *)address;
    uint64_t found = __atomic_load_n(word, __ATOMIC_RELAXED);
    intptr_t distance = (intptr_t)(target - (address + JUMP_BYTES));
    uint64_t fixed =
        distance == (int32_t)distance
            ? with_instruction(found, 0xe9 | (uint64_t)(uint32_t)distance << 8, JUMP_BYTES)
            : jump_through_slot(text, index, target, found);
    if (fixed == found)
        return false;
    __atomic_store_n(word, fixed, __ATOMIC_RELEASE);
    if (remembered == target)
        __atomic_store_n(&text->targets[index], target | fixed_before, __ATOMIC_RELAXED);
    return true;
}

/* The neighbours of an entry in the order of relocations, as long as they are on its page; how many. */
static uint64_t fix_neighbours(struct text *text, uint32_t index, int step) {
    const uint32_t *entries = text->entries;
    uintptr_t base = text->base;
    uintptr_t page = (base + entries[index]) / page_size;
    int64_t end = step > 0 ? (int64_t)text->relocation_count : -1;
    uint64_t fixed = 0;
    for (int64_t other = (int64_t)index + step; other != end; other += step) {
        uintptr_t address = base + entries[other];
        if (!entries[other])
            continue;
        if (address / page_size != page)
            break;
        fixed += fix_entry(text, (uint32_t)other, address);
    }
    return fixed;
}

/*
 * What is made writable: all of a small text, so that its mapping is neither split nor merged again each
 * time; of a large one the page, because the cost of all of it grows by the page. (On Linux 6.18 the two
 * cost the same at 16 pages.)
 */
static struct span {
    uintptr_t start;
    size_t length;
} window_for(const struct text *text, uint32_t index) {
    const size_t small = 16 * page_size;
    uintptr_t word = text->base + text->entries[index];
    if (text->end_page - text->first_page <= small)
        return (struct span){text->first_page, text->end_page - text->first_page};
    return (struct span){word & ~(page_size - 1), page_size};
}

static void fix_page(struct text *text, uint32_t index) {
    struct span window = window_for(text, index);
    if (system_protect(window.start, window.length, PROT_READ | PROT_WRITE | PROT_EXEC)) {
        __atomic_store_n(&text->is_unwritable, 1, __ATOMIC_RELAXED);
        return;
    }
    if (fix_entry(text, index, text->base + text->entries[index]))
        count(&counts->patched);
    uint64_t batched = fix_neighbours(text, index, -1) + fix_neighbours(text, index, +1);
    system_protect(window.start, window.length, PROT_READ | PROT_EXEC);
    __atomic_fetch_add(&counts->batched, batched, __ATOMIC_RELAXED);
}

/*
 * To make text writable costs as much as some 30 calls through unfixed entries. So that many are made
 * before it is done, which is never twice as much as the best that could have been known (ski rental), and many
 * entries share it; what is called seldom dirties no text. But an entry that was fixed before and isn't any
 * more tells that its page was dropped, and that it is in use: then it is done at once.
 */
static bool is_worth_it(struct text *text, uint32_t index) {
    enum { CALLS_BEFORE = 32 };
    if (__atomic_load_n(&text->targets[index], __ATOMIC_RELAXED) & fixed_before)
        return true;
    uintptr_t page = (text->base + text->entries[index] - text->first_page) / page_size;
    return __atomic_add_fetch(&text->calls[page], 1, __ATOMIC_RELAXED) % CALLS_BEFORE == 0;
}

void text_called_again(struct text *text, uint32_t index) {
    if (!text->entries[index] || !is_worth_it(text, index))
        return;
    if (__atomic_load_n(&text->is_unwritable, __ATOMIC_RELAXED)) {
        count(&counts->unwritable);
    } else if (window_enter()) {
        fix_page(text, index);
        window_leave();
    } else {
        count(&counts->busy);
    }
}
