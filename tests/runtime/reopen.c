/* SPDX-License-Identifier: Apache-2.0 */
/* reopen LIBRARY ROUNDS: opens a converted library, calls all of it, closes it, again and again. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "callee.h"

int main(int count, char **arguments) {
    unsigned long wrong = 0;
    int rounds = count > 2 ? atoi(arguments[2]) : 1;
    for (int round = 0; round < rounds; round++) {
        void *library = dlopen(arguments[1], RTLD_LAZY | RTLD_LOCAL);
        if (!library) {
            puts(dlerror());
            return 2;
        }
        unsigned long (*const *functions)(unsigned long) = dlsym(library, "callers");
        for (unsigned long number = 0; number < FUNCTIONS; number++)
            wrong += functions[number](number) != expected_result(number, number);
        dlclose(library);
        /* Whoever gets these addresses next must not have its pages dropped. */
        size_t length = 1 << 20;
        unsigned char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t at = 0; at < length; at += 4096)
            memory[at] = 1;
        for (int wait = 0; wait < 2000; wait++)
            wrong += memory[(size_t)wait % 256 * 4096] != 1;
        munmap(memory, length);
    }
    printf("{\"rounds\": %d, \"wrong\": %lu}\n", rounds, wrong);
    return wrong != 0;
}
