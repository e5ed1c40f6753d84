/* SPDX-License-Identifier: Apache-2.0 */
#include "userfault.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>

#include "free_lazily.h"
#include "merging.h"
#include "page_in.h"
#include "raw.h"

/* Stored-to pages that wait to be re-armed, oldest first: a ring. */
enum { MARK_CAPACITY = 1024 };
struct mark {
    uintptr_t address;
    size_t length;
    uint64_t deadline;
};
static struct mark marks[MARK_CAPACITY];
static size_t mark_head;
static size_t mark_count;

/* The aligned block of pages that is opened to stores with `page`. */
static void store_around(const struct scratch_range *range, size_t page, size_t *ret_first,
                         size_t *ret_end) {
    size_t around = scratch_settings.fault_around_pages;
    *ret_first = page & ~(around - 1);
    *ret_end = *ret_first + around;
    if (*ret_end > scratch_range_pages(range))
        *ret_end = scratch_range_pages(range);
}

static int open_with_features(int flags, uint64_t features, struct scratch_userfault *ret) {
    int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
    if (descriptor < 0 && errno == EPERM && !flags) {
        /* The device grants by file permission what the system call grants by capability. */
        int device = raw_open("/dev/userfaultfd", O_RDWR);
        if (device < 0)
            return EPERM;
        descriptor = (int)syscall(SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        int error = errno;
        raw_close(device);
        errno = error;
    }
    if (descriptor < 0)
        return errno;
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (raw_ioctl(descriptor, UFFDIO_API, &api)) {
        int error = errno;
        raw_close(descriptor);
        return error;
    }
    ret->descriptor = descriptor;
    ret->system_calls = !flags;
    ret->write_protect = api.features & features & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    ret->poison = api.features & (1 << 14); /* UFFD_FEATURE_POISON, with UFFDIO_POISON */
    return 0;
}

int scratch_userfault_open(struct scratch_userfault *ret) {
    const uint64_t all = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID;
    int error = open_with_features(0, all, ret);
    if (error == EPERM)
        error = open_with_features(UFFD_USER_MODE_ONLY, all, ret);
    /* EINVAL: a kernel or a processor without write-protection; read-only ranges still work. */
    if (error == EINVAL)
        error = open_with_features(0, UFFD_FEATURE_THREAD_ID, ret);
    return error;
}

void scratch_userfault_probe(struct scratch_userfault_status *ret) {
    struct scratch_userfault userfault = {.descriptor = -1};
    memset(ret, 0, sizeof *ret);
    ret->error = scratch_userfault_open(&userfault);
    ret->system_calls = userfault.system_calls;
    ret->write_protect = userfault.write_protect;
    ret->poison = userfault.poison;
    if (!ret->error)
        raw_close(userfault.descriptor);
    char from = 'x', to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    if (syscall(SYS_process_vm_readv, getpid(), &local, 1, &remote, 1, 0) != 1)
        ret->remote_read_error = errno;
    if (syscall(SYS_close_range, UINT_MAX, UINT_MAX, 0)) /* a descriptor that nobody can have */
        ret->descriptor_table_error = errno;
}

int scratch_userfault_register(const struct scratch_userfault *userfault,
                               const struct scratch_range *range) {
    bool has_protection = userfault->write_protect;
    if (scratch_range_needs_protection(range) && !has_protection)
        return EOPNOTSUPP;
    struct uffdio_register registration = {
        .range = {(uintptr_t)range->address, range->length},
        .mode = UFFDIO_REGISTER_MODE_MISSING | (has_protection ? UFFDIO_REGISTER_MODE_WP : 0),
    };
    return raw_ioctl(userfault->descriptor, UFFDIO_REGISTER, &registration) ? errno : 0;
}

void scratch_userfault_wake(const struct scratch_userfault *userfault, uintptr_t address,
                            size_t length) {
    struct uffdio_range range = {address, length};
    raw_ioctl(userfault->descriptor, UFFDIO_WAKE, &range);
}

/*
 * MADV_FREE makes a page droppable in two steps: the processor notes it in a batch, and moves the
 * batch to the lists of reclaim when it is full, or when its next MADV_FREE begins. Until then
 * reclaim on another processor takes the page for an ordinary one and swaps it. So before the pager
 * wakes who waits for a page, sleeps, or answers that pages are armed, it begins one more: on a page
 * of its own that is never touched.
 */
static void *drain_page;
static bool has_batched_frees;

void scratch_userfault_free_lazily(void *address, size_t length) {
    has_batched_frees = true;
    scratch_free_lazily(address, length);
}

void scratch_userfault_drain(void) {
    if (!has_batched_frees)
        return;
    if (!drain_page)
        drain_page = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    scratch_userfault_free_lazily(drain_page, scratch_page_size());
    has_batched_frees = false;
}

static int write_protect_at_once(const struct scratch_userfault *userfault, uintptr_t address,
                                 size_t length, bool protect) {
    struct uffdio_writeprotect request = {
        .range = {address, length},
        .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    while (raw_ioctl(userfault->descriptor, UFFDIO_WRITEPROTECT, &request)) {
        if (errno != EAGAIN)
            return errno;
    }
    return 0;
}

/*
 * The kernel may refuse with ENOENT what crosses the edge of a pinned part, because mlock has split
 * the mapping there: then page by page.
 */
int scratch_userfault_write_protect(const struct scratch_userfault *userfault, uintptr_t address,
                                    size_t length, bool protect) {
    size_t page_size = scratch_page_size();
    int error = write_protect_at_once(userfault, address, length, protect);
    if (error != ENOENT || length == page_size)
        return error;
    error = 0;
    for (size_t offset = 0; offset < length && !error; offset += page_size)
        error = write_protect_at_once(userfault, address + offset, page_size, protect);
    return error;
}

/*
 * The order is what keeps a store from being lost out of our books: once the run is
 * write-protected, a store waits in a page fault until we have freed the run, and marks it again.
 */
static void rearm_locked(const struct scratch_userfault *userfault, struct scratch_range *range,
                         size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t run;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        unsigned char *address = range->address + first * page_size;
        bool is_read_only = !(range->protection & PROT_WRITE);
        if (is_read_only || !scratch_userfault_write_protect(userfault, (uintptr_t)address, run * page_size, true))
            scratch_userfault_free_lazily(address, run * page_size);
        scratch_check_event(range, first, run, SCRATCH_EVENT_REARM);
        first += run;
    }
}

/*
 * All ranges refuse to be merged when they are made. Who tells the kernel later to merge all memory of the
 * process overrules that: then refuse again, and free again what was merged meanwhile.
 */
static void refuse_merging(const struct scratch_userfault *userfault, bool rearm) {
    scratch_lock_acquire(&scratch_registry_lock);
    size_t count;
    struct scratch_range **ranges = scratch_registry_ranges(&count);
    for (size_t index = 0; index < count; index++) {
        struct scratch_range *range = ranges[index];
        scratch_lock_acquire(&range->lock);
        scratch_refuse_merging(range->address, range->length);
        if (rearm && range->engine == SCRATCH_ENGINE_LAZYFREE)
            rearm_locked(userfault, range, 0, scratch_range_pages(range));
        scratch_lock_release(&range->lock);
    }
    scratch_lock_release(&scratch_registry_lock);
}

void scratch_userfault_look_for_merging(const struct scratch_userfault *userfault) {
    static bool was_merged;
    bool is_merged = scratch_all_is_merged();
    if (is_merged)
        refuse_merging(userfault, !was_merged);
    was_merged = is_merged;
}

void scratch_userfault_look_for_merging_at_times(const struct scratch_userfault *userfault,
                                                 uint64_t now) {
    const uint64_t interval_ns = 100 * 1000 * 1000;
    static uint64_t looked;
    if (now - looked < interval_ns)
        return;
    looked = now;
    scratch_userfault_look_for_merging(userfault);
}

void scratch_userfault_rearm(const struct scratch_userfault *userfault, struct scratch_range *range,
                             size_t first, size_t end) {
    scratch_userfault_look_for_merging(userfault);
    scratch_lock_acquire(&range->lock);
    rearm_locked(userfault, range, first, end);
    scratch_lock_release(&range->lock);
    scratch_userfault_drain();
}

static void rearm_mark(const struct scratch_userfault *userfault, const struct mark *mark) {
    struct scratch_range *range = scratch_registry_find_locked(mark->address);
    if (!range)
        return; /* unmapped since */
    size_t page_size = scratch_page_size();
    size_t first = (mark->address - (uintptr_t)range->address) / page_size;
    size_t end = first + mark->length / page_size;
    if (end > scratch_range_pages(range))
        end = scratch_range_pages(range);
    if (range->engine == SCRATCH_ENGINE_LAZYFREE)
        rearm_locked(userfault, range, first, end);
    scratch_lock_release(&range->lock);
}

static struct mark take_oldest_mark(void) {
    struct mark oldest = marks[mark_head];
    mark_head = (mark_head + 1) % MARK_CAPACITY;
    mark_count--;
    return oldest;
}

uint64_t scratch_userfault_rearm_due(const struct scratch_userfault *userfault, uint64_t now) {
    while (mark_count && marks[mark_head].deadline <= now) {
        struct mark oldest = take_oldest_mark();
        rearm_mark(userfault, &oldest);
    }
    return mark_count ? marks[mark_head].deadline : 0;
}

void scratch_userfault_forget_marks(void) { mark_count = 0; }

/*
 * True if an older mark had to give way: the caller re-arms that when it holds no lock. Marks of one
 * range that follow each other become one; it is due with the older, sooner and never later.
 */
static bool mark_stored(const struct scratch_range *range, uintptr_t address, size_t length,
                        uint64_t now, struct mark *ret_displaced) {
    if (mark_count) {
        struct mark *newest = &marks[(mark_head + mark_count - 1) % MARK_CAPACITY];
        if (newest->address + newest->length == address &&
            newest->address >= (uintptr_t)range->address) {
            newest->length += length;
            return false;
        }
    }
    bool is_full = mark_count == MARK_CAPACITY;
    if (is_full)
        *ret_displaced = take_oldest_mark();
    marks[(mark_head + mark_count++) % MARK_CAPACITY] =
        (struct mark){address, length, now + scratch_settings.rearm_window_ns};
    return is_full;
}

/* The first store since the pages were armed; under the range's lock. */
static void allow_stores(const struct scratch_userfault *userfault, struct scratch_range *range,
                         size_t page, size_t *ret_first, size_t *ret_end) {
    size_t page_size = scratch_page_size();
    store_around(range, page, ret_first, ret_end);
    scratch_check_event(range, page, 1, SCRATCH_EVENT_STORE);
    scratch_userfault_write_protect(userfault, (uintptr_t)range->address + *ret_first * page_size,
                                    (*ret_end - *ret_first) * page_size,
                                    false); /* wakes who waits */
}

void scratch_userfault_serve(const struct scratch_userfault *userfault,
                             const struct uffd_msg *message, uint64_t now, bool is_late) {
    if (message->event != UFFD_EVENT_PAGEFAULT)
        return;
    size_t page_size = scratch_page_size();
    uintptr_t address = message->arg.pagefault.address & ~(page_size - 1);
    bool is_store_to_armed = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
    bool for_store = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
    struct scratch_range *range = scratch_registry_find_locked(address);
    if (!range) {
        /* Being closed: whoever waits faults again, until the close has ended one way or other. */
        scratch_userfault_wake(userfault, address, page_size);
        return;
    }
    size_t page = (address - (uintptr_t)range->address) / page_size;
    size_t first = page, end = page;
    if (is_store_to_armed && !(range->protection & PROT_WRITE))
        scratch_page_in_refuse_store(userfault, range, page,
                                     (pid_t)message->arg.pagefault.feat.ptid);
    else if (is_store_to_armed)
        allow_stores(userfault, range, page, &first, &end);
    else
        scratch_page_in(userfault, range, page, for_store, is_late, &first, &end);
    struct mark displaced;
    bool has_displaced =
        (is_store_to_armed || for_store) && (range->protection & PROT_WRITE) &&
        mark_stored(range, (uintptr_t)range->address + first * page_size, (end - first) * page_size,
                    now, &displaced);
    scratch_lock_release(&range->lock);
    if (has_displaced)
        rearm_mark(userfault, &displaced);
}
