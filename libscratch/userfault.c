/* SPDX-License-Identifier: Apache-2.0 */
#include "userfault.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>

#include "clock.h"
#include "raw.h"
#include "tell.h"

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

/* Where page-in fixups work on pages before anybody sees them: the most that one fault makes. */
enum { STAGING_BYTES = 256 * 1024 };
static unsigned char staging[STAGING_BYTES] __attribute__((aligned(4096)));

/* The aligned block of pages that is made, or opened to stores, with `page`. */
static void fault_around(const struct scratch_range *range, size_t page, size_t *ret_first,
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
    bool is_writable = range->protection & PROT_WRITE;
    if (is_writable && !userfault->write_protect)
        return EOPNOTSUPP;
    struct uffdio_register registration = {
        .range = {(uintptr_t)range->address, range->length},
        .mode = UFFDIO_REGISTER_MODE_MISSING | (is_writable ? UFFDIO_REGISTER_MODE_WP : 0),
    };
    return raw_ioctl(userfault->descriptor, UFFDIO_REGISTER, &registration) ? errno : 0;
}

static void wake(const struct scratch_userfault *userfault, uintptr_t address, size_t length) {
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

static int lazily_free(void *address, size_t length) {
    has_batched_frees = true;
    return madvise(address, length, MADV_FREE);
}

void scratch_userfault_drain(void) {
    if (!has_batched_frees)
        return;
    if (!drain_page)
        drain_page = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    lazily_free(drain_page, scratch_page_size());
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
static int write_protect(const struct scratch_userfault *userfault, uintptr_t address,
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
        if (is_read_only || !write_protect(userfault, (uintptr_t)address, run * page_size, true))
            lazily_free(address, run * page_size);
        scratch_check_event(range, first, run, SCRATCH_EVENT_REARM);
        first += run;
    }
}

void scratch_userfault_rearm(const struct scratch_userfault *userfault, struct scratch_range *range,
                             size_t first, size_t end) {
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

/* Nobody may ever see something else than the file: the touch ends in SIGBUS, as with mmap. */
static void fail_page(const struct scratch_userfault *userfault, struct scratch_range *range,
                      size_t page, const char *reason) {
    size_t page_size = scratch_page_size();
    scratch_tell("mapscratch: page %zu (byte %zu) of the scratch mapping of %s can't be made: %s\n",
                 page, page * page_size, range->name, reason);
    uintptr_t address = (uintptr_t)range->address + page * page_size;
    struct uffdio_poison poison = {.range = {address, page_size}};
    if (userfault->poison && !raw_ioctl(userfault->descriptor, UFFDIO_POISON, &poison))
        return;
    /* Before Linux 6.6 no page can be made to fault for good, and returning would fault again. */
    kill(getpid(), SIGKILL);
}

/*
 * Somebody who goes on where the last page-in ended is reading in sequence: for them the block
 * doubles from fault to fault, because the cost of a fault is then shared by more pages.
 */
static void widen_for_sequence(struct scratch_range *range, size_t first, size_t *end,
                               bool in_sequence) {
    size_t limit = STAGING_BYTES / scratch_page_size();
    range->sequence_pages = in_sequence ? 2 * range->sequence_pages : *end - first;
    if (range->sequence_pages > limit)
        range->sequence_pages = limit;
    if (first + range->sequence_pages > *end)
        *end = first + range->sequence_pages;
    if (*end > scratch_range_pages(range))
        *end = scratch_range_pages(range);
    range->next_fault_page = *end;
}

/*
 * The source's read-ahead is switched off (MADV_RANDOM), because read-around makes a random
 * page-in read far more than it needs. So ask for what is needed: these pages, and in a sequence
 * a window ahead of them.
 */
static void read_ahead(struct scratch_range *range, size_t first, size_t end, bool in_sequence) {
    size_t page_size = scratch_page_size();
    size_t wanted_end = end;
    if (in_sequence) {
        size_t window = scratch_settings.readahead_bytes / page_size;
        if (end + window / 2 <= range->readahead_end_page)
            return; /* still well inside what was asked for */
        if (range->readahead_end_page > first && range->readahead_end_page < end + window)
            first = range->readahead_end_page;
        wanted_end = end + window;
    }
    if (wanted_end > scratch_range_pages(range))
        wanted_end = scratch_range_pages(range);
    range->readahead_end_page = wanted_end;
    if (first < wanted_end)
        madvise((void *)(range->source + first * page_size), (wanted_end - first) * page_size,
                MADV_WILLNEED);
}

/* Copies the file's bytes to where fixups are applied; the whole pages that could be read. */
static size_t stage(struct scratch_range *range, size_t first, size_t pages) {
    size_t page_size = scratch_page_size();
    struct iovec local = {staging, pages * page_size};
    struct iovec remote = {(void *)(range->source + first * page_size), pages * page_size};
    /* Not memcpy: if the file has shrunk this fails where memcpy would be killed. */
    ssize_t got = syscall(SYS_process_vm_readv, getpid(), &local, 1, &remote, 1, 0);
    size_t staged_pages = got > 0 ? (size_t)got / page_size : 0;
    uint64_t started = scratch_now_ns();
    scratch_word_table_apply(&range->fixup, staging, first * page_size, staged_pages * page_size);
    atomic_fetch_add_explicit(&range->fixup_ns, scratch_now_ns() - started, memory_order_relaxed);
    return staged_pages;
}

static void count_filled(struct scratch_range *range, size_t first, size_t pages) {
    uint64_t rebuilt = 0;
    for (size_t page = first; page < first + pages; page++) {
        unsigned char bit = (unsigned char)(1u << (page % 8));
        rebuilt += (range->ever_filled[page / 8] & bit) != 0;
        range->ever_filled[page / 8] |= bit;
    }
    atomic_fetch_add_explicit(&range->filled, pages, memory_order_relaxed);
    atomic_fetch_add_explicit(&range->rebuilt, rebuilt, memory_order_relaxed);
}

static void check_filled(struct scratch_range *range, size_t first, size_t pages, bool for_store) {
    scratch_check_event(range, first, pages, SCRATCH_EVENT_FAULT);
    scratch_check_event(range, first, pages,
                        for_store ? SCRATCH_EVENT_FILL_FOR_STORE : SCRATCH_EVENT_FILL_FOR_LOAD);
}

/*
 * Puts `pages` pages of `bytes` where no page is yet. Pages that are there are left alone, and so
 * are pages that can't be read, unless it is the very page that somebody waits for: then its error
 * comes back.
 */
static int copy_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                   size_t first, size_t pages, const unsigned char *bytes, size_t awaited,
                   bool for_store) {
    size_t page_size = scratch_page_size();
    bool tracks_stores = (range->protection & PROT_WRITE) && !for_store;
    size_t page = first;
    size_t at_once = pages;
    int awaited_error = 0;
    while (page < first + pages) {
        if (at_once > first + pages - page)
            at_once = first + pages - page;
        struct uffdio_copy copy = {
            .dst = (uintptr_t)range->address + page * page_size,
            .src = (uintptr_t)bytes + (page - first) * page_size,
            .len = at_once * page_size,
            .mode = UFFDIO_COPY_MODE_DONTWAKE | (tracks_stores ? UFFDIO_COPY_MODE_WP : 0),
        };
        int error = raw_ioctl(userfault->descriptor, UFFDIO_COPY, &copy) ? errno : 0;
        size_t copied = copy.copy > 0 ? (size_t)copy.copy / page_size : 0;
        if (copied) {
            count_filled(range, page, copied);
            check_filled(range, page, copied, for_store);
            page += copied;
        } else if (error == EAGAIN) {
            continue; /* the address space is changing; nothing was copied */
        } else if (error == ENOENT && at_once > 1) {
            at_once = 1; /* across the edge of a pinned part, where mlock has split the mapping */
        } else {
            if (page == awaited && error != EEXIST)
                awaited_error = error;
            page++;
        }
    }
    return awaited_error;
}

/* On the processor that made them: see placement.h. */
static void free_unpinned(struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    size_t run;
    while ((run = scratch_unpinned_run(range, &first, end))) {
        lazily_free(range->address + first * page_size, run * page_size);
        first += run;
    }
}

static const char *reason_of(int error) {
    switch (error) {
    case EFAULT:
        return "the file no longer has these bytes (it shrank, or its device failed)";
    case ENOMEM:
        return "there is no memory for it (see the memory limit of this cgroup)";
    default:
        return strerror(error);
    }
}

/* Makes `page` and those around it, under the range's lock: from *ret_first up to *ret_end. */
static void page_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                    size_t page, bool for_store, size_t *ret_first, size_t *ret_end) {
    size_t page_size = scratch_page_size();
    size_t first, end;
    fault_around(range, page, &first, &end);
    bool in_sequence = first > 0 && first == range->next_fault_page;
    widen_for_sequence(range, first, &end, in_sequence);
    read_ahead(range, first, end, in_sequence);

    int error = 0;
    for (int attempt = 0; attempt < 1000; attempt++) {
        const unsigned char *bytes = range->source + first * page_size;
        size_t pages = end - first;
        if (range->has_fixup) {
            pages = stage(range, first, pages);
            bytes = staging;
        }
        error = page < first + pages
                    ? copy_in(userfault, range, first, pages, bytes, page, for_store)
                    : EFAULT;
        if (error != ENOMEM)
            break;
        usleep(1000); /* reclaim is under way: that is what we are for */
    }
    free_unpinned(range, first, end);
    scratch_userfault_drain(); /* so that nobody sees a page that isn't droppable yet */
    if (error && error != ENOENT && error != ESRCH)
        fail_page(userfault, range, page, reason_of(error));
    wake(userfault, (uintptr_t)range->address + first * page_size, (end - first) * page_size);
    *ret_first = first;
    *ret_end = end;
}

/* The first store since the pages were armed; under the range's lock. */
static void allow_stores(const struct scratch_userfault *userfault, struct scratch_range *range,
                         size_t page, size_t *ret_first, size_t *ret_end) {
    size_t page_size = scratch_page_size();
    fault_around(range, page, ret_first, ret_end);
    scratch_check_event(range, page, 1, SCRATCH_EVENT_STORE);
    write_protect(userfault, (uintptr_t)range->address + *ret_first * page_size,
                  (*ret_end - *ret_first) * page_size, false); /* wakes who waits */
}

void scratch_userfault_serve(const struct scratch_userfault *userfault,
                             const struct uffd_msg *message, uint64_t now) {
    if (message->event != UFFD_EVENT_PAGEFAULT)
        return;
    size_t page_size = scratch_page_size();
    uintptr_t address = message->arg.pagefault.address & ~(page_size - 1);
    bool is_store_to_armed = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
    bool for_store = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
    struct scratch_range *range = scratch_registry_find_locked(address);
    if (!range) {
        /* Being closed: whoever waits faults again, until the close has ended one way or other. */
        wake(userfault, address, page_size);
        return;
    }
    size_t page = (address - (uintptr_t)range->address) / page_size;
    size_t first, end;
    if (is_store_to_armed)
        allow_stores(userfault, range, page, &first, &end);
    else
        page_in(userfault, range, page, for_store, &first, &end);
    struct mark displaced;
    bool has_displaced =
        (is_store_to_armed || for_store) &&
        mark_stored(range, (uintptr_t)range->address + first * page_size, (end - first) * page_size,
                    now, &displaced);
    scratch_lock_release(&range->lock);
    if (has_displaced)
        rearm_mark(userfault, &displaced);
}
