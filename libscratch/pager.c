/* SPDX-License-Identifier: Apache-2.0 */
#include "pager.h"

#include <errno.h>
#include <fenv.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include "board.h"
#include "clock.h"
#include "fault.h"
#include "free_lazily.h"
#include "handover.h"
#include "helper_pages.h"
#include "page_in.h"
#include "placement.h"
#include "pressure.h"
#include "raw.h"
#include "rearm.h"
#include "uapi.h"
#include "userfault.h"

struct scratch_lock scratch_control_lock;

enum order {
    ORDER_REGISTER,
    ORDER_RELEASE,
    ORDER_REARM,
    ORDER_FETCH,
    ORDER_OPEN,
    ORDER_WATCH,
    ORDER_SEND,
    ORDER_STOP
};

/*
 * Orders to the pager. It sleeps in poll, so it is woken by a signal that is sent to its thread and
 * that it reads from a signalfd of its own: no descriptor of the application is involved. A signalfd
 * also takes what is sent to the whole process while nobody else may, so it is a signal that nobody
 * sends: the one for faults of a coprocessor's stack, which Linux never had.
 */
#ifdef SIGSTKFLT
static const int doorbell = SIGSTKFLT;
#else
static const int doorbell = SIGPWR;
#endif
enum { KERNEL_SIGSET_BYTES = _NSIG / 8 };
static struct {
    enum order order;
    struct scratch_range *range;
    size_t first;
    size_t end;
    const uint64_t *pages; /* of ORDER_FETCH: so many */
    size_t page_count;
    struct scratch_handover handover; /* of ORDER_SEND: of the userfaultfd */
    int error;
    struct scratch_completion answered;
    _Atomic bool waits;
} mailbox;

/* The application's view, under the control lock. */
static struct {
    bool is_running;
    bool has_userfault;
    pthread_t thread;
    _Atomic pid_t thread_id; /* 0: none runs */
    int parked_descriptor;
    struct scratch_userfault parked_userfault;
    int *kept; /* what the next pager keeps of its starter's descriptors, in ascending order */
    size_t kept_count;
} control = {.parked_descriptor = -1};

/* Only the pager's, and before it runs its starter's. */
static struct {
    struct scratch_userfault userfault;
    int signal_descriptor;
    struct scratch_completion started;
    int start_error;
} pager = {.userfault.descriptor = -1, .signal_descriptor = -1};

static int ascending(const void *one, const void *other) {
    return *(const int *)one - *(const int *)other;
}

static void choose_connections(void) {
    scratch_hold(&scratch_registry.lock);
    control.kept = calloc(scratch_registry.count + 1, sizeof *control.kept);
    control.kept_count = 0;
    scratch_for_each_range(range) {
        if (control.kept && range->helper.next >= 0)
            control.kept[control.kept_count++] = range->helper.next;
    }
}

static int choose_kept(void) {
    choose_connections();
    if (!control.kept)
        return ENOMEM;
    if (control.parked_descriptor >= 0)
        control.kept[control.kept_count++] = control.parked_descriptor;
    qsort(control.kept, control.kept_count, sizeof *control.kept, ascending);
    return 0;
}

/* The pager has them in its table. */
static void close_kept(void) {
    scratch_hold(&scratch_registry.lock);
    scratch_for_each_range(range)
        scratch_helper_close_next(&range->helper);
    if (control.parked_descriptor >= 0)
        close(control.parked_descriptor);
    control.parked_descriptor = -1;
}

/*
 * A descriptor table of our own that holds nothing but what is kept. What the application closes from
 * now on, even if it closes everything, is not ours; and what it wants closed (a pipe whose reader
 * waits for its end) we don't hold open.
 */
static int own_descriptor_table(void) {
    unsigned first_above = control.kept_count ? (unsigned)control.kept[control.kept_count - 1] + 1 : 0;
    if (syscall(SYS_close_range, first_above, UINT_MAX, CLOSE_RANGE_UNSHARE))
        return errno;
    unsigned next = 0;
    for (size_t index = 0; index < control.kept_count; index++) {
        unsigned one = (unsigned)control.kept[index];
        if (next < one && syscall(SYS_close_range, next, one - 1, 0))
            return errno;
        next = one + 1;
    }
    return 0;
}

/* Nothing of ours may be found where somebody expects standard input, output and error. */
static void occupy_standard_descriptors(void) {
    int null;
    do {
        null = raw_open("/dev/null", O_RDWR);
    } while (null >= 0 && null < 2);
    if (null > 2)
        raw_close(null);
}

static int pager_prepare(void) {
    int error = own_descriptor_table();
    if (error)
        return error;
    occupy_standard_descriptors();
    sigset_t only_doorbell;
    sigemptyset(&only_doorbell);
    sigaddset(&only_doorbell, doorbell);
    pager.signal_descriptor = (int)syscall(SYS_signalfd4, -1, &only_doorbell, KERNEL_SIGSET_BYTES,
                                           SFD_CLOEXEC | SFD_NONBLOCK);
    if (pager.signal_descriptor < 0)
        return errno;
    pager.userfault.descriptor = -1;
    if (control.parked_descriptor >= 0) {
        pager.userfault = control.parked_userfault;
        pager.userfault.descriptor = control.parked_descriptor;
    }
    scratch_page_in_restart(&pager.userfault);
    scratch_board_open(); /* its descriptor stays in our table, for whoever looks there */
    /* Not our starter's rounding and denormals: a page must come back the same whoever that was. */
    fesetenv(FE_DFL_ENV);
    prctl(PR_SET_NAME, "mapscratch");
    scratch_placement_start();
    atomic_store(&control.thread_id, (pid_t)syscall(SYS_gettid));
    return 0;
}

static int register_range(const struct scratch_range *range) {
    return scratch_userfault_register(&pager.userfault, (uintptr_t)range->address, range->length,
                                      scratch_range_needs_protection(range));
}

/* True if the pager is to end. */
static bool obey(void) {
    bool ends = false;
    mailbox.error = 0;
    switch (mailbox.order) {
    case ORDER_FETCH:
        scratch_page_in_fetch(&pager.userfault, mailbox.range, mailbox.pages, mailbox.page_count);
        break;
    case ORDER_OPEN:
        if (pager.userfault.descriptor < 0)
            mailbox.error = scratch_userfault_open(&pager.userfault);
        break;
    case ORDER_REGISTER:
        if (mailbox.range->helper.address)
            mailbox.error = scratch_helper_connect(&mailbox.range->helper,
                                                   (uintptr_t)mailbox.range->address);
        if (!mailbox.error)
            mailbox.error = register_range(mailbox.range);
        break;
    case ORDER_RELEASE:
        scratch_helper_disconnect(&mailbox.range->helper);
        break;
    case ORDER_REARM:
        scratch_rearm(&pager.userfault, mailbox.range, mailbox.first, mailbox.end);
        break;
    case ORDER_WATCH:
        mailbox.error = scratch_pressure_open();
        break;
    case ORDER_SEND:
        mailbox.error = scratch_handover_send(&mailbox.handover, pager.userfault.descriptor);
        break;
    case ORDER_STOP:
        ends = true;
        break;
    }
    control.parked_userfault = pager.userfault;
    atomic_store_explicit(&mailbox.waits, false, memory_order_relaxed);
    scratch_completion_signal(&mailbox.answered);
    return ends;
}

/* Serves every fault that is waiting; false if there was none. */
static bool serve_faults(uint64_t now) {
    struct uffd_msg messages[16];
    if (pager.userfault.descriptor < 0)
        return false;
    long got = raw_read(pager.userfault.descriptor, messages, sizeof messages);
    if (got <= 0)
        return false;
    size_t count = (size_t)got / sizeof messages[0];
    scratch_placement_follow((pid_t)messages[0].arg.pagefault.feat.ptid);
    for (size_t index = 0; index < count; index++)
        scratch_fault_serve(&pager.userfault, &messages[index], now, index > 0);
    return true;
}

/*
 * Looks for the next fault for a moment, because waking a sleeping pager on another processor costs
 * several times what the page-in itself does.
 */
static void serve_burst(void) {
    uint64_t last_fault = scratch_now_ns();
    if (!serve_faults(last_fault))
        return;
    uint64_t now = last_fault;
    while (scratch_placement_may_poll() && scratch_page_in_expects_fault() &&
           !atomic_load(&mailbox.waits) && now - last_fault < scratch_settings.poll_after_fault_ns) {
        now = scratch_now_ns();
        if (serve_faults(now))
            last_fault = now;
        else if (!scratch_page_in_ahead(&pager.userfault))
            sched_yield(); /* whoever has work may have the processor */
        scratch_rearm_due(&pager.userfault, now);
    }
}

static void *pager_run(void *unused) {
    (void)unused;
    pager.start_error = pager_prepare();
    bool ends = pager.start_error != 0;
    scratch_completion_signal(&pager.started);
    while (!ends) {
        struct pollfd entries[3 + SCRATCH_PRESSURE_DESCRIPTORS] = {
            {pager.signal_descriptor, POLLIN, 0},
            {pager.userfault.descriptor, POLLIN, 0}, /* -1 is ignored */
            {scratch_helpers_descriptor(), POLLIN, 0},
        };
        size_t pressure_count = scratch_pressure_poll_entries(&entries[3]);
        uint64_t now = scratch_now_ns();
        scratch_rearm_merged_at_times(&pager.userfault, now);
        uint64_t due = scratch_rearm_due(&pager.userfault, now);
        bool goes_ahead = scratch_page_in_ahead(&pager.userfault);
        uint64_t wait_ns = due > now && !goes_ahead ? due - now : 0;
        struct timespec timeout = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
        scratch_drain_frees();
        scratch_placement_loosen();
        int ready = raw_poll(entries, 3 + pressure_count, due || goes_ahead ? &timeout : NULL);
        scratch_placement_settle();
        if (ready <= 0)
            continue;
        if (entries[1].revents)
            serve_burst();
        if (entries[2].revents)
            scratch_helper_pages_answers(&pager.userfault);
        scratch_pressure_serve(&entries[3], pressure_count);
        if (entries[0].revents) {
            struct signalfd_siginfo rung;
            raw_read(pager.signal_descriptor, &rung, sizeof rung);
        }
        if (atomic_load_explicit(&mailbox.waits, memory_order_acquire))
            ends = obey();
    }
    scratch_pressure_close();
    return NULL;
}

static int give_order(enum order order, struct scratch_range *range, size_t first, size_t end) {
    mailbox.order = order;
    mailbox.range = range;
    mailbox.first = first;
    mailbox.end = end;
    scratch_completion_reset(&mailbox.answered);
    atomic_store_explicit(&mailbox.waits, true, memory_order_release);
    syscall(SYS_tgkill, getpid(), atomic_load(&control.thread_id), doorbell);
    scratch_completion_wait(&mailbox.answered);
    return mailbox.error;
}

/* Our caller has blocked all signals, and so has the thread that it makes. */
static int create_thread(pthread_t *ret, void *(*run)(void *), void *argument) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    const size_t stack_size = 2 << 20;
#else
    const size_t stack_size = 1 << 20; /* a user's compiled fixup runs on it, too */
#endif
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size);
    int error = pthread_create(ret, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return error;
}

static void join_thread(pthread_t thread, pid_t number) {
    pthread_join(thread, NULL);
    /* It has ended, but for a moment the kernel still counts it among our threads. */
    while (!syscall(SYS_tgkill, getpid(), number, 0))
        sched_yield();
}

static void join(void) {
    join_thread(control.thread, atomic_load(&control.thread_id));
    control.is_running = false;
    control.has_userfault = false;
    atomic_store(&control.thread_id, 0);
}

static int start_with_kept(void) {
    scratch_completion_reset(&pager.started);
    int error = create_thread(&control.thread, pager_run, NULL);
    if (error)
        return error;
    control.is_running = true;
    scratch_completion_wait(&pager.started);
    if (pager.start_error) {
        join();
        return pager.start_error;
    }
    control.has_userfault = control.parked_descriptor >= 0;
    close_kept();
    if (scratch_pressure_is_watched)
        give_order(ORDER_WATCH, NULL, 0, 0);
    return 0;
}

static int start(void) {
    int error = choose_kept();
    if (!error)
        error = start_with_kept();
    free(control.kept);
    control.kept = NULL;
    return error;
}

int scratch_pager_ensure(bool with_userfault) {
    int error = control.is_running ? 0 : start();
    if (!error && with_userfault && !control.has_userfault) {
        error = give_order(ORDER_OPEN, NULL, 0, 0);
        control.has_userfault = !error;
    }
    return error;
}

int scratch_pager_register(const struct scratch_range *range) {
    return give_order(ORDER_REGISTER, (struct scratch_range *)range, 0, 0);
}

void scratch_pager_release(struct scratch_range *range) {
    if (control.is_running && range->helper.address)
        give_order(ORDER_RELEASE, range, 0, 0);
    scratch_helper_close_next(&range->helper);
}

int scratch_pager_rearm(struct scratch_range *range, size_t first, size_t end) {
    return give_order(ORDER_REARM, range, first, end);
}

int scratch_pager_fetch(struct scratch_range *range, const uint64_t *pages, size_t count) {
    mailbox.pages = pages;
    mailbox.page_count = count;
    return give_order(ORDER_FETCH, range, 0, 0);
}

int scratch_pager_watch(void) {
    int error = scratch_pager_ensure(false);
    return error ? error : give_order(ORDER_WATCH, NULL, 0, 0);
}

/* A range of `kernel` needs nobody: the kernel drops its pages and brings them back. */
static bool range_needs_pager(const struct scratch_range *range) {
    return range->engine == SCRATCH_ENGINE_LAZYFREE ||
           (range->engine == SCRATCH_ENGINE_DONTNEED && scratch_pressure_is_watched);
}

bool scratch_pager_is_needed(void) {
    if (scratch_registry.closing)
        return true;
    scratch_for_each_range(range) {
        if (range_needs_pager(range))
            return true;
    }
    return false;
}

static bool is_needed(void) {
    scratch_hold(&scratch_registry.lock);
    return scratch_pager_is_needed();
}

void scratch_pager_stop_if_idle(void) {
    if (!control.is_running || is_needed())
        return;
    give_order(ORDER_STOP, NULL, 0, 0);
    join();
    scratch_rearm_forget_marks();
}

/* A copy of the pager's userfaultfd in the caller's descriptor table, or -1. */
static int take_userfault(void) {
    int receiver = scratch_handover_bind(&mailbox.handover);
    if (receiver < 0)
        return -1;
    int error = give_order(ORDER_SEND, NULL, 0, 0);
    int descriptor = error ? -1 : scratch_handover_receive(&mailbox.handover, receiver);
    close(receiver);
    return descriptor;
}

struct probe {
    pthread_t thread;
    pid_t number;
    struct scratch_completion *end; /* if not NULL, waits for it */
};

static void *wait_and_end(void *argument) {
    struct probe *probe = argument;
    probe->number = (pid_t)syscall(SYS_gettid);
    if (probe->end)
        scratch_completion_wait(probe->end);
    return NULL;
}

/*
 * A process that unshares its namespace of processes or of time can have no more threads (unshare(2)),
 * nor can one at its limit of tasks, or whose filter forbids them. Only another thread shows it, and
 * only two at a time that there is room for our pager though the child starts its own before us.
 */
static bool can_start_again(void) {
    struct scratch_completion end;
    scratch_completion_reset(&end);
    struct probe first = {.end = &end};
    struct probe second = {.end = NULL};
    if (create_thread(&first.thread, wait_and_end, &first))
        return false;
    bool is_room = !create_thread(&second.thread, wait_and_end, &second);
    scratch_completion_signal(&end);
    join_thread(first.thread, first.number);
    if (is_room)
        join_thread(second.thread, second.number);
    return is_room;
}

bool scratch_pager_park(void) {
    if (!control.is_running)
        return true;
    if (!can_start_again())
        return false;
    if (control.has_userfault) {
        /* Only when we hold it may the pager end (there may be no room in the table, say). */
        int descriptor = take_userfault();
        if (descriptor < 0)
            return false;
        control.parked_descriptor = descriptor;
    }
    give_order(ORDER_STOP, NULL, 0, 0);
    join();
    return true;
}

bool scratch_pager_is_parked(void) { return control.parked_descriptor >= 0; }

void scratch_pager_abandon(void) {
    if (control.parked_descriptor >= 0)
        close(control.parked_descriptor);
    control.parked_descriptor = -1;
    pager.userfault.descriptor = -1;
    control.is_running = false;
    control.has_userfault = false;
    atomic_store(&control.thread_id, 0);
    atomic_store(&mailbox.waits, false);
    scratch_rearm_forget_marks();
    scratch_pressure_forget();
    scratch_page_in_forget();
}

pid_t scratch_pager_thread(void) { return atomic_load(&control.thread_id); }
