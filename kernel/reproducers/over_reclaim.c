// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reclaim takes dirty MAP_DROPPABLE pages without counting them, and so takes too many.
 *
 * try_to_unmap_one() lets a dirty droppable folio go.  shrink_folio_list() then sees that the
 * folio is dirty, takes it for a page of a file that must be written first, and "activates" it.
 * Nothing maps the folio any more, so it is freed when the list is put back: the memory is gone,
 * but neither nr_reclaimed nor pglazyfreed knows.  Reclaim that was asked for a little goes on
 * until nothing is left, and may report failure then.
 *
 * The same amount of MADV_FREE'd memory is the control.  Two ways of asking for reclaim:
 *
 *   MADV_PAGEOUT   works for every user: are the pages that went also in the kernel's count?
 *   a cgroup       needs root and a memory controller: does reclaim stop at what was asked for?
 *
 * Build:  gcc -std=gnu11 -O2 -Wall -Wextra -Werror -pthread over_reclaim.c -o over_reclaim
 * Exits with 0 when the defect was seen, 1 when it was not, 2 when it could not be tried.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define MIB (1024.0 * 1024.0)

enum verdict { SEEN = 0, NOT_SEEN = 1, NOT_TRIED = 2 };
enum kind { LAZILY_FREED, DROPPABLE };
enum controller { NO_CONTROLLER, CGROUP_V1, CGROUP_V2 };

/* What one row of the table says; the amounts are in bytes. */
struct outcome {
	bool measured;
	long asked;
	long taken;	/* no longer in the page table */
	long counted;	/* what pglazyfreed grew by */
	int error;	/* of the call that asked for reclaim */
};

/* The rows of one way to ask for reclaim: the control and the suspect. */
struct pair {
	struct outcome control;
	struct outcome suspect;
};

static const size_t memory_size = 32 << 20;
static const long little = 4 << 20;

/*
 * A cgroup file system is mounted here, in a mount namespace of our own: nobody else sees it, and
 * it goes with this process.
 */
static const char mount_point[] = "/mnt";
static char group[64];
static enum controller controller = NO_CONTROLLER;
static bool controller_was_delegated_by_us;
static const char *why_no_controller = "";
static volatile sig_atomic_t interrupted_by;

/* ---- small files ---- */

static int read_file(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got = 0;

	if (file < 0)
		return -errno;
	while (length < size - 1 && (got = read(file, text + length, size - 1 - length)) > 0)
		length += (size_t)got;
	close(file);
	text[length] = '\0';
	return got < 0 ? -EIO : 0;
}

static int write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	int error = 0;

	if (file < 0)
		return -errno;
	if (write(file, text, strlen(text)) < 0)
		error = -errno;
	close(file);
	return error;
}

/* /proc/vmstat, or -1: "name value", one a line. */
static long kernel_counter(const char *name)
{
	static char text[32768];
	size_t length = strlen(name);

	if (read_file("/proc/vmstat", text, sizeof(text)))
		return -1;
	for (char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, name, length) && line[length] == ' ')
			return atol(line + length);
	}
	return -1;
}

/* Is it one of the words of this file? */
static bool file_lists(const char *path, const char *word)
{
	char text[1024];
	char *rest = text;
	char *item;

	if (read_file(path, text, sizeof(text)))
		return false;
	while ((item = strsep(&rest, " \n")))
		if (!strcmp(item, word))
			return true;
	return false;
}

/* ---- memory ---- */

static char *map_memory(enum kind kind)
{
	int type = kind == DROPPABLE ? MAP_DROPPABLE : MAP_PRIVATE;
	char *memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, type | MAP_ANONYMOUS, -1, 0);

	/* Both kinds in small pages, so that they are counted in the same unit. */
	if (memory != MAP_FAILED)
		madvise(memory, memory_size, MADV_NOHUGEPAGE);
	return memory;
}

/* Every page is written, then made equally old, so that both kinds are as easy to reclaim. */
static void fill_memory(char *memory, enum kind kind)
{
	memset(memory, 0x5c, memory_size);
	madvise(memory, memory_size, kind == DROPPABLE ? MADV_COLD : MADV_FREE);
}

static long bytes_in_page_table(const char *memory)
{
	const uint64_t present = UINT64_C(1) << 63;
	long page_size = sysconf(_SC_PAGESIZE);
	size_t pages = memory_size / (size_t)page_size;
	size_t entries_size = pages * sizeof(uint64_t);
	uint64_t *entries = malloc(entries_size);
	int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	off_t offset = (off_t)((uintptr_t)memory / (uintptr_t)page_size * sizeof(uint64_t));
	long found = -1;

	if (entries && file >= 0 &&
	    pread(file, entries, entries_size, offset) == (ssize_t)entries_size) {
		found = 0;
		for (size_t page = 0; page < pages; page++)
			found += entries[page] & present ? page_size : 0;
	}
	if (file >= 0)
		close(file);
	free(entries);
	return found;
}

/* ---- the ways to ask for reclaim ---- */

static int page_everything_out(char *memory)
{
	return madvise(memory, memory_size, MADV_PAGEOUT) ? -errno : 0;
}

static int shrink_cgroup(char *memory)
{
	char path[128];
	char text[32];

	(void)memory;
	if (controller == CGROUP_V2) {
		snprintf(path, sizeof(path), "%s/memory.reclaim", group);
		snprintf(text, sizeof(text), "%ld", little);
		return write_file(path, text);
	}
	snprintf(path, sizeof(path), "%s/memory.usage_in_bytes", group);
	if (read_file(path, text, sizeof(text)))
		return -EIO;
	snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", group);
	snprintf(text, sizeof(text), "%ld", atol(text) - little);
	return write_file(path, text);
}

static struct outcome measure(enum kind kind, long asked, int (*ask_for_reclaim)(char *))
{
	struct outcome outcome = { .asked = asked };
	char *memory = map_memory(kind);
	long present, counted;

	if (memory == MAP_FAILED)
		return outcome;
	fill_memory(memory, kind);
	present = bytes_in_page_table(memory);
	counted = kernel_counter("pglazyfreed");

	outcome.error = ask_for_reclaim(memory);

	outcome.taken = present - bytes_in_page_table(memory);
	outcome.counted = (kernel_counter("pglazyfreed") - counted) * sysconf(_SC_PAGESIZE);
	outcome.measured = present > 0 && counted >= 0;
	munmap(memory, memory_size);
	return outcome;
}

/* ---- the cgroup ---- */

static void remember_signal(int number)
{
	interrupted_by = number;
}

static void watch_signals(void (*handler)(int))
{
	/* No SA_RESTART: waiting for a child ends at once. */
	struct sigaction action = { .sa_handler = handler };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static bool mount_controller(void)
{
	char path[64];

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		why_no_controller = "a cgroup needs root (CAP_SYS_ADMIN)";
		return false;
	}
	snprintf(path, sizeof(path), "%s/cgroup.controllers", mount_point);
	if (!mount("none", mount_point, "cgroup2", 0, NULL)) {
		if (file_lists(path, "memory")) {
			controller = CGROUP_V2;
			return true;
		}
		umount(mount_point);
	}
	/* Version 2 does not have the controller, so this joins version 1, which has it. */
	if (!mount("none", mount_point, "cgroup", 0, "memory")) {
		controller = CGROUP_V1;
		return true;
	}
	why_no_controller = "this kernel has no memory controller that may be mounted here";
	return false;
}

static bool delegate_controller(void)
{
	char path[64];

	if (controller != CGROUP_V2)
		return true;
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", mount_point);
	if (file_lists(path, "memory"))
		return true;
	controller_was_delegated_by_us = !write_file(path, "+memory");
	return controller_was_delegated_by_us;
}

static void remove_cgroup(void)
{
	char path[64];

	if (*group && rmdir(group) && errno != ENOENT)
		perror(group);
	*group = '\0';
	if (controller_was_delegated_by_us) {
		snprintf(path, sizeof(path), "%s/cgroup.subtree_control", mount_point);
		write_file(path, "-memory");
		controller_was_delegated_by_us = false;
	}
}

static bool make_cgroup(void)
{
	if (!mount_controller())
		return false;
	snprintf(group, sizeof(group), "%s/over_reclaim.%d", mount_point, (int)getpid());
	if (delegate_controller() && !mkdir(group, 0755))
		return true;
	*group = '\0';
	remove_cgroup();
	why_no_controller = "no cgroup with a memory controller may be made here";
	return false;
}

/* A process of its own is in the cgroup, so that nothing but the memory in question is there. */
static void measure_as_member(enum kind kind, struct outcome *result)
{
	char path[128];

	watch_signals(SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(60);
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	if (!write_file(path, "0"))
		*result = measure(kind, little, shrink_cgroup);
	_exit(0);
}

static struct outcome measure_in_cgroup(enum kind kind)
{
	struct outcome *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct outcome outcome = { .measured = false };
	char path[128];
	pid_t member;

	if (shared == MAP_FAILED)
		return outcome;
	member = fork();
	if (member == 0)
		measure_as_member(kind, shared);
	while (member > 0 && waitpid(member, NULL, 0) < 0 && errno == EINTR)
		if (interrupted_by)
			kill(member, SIGKILL);
	outcome = *shared;
	munmap(shared, sizeof(*shared));

	/* Version 1 keeps the lowered limit; the next member starts without one. */
	if (controller == CGROUP_V1) {
		snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", group);
		write_file(path, "-1");
	}
	return outcome;
}

static struct pair measure_cgroup(void)
{
	struct pair pair = { .control.measured = false };

	watch_signals(remember_signal);
	if (make_cgroup()) {
		pair.control = measure_in_cgroup(LAZILY_FREED);
		if (!interrupted_by)
			pair.suspect = measure_in_cgroup(DROPPABLE);
		remove_cgroup();
		if (!pair.control.measured || !pair.suspect.measured)
			why_no_controller = "the process in the cgroup could not do its work";
	}
	watch_signals(SIG_DFL);
	if (interrupted_by)
		raise(interrupted_by);
	return pair;
}

/* ---- the report ---- */

static void print_row(const char *way, const char *memory, const struct outcome *outcome)
{
	if (!outcome->measured)
		return;
	printf("  %-26s  %-13s  %7.1f  %7.1f  %7.1f  %s\n", way, memory,
	       (double)outcome->asked / MIB, (double)outcome->taken / MIB,
	       (double)outcome->counted / MIB,
	       outcome->error ? strerror(-outcome->error) : "success");
}

static void print_pair(const char *way, const struct pair *pair)
{
	print_row(way, "MADV_FREE", &pair->control);
	print_row(way, "MAP_DROPPABLE", &pair->suspect);
}

static void print_table(const struct pair *pageout, const struct pair *cgroup)
{
	printf("  %-26s  %-13s  %7s  %7s  %7s  %s\n", "32 MiB, reclaim asked by", "memory", "asked",
	       "taken", "counted", "the kernel's answer");
	print_pair("MADV_PAGEOUT", pageout);
	print_pair(controller == CGROUP_V2 ? "cgroup v2 memory.reclaim" : "cgroup v1 lower limit",
		   cgroup);
	printf("  (MiB; taken: gone from the page table; counted: pglazyfreed in /proc/vmstat)\n");
	if (!cgroup->suspect.measured)
		printf("  cgroup: not tried: %s\n", why_no_controller);
}

/* Half is the line: what is seen is all or nothing, and a busy machine may add to the counter. */
static bool is_uncounted(const struct outcome *outcome)
{
	return outcome->measured && outcome->taken > 0 && outcome->counted < outcome->taken / 2;
}

static bool takes_too_much(const struct pair *pair)
{
	return pair->suspect.measured && pair->control.measured &&
	       pair->suspect.taken > 2 * pair->control.taken + little;
}

static enum verdict judge(const struct pair *pageout, const struct pair *cgroup)
{
	if (!pageout->control.measured || !pageout->suspect.measured) {
		printf("over-reclaim: not tried: /proc/self/pagemap or pglazyfreed in /proc/vmstat "
		       "could not be read; mount /proc\n");
		return NOT_TRIED;
	}
	if (is_uncounted(&pageout->control) || pageout->suspect.taken == 0) {
		printf("over-reclaim: not tried: MADV_PAGEOUT did not behave as expected on this "
		       "machine; run it again when the machine is idle\n");
		return NOT_TRIED;
	}
	if (takes_too_much(cgroup)) {
		printf("over-reclaim: SEEN HERE: asked for %.1f MiB, reclaim took %.1f MiB of "
		       "droppable memory, counted %.1f, and answered \"%s\"\n",
		       (double)little / MIB, (double)cgroup->suspect.taken / MIB,
		       (double)cgroup->suspect.counted / MIB,
		       cgroup->suspect.error ? strerror(-cgroup->suspect.error) : "success");
		return SEEN;
	}
	if (is_uncounted(&pageout->suspect) || is_uncounted(&cgroup->suspect)) {
		printf("over-reclaim: SEEN HERE: reclaim took %.1f MiB of droppable memory and "
		       "counted %.1f (of MADV_FREE'd memory: %.1f and %.1f)\n",
		       (double)pageout->suspect.taken / MIB,
		       (double)pageout->suspect.counted / MIB,
		       (double)pageout->control.taken / MIB,
		       (double)pageout->control.counted / MIB);
		return SEEN;
	}
	printf("over-reclaim: not seen here: what was taken was counted, as with MADV_FREE\n");
	return NOT_SEEN;
}

static bool kernel_has_droppable(void)
{
	char *memory = map_memory(DROPPABLE);

	if (memory != MAP_FAILED) {
		munmap(memory, memory_size);
		return true;
	}
	printf("over-reclaim: not tried: mmap(MAP_DROPPABLE): %s; it needs Linux 6.11 or newer on "
	       "a 64-bit machine\n", strerror(errno));
	return false;
}

int main(int argc, char **argv)
{
	struct utsname kernel;
	struct pair pageout, cgroup;

	if (argc > 1) {
		fprintf(stderr, "usage: %s    (no arguments; as root it also tries a cgroup)\n",
			argv[0]);
		return NOT_TRIED;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	uname(&kernel);
	printf("over-reclaim: Linux %s\n", kernel.release);
	if (!kernel_has_droppable())
		return NOT_TRIED;

	pageout.control = measure(LAZILY_FREED, (long)memory_size, page_everything_out);
	pageout.suspect = measure(DROPPABLE, (long)memory_size, page_everything_out);
	cgroup = measure_cgroup();
	print_table(&pageout, &cgroup);
	return judge(&pageout, &cgroup);
}
