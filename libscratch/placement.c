/* SPDX-License-Identifier: Apache-2.0 */
#include "placement.h"

#include <sched.h>
#include <stdint.h>

static struct {
    cpu_set_t home; /* where it may run */
    bool is_settled;
    int followed_cpu; /* -1: nobody is followed */
    pid_t followed_thread;
    uint32_t faults_since_look;
} pager;

enum { LOOK_AGAIN_AFTER_FAULTS = 256 };

static void run_only_on(int cpu) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    sched_setaffinity(0, sizeof only, &only);
}

void scratch_placement_start(void) {
    pager.followed_cpu = -1;
    pager.followed_thread = 0;
    pager.is_settled = false;
    if (sched_getaffinity(0, sizeof pager.home, &pager.home))
        CPU_ZERO(&pager.home);
    scratch_placement_settle();
}

void scratch_placement_settle(void) {
    if (pager.is_settled)
        return;
    int cpu = sched_getcpu();
    if (cpu >= 0)
        run_only_on(cpu);
    pager.is_settled = true;
}

void scratch_placement_loosen(void) {
    if (!pager.is_settled || pager.followed_cpu >= 0)
        return;
    sched_setaffinity(0, sizeof pager.home, &pager.home);
    pager.is_settled = false;
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
    if (thread == pager.followed_thread && ++pager.faults_since_look < LOOK_AGAIN_AFTER_FAULTS)
        return;
    pager.faults_since_look = 0;
    pager.followed_thread = thread;
    int cpu = only_cpu_of(thread);
    if (cpu >= 0 && cpu != pager.followed_cpu)
        run_only_on(cpu);
    pager.followed_cpu = cpu;
}

bool scratch_placement_may_poll(void) { return pager.followed_cpu < 0 && CPU_COUNT(&pager.home) > 1; }
