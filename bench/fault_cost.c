/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one page fault costs: in the pager's event mode, and in the mode where the kernel sends
 * SIGBUS and the faulting thread fills the page itself (which we don't ship: it dies with a blocked or
 * replaced signal). 4 KiB a fault, in random order, each page lazily freed after it was made.
 *
 * The three are measured in turns within one run; one line of JSON with all rounds.
 */
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "../tests/native/harness.h"
#include "clock.h"
#include "uapi.h"

enum { PAGES = 4096, ROUNDS = 11 };

static size_t page_size;
static size_t order[PAGES];
static unsigned char *source;

static unsigned char *sigbus_memory;
static int sigbus_descriptor;

static uint64_t content(uint64_t index) { return index + 1; }

static void fill_in_place(int signal_number, siginfo_t *information, void *context) {
    (void)signal_number, (void)context;
    unsigned char *page = (unsigned char *)((uintptr_t)information->si_addr & ~(page_size - 1));
    if ((size_t)(page - sigbus_memory) >= PAGES * page_size)
        _exit(3);
    struct uffdio_copy copy = {
        .dst = (uintptr_t)page,
        .src = (uintptr_t)source + (uintptr_t)(page - sigbus_memory),
        .len = page_size,
    };
    if (ioctl(sigbus_descriptor, UFFDIO_COPY, &copy) || madvise(page, page_size, MADV_FREE))
        _exit(4);
}

static void start_sigbus_mode(void) {
    sigbus_descriptor =
        (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    if (sigbus_descriptor < 0 || ioctl(sigbus_descriptor, UFFDIO_API, &api))
        die("userfaultfd with SIGBUS", errno);
    sigbus_memory = mmap(NULL, PAGES * page_size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(sigbus_memory, PAGES * page_size, MADV_NOHUGEPAGE);
    struct uffdio_register registration = {
        .range = {(uintptr_t)sigbus_memory, PAGES * page_size},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    if (ioctl(sigbus_descriptor, UFFDIO_REGISTER, &registration))
        die("UFFDIO_REGISTER", errno);
    struct sigaction action = {.sa_sigaction = fill_in_place, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGBUS, &action, NULL);
}

/* Microseconds a page fault. */
static double touch_all(volatile unsigned char *memory) {
    uint64_t started = scratch_now_ns();
    for (size_t index = 0; index < PAGES; index++)
        (void)memory[order[index] * page_size];
    return (double)(scratch_now_ns() - started) / PAGES / 1000;
}

static void shuffle(void) {
    uint64_t random = 42;
    for (size_t index = 0; index < PAGES; index++)
        order[index] = index;
    for (size_t index = PAGES - 1; index > 0; index--) {
        size_t other = random_next(&random) % (index + 1);
        size_t kept = order[index];
        order[index] = order[other];
        order[other] = kept;
    }
}

int main(void) {
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    shuffle();
    int file = make_file(PAGES * page_size / sizeof(uint64_t), content);
    source = mmap(NULL, PAGES * page_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    struct scratch_settings settings = {
        .fault_around_pages = 1,
        .rearm_window_ns = 10 * 1000 * 1000,
        .poll_after_fault_ns = 50 * 1000,
        .readahead_bytes = 1 << 20,
    };
    scratch_configure(&settings);
    struct scratch_range *range;
    unsigned char *memory = map_scratch(SCRATCH_ENGINE_LAZYFREE, file, PAGES * page_size, &range);
    start_sigbus_mode();

    cpu_set_t everywhere, here;
    sched_getaffinity(0, sizeof everywhere, &everywhere);
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    printf("{\"unit\": \"microseconds a page fault\", \"rounds\": [");
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t went;
        madvise(sigbus_memory, PAGES * page_size, MADV_DONTNEED);
        double sigbus = touch_all(sigbus_memory);
        scratch_range_drop(range, 0, PAGES * page_size, &went);
        double event_free = touch_all(memory);
        sched_setaffinity(0, sizeof here, &here);
        scratch_range_drop(range, 0, PAGES * page_size, &went);
        double event_bound = touch_all(memory);
        madvise(sigbus_memory, PAGES * page_size, MADV_DONTNEED);
        double sigbus_bound = touch_all(sigbus_memory);
        sched_setaffinity(0, sizeof everywhere, &everywhere);
        printf("%s{\"sigbus\": %.2f, \"event\": %.2f, \"sigbus_bound\": %.2f, \"event_bound\": %.2f}",
               round ? ", " : "", sigbus, event_free, sigbus_bound, event_bound);
    }
    printf("]}\n");
    return 0;
}
