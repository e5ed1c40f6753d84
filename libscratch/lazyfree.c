/* SPDX-License-Identifier: Apache-2.0 */
#include "lazyfree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "merging.h"
#include "raw.h"
#include "sparse.h"

static uint64_t *copy_words(const uint64_t *words, size_t count) {
    uint64_t *copy = malloc(count ? count * sizeof *copy : sizeof *copy);
    if (copy && count)
        memcpy(copy, words, count * sizeof *copy);
    return copy;
}

static bool copy_decoding(struct scratch_range *range, const struct scratch_decoding *decoding) {
    range->is_decoded = true;
    range->decoding = *decoding;
    /* At least one byte: the function may not expect a NULL. calloc aligns it for any type. */
    void *user_data = calloc(1, decoding->user_data_length + 1);
    if (user_data && decoding->user_data_length)
        memcpy(user_data, decoding->user_data, decoding->user_data_length);
    range->decoding.user_data = user_data;
    if (decoding->helper) {
        range->helper.address = strdup(decoding->helper);
        memcpy(range->helper.key, decoding->helper_key, sizeof range->helper.key);
    }
    return user_data && (!decoding->helper || range->helper.address);
}

/* Does a unit fit into the pager's buffers, and into whole pages? */
static bool decoding_is_sound(const struct scratch_decoding *decoding) {
    return decoding->unit_pages && decoding->unit_items && decoding->unit_source_length &&
           decoding->items && (decoding->decode || decoding->helper) &&
           decoding->unit_pages * scratch_page_size() <= SCRATCH_STAGING_BYTES &&
           decoding->unit_source_length <= SCRATCH_STAGING_BYTES && decoding->block_pages &&
           decoding->block_pages % decoding->unit_pages == 0;
}

static bool copy_fixup(struct scratch_range *range, const struct scratch_word_table *fixup) {
    range->has_fixup = true;
    range->fixup = *fixup;
    range->fixup.offsets = copy_words(fixup->offsets, fixup->count);
    range->fixup.operands = copy_words(fixup->operands, fixup->count);
    return range->fixup.offsets && range->fixup.operands;
}

bool scratch_lazyfree_allocate(struct scratch_range *range,
                               const struct scratch_description *description) {
    range->ever_filled = scratch_sparse_allocate(scratch_filled_bytes(range));
    range->touched = scratch_sparse_allocate(scratch_touched_bytes(range));
    return range->ever_filled && range->touched &&
           (!description->decoding || copy_decoding(range, description->decoding)) &&
           (!description->fixup || copy_fixup(range, description->fixup));
}

/*
 * Closed at first: after mlockall(MCL_FUTURE) it is locked, and would be filled with zeros that must
 * not be seen, all of it.
 */
static int map_anonymous(struct scratch_range *range, int protection) {
    void *mapped = mmap(range->address, range->length, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED || raw_munlock(range->address, range->length) ||
        mprotect(range->address, range->length, protection))
        return errno;
    return 0;
}

/*
 * The kernel moves huge pages into memory only if that is writable. Then userfaultfd protects every
 * page of it, and a store ends as it would in memory that isn't. Where so much writable memory isn't
 * to be had the memory is read-only, and takes small pages.
 */
static int map_decoded(struct scratch_range *range) {
    range->is_guarded =
        range->decoding.huge_pages && !map_anonymous(range, PROT_READ | PROT_WRITE);
    range->takes_huge_pages = range->is_guarded;
    return range->is_guarded ? 0 : map_anonymous(range, PROT_READ);
}

int scratch_lazyfree_map(struct scratch_range *range) {
    int error = range->is_decoded ? map_decoded(range) : map_anonymous(range, range->protection);
    if (error)
        return error;
    /*
     * DONTFORK: a child that our fork handlers didn't prepare (a raw clone) must crash, because it
     * has no registration and would read zeros. DONTDUMP: what can be made again needs no core
     * file, and dumping it would fault all of it in. NOHUGEPAGE: userfaultfd fills base pages.
     */
    if (madvise(range->address, range->length, MADV_DONTFORK) ||
        madvise(range->address, range->length, MADV_DONTDUMP))
        return errno;
    if (madvise(range->address, range->length, MADV_NOHUGEPAGE) && errno != EINVAL)
        return errno; /* EINVAL: a kernel without transparent huge pages */
    scratch_refuse_merging(range->address, range->length);
    return 0;
}

/*
 * Some files can't be shared (FUSE with direct_io; a memfd sealed against writing, before Linux 6.7). A
 * private mapping that nobody stores to shows the same page cache, later changes of the file included.
 */
static void *map_source(size_t length, int file, off_t offset) {
    void *mapped = mmap(NULL, length, PROT_READ, MAP_SHARED, file, offset);
    if (mapped == MAP_FAILED)
        mapped = mmap(NULL, length, PROT_READ, MAP_PRIVATE, file, offset);
    return mapped == MAP_FAILED ? NULL : mapped;
}

int scratch_lazyfree_open_source(struct scratch_range *range,
                                 const struct scratch_description *description) {
    /*
     * The source is a mapping and not a descriptor: an application can close any descriptor, but
     * this stays, over fork too.
     */
    range->source_skip = (size_t)description->source_offset & (scratch_page_size() - 1);
    range->source_length = range->length;
    if (range->is_decoded) {
        if (!decoding_is_sound(&range->decoding))
            return EINVAL;
        if (range->helper.address)
            scratch_helper_set_owner(&range->helper, description->decoding->helper_owner);
        range->source_length = range->source_skip + range->decoding.source_length;
    }
    void *source = map_source(range->source_length, description->source_fd,
                              description->source_offset - (off_t)range->source_skip);
    if (!source)
        return errno;
    range->source = source;
    raw_munlock(source, range->source_length); /* mlockall would keep the file in memory */
    /* Read-ahead is the pager's: the kernel's read-around would make a random page-in read 128 KiB. */
    madvise(source, range->source_length, MADV_RANDOM);
    return 0;
}
