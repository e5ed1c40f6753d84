/* SPDX-License-Identifier: Apache-2.0 */
#include "pressure.h"

#include <errno.h>
#include <limits.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "drop.h"
#include "range.h"
#include "raw.h"

/* How a descriptor says that memory is short. */
enum source_kind {
    SOURCE_EVENTFD,  /* it can be read from; so can a timer */
    SOURCE_TRIGGER,  /* an exceptional condition of a PSI file */
    SOURCE_COUNTERS, /* the same of a file of counters, until it is read again */
};

struct source {
    enum source_kind kind;
    int descriptor; /* -1 when what it watched has gone */
    int level;
};

bool scratch_pressure_is_watched;

static struct {
    struct {
        enum scratch_pressure_kind kind;
        char path[PATH_MAX];
        char trigger[128];
    } watched;
    struct source sources[SCRATCH_PRESSURE_DESCRIPTORS];
    size_t source_count;
    _Atomic uint64_t events;
    _Atomic uint64_t dropped_pages;
} policy;

static void add_source(enum source_kind kind, int descriptor, int level) {
    policy.sources[policy.source_count++] = (struct source){kind, descriptor, level};
}

static int open_in_directory(const char *name, int flags) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", policy.watched.path, name);
    return raw_open(path, flags);
}

/*
 * Documentation/admin-guide/cgroup-v1/memory.rst, section 11: an eventfd is signalled at a level
 * and at those above it, so that one for each level tells which it is.
 */
static int open_cgroup1(void) {
    static const char *const levels[] = {"low", "medium", "critical"};
    int error = 0;
    int pressure = open_in_directory("memory.pressure_level", O_RDONLY);
    int control = open_in_directory("cgroup.event_control", O_WRONLY);
    if (pressure < 0 || control < 0)
        error = errno;
    for (int level = 0; !error && level < 3; level++) {
        int descriptor = (int)syscall(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
        char line[64];
        int length = snprintf(line, sizeof line, "%d %d %s", descriptor, pressure, levels[level]);
        if (descriptor < 0 || raw_write(control, line, (size_t)length) < 0) {
            error = errno;
            if (descriptor >= 0)
                raw_close(descriptor);
            break;
        }
        add_source(SOURCE_EVENTFD, descriptor, level);
    }
    if (pressure >= 0)
        raw_close(pressure);
    if (control >= 0)
        raw_close(control);
    return error;
}

/*
 * Documentation/accounting/psi.rst, "Monitoring for pressure thresholds". Of the triggers, one a line,
 * the first is taken that the kernel doesn't refuse: without privilege it refuses short windows.
 */
static int set_trigger(int descriptor) {
    int error = EINVAL;
    for (const char *line = policy.watched.trigger; *line && error == EINVAL;) {
        char trigger[sizeof policy.watched.trigger];
        size_t length = strcspn(line, "\n");
        memcpy(trigger, line, length);
        trigger[length] = '\0';
        error = raw_write(descriptor, trigger, length + 1) < 0 ? errno : 0;
        line += length + (line[length] == '\n');
    }
    return error;
}

/* Of a descriptor that may be -1, with errno. */
static int add_trigger(int descriptor) {
    if (descriptor < 0)
        return errno;
    int error = set_trigger(descriptor);
    if (error)
        raw_close(descriptor);
    else
        add_source(SOURCE_TRIGGER, descriptor, 1);
    return error;
}

static int open_stall(const char *path) { return add_trigger(raw_open(path, O_RDWR | O_NONBLOCK)); }

/* Reading from the start is what makes the next poll wait for the next change. */
static bool read_counters(int descriptor) {
    char text[512];
    return raw_pread(descriptor, text, sizeof text, 0) >= 0;
}

/*
 * Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files": a change of memory.events says
 * that a limit of the group was met, at the moment when reclaim begins. That is the lowest level,
 * because page cache that is only read may be what fills the group, again and again. memory.pressure
 * says that its tasks wait for memory, whoever's limit that is. A group may have only one of them (the root has no
 * memory.events, and who may not write to memory.pressure gets no trigger): then stalls of the whole
 * machine are the next best.
 */
static int open_cgroup2(void) {
    int error = add_trigger(open_in_directory("memory.pressure", O_RDWR | O_NONBLOCK));
    if (error && !open_stall("/proc/pressure/memory"))
        error = 0;
    int counters = open_in_directory("memory.events", O_RDONLY);
    if (counters >= 0 && read_counters(counters))
        add_source(SOURCE_COUNTERS, counters, 0);
    else if (counters >= 0)
        raw_close(counters);
    return policy.source_count ? 0 : error;
}

static int open_timer(const char *milliseconds) {
    long every = strtol(milliseconds, NULL, 10);
    if (every <= 0)
        return EINVAL;
    struct timespec interval = {every / 1000, every % 1000 * 1000000};
    struct itimerspec timing = {interval, interval};
    int descriptor = (int)syscall(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (descriptor < 0)
        return errno;
    if (syscall(SYS_timerfd_settime, descriptor, 0, &timing, NULL)) {
        int error = errno;
        raw_close(descriptor);
        return error;
    }
    add_source(SOURCE_EVENTFD, descriptor, 2);
    return 0;
}

static void forget_source(struct source *source) {
    if (source->descriptor >= 0)
        raw_close(source->descriptor);
    source->descriptor = -1;
}

void scratch_pressure_forget(void) { policy.source_count = 0; }

void scratch_pressure_close(void) {
    while (policy.source_count)
        forget_source(&policy.sources[--policy.source_count]);
}

static int open_watched(void) {
    switch (policy.watched.kind) {
    case SCRATCH_PRESSURE_CGROUP1:
        return open_cgroup1();
    case SCRATCH_PRESSURE_CGROUP2:
        return open_cgroup2();
    case SCRATCH_PRESSURE_STALL:
        return open_stall(policy.watched.path);
    case SCRATCH_PRESSURE_TIMER:
        return open_timer(policy.watched.path);
    }
    return EINVAL;
}

int scratch_pressure_open(void) {
    scratch_pressure_close();
    if (!scratch_pressure_is_watched)
        return 0;
    int error = open_watched();
    if (error)
        scratch_pressure_close();
    return error;
}

size_t scratch_pressure_poll_entries(struct pollfd entries[SCRATCH_PRESSURE_DESCRIPTORS]) {
    for (size_t index = 0; index < policy.source_count; index++) {
        short events = policy.sources[index].kind == SOURCE_EVENTFD ? POLLIN : POLLPRI;
        entries[index] = (struct pollfd){policy.sources[index].descriptor, events, 0};
    }
    return policy.source_count;
}

static uint32_t percent_for(int level) {
    return level == 0   ? scratch_settings.drop_percent_low
           : level == 1 ? scratch_settings.drop_percent_medium
                        : scratch_settings.drop_percent_critical;
}

/* How hot a chunk is, in few steps, because each step is a walk over all ranges. */
enum { HEAT_STEPS = 4, HEAT_OF_A_REFAULT = 64, HEAT_STEP = 64 };

static unsigned heat_step(const struct scratch_range *range, size_t chunk) {
    return range->heat[chunk] / HEAT_STEP;
}

static size_t chunk_pages(const struct scratch_range *range, size_t chunk) {
    size_t first = chunk * SCRATCH_HEAT_CHUNK_PAGES;
    size_t pages = scratch_range_pages(range) - first;
    return pages < SCRATCH_HEAT_CHUNK_PAGES ? pages : SCRATCH_HEAT_CHUNK_PAGES;
}

static size_t chunk_count(const struct scratch_range *range) {
    return (scratch_range_pages(range) + SCRATCH_HEAT_CHUNK_PAGES - 1) / SCRATCH_HEAT_CHUNK_PAGES;
}

/* One announcement of pressure on its way through the ranges. */
struct relief {
    int pagemap;
    uint64_t pages_by_step[HEAT_STEPS];
    unsigned step;
    uint64_t wanted;
};

/* Ages a range and counts its private pages by how hot they are. */
static void take_temperature(struct scratch_range *range, struct relief *relief) {
    for (size_t chunk = 0; chunk < chunk_count(range); chunk++) {
        uint64_t own = scratch_count_own_pages(range, relief->pagemap,
                                               chunk * SCRATCH_HEAT_CHUNK_PAGES,
                                               chunk_pages(range, chunk));
        unsigned heat = range->heat[chunk] / 2u;
        if (own && range->dropped_before[chunk]) {
            heat += HEAT_OF_A_REFAULT;
            range->dropped_before[chunk] = 0;
        }
        range->heat[chunk] = (unsigned char)(heat > UCHAR_MAX ? UCHAR_MAX : heat);
        relief->pages_by_step[heat_step(range, chunk)] += own;
    }
}

/* Drops the chunks of one step of heat until enough pages went. */
static void drop_step(struct scratch_range *range, struct relief *relief) {
    for (size_t chunk = 0; chunk < chunk_count(range) && relief->wanted; chunk++) {
        if (heat_step(range, chunk) != relief->step)
            continue;
        size_t first = chunk * SCRATCH_HEAT_CHUNK_PAGES;
        struct scratch_dropped dropped;
        if (scratch_drop_locked(range, relief->pagemap, first, first + chunk_pages(range, chunk),
                                &dropped) ||
            !dropped.pages)
            continue;
        range->dropped_before[chunk] = 1;
        relief->wanted -= dropped.pages < relief->wanted ? dropped.pages : relief->wanted;
        atomic_fetch_add_explicit(&policy.dropped_pages, dropped.pages, memory_order_relaxed);
    }
}

/* Under the registry's lock; each range is visited under its own. */
static void visit_dontneed_ranges(void (*visit)(struct scratch_range *, struct relief *),
                                  struct relief *relief) {
    scratch_for_each_range(range) {
        if (range->engine != SCRATCH_ENGINE_DONTNEED)
            continue;
        scratch_hold(&range->lock);
        visit(range, relief);
    }
}

void scratch_pressure_relieve(int level) {
    SCRATCH_CLOSES_PAGEMAP int pagemap = scratch_pagemap_open();
    struct relief relief = {.pagemap = pagemap};
    uint64_t total = 0;
    scratch_hold(&scratch_registry.lock);
    visit_dontneed_ranges(take_temperature, &relief);
    for (unsigned step = 0; step < HEAT_STEPS; step++)
        total += relief.pages_by_step[step];
    relief.wanted = (total * percent_for(level) + 99) / 100;
    for (relief.step = 0; relief.step < HEAT_STEPS && relief.wanted; relief.step++)
        visit_dontneed_ranges(drop_step, &relief);
    atomic_fetch_add_explicit(&policy.events, 1, memory_order_relaxed);
}

/*
 * Whether a source announces that memory is short. One whose group was removed is ready for ever, and
 * announces nothing: it is forgotten.
 */
static bool announces(struct source *source, short events) {
    uint64_t ignored;
    bool has_gone = false;
    switch (source->kind) {
    case SOURCE_EVENTFD:
        return (events & POLLIN) && raw_read(source->descriptor, &ignored, sizeof ignored) >= 0;
    case SOURCE_TRIGGER:
        has_gone = events & POLLERR;
        break;
    case SOURCE_COUNTERS: /* which says POLLERR with every change */
        has_gone = !read_counters(source->descriptor);
        break;
    }
    if (has_gone)
        forget_source(source);
    return !has_gone && (events & POLLPRI);
}

void scratch_pressure_serve(const struct pollfd *entries, size_t count) {
    int level = -1;
    for (size_t index = 0; index < count; index++) {
        if (entries[index].revents && announces(&policy.sources[index], entries[index].revents) &&
            policy.sources[index].level > level)
            level = policy.sources[index].level;
    }
    if (level >= 0)
        scratch_pressure_relieve(level);
}

void scratch_pressure_counts(uint64_t *ret_events, uint64_t *ret_pages) {
    *ret_events = atomic_load_explicit(&policy.events, memory_order_relaxed);
    *ret_pages = atomic_load_explicit(&policy.dropped_pages, memory_order_relaxed);
}

int scratch_pressure_choose(enum scratch_pressure_kind kind, const char *path,
                            const char *trigger) {
    if (strlen(path) >= sizeof policy.watched.path || strlen(trigger) >= sizeof policy.watched.trigger)
        return ENAMETOOLONG;
    policy.watched.kind = kind;
    strcpy(policy.watched.path, path);
    strcpy(policy.watched.trigger, trigger);
    scratch_pressure_is_watched = true;
    return 0;
}
