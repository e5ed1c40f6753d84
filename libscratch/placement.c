/* SPDX-License-Identifier: Apache-2.0 */
#include "placement.h"

#include <sched.h>
#include <stdint.h>

static cpu_set_t home;
static int bound_cpu = -1;
static pid_t followed_thread;
static uint32_t faults_since_look;

enum { LOOK_AGAIN_AFTER_FAULTS = 256 };

void scratch_placement_start(void) {
    bound_cpu = -1;
    followed_thread = 0;
    if (sched_getaffinity(0, sizeof home, &home))
        CPU_ZERO(&home);
}

static void run_on(int cpu) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    sched_setaffinity(0, sizeof only, &only);
}

void scratch_placement_visit(int cpu) { run_on(cpu); }

void scratch_placement_return(void) {
    if (bound_cpu >= 0)
        run_on(bound_cpu);
    else
        sched_setaffinity(0, sizeof home, &home);
}

static int only_cpu_of(pid_t thread) {
    cpu_set_t allowed;
    if (sched_getaffinity(thread, sizeof allowed, &allowed) || CPU_COUNT(&allowed) != 1)
        return -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed))
            return cpu;
    }
    return -1;
}

void scratch_placement_follow(pid_t thread) {
    if (thread != followed_thread || ++faults_since_look >= LOOK_AGAIN_AFTER_FAULTS) {
        faults_since_look = 0;
        followed_thread = thread;
        int cpu = only_cpu_of(thread);
        if (cpu != bound_cpu) {
            bound_cpu = cpu;
            scratch_placement_return();
        }
    }
}

bool scratch_placement_may_poll(void) { return bound_cpu < 0 && CPU_COUNT(&home) > 1; }
