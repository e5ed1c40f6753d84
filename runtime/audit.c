/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loader hook of `mapscratch run` (rtld-audit(7)): gives a library its converted PLT entries
 * without replacing its file, so that $ORIGIN, dladdr and dl_iterate_phdr answer as ever.
 *
 * ld.so calls `la_objopen` when a library is mapped and nothing in it is relocated yet. If the cache
 * holds the library's conversion, its text pages are mapped over the original's, DT_JMPREL is
 * pointed to a table whose entries lead to a dummy word, and the two GOT slots that PLT0 goes through
 * get the record and the resolver. A library that isn't in the cache, or isn't what it says, runs as it is.
 *
 * This runs in a namespace of its own without a C library, and calls nothing. In the program's own namespace
 * the same library is what converted files need, and these hooks are never called.
 */
#include <link.h>

#include "arena.h"
#include "counts.h"
#include "linker.h"
#include "reclaim.h"
#include "record.h"
#include "scratchmap.h"
#include "system.h"
#include "text.h"

#define PUBLIC __attribute__((visibility("default")))

PUBLIC unsigned la_version(unsigned version);
PUBLIC unsigned la_objopen(struct link_map *library, Lmid_t namespace, uintptr_t *cookie);
PUBLIC unsigned la_objclose(uintptr_t *cookie);
PUBLIC void la_activity(uintptr_t *cookie, unsigned flag);
extern const char mapscratch_plt_entry[];

struct overlay;

/* Under ld.so's lock, as all calls of its hooks are. */
static struct {
    const char *cache;  /* the folder of conversions by file identity; NULL: do nothing */
    const char *misses; /* a file that names libraries to convert */
    struct overlay *overlays;
} hook;

/* In every process, before the first hook is called, if there is one. */
__attribute__((constructor)) static void read_environment(int argc, char **argv,
                                                          char **environment) {
    (void)argc, (void)argv;
    hook.cache = arena_copy(find_variable(environment, "MAPSCRATCH_CACHE"));
    hook.misses = arena_copy(find_variable(environment, "MAPSCRATCH_MISSES"));
    counts_share(environment);
    reclaim_configure(environment);
}

unsigned la_version(unsigned version) { return version < LAV_CURRENT ? version : LAV_CURRENT; }

enum { KEY_BYTES = 5 * 17 };

static char *append_number(char *at, uint64_t number) {
    static const char digits[] = "0123456789abcdef";
    int shift = 60;
    while (shift > 0 && !(number >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *at++ = digits[number >> shift & 0xf];
    return at;
}

static uint64_t nanoseconds(struct statx_timestamp time) {
    return (uint64_t)time.tv_sec * 1000000000u + time.tv_nsec;
}

/*
 * Device, inode, size, last modification, last change: `file_key` of mapscratch.run.cache. Any of
 * them differs when the file was replaced or written to.
 */
static void make_key(const struct statx *status, char key[KEY_BYTES]) {
    uint64_t device = (uint64_t)status->stx_dev_major << 32 | status->stx_dev_minor;
    uint64_t parts[] = {device, status->stx_ino, status->stx_size, nanoseconds(status->stx_mtime),
                        nanoseconds(status->stx_ctime)};
    for (size_t index = 0; index < sizeof parts / sizeof *parts; index++) {
        key = append_number(key, parts[index]);
        *key++ = '-';
    }
    key[-1] = '\0';
}

static void append_text(char **at, const char *end, const char *text) {
    while (*text && *at < end)
        *(*at)++ = *text++;
}

static int open_conversion(const struct statx *status) {
    char key[KEY_BYTES];
    char path[4096];
    char *at = path;
    make_key(status, key);
    append_text(&at, path + sizeof path - 1, hook.cache);
    append_text(&at, path + sizeof path - 1, "/");
    append_text(&at, path + sizeof path - 1, key);
    *at = '\0';
    return system_open(path, O_RDONLY);
}

/* One write of one line, so that lines of concurrent processes stay whole. */
static void report_miss(const char *path) {
    count(&counts->missed);
    char line[4096];
    char *at = line;
    if (text_equal(path, "/proc/self/exe")) {
        long length = system_call(SYS_readlinkat, AT_FDCWD, (long)path, (long)line,
                                  sizeof line - 1, 0, 0);
        if (length <= 0)
            return;
        at += length;
    } else {
        append_text(&at, line + sizeof line - 1, path);
    }
    *at++ = '\n';
    int file = hook.misses ? system_open(hook.misses, O_WRONLY | O_APPEND) : -1;
    if (file < 0)
        return;
    system_write(file, line, (size_t)(at - line));
    system_close(file);
}

/* The record of the conversion, which is its end; false if the file holds none. */
static bool read_record(int file, uint64_t library_size, struct record *ret) {
    struct statx status;
    if (system_stat(file, "", &status) || status.stx_size < sizeof *ret ||
        system_read_at(file, ret, sizeof *ret, status.stx_size - sizeof *ret) !=
            (long)sizeof *ret)
        return false;
    return text_equal(ret->magic, RECORD_MAGIC) && ret->original_size == library_size &&
           ret->first_page < ret->end_page && ret->segment_size &&
           ret->text_offset + (ret->end_page - ret->first_page) <= status.stx_size &&
           ret->segment_offset + ret->segment_size <= status.stx_size;
}

static ElfW(Dyn) *find_dynamic(const struct link_map *library, ElfW(Sxword) tag) {
    for (ElfW(Dyn) *entry = library->l_ld; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == tag)
            return entry;
    }
    return NULL;
}

/* Whether the library in memory is the one that was converted. */
static bool is_converted_from(const struct link_map *library, const struct record *record) {
    const ElfW(Dyn) *size = find_dynamic(library, DT_PLTRELSZ);
    uintptr_t first = library->l_addr + record->first_page;
    uintptr_t end = library->l_addr + record->end_page;
    return size && size->d_un.d_val == record->relocation_count * sizeof(ElfW(Rela)) &&
           check_value((const uint64_t *)first, end - first) == record->original_text;
}

/* A converted library of this process. */
struct overlay {
    struct overlay *next;
    const struct link_map *library;
    void *segment;
    size_t segment_size;
    struct record record;
};

/* `converted` is the record as the cache has it, its addresses relative to the library. */
static struct overlay *lay_over(struct link_map *library, int file,
                                const struct record *converted) {
    struct overlay *overlay = arena_allocate(sizeof *overlay);
    ElfW(Dyn) *relocations = find_dynamic(library, DT_JMPREL);
    if (!overlay || !relocations)
        return NULL;
    uintptr_t base = library->l_addr;
    char *segment = system_map(NULL, converted->segment_size, PROT_READ, MAP_PRIVATE, file,
                               converted->segment_offset);
    if (is_failure(segment))
        return NULL;
    bool as_scratch = scratchmap_works(file);
    if (!scratchmap_text(base + converted->first_page, base + converted->end_page, file,
                         converted->text_offset, as_scratch)) {
        system_unmap(segment, converted->segment_size);
        return NULL;
    }
    uintptr_t shift = (uintptr_t)segment - converted->segment_address;
    *overlay = (struct overlay){
        .next = hook.overlays,
        .library = library,
        .segment = segment,
        .segment_size = converted->segment_size,
        .record = *converted,
    };
    struct record *record = &overlay->record;
    record->address = (uintptr_t)record - base;
    record->entries = converted->entries + shift - base;
    record->is_private = as_scratch ? RECORD_IS_SCRATCH : RECORD_IS_PRIVATE;
    record->link_map = (uintptr_t)library;
    record->text = NULL;
    *(uintptr_t *)(base + converted->slots[0]) = (uintptr_t)record;
    *(uintptr_t *)(base + converted->slots[1]) = (uintptr_t)mapscratch_plt_entry;
    /* ld.so has added the base already, if it ever does. */
    relocations->d_un.d_ptr = converted->relocations + shift;
    hook.overlays = overlay;
    return overlay;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = text_length(text);
    size_t end_length = text_length(end);
    return length >= end_length && text_equal(text + length - end_length, end);
}

unsigned la_objopen(struct link_map *library, Lmid_t namespace, uintptr_t *cookie) {
    const char *path = *library->l_name ? library->l_name : "/proc/self/exe";
    struct statx status;
    struct record record;
    *cookie = 0;
    if (!hook.cache || namespace != LM_ID_BASE)
        return 0;
    /* The kernel's own library has a name that is no path. */
    if (ends_with(path, "linux-vdso.so.1") || system_stat(AT_FDCWD, path, &status))
        return 0;
    int file = open_conversion(&status);
    if (file < 0) {
        report_miss(path);
        return 0;
    }
    struct statx conversion;
    /* An empty file stands for a library that can't be converted. */
    if (!system_stat(file, "", &conversion) && conversion.stx_size) {
        if (read_record(file, status.stx_size, &record) && linker_find() &&
            is_converted_from(library, &record))
            *cookie = (uintptr_t)lay_over(library, file, &record);
        count(*cookie ? &counts->overlaid : &counts->refused);
    }
    system_close(file);
    return 0;
}

/* Before the library is unmapped, and also when the process ends: from now on nobody drops its pages. */
unsigned la_objclose(uintptr_t *cookie) {
    struct overlay *overlay = (struct overlay *)*cookie;
    if (overlay && overlay->record.text)
        reclaim_forget(overlay->record.text);
    return 0;
}

static int is_listed(const struct link_map *wanted) {
    const struct link_map *library = _r_debug.r_map;
    while (library && library != wanted)
        library = library->l_next;
    return library != NULL;
}

/*
 * After a library was closed and unmapped its overlay isn't needed any more. Not in `la_objclose`: when
 * the process ends libraries still call each other after it.
 */
void la_activity(uintptr_t *cookie, unsigned flag) {
    (void)cookie;
    if (flag != LA_ACT_CONSISTENT)
        return;
    for (struct overlay **at = &hook.overlays; *at;) {
        struct overlay *overlay = *at;
        if (is_listed(overlay->library)) {
            at = &overlay->next;
            continue;
        }
        *at = overlay->next;
        system_unmap(overlay->segment, overlay->segment_size);
    }
}
