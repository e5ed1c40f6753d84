/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `_dl_fixup(link_map, index)` binds with exactly the scope, versions and IFUNC rules of ordinary
 * lazy binding, but ld.so doesn't export it. Its address is an operand of ld.so's trampoline
 * (glibc, sysdeps/x86_64/dl-trampoline.h, _dl_runtime_resolve):
 *
 *      mov   0x10(%rbx), %rsi      the relocation's number
 *      mov   0x08(%rbx), %rdi      the link map
 *      call  _dl_fixup
 *      mov   %rax, %r11
 *
 * and ld.so hands the trampoline's address to every library that is bound lazily: this one is, and
 * finds it in its own GOT. Where it isn't (LD_BIND_NOW), ld.so's text is searched for the sequence.
 * Every occurrence (there is one for each way to save vector registers) must call the same function; and
 * what was found is believed when it binds a symbol of our own to the address that ld.so had
 * relocated us to.
 */
#include "linker.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include "system.h"
#include "vectors.h"

extern const uintptr_t _GLOBAL_OFFSET_TABLE_[] __attribute__((visibility("hidden")));

/*
 * A function of ld.so that every version exports. It is never called; it stands for us in a PLT entry, so
 * that there is something to bind, and in a word, for the address that is right. Not both by one
 * name in C: the linker would then make an entry that needs no binding. Nobody reaches the jump.
 */
__asm__(".text\n"
        "linker_probe_entry: jmp __tls_get_addr@PLT\n"
        ".section .data.rel.ro, \"aw\"\n"
        ".balign 8\n"
        "linker_probe_address: .quad __tls_get_addr\n"
        ".text\n");
extern const uintptr_t linker_probe_address __attribute__((visibility("hidden")));
#define PROBE_NAME "__tls_get_addr"

static uintptr_t bind_function; /* `_dl_fixup`, once it has proved itself */

enum { SEQUENCE_BYTES = 16, TRAMPOLINE_BYTES = 512 };

/* The function that the sequence at `code` calls, or 0 if it isn't the sequence. */
static uintptr_t called_by(const unsigned char *code) {
    static const unsigned char before[] = {0x48, 0x8b, 0x73, 0x10, 0x48, 0x8b, 0x7b, 0x08, 0xe8};
    static const unsigned char after[] = {0x49, 0x89, 0xc3};
    for (size_t index = 0; index < sizeof before; index++) {
        if (code[index] != before[index])
            return 0;
    }
    for (size_t index = 0; index < sizeof after; index++) {
        if (code[sizeof before + 4 + index] != after[index])
            return 0;
    }
    int32_t distance;
    __builtin_memcpy(&distance, code + sizeof before, sizeof distance);
    return (uintptr_t)code + sizeof before + 4 + (intptr_t)distance;
}

/* The one function that all sequences in [start, end) call; 0 if there is none, or are several. */
static uintptr_t called_in(uintptr_t start, uintptr_t end) {
    uintptr_t found = 0;
    for (uintptr_t at = start; at + SEQUENCE_BYTES <= end; at++) {
        if (*(const unsigned char *)at != 0x48)
            continue;
        uintptr_t called = called_by((const unsigned char *)at);
        if (called && found && called != found)
            return 0;
        if (called)
            found = called;
    }
    return found;
}

struct span {
    uintptr_t start;
    uintptr_t end;
};

/* The executable segment of ld.so. */
static struct span linker_text(void) {
    uintptr_t base = _r_debug.r_ldbase;
    const ElfW(Ehdr) *header = (const void *)base;
    const ElfW(Phdr) *segments = (const void *)(base + header->e_phoff);
    for (int index = 0; index < header->e_phnum; index++) {
        const ElfW(Phdr) *segment = &segments[index];
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X))
            return (struct span){base + segment->p_vaddr,
                                 base + segment->p_vaddr + segment->p_memsz};
    }
    return (struct span){0, 0};
}

static uintptr_t find_candidate(struct span text) {
    uintptr_t trampoline = _GLOBAL_OFFSET_TABLE_[2];
    uintptr_t found = 0;
    if (trampoline >= text.start && trampoline + TRAMPOLINE_BYTES < text.end)
        found = called_in(trampoline, trampoline + TRAMPOLINE_BYTES);
    if (!found)
        found = called_in(text.start, text.end);
    return found >= text.start && found < text.end ? found : 0;
}

/* A value of our own dynamic section; 0 if it isn't there. */
static uintptr_t own_value(ElfW(Sxword) tag) {
    for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == tag)
            return entry->d_un.d_val;
    }
    return 0;
}

/*
 * Our own link map. Where it bound us lazily ld.so left it in the GOT; else it is the one whose dynamic
 * section is ours, in whatever namespace (glibc 2.35 and newer link them). We are in use, so it is there.
 */
static const struct link_map *own_library(void) {
    if (_GLOBAL_OFFSET_TABLE_[1])
        return (const struct link_map *)_GLOBAL_OFFSET_TABLE_[1];
    const struct r_debug_extended *namespace = (const void *)&_r_debug;
    while (namespace) {
        const struct link_map *library = namespace->base.r_map;
        for (; library; library = library->l_next) {
            if (library->l_ld == _DYNAMIC)
                return library;
        }
        namespace = namespace->base.r_version >= 2 ? namespace->r_next : NULL;
    }
    return NULL;
}

/* Lets the candidate bind our probe and compares. */
static bool binds_right(uintptr_t candidate, const struct link_map *self) {
    /* Where the dynamic section is writable, ld.so has added the base to its addresses. */
    uintptr_t missing = own_value(DT_STRTAB) < self->l_addr ? self->l_addr : 0;
    const ElfW(Rela) *relocations = (const void *)(own_value(DT_JMPREL) + missing);
    const ElfW(Sym) *symbols = (const void *)(own_value(DT_SYMTAB) + missing);
    const char *names = (const char *)(own_value(DT_STRTAB) + missing);
    size_t count = own_value(DT_PLTRELSZ) / sizeof *relocations;
    for (size_t index = 0; index < count; index++) {
        const ElfW(Sym) *symbol = &symbols[ELF64_R_SYM(relocations[index].r_info)];
        if (text_equal(names + symbol->st_name, PROBE_NAME))
            return call_keeping_vectors((void *)candidate, (uintptr_t)self, index) ==
                   linker_probe_address;
    }
    return false;
}

/*
 * Of the C library in some versions of glibc and of ld.so in others, so we can't name where it is. The
 * loader hook is in a namespace without a C library; it needs it not, for ld.so names the library.
 */
#pragma weak _dl_find_object

bool linker_is_hook(void) { return !_dl_find_object; }

/* Lock-free in glibc, and right in signal handlers. */
uintptr_t linker_library_at(uintptr_t address) {
    struct dl_find_object object;
    if (!_dl_find_object ||
        (int)call_keeping_vectors((void *)_dl_find_object, address, (uintptr_t)&object))
        return 0;
    return (uintptr_t)object.dlfo_link_map;
}

bool linker_find(void) {
    if (__atomic_load_n(&bind_function, __ATOMIC_ACQUIRE))
        return true;
    vectors_prepare();
    uintptr_t candidate = find_candidate(linker_text());
    const struct link_map *self = own_library();
    if (!candidate || !self || !binds_right(candidate, self))
        return false;
    __atomic_store_n(&bind_function, candidate, __ATOMIC_RELEASE);
    return true;
}

uintptr_t linker_bind(uintptr_t link_map, uint32_t index) {
    return call_keeping_vectors((void *)bind_function, link_map, index);
}
