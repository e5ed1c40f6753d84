/* SPDX-License-Identifier: Apache-2.0 */
#include "pressure.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "pager.h"
#include "raw.h"

static struct {
    bool is_set;
    enum scratch_pressure_kind kind;
    char path[PATH_MAX];
    char trigger[64];
} watched;

static struct {
    int descriptor;
    short events;
    int level;
} sources[SCRATCH_PRESSURE_DESCRIPTORS];
static size_t source_count;

static _Atomic uint64_t event_count;
static _Atomic uint64_t dropped_pages;

bool scratch_pressure_is_watched(void) { return watched.is_set; }

static int open_in_directory(const char *name, int flags) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", watched.path, name);
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
        sources[source_count].descriptor = descriptor;
        sources[source_count].events = POLLIN;
        sources[source_count++].level = level;
    }
    if (pressure >= 0)
        raw_close(pressure);
    if (control >= 0)
        raw_close(control);
    return error;
}

/* Documentation/accounting/psi.rst, "Monitoring for pressure thresholds". */
static int open_stall(void) {
    int descriptor = raw_open(watched.path, O_RDWR | O_NONBLOCK);
    if (descriptor < 0)
        return errno;
    if (raw_write(descriptor, watched.trigger, strlen(watched.trigger) + 1) < 0) {
        int error = errno;
        raw_close(descriptor);
        return error;
    }
    sources[0].descriptor = descriptor;
    sources[0].events = POLLPRI;
    sources[0].level = 1;
    source_count = 1;
    return 0;
}

void scratch_pressure_close(void) {
    while (source_count)
        raw_close(sources[--source_count].descriptor);
}

int scratch_pressure_open(void) {
    scratch_pressure_close();
    if (!watched.is_set)
        return 0;
    int error = watched.kind == SCRATCH_PRESSURE_CGROUP1 ? open_cgroup1() : open_stall();
    if (error)
        scratch_pressure_close();
    return error;
}

size_t scratch_pressure_poll_entries(struct pollfd entries[SCRATCH_PRESSURE_DESCRIPTORS]) {
    for (size_t index = 0; index < source_count; index++)
        entries[index] = (struct pollfd){sources[index].descriptor, sources[index].events, 0};
    return source_count;
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
        uint64_t dropped = 0;
        if (scratch_drop_locked(range, relief->pagemap, first, first + chunk_pages(range, chunk),
                                &dropped) ||
            !dropped)
            continue;
        range->dropped_before[chunk] = 1;
        relief->wanted -= dropped < relief->wanted ? dropped : relief->wanted;
        atomic_fetch_add_explicit(&dropped_pages, dropped, memory_order_relaxed);
    }
}

/* Under the registry's lock; each range is visited under its own. */
static void visit_dontneed_ranges(void (*visit)(struct scratch_range *, struct relief *),
                                  struct relief *relief) {
    size_t count;
    struct scratch_range **ranges = scratch_registry_ranges(&count);
    for (size_t index = 0; index < count; index++) {
        struct scratch_range *range = ranges[index];
        if (range->engine != SCRATCH_ENGINE_DONTNEED)
            continue;
        scratch_lock_acquire(&range->lock);
        visit(range, relief);
        scratch_lock_release(&range->lock);
    }
}

static void relieve(int level) {
    struct relief relief = {.pagemap = scratch_pagemap_open()};
    scratch_lock_acquire(&scratch_registry_lock);
    visit_dontneed_ranges(take_temperature, &relief);
    uint64_t total = 0;
    for (unsigned step = 0; step < HEAT_STEPS; step++)
        total += relief.pages_by_step[step];
    relief.wanted = (total * percent_for(level) + 99) / 100;
    for (relief.step = 0; relief.step < HEAT_STEPS && relief.wanted; relief.step++)
        visit_dontneed_ranges(drop_step, &relief);
    scratch_lock_release(&scratch_registry_lock);
    scratch_pagemap_close(relief.pagemap);
    atomic_fetch_add_explicit(&event_count, 1, memory_order_relaxed);
}

void scratch_pressure_serve(const struct pollfd *entries, size_t count) {
    int level = -1;
    for (size_t index = 0; index < count; index++) {
        if (!(entries[index].revents & entries[index].events))
            continue;
        uint64_t ignored;
        if (entries[index].events == POLLIN &&
            raw_read(entries[index].fd, &ignored, sizeof ignored) < 0)
            continue;
        if (sources[index].level > level)
            level = sources[index].level;
    }
    if (level >= 0)
        relieve(level);
}

void scratch_pressure_announce(int level) {
    sigset_t signals;
    scratch_signals_block(&signals);
    relieve(level < 0 ? 0 : level > 2 ? 2 : level);
    scratch_signals_restore(&signals);
}

void scratch_pressure_counts(uint64_t *ret_events, uint64_t *ret_pages) {
    *ret_events = atomic_load_explicit(&event_count, memory_order_relaxed);
    *ret_pages = atomic_load_explicit(&dropped_pages, memory_order_relaxed);
}

int scratch_pressure_watch(enum scratch_pressure_kind kind, const char *path, const char *trigger) {
    if (strlen(path) >= sizeof watched.path || strlen(trigger) >= sizeof watched.trigger)
        return ENAMETOOLONG;
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_control_lock);
    int error = scratch_fork_prepare_once();
    if (!error) {
        watched.kind = kind;
        strcpy(watched.path, path);
        strcpy(watched.trigger, trigger);
        watched.is_set = true;
        error = scratch_pager_watch();
        watched.is_set = !error;
        scratch_pager_stop_if_idle();
    }
    scratch_lock_release(&scratch_control_lock);
    scratch_signals_restore(&signals);
    return error;
}
