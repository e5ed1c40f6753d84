/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reclaimer: a thread that runs libscratch's drop policy over the texts that the resolver knows.
 * On a kernel with MAP_SCRATCH there is none.
 *
 * It is a bare thread that the C library doesn't know of. One that it knew would keep a process alive whose
 * own threads have all ended by pthread_exit, and would have to be stopped around fork. The price: nothing
 * of the C library may be called on it (freestanding.c), and a change of the process's user doesn't reach it;
 * so it has no capabilities, and ends when it finds that the process belongs to somebody else.
 *
 * A forked child has no reclaimer until it binds an entry; until then it shares its parent's pages.
 */
#include "reclaim.h"

#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "arena.h"
#include "counts.h"
#include "lock.h"
#include "pressure.h"
#include "range.h"
#include "scratchmap.h"
#include "system.h"

enum { STACK_BYTES = 64 << 10, LOOK_EVERY_SECONDS = 10 };

/* What a forked child must find zeroed: the thread isn't there, and nobody holds the lock. */
struct of_this_process {
    struct scratch_lock texts_lock; /* while ranges are adopted, dropped from, or disowned */
    uint32_t has_reclaimer;
};

int spawn_thread(void (*function)(void), void *stack_end) __attribute__((visibility("hidden")));

/* A text of which libscratch has a range. */
struct adopted {
    struct adopted *next;
    struct text *text;
    struct scratch_range *range;
};

static struct {
    struct of_this_process *of_process; /* a page that the kernel wipes on fork */
    const char *setting;
    struct adopted *texts;
} reclaimer = {.setting = "stall /proc/pressure/memory"};

/* Then we drop also what the kernel would drop. */
static bool is_trial(void) { return reclaimer.setting[0] == 't'; }

static int publish(struct scratch_range *range) {
    scratch_hold(&scratch_registry.lock);
    int error = scratch_registry_make_room();
    if (!error)
        scratch_registry_insert(range);
    return error;
}

static struct scratch_range *adopt(void *address, size_t length) {
    const struct scratch_description description = {
        .address = address,
        .length = length,
        .protection = PROT_READ,
        .source_fd = -1,
        .name = "PLT entries",
    };
    struct scratch_range *range = scratch_range_allocate(SCRATCH_ENGINE_DONTNEED, &description);
    if (range && publish(range)) {
        scratch_range_free(range);
        return NULL;
    }
    return range;
}

static void withdraw(struct scratch_range *range) {
    scratch_hold(&scratch_registry.lock);
    scratch_registry_remove(range);
}

/* A forked child has neither its parent's ranges nor its descriptors. */
static void forget_parent(void) {
    scratch_lock_reset(&scratch_registry.lock);
    scratch_registry.count = 0;
    scratch_pressure_forget();
    reclaimer.texts = NULL;
}

static void adopt_texts(uint32_t process) {
    struct text *text = __atomic_load_n(&texts_known, __ATOMIC_ACQUIRE);
    for (; text; text = text->next) {
        bool is_ours = !text->is_scratch || is_trial();
        if (text->adopted_in == process || text->is_closed || !is_ours)
            continue;
        struct adopted *made = arena_allocate(sizeof *made);
        struct scratch_range *range =
            made ? adopt((void *)text->first_page, text->end_page - text->first_page) : NULL;
        if (!range)
            continue; /* then it is not dropped, but swapped like any other memory */
        text->adopted_in = process;
        *made = (struct adopted){reclaimer.texts, text, range};
        reclaimer.texts = made;
    }
    struct droppable_chunk *chunk = __atomic_load_n(&droppable_chunks, __ATOMIC_ACQUIRE);
    for (; chunk; chunk = chunk->next) {
        if (chunk->adopted_in != process && adopt(chunk->address, chunk->length))
            chunk->adopted_in = process;
    }
}

static void disown_closed(void) {
    for (struct adopted **at = &reclaimer.texts; *at;) {
        if (!(*at)->text->is_closed) {
            at = &(*at)->next;
            continue;
        }
        withdraw((*at)->range);
        scratch_range_free((*at)->range);
        *at = (*at)->next;
    }
}

static void tell_dropped(void) {
    static uint64_t told;
    uint64_t announced, dropped;
    scratch_pressure_counts(&announced, &dropped);
    __atomic_fetch_add(&counts->dropped, dropped - told, __ATOMIC_RELAXED);
    told = dropped;
}

/* The effective user of the process, which is that of its first thread; ours if it can't be read. */
static long user_of_process(long ours) {
    static const char label[] = "\nUid:\t";
    char text[1024];
    int file = system_open("/proc/self/status", O_RDONLY);
    long length = file < 0 ? 0 : system_read_at(file, text, sizeof text - 1, 0);
    if (file >= 0)
        system_close(file);
    text[length > 0 ? length : 0] = '\0';
    for (const char *at = text; *at; at++) {
        size_t index = 0;
        while (label[index] && at[index] == label[index])
            index++;
        if (label[index])
            continue;
        const char *effective = at + index;
        while (*effective >= '0' && *effective <= '9')
            effective++;
        return strtol(effective + 1, NULL, 10);
    }
    return ours;
}

static bool process_changed_hands(void) {
    long ours = system_call(SYS_geteuid, 0, 0, 0, 0, 0, 0);
    return user_of_process(ours) != ours;
}

/* The application can close none of our descriptors, and we hold none of its. False before Linux 5.9. */
static bool take_own_descriptors(void) {
    return !system_call(SYS_close_range, 0, UINT_MAX, 1 << 1 /* CLOSE_RANGE_UNSHARE */, 0, 0, 0);
}

static void give_up_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0, 0, 0}};
    system_call(SYS_capset, (long)&header, (long)none, 0, 0, 0, 0);
}

static int choose(void) {
    static const struct {
        const char *name;
        enum scratch_pressure_kind kind;
    } kinds[] = {
        {"cgroup1 ", SCRATCH_PRESSURE_CGROUP1},
        {"cgroup2 ", SCRATCH_PRESSURE_CGROUP2},
        {"stall ", SCRATCH_PRESSURE_STALL},
        {"timer ", SCRATCH_PRESSURE_TIMER},
    };
    for (size_t index = 0; index < sizeof kinds / sizeof *kinds; index++) {
        const char *path = reclaimer.setting;
        const char *name = kinds[index].name;
        while (*name && *path == *name)
            path++, name++;
        if (!*name)
            return scratch_pressure_choose(kinds[index].kind, path, SCRATCH_STALL_TRIGGERS);
    }
    return 1;
}

static void serve(uint32_t process, const struct pollfd *entries, size_t count) {
    scratch_hold(&reclaimer.of_process->texts_lock);
    disown_closed();
    adopt_texts(process);
    scratch_pressure_serve(entries, count);
}

static void run(void) {
    uint32_t process = (uint32_t)system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    system_call(SYS_prctl, PR_SET_NAME, (long)"mapscratch", 0, 0, 0, 0);
    forget_parent();
    if (!take_own_descriptors() || choose() || scratch_pressure_open())
        return; /* nothing to watch: has_reclaimer stays set, so that it isn't tried again */
    give_up_capabilities();
    count(&counts->reclaimers);
    while (!process_changed_hands()) {
        struct pollfd entries[SCRATCH_PRESSURE_DESCRIPTORS];
        struct timespec at_most = {LOOK_EVERY_SECONDS, 0};
        size_t count = scratch_pressure_poll_entries(entries);
        if (system_call(SYS_ppoll, (long)entries, (long)count, (long)&at_most, 0, 0, 0) <= 0)
            continue;
        serve(process, entries, count);
        tell_dropped();
    }
    __atomic_store_n(&reclaimer.of_process->has_reclaimer, 0, __ATOMIC_RELEASE);
}

void reclaim_configure(char *const *environment) {
    const char *wanted = arena_copy(find_variable(environment, "MAPSCRATCH_RECLAIMER"));
    if (wanted)
        reclaimer.setting = wanted;
}

static bool is_wanted(void) {
    if (reclaimer.setting[0] == 'o')
        return false; /* off */
    if (is_trial())
        return true;
    int file = system_open("/proc/self/exe", O_RDONLY);
    bool kernel_drops = file >= 0 && scratchmap_works(file);
    if (file >= 0)
        system_close(file);
    return !kernel_drops;
}

static struct of_this_process *ensure_state(void) {
    struct of_this_process *known = __atomic_load_n(&reclaimer.of_process, __ATOMIC_ACQUIRE);
    if (known)
        return known;
    struct of_this_process *made = system_allocate(4096);
    if (is_failure(made))
        return NULL;
    system_advise(made, 4096, MADV_WIPEONFORK);
    if (__atomic_compare_exchange_n(&reclaimer.of_process, &known, made, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return made;
    system_unmap(made, 4096);
    return known;
}

static void start(void) {
    enum { KERNEL_SIGSET_BYTES = 8 };
    uint64_t all = UINT64_MAX;
    uint64_t before;
    unsigned char *stack = system_allocate(STACK_BYTES);
    if (is_failure(stack))
        return;
    system_protect((uintptr_t)stack, 4096, PROT_NONE);
    /* The thread inherits the mask: no signal of the application's is ever handled on it. */
    system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, KERNEL_SIGSET_BYTES, 0,
                0);
    spawn_thread(run, stack + STACK_BYTES);
    system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, KERNEL_SIGSET_BYTES, 0, 0);
}

void reclaim_ensure(void) {
    struct of_this_process *process = ensure_state();
    if (!process || __atomic_load_n(&process->has_reclaimer, __ATOMIC_ACQUIRE) ||
        __atomic_exchange_n(&process->has_reclaimer, 1, __ATOMIC_ACQ_REL))
        return;
    if (is_wanted())
        start();
}

void reclaim_forget(struct text *text) {
    struct of_this_process *process = ensure_state();
    if (!process)
        return;
    scratch_hold(&process->texts_lock);
    text->is_closed = 1;
}
