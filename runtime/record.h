/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the converter (src/mapscratch/elf) leaves for the resolver about one library: its record.
 *
 * All addresses are the library's own, relative to its load base. In a converted library the record
 * lies in the file, so the base is the record's address in memory less `address`. Under
 * `mapscratch run` the loader hook makes a copy for each process and writes the last fields; `address` is then
 * chosen so that the same subtraction gives the base.
 */
#ifndef MAPSCRATCH_RECORD_H
#define MAPSCRATCH_RECORD_H

#include <stdint.h>

#define RECORD_MAGIC "MAPSCR1"

enum { RECORD_PROGRAM_HEADER = 0x6ef51004 };

/* What the loader hook says of its copy. */
enum { RECORD_IS_PRIVATE = 1, RECORD_IS_SCRATCH = 2 /* and its text is mapped MAP_SCRATCH */ };

struct text;

struct record {
    char magic[8];
    uint64_t address;         /* of this record */
    uint64_t entries;         /* uint32_t[relocation_count]: the word to patch, 0 if it is not converted */
    uint64_t relocations;     /* the table that DT_JMPREL points to */
    uint64_t first_page;      /* text pages with converted entries */
    uint64_t end_page;
    uint64_t text_offset;     /* where first_page is in the converted file */
    uint64_t segment_address; /* what was appended: record, entries, relocations */
    uint64_t segment_offset;
    uint64_t segment_size;
    uint64_t slots[2];        /* GOT slots that PLT0 goes through: the record, the resolver */
    uint64_t dummy;           /* a word that ld.so may write its answers to */
    uint64_t original_text;   /* check value of the text pages before conversion, */
    uint64_t converted_text;  /* and after */
    uint64_t original_size;   /* of the unconverted file, bytes */
    uint32_t relocation_count;
    uint32_t converted_count;
    /* Zero in a file. */
    uint64_t is_private; /* a copy made by the loader hook; the next two are in use */
    uint64_t link_map;
    struct text *text; /* what the resolver knows; in a converted library it stands behind `dummy` */
};

_Static_assert(sizeof(struct record) == 160, "the converter writes 160 bytes");

static inline uintptr_t record_base(const struct record *record) {
    return (uintptr_t)record - record->address;
}

/* Sum of words times powers of an odd constant, modulo 2^64: see `check_value` of the converter. */
static inline uint64_t check_value(const uint64_t *words, uint64_t bytes) {
    uint64_t value = 0;
    for (uint64_t index = 0; index < bytes / sizeof *words; index++)
        value = value * 0x9E3779B97F4A7C15u + words[index];
    return value;
}

#endif
