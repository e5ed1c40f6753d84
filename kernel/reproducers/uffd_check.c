// SPDX-License-Identifier: GPL-2.0-only
/*
 * userfaultfd was meant to refuse MAP_DROPPABLE memory, but accepts it.
 *
 * vma_can_userfault() masks its argument vm_flags with __VM_UFFD_FLAGS and then tests VM_DROPPABLE
 * in what is left, which can never be set there.  It must look at vma->vm_flags: mainline does so
 * since "userfaultfd: correctly prevent registering VM_DROPPABLE regions" (2025).
 *
 * Each mode is tried on MAP_PRIVATE memory, the control, and on MAP_DROPPABLE memory.
 *
 * Build:  gcc -std=gnu11 -O2 -Wall -Wextra -Werror -pthread uffd_check.c -o uffd_check
 * Exits with 0 when the defect was seen, 1 when it was not, 2 when it could not be tried.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

enum verdict { SEEN = 0, NOT_SEEN = 1, NOT_TRIED = 2 };

struct mode {
	const char *name;
	uint64_t mode;
	uint64_t features;
};

static const struct mode modes[] = {
	{ "MISSING", UFFDIO_REGISTER_MODE_MISSING, 0 },
	{ "WP", UFFDIO_REGISTER_MODE_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP },
	{ "WP, asynchronous", UFFDIO_REGISTER_MODE_WP, UFFD_FEATURE_WP_ASYNC },
};

enum { MODES = sizeof(modes) / sizeof(modes[0]) };

/* Instead of an -errno: this kernel or this machine does not have the features of the mode. */
enum { NOT_OFFERED = 1 };

/* A descriptor of the kind that an ordinary user may have too, or -errno. */
static int open_userfaultfd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	long descriptor = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	int error;

	if (descriptor < 0)
		return -errno;
	if (!ioctl((int)descriptor, UFFDIO_API, &api))
		return (int)descriptor;
	error = -errno;
	close((int)descriptor);
	return error;
}

/* 0 when the kernel accepts the range, or -errno. */
static int register_range(int descriptor, void *memory, size_t size, uint64_t mode)
{
	struct uffdio_register request = {
		.range = { .start = (uintptr_t)memory, .len = size },
		.mode = mode,
	};

	return ioctl(descriptor, UFFDIO_REGISTER, &request) ? -errno : 0;
}

/* 0 when the kernel accepts memory of this type, NOT_OFFERED, or -errno. */
static int try_to_register(const struct mode *mode, int map_type)
{
	size_t size = 16 * (size_t)sysconf(_SC_PAGESIZE);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, map_type | MAP_ANONYMOUS, -1, 0);
	int descriptor, result;

	if (memory == MAP_FAILED)
		return -errno;
	descriptor = open_userfaultfd(mode->features);
	result = descriptor == -EINVAL ? NOT_OFFERED : descriptor;
	if (descriptor >= 0) {
		result = register_range(descriptor, memory, size, mode->mode);
		close(descriptor);
	}
	munmap(memory, size);
	return result;
}

static bool kernel_has_droppable(void)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	void *memory = mmap(NULL, size, PROT_READ, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED) {
		munmap(memory, size);
		return true;
	}
	printf("uffd-check: not tried: mmap(MAP_DROPPABLE): %s; it needs Linux 6.11 or newer on "
	       "a 64-bit machine\n", strerror(errno));
	return false;
}

static bool user_has_userfaultfd(void)
{
	int descriptor = open_userfaultfd(0);

	if (descriptor >= 0) {
		close(descriptor);
		return true;
	}
	printf("uffd-check: not tried: userfaultfd: %s; it needs CONFIG_USERFAULTFD, and in a "
	       "container a seccomp profile that allows the system call\n", strerror(-descriptor));
	return false;
}

static const char *describe(int result)
{
	if (result == NOT_OFFERED)
		return "(not offered here)";
	return result ? strerror(-result) : "accepted";
}

int main(int argc, char **argv)
{
	struct utsname kernel;
	int controls = 0;
	int accepted = 0;

	if (argc > 1) {
		fprintf(stderr, "usage: %s    (no arguments)\n", argv[0]);
		return NOT_TRIED;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	uname(&kernel);
	printf("uffd-check: Linux %s\n", kernel.release);
	if (!kernel_has_droppable() || !user_has_userfaultfd())
		return NOT_TRIED;

	printf("  %-18s  %-20s  %s\n", "UFFDIO_REGISTER", "MAP_PRIVATE", "MAP_DROPPABLE");
	for (int index = 0; index < MODES; index++) {
		int control = try_to_register(&modes[index], MAP_PRIVATE);
		int suspect = try_to_register(&modes[index], MAP_DROPPABLE);

		printf("  %-18s  %-20s  %s\n", modes[index].name, describe(control),
		       describe(suspect));
		controls += control == 0;
		accepted += control == 0 && suspect == 0;
	}
	if (controls == 0) {
		printf("uffd-check: not tried: userfaultfd accepts no mode here, not even on "
		       "MAP_PRIVATE memory\n");
		return NOT_TRIED;
	}
	if (accepted) {
		printf("uffd-check: SEEN HERE: MAP_DROPPABLE memory was accepted in %d of %d "
		       "modes\n", accepted, controls);
		return SEEN;
	}
	printf("uffd-check: not seen here: MAP_DROPPABLE memory is refused\n");
	return NOT_SEEN;
}
