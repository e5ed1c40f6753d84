/* SPDX-License-Identifier: Apache-2.0 */
/* Purgeable memory as the bridge has it: pages, what is in them, and a table of that. */
#ifndef MAPSCRATCH_NATIVE_PURGEABLE_PAGES_H
#define MAPSCRATCH_NATIVE_PURGEABLE_PAGES_H

#include "native.h"

#include <stdbool.h>
#include <stdint.h>

#include "huge_slot.h"
#include "purgeable.h"

/*
 * All of it happens while the interpreter's lock is held, and what changes pins runs no Python code. So no
 * thread, no signal handler and no garbage collection comes between a look and what rests on it.
 */

/* Memory that pages are cut from. */
struct region {
    PyObject_HEAD
    Py_buffer memory; /* keeps the mapping where it is */
    uint64_t number;
    /* A list. What an entry that ended has left behind is put there: bytes of three words, the region's
     * number, where in it, how many bytes. Not an object that knows the region: it would be a cycle. */
    PyObject *ended;
};

/* Pages that are lent, released and lost together. */
struct pages {
    PyObject_HEAD
    struct region *region;
    struct scratch_purgeable run;
    struct scratch_huge_slot *slot; /* NULL: `run` are pages of their own; else its run counts */
    uint64_t displaced;             /* where it is one page */
    struct pages *newer, *older;    /* among those that were used last */
    struct entry **tenants;         /* entries of a table that are in it, at least in part */
    uint32_t tenant_count, tenant_room;
    uint32_t pins;    /* by views, and one if it was used lately */
    uint32_t entries; /* that live */
    bool is_released;
    bool was_used;    /* somebody came back to it */
    bool is_retired;  /* nobody takes it back: the kernel has taken it, or the memory is others' */
    bool is_left;     /* its last entry has gone, and it is to be given back */
    struct table *recent_in; /* the table in which it was used lately */
};

/* Where a value is, and how it is seen. */
struct entry {
    PyObject_VAR_HEAD
    PyObject *key;  /* NULL while it is in no table */
    PyObject *form; /* a tuple: shape, type, order; None: bytes */
    unsigned char *bytes;
    Py_ssize_t length;
    Py_ssize_t room; /* bytes that are its own */
    struct entry *first;               /* of several in one place: that whose place it is; or NULL */
    struct table *table;               /* that it is in, or NULL */
    struct entry *newer, *older;       /* by use */
    struct entry *next, *previous;     /* by making, of its kind */
    bool was_used;
    bool was_kept; /* it is, or was, in a table */
    Py_ssize_t count;
    struct pages *pages[]; /* one after another, as many */
};

/* One pin more; false: the kernel has taken it. */
bool native_pages_pin(struct pages *pages);
/* The last one releases it. */
void native_pages_unpin(struct pages *pages);
/* Releases as many that nobody pins any more, at once. */
enum { NATIVE_PAGES_AT_ONCE = 16 };
void native_pages_release_all(struct pages *const *all, size_t count);

/* A view of an entry, which pins it; NULL without an exception if the kernel has taken some of it. */
PyObject *native_view_of(struct entry *entry, bool is_draft);

/* Whether no view of anything in its pages lives. */
bool native_entry_is_unused(const struct entry *entry);

/* What an entry is in is told of it, or forgets it. */
int native_entry_move_in(struct entry *entry);
void native_entry_move_out(struct entry *entry);

/* It ends: if it is in a table still, a key's __eq__ had the dict take another for it. */
void native_table_forget_entry(struct entry *entry);

/* Nobody needs it any more: it is not one of those that were used last. */
void native_table_forget_pages(struct pages *pages);

/* The first figure of a BoardEntry. */
void native_board_show_first(PyObject *board, uint64_t value);

int native_add_purgeable_entry(PyObject *module);
int native_add_purgeable_table(PyObject *module);
int native_add_pinned(PyObject *module);
PyTypeObject *native_type_of_pages(void);
PyTypeObject *native_type_of_entries(void);

/* What `Cache.get` returns, of a type that is a subclass of PinnedValue; takes the reference to the value. */
PyObject *native_pinned(PyTypeObject *type, PyObject *value);

void native_free_instance(PyObject *self);

#endif
