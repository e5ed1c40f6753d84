/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the board of figures (libscratch/board.h) costs its process: processor time in microseconds, the least of
 * many rounds, so that what else runs on the machine counts little. Built by `make native`.
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "board.h"

enum { ROUNDS = 300, SLOTS = 1000 };

static const struct scratch_slot_description description = {
    .kind = SCRATCH_KIND_MAP,
    .address = 4096,
    .length = 4096,
    .name = "/usr/lib/x86_64-linux-gnu/libsomething.so.1",
};

static double now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void allot_and_release(void) {
    for (int slot = 0; slot < SLOTS; slot++)
        scratch_board_release(scratch_board_allot(&description));
}

/* What the pager does when it starts. */
static void open_board(void) {
    int file = scratch_board_open();
    if (file >= 0)
        close(file);
}

static void fork_in_parent(void) {
    scratch_board_before_fork();
    scratch_board_after_fork_in_parent();
}

/* Without the fork: the board of this process is replaced, as that of a child is. */
static void fork_in_child(void) {
    scratch_board_before_fork();
    scratch_board_after_fork_in_child();
}

static void measure(const char *what, void (*act)(void), double times) {
    double least = 1e12;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_us();
        act();
        double taken = now_us() - start;
        least = taken < least ? taken : least;
    }
    printf("%-46s %8.2f us\n", what, least / times);
}

int main(void) {
    double start = now_us();
    scratch_board_allot(&description);
    printf("%-46s %8.2f us\n", "the first slot, with a board", now_us() - start);
    measure("a slot is taken and given back", allot_and_release, SLOTS);
    measure("the pager starts, 1 slot", open_board, 1);
    measure("fork, in the parent, 1 slot", fork_in_parent, 1);
    measure("fork, in parent and child, 1 slot", fork_in_child, 1);
    for (int slot = 1; slot < SLOTS; slot++)
        scratch_board_allot(&description);
    measure("the pager starts, 1,000 slots", open_board, 1);
    measure("fork, in the parent, 1,000 slots", fork_in_parent, 1);
    measure("fork, in parent and child, 1,000 slots", fork_in_child, 1);
    return 0;
}
