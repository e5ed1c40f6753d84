/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an unfixed PLT entry does, below `mapscratch_plt_entry`: find the target and, when it is called
 * again, write a jump to it over the entry.
 *
 * Nothing here waits, allocates from the C library or calls through a name that somebody could define
 * again; it may run in a signal handler, in a child between fork and exec, and in several threads.
 */
#include "counts.h"
#include "linker.h"
#include "reclaim.h"
#include "system.h"
#include "text.h"

__attribute__((visibility("hidden"))) uintptr_t resolve_entry(struct record *record,
                                                              uint32_t index);

static _Noreturn void give_up(const char *message) {
    system_tell(message);
    system_call(SYS_exit_group, 127, 0, 0, 0, 0, 0);
    __builtin_unreachable();
}

static const char unknown_linker[] =
    "mapscratch: this dynamic linker's way to bind a function is not known, so converted libraries can't "
    "run here; use the libraries as they were before conversion\n";

/* When a converted library is loaded; the loader hook converts nothing where it can't bind. */
__attribute__((constructor)) static void check_linker(void) {
    if (!linker_is_hook() && !linker_find())
        give_up(unknown_linker);
}

uintptr_t resolve_entry(struct record *record, uint32_t index) {
    if (!linker_find())
        give_up(unknown_linker);
    struct text *text = text_of(record);
    if (!text) {
        count(&counts->busy);
        return linker_bind(library_of(record), index);
    }
    reclaim_ensure();
    uintptr_t target = text_target(text, index);
    if (target) {
        count(&counts->remembered);
        text_called_again(text, index);
    } else {
        target = linker_bind(text->link_map, index);
        count(&counts->resolved);
        /* 0: nobody defines a weak symbol, and the call is going to crash, as it always did. */
        text_remember(text, index, target);
    }
    return target;
}
