// SPDX-License-Identifier: GPL-2.0-only
/*
 * A CPU goes on reading a MAP_DROPPABLE page that was dropped and has already come back as another.
 *
 * Reclaim clears the page table entry but puts off the TLB flush (TTU_BATCH_FLUSH) until the whole
 * batch is done.  That is sound where the next fault finds the same page again, in the page cache
 * or the swap cache.  A dropped page comes back as a new one, at once: until the flush, one CPU
 * uses the new page while another still has the old one in its TLB.
 *
 *   writer    stores 2, 3, 4, ... to a word X of the page, and after X, to Y in ordinary memory
 *   reader    on another CPU, loads Y and then X
 *   reclaim   dirties the pages behind X, so that the batch is long, and pages all of them out
 *
 * X may be zero (dropped) or at least what Y was.  A smaller X other than zero is an order that no
 * memory shows: what the writer stored before Y is missing, though the old value is still there.
 *
 * The writer sleeps now and then.  A CPU that comes back from idle catches up with the flushes that
 * were put off, so the writer soon meets the new page; the reader never sleeps and keeps the old.
 *
 * Two more rows: MAP_PRIVATE memory, the control, must never show it; MADV_FREE'd memory that is
 * written again comes back as another page too, and so shares the window.  The verdict is about
 * MAP_DROPPABLE only.
 *
 * Build:  gcc -std=gnu11 -O2 -Wall -Wextra -Werror -pthread stale_read.c -o stale_read
 * Exits with 0 when the defect was seen, 1 when it was not, 2 when it could not be tried.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

enum verdict { SEEN = 0, NOT_SEEN = 1, NOT_TRIED = 2 };
enum kind { DROPPABLE, LAZILY_FREED, PRIVATE, KINDS };

/* What one row of the table says. */
struct outcome {
	bool measured;
	long pageouts;
	long reads;
	long dropped_reads;	/* X was zero */
	long stale_reads;	/* X was older than Y */
	long stale_times;	/* uninterrupted stretches of stale reads */
};

struct race {
	enum kind kind;
	int writer_cpu;
	int reader_cpu;
	size_t size;
	char *memory;
	_Atomic uint64_t *x;		/* the first word of memory */
	_Atomic uint64_t y;
	atomic_bool over;
	struct outcome outcome;
};

static const char *const kind_names[KINDS] = {
	[DROPPABLE] = "MAP_DROPPABLE",
	[LAZILY_FREED] = "MADV_FREE",
	[PRIVATE] = "MAP_PRIVATE",
};

/* One page table's worth on most machines: MADV_PAGEOUT takes no longer batch than that. */
enum { PAGES = 512 };

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* The first two CPUs that we may use; false when there is only one. */
static bool find_two_cpus(int *first, int *second)
{
	cpu_set_t allowed;

	*first = -1;
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return false;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed))
			continue;
		if (*first >= 0) {
			*second = cpu;
			return true;
		}
		*first = cpu;
	}
	return false;
}

/* ---- the three threads ---- */

static void *write_ascending(void *argument)
{
	struct race *race = argument;
	uint64_t number = 1;

	run_on(race->writer_cpu);
	while (!race->over) {
		for (int burst = 0; burst < 64; burst++) {
			number++;
			atomic_store_explicit(race->x, number, memory_order_relaxed);
			atomic_store_explicit(&race->y, number, memory_order_release);
		}
		/* 20 to 160 microseconds: shorter and longer than a batch takes. */
		usleep(20u << (number / 4096 % 4));
	}
	return NULL;
}

static void *read_in_order(void *argument)
{
	struct race *race = argument;
	struct outcome seen = { .reads = 0 };
	bool was_stale = false;

	run_on(race->reader_cpu);
	while (!race->over) {
		uint64_t y = atomic_load_explicit(&race->y, memory_order_acquire);
		uint64_t x = atomic_load_explicit(race->x, memory_order_relaxed);
		bool is_stale = x != 0 && x < y;

		seen.reads++;
		seen.dropped_reads += x == 0;
		seen.stale_reads += is_stale;
		seen.stale_times += is_stale && !was_stale;
		was_stale = is_stale;
	}
	race->outcome = seen;
	return NULL;
}

static void page_out_until(struct race *race, double end)
{
	size_t page_size = race->size / PAGES;
	long pageouts = 0;

	while (seconds_now() < end) {
		/*
		 * A page just faulted in waits in a list of its CPU, out of the reach of reclaim,
		 * until more faults there push it out.  So this thread's faults visit both CPUs.
		 */
		if (pageouts % 8 == 0)
			run_on(pageouts / 8 % 2 ? race->reader_cpu : race->writer_cpu);
		for (size_t page = 1; page < PAGES; page++)
			race->memory[page * page_size] = 1;
		if (race->kind == LAZILY_FREED)
			madvise(race->memory, race->size, MADV_FREE);
		madvise(race->memory, race->size, MADV_PAGEOUT);
		pageouts++;
	}
	race->over = true;
	race->outcome.pageouts = pageouts;
}

/* ---- one race ---- */

/* Aligned to its size, so that all of it hangs on one page table and is reclaimed as one batch. */
static char *align_up(char *address, size_t size)
{
	return (char *)(((uintptr_t)address + size - 1) & ~(uintptr_t)(size - 1));
}

static void run_threads(struct race *race, double seconds)
{
	pthread_t writer, reader;
	long pageouts;

	if (pthread_create(&writer, NULL, write_ascending, race))
		return;
	if (!pthread_create(&reader, NULL, read_in_order, race)) {
		page_out_until(race, seconds_now() + seconds);
		pageouts = race->outcome.pageouts;
		pthread_join(reader, NULL);
		race->outcome.pageouts = pageouts;
		race->outcome.measured = true;
	}
	race->over = true;
	pthread_join(writer, NULL);
}

static struct outcome run_race(enum kind kind, int writer_cpu, int reader_cpu, double seconds)
{
	int type = kind == DROPPABLE ? MAP_DROPPABLE : MAP_PRIVATE;
	size_t size = PAGES * (size_t)sysconf(_SC_PAGESIZE);
	char *mapping = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, type | MAP_ANONYMOUS, -1, 0);
	struct race race = {
		.kind = kind,
		.writer_cpu = writer_cpu,
		.reader_cpu = reader_cpu,
		.size = size,
		.y = 1,
	};

	if (mapping == MAP_FAILED)
		return race.outcome;
	madvise(mapping, 2 * size, MADV_NOHUGEPAGE);
	race.memory = align_up(mapping, size);
	race.x = (_Atomic uint64_t *)race.memory;
	*race.x = 1;
	run_threads(&race, seconds);
	munmap(mapping, 2 * size);
	return race.outcome;
}

/* ---- the report ---- */

static void print_row(const char *name, const struct outcome *outcome)
{
	if (!outcome->measured) {
		printf("  %-13s  not run: no memory or no thread\n", name);
		return;
	}
	printf("  %-13s  %9ld  %12ld  %12ld  %12ld  %8ld\n", name, outcome->pageouts,
	       outcome->reads, outcome->dropped_reads, outcome->stale_reads,
	       outcome->stale_times);
}

static enum verdict judge(const struct outcome *suspect, const struct outcome *control)
{
	if (!suspect->measured || !control->measured) {
		printf("stale-read: not tried: no memory or no thread; free some, try again\n");
		return NOT_TRIED;
	}
	if (control->stale_reads) {
		printf("stale-read: not tried: MAP_PRIVATE memory shows it too, so the test "
		       "itself cannot be trusted on this machine\n");
		return NOT_TRIED;
	}
	if (suspect->stale_reads) {
		printf("stale-read: SEEN HERE: %ld times, in %ld of %ld reads, a CPU read a "
		       "droppable page that another CPU had already replaced\n",
		       suspect->stale_times, suspect->stale_reads, suspect->reads);
		return SEEN;
	}
	if (suspect->dropped_reads == 0) {
		printf("stale-read: not tried: the page was never dropped in %ld pageouts; give it "
		       "more --seconds\n", suspect->pageouts);
		return NOT_TRIED;
	}
	printf("stale-read: not seen here: in %ld reads and %ld pageouts (the window is a race)\n",
	       suspect->reads, suspect->pageouts);
	return NOT_SEEN;
}

static bool kernel_has_droppable(void)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	void *memory = mmap(NULL, size, PROT_READ, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED) {
		munmap(memory, size);
		return true;
	}
	printf("stale-read: not tried: mmap(MAP_DROPPABLE): %s; it needs Linux 6.11 or newer on "
	       "a 64-bit machine\n", strerror(errno));
	return false;
}

/* Seconds from `--seconds N`; 0 when the arguments are wrong. */
static double parse_seconds(int argc, char **argv)
{
	char *rest;
	double seconds;

	if (argc == 1)
		return 10;
	if (argc != 3 || strcmp(argv[1], "--seconds"))
		return 0;
	seconds = strtod(argv[2], &rest);
	return *rest == '\0' && seconds >= 1 && seconds <= 3600 ? seconds : 0;
}

int main(int argc, char **argv)
{
	/* The suspect gets half of the time. */
	const double share[KINDS] = { [DROPPABLE] = 0.5, [LAZILY_FREED] = 0.25, [PRIVATE] = 0.25 };
	double seconds = parse_seconds(argc, argv);
	struct outcome outcomes[KINDS];
	struct utsname kernel;
	int writer_cpu, reader_cpu;

	if (seconds == 0) {
		fprintf(stderr, "usage: %s [--seconds N]    N from 1 to 3600, 10 if not given\n",
			argv[0]);
		return NOT_TRIED;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	uname(&kernel);
	printf("stale-read: Linux %s\n", kernel.release);
	if (!kernel_has_droppable())
		return NOT_TRIED;
	if (!find_two_cpus(&writer_cpu, &reader_cpu)) {
		printf("stale-read: not seen here: one CPU has no second TLB to be stale\n");
		return NOT_SEEN;
	}
	printf("  %-13s  %9s  %12s  %12s  %12s  %8s\n", "memory", "pageouts", "reads", "X dropped",
	       "X stale", "times");
	for (int kind = 0; kind < KINDS; kind++) {
		outcomes[kind] = run_race((enum kind)kind, writer_cpu, reader_cpu,
					  seconds * share[kind]);
		print_row(kind_names[kind], &outcomes[kind]);
	}
	printf("  (times: uninterrupted stretches of stale reads, each until the flush)\n");
	return judge(&outcomes[DROPPABLE], &outcomes[PRIVATE]);
}
