/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stress CALLS THREADS: calls entries of a converted library, from threads, from a signal handler that
 * comes every millisecond, and from forked children, and checks each result. Prints how many calls it made and
 * how many were wrong; the exit status is 1 if one was.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callee.h"

static atomic_ulong wrong;
static atomic_ulong in_handler;
static unsigned long calls_per_thread;

static unsigned long next_random(unsigned long *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void call(unsigned long number, unsigned long value) {
    if (callers[number](value) != expected_result(number, value))
        atomic_fetch_add(&wrong, 1);
}

static void call_from_handler(int signal) {
    (void)signal;
    static atomic_ulong number;
    for (int call_number = 0; call_number < 8; call_number++) {
        unsigned long next = atomic_fetch_add(&number, 37);
        call(next % FUNCTIONS, next);
    }
    atomic_fetch_add(&in_handler, 8);
}

static void call_registers(void) {
    if (call_many_arguments() != 546.0 || call_variadic() != 35.0)
        atomic_fetch_add(&wrong, 1);
    if (__builtin_cpu_supports("avx") && call_add_vectors() != 330.0)
        atomic_fetch_add(&wrong, 1);
}

static void *call_many(void *seed) {
    unsigned long state = (unsigned long)seed * 88172645463325252u + 1;
    unsigned long number = next_random(&state) % FUNCTIONS;
    for (unsigned long made = 0; made < calls_per_thread; made++) {
        /* Mostly walks, sometimes jumps, as programs do. */
        number = made % 64 ? (number + 1) % FUNCTIONS : next_random(&state) % FUNCTIONS;
        call(number, state + made);
        if (made % 4096 == 0)
            call_registers();
    }
    return NULL;
}

/* Each child calls everything once. */
static unsigned long fork_children(int count) {
    for (int child = 0; child < count; child++) {
        pid_t process = fork();
        if (process == 0) {
            for (unsigned long number = 0; number < FUNCTIONS; number++)
                call(number, number + (unsigned long)child);
            _exit(atomic_load(&wrong) != 0);
        }
        int status = 0;
        if (process < 0 || waitpid(process, &status, 0) < 0 || status)
            atomic_fetch_add(&wrong, 1);
        usleep(10000);
    }
    return (unsigned long)count * FUNCTIONS;
}

int main(int argument_count, char **arguments) {
    unsigned long calls = argument_count > 1 ? strtoul(arguments[1], NULL, 10) : 1000000;
    unsigned long threads = argument_count > 2 ? strtoul(arguments[2], NULL, 10) : 2;
    int children = argument_count > 3 ? atoi(arguments[3]) : 20;
    struct sigaction action = {.sa_handler = call_from_handler, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    pthread_t running[64];
    if (!threads || threads > 64)
        return 2;
    calls_per_thread = calls / threads;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (unsigned long index = 0; index < threads; index++)
        pthread_create(&running[index], NULL, call_many, (void *)(index + 1));
    unsigned long in_children = fork_children(children);
    for (unsigned long index = 0; index < threads; index++)
        pthread_join(running[index], NULL);
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    printf("{\"calls\": %lu, \"in_handlers\": %lu, \"in_children\": %lu, \"wrong\": %lu}\n",
           calls_per_thread * threads, atomic_load(&in_handler), in_children, atomic_load(&wrong));
    return atomic_load(&wrong) != 0;
}
