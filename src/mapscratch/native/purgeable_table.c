/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PurgeableTable: entries by their keys, in the order of their use and in that of their making.
 *
 * To look one up is all that happens at a hit, so that is here, and takes no lock: whatever Python code is
 * amid, an entry's place is nobody else's while the entry lives.
 */
#include "purgeable_pages.h"

struct made {
    struct entry *first, *last; /* the one that was made last is the first */
    struct entry *hand;         /* of SIEVE: who is asked next to go */
    size_t count;
};

struct table {
    PyObject_HEAD
    PyObject *entries; /* a dict: key, entry */
    PyObject *array_type;
    PyTypeObject *pinned_type;
    PyObject *board;
    struct entry *newest, *oldest; /* by use */
    struct made made[2];           /* in runs, in slots */
    struct pages *newest_pages, *oldest_pages;
    Py_ssize_t bytes_recent, most_recent; /* what may be kept in use though nobody does */
    unsigned long long hits;
};

static struct made *made_of(struct table *table, const struct entry *entry) {
    return &table->made[entry->pages[0]->slot != NULL];
}

/* What was used last is kept in use: coming back to it costs less then. */

static Py_ssize_t size_of(const struct pages *pages) {
    return (Py_ssize_t)((pages->slot ? pages->slot->pages.pages : pages->run.pages) * scratch_page_size());
}

static void unlink_pages(struct table *table, struct pages *pages) {
    *(pages->newer ? &pages->newer->older : &table->newest_pages) = pages->older;
    *(pages->older ? &pages->older->newer : &table->oldest_pages) = pages->newer;
    pages->newer = pages->older = NULL;
}

static void link_pages(struct table *table, struct pages *pages) {
    pages->older = table->newest_pages;
    *(table->newest_pages ? &table->newest_pages->newer : &table->oldest_pages) = pages;
    table->newest_pages = pages;
}

static void forget_recent(struct pages *pages) {
    struct table *table = pages->recent_in;
    unlink_pages(table, pages);
    table->bytes_recent -= size_of(pages);
    pages->recent_in = NULL;
}

void native_table_forget_pages(struct pages *pages) {
    if (!pages->recent_in)
        return;
    forget_recent(pages);
    native_pages_unpin(pages);
    Py_DECREF(pages);
}

/* No more of them than so many bytes, those first that were used least lately; several at once. */
static void release_recent(struct table *table, Py_ssize_t bytes_kept) {
    while (table->oldest_pages && table->bytes_recent > bytes_kept) {
        struct pages *all[NATIVE_PAGES_AT_ONCE];
        size_t count = 0;
        for (int left = NATIVE_PAGES_AT_ONCE; left && table->oldest_pages; left--) {
            struct pages *pages = table->oldest_pages;
            if (table->bytes_recent <= bytes_kept / 2)
                break;
            forget_recent(pages);
            if (--pages->pins == 0 && !pages->is_retired)
                all[count++] = pages;
            else
                Py_DECREF((PyObject *)pages);
        }
        native_pages_release_all(all, count);
        while (count)
            Py_DECREF((PyObject *)all[--count]);
    }
}

/* They are pinned, so this can't fail; but another table's they stay. */
static void use_pages(struct table *table, struct pages *pages) {
    pages->was_used = true;
    if (pages->recent_in == table) {
        unlink_pages(table, pages);
        link_pages(table, pages);
    } else if (!pages->recent_in && native_pages_pin(pages)) {
        Py_INCREF((PyObject *)pages);
        pages->recent_in = table;
        table->bytes_recent += size_of(pages);
        link_pages(table, pages);
    }
}

/* Entries */

static void unlink_use(struct table *table, struct entry *entry) {
    *(entry->newer ? &entry->newer->older : &table->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &table->oldest) = entry->newer;
    entry->newer = entry->older = NULL;
}

static void link_use(struct table *table, struct entry *entry) {
    entry->older = table->newest;
    *(table->newest ? &table->newest->newer : &table->oldest) = entry;
    table->newest = entry;
}

static void unlink_made(struct made *made, struct entry *entry) {
    if (made->hand == entry)
        made->hand = entry->previous;
    *(entry->previous ? &entry->previous->next : &made->first) = entry->next;
    *(entry->next ? &entry->next->previous : &made->last) = entry->previous;
    entry->next = entry->previous = NULL;
    made->count--;
}

static void link_made(struct made *made, struct entry *entry) {
    entry->next = made->first;
    *(made->first ? &made->first->previous : &made->last) = entry;
    made->first = entry;
    made->count++;
}

/* Returns its key, which the caller releases: a view of it, which may live on, must not keep that alive. */
static PyObject *unlink_entry(struct table *table, struct entry *entry) {
    PyObject *key = entry->key;
    unlink_use(table, entry);
    unlink_made(made_of(table, entry), entry);
    native_entry_move_out(entry);
    entry->table = NULL;
    entry->key = NULL;
    return key;
}

void native_table_forget_entry(struct entry *entry) {
    if (entry->table)
        Py_DECREF(unlink_entry(entry->table, entry));
}

static struct table *table_of(PyObject *self) { return (struct table *)self; }

/*
 * In use order and not in the dict is a moment that nobody sees: no Python code runs in between. If a key's
 * __eq__ raises nothing has changed. One that says now this and now that may have had the dict forget it.
 */
static int remove_entry(struct table *table, struct entry *entry) {
    PyObject *key = Py_NewRef(entry->key);
    Py_INCREF((PyObject *)entry);
    int status = PyDict_DelItem(table->entries, key);
    if (status && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        status = 0;
    }
    if (!status)
        native_table_forget_entry(entry);
    Py_DECREF(entry);
    Py_DECREF(key);
    return status;
}

static PyObject *table_insert(PyObject *self, PyObject *arguments) {
    struct table *table = table_of(self);
    PyObject *key;
    struct entry *entry;
    if (!PyArg_ParseTuple(arguments, "OO!", &key, native_type_of_entries(), &entry))
        return NULL;
    if (entry->was_kept) {
        PyErr_SetString(PyExc_ValueError, "the entry is, or was, in a table");
        return NULL;
    }
    struct entry *old = (struct entry *)PyDict_GetItemWithError(table->entries, key);
    bool is_there = old && old->table == table;
    if (PyErr_Occurred() || (is_there && remove_entry(table, old)) || native_entry_move_in(entry))
        return NULL;
    entry->was_kept = true;
    if (PyDict_SetItem(table->entries, key, (PyObject *)entry)) {
        native_entry_move_out(entry);
        return NULL;
    }
    entry->key = Py_NewRef(key);
    entry->table = table;
    link_use(table, entry);
    link_made(made_of(table, entry), entry);
    Py_RETURN_NONE;
}

static PyObject *table_remove(PyObject *self, PyObject *object) {
    struct table *table = table_of(self);
    if (!PyObject_TypeCheck(object, native_type_of_entries())) {
        PyErr_SetString(PyExc_TypeError, "only an entry can be removed");
        return NULL;
    }
    bool is_here = ((struct entry *)object)->table == table;
    if (is_here && remove_entry(table, (struct entry *)object))
        return NULL;
    return PyBool_FromLong(is_here);
}

/* `entry` gets the place of `old` in both orders. */
static void take_place(struct table *table, struct entry *old, struct entry *entry) {
    struct made *made = made_of(table, old);
    entry->newer = old->newer;
    entry->older = old->older;
    entry->next = old->next;
    entry->previous = old->previous;
    entry->was_used = old->was_used;
    *(entry->newer ? &entry->newer->older : &table->newest) = entry;
    *(entry->older ? &entry->older->newer : &table->oldest) = entry;
    *(entry->previous ? &entry->previous->next : &made->first) = entry;
    *(entry->next ? &entry->next->previous : &made->last) = entry;
    if (made->hand == old)
        made->hand = entry;
    old->newer = old->older = old->next = old->previous = NULL;
    native_entry_move_out(old);
    old->table = NULL;
    entry->table = table;
    entry->key = old->key;
    old->key = NULL;
}

/* Arguments: an entry, and another with the same bytes, in slots both or in runs, which takes its part. */
static PyObject *table_replace(PyObject *self, PyObject *arguments) {
    struct table *table = table_of(self);
    struct entry *old, *entry;
    if (!PyArg_ParseTuple(arguments, "O!O!", native_type_of_entries(), &old,
                          native_type_of_entries(), &entry))
        return NULL;
    if (entry->was_kept || made_of(table, old) != made_of(table, entry)) {
        PyErr_SetString(PyExc_ValueError, "the other entry can't take its place");
        return NULL;
    }
    if (old->table != table)
        Py_RETURN_FALSE;
    if (native_entry_move_in(entry))
        return NULL;
    Py_INCREF((PyObject *)old);
    entry->was_kept = true;
    if (PyDict_SetItem(table->entries, old->key, (PyObject *)entry)) {
        native_entry_move_out(entry);
        Py_DECREF((PyObject *)old);
        return NULL;
    }
    take_place(table, old, entry);
    Py_DECREF((PyObject *)old);
    Py_RETURN_TRUE;
}

static PyObject *seen(const struct table *table, PyObject *view, PyObject *form) {
    if (form == Py_None)
        return PyMemoryView_FromObject(view);
    PyObject *shape = PyTuple_GetItem(form, 0), *type = PyTuple_GetItem(form, 1);
    PyObject *order = PyTuple_GetItem(form, 2);
    if (!shape || !type || !order)
        return NULL;
    if (PyUnicode_CompareWithASCIIString(order, "C") == 0)
        return PyObject_CallFunctionObjArgs(table->array_type, shape, type, view, NULL);
    PyObject *zero = PyLong_FromLong(0);
    PyObject *value = PyObject_CallFunctionObjArgs(table->array_type, shape, type, view, zero, Py_None,
                                                   order, NULL);
    Py_XDECREF(zero);
    return value;
}

static void use(struct table *table, struct entry *entry) {
    table->hits++;
    native_board_show_first(table->board, table->hits);
    entry->was_used = true;
    if (table->newest != entry) {
        unlink_use(table, entry);
        link_use(table, entry);
    }
    for (Py_ssize_t number = 0; number < entry->count; number++)
        use_pages(table, entry->pages[number]);
    release_recent(table, table->most_recent);
}

/* The value of a key, pinned; NULL without an exception: it isn't there, or the kernel has taken it. */
static PyObject *find(struct table *table, PyObject *key) {
    struct entry *entry = (struct entry *)PyDict_GetItemWithError(table->entries, key);
    if (!entry || entry->table != table)
        return NULL;
    Py_INCREF((PyObject *)entry);
    PyObject *view = native_view_of(entry, false);
    if (view)
        use(table, entry);
    PyObject *value = view ? seen(table, view, entry->form) : NULL;
    Py_XDECREF(view);
    Py_DECREF(entry);
    return value;
}

static PyObject *table_find(PyObject *self, PyObject *key) {
    PyObject *value = find(table_of(self), key);
    return value || PyErr_Occurred() ? value : Py_NewRef(Py_None);
}

/* Arguments: a key, and what makes its value; if that is no function it is as if there were none. */
static PyObject *table_get(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    struct table *table = table_of(self);
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "get takes a key and a function");
        return NULL;
    }
    if (arguments[1] != Py_None && !PyCallable_Check(arguments[1]))
        Py_RETURN_NONE;
    PyObject *value = find(table, arguments[0]);
    if (!value)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return native_pinned(table->pinned_type, value);
}

static PyObject *table_entry(PyObject *self, PyObject *key) {
    struct table *table = table_of(self);
    struct entry *entry = (struct entry *)PyDict_GetItemWithError(table->entries, key);
    bool is_there = entry && entry->table == table;
    return !entry && PyErr_Occurred() ? NULL : Py_NewRef(is_there ? (PyObject *)entry : Py_None);
}

/* It is in use, and was used just now. */
static PyObject *table_use(PyObject *self, PyObject *object) {
    struct table *table = table_of(self);
    if (!PyObject_TypeCheck(object, native_type_of_entries())) {
        PyErr_SetString(PyExc_TypeError, "only an entry can be used");
        return NULL;
    }
    struct entry *entry = (struct entry *)object;
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        struct pages *pages = entry->pages[number];
        bool was_used = pages->was_used;
        use_pages(table, pages);
        pages->was_used = was_used; /* nobody came back to it */
    }
    release_recent(table, table->most_recent);
    Py_RETURN_NONE;
}

static PyObject *table_release_recent(PyObject *self, PyObject *arguments) {
    Py_ssize_t bytes_kept = 0;
    if (!PyArg_ParseTuple(arguments, "|n", &bytes_kept))
        return NULL;
    release_recent(table_of(self), bytes_kept);
    Py_RETURN_NONE;
}

static PyObject *table_keys_by_use(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    PyObject *keys = PyList_New(0);
    for (struct entry *entry = table_of(self)->oldest; keys && entry; entry = entry->newer) {
        if (PyList_Append(keys, entry->key))
            Py_CLEAR(keys);
    }
    return keys;
}

static PyObject *table_all(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    PyObject *all = PyList_New(0);
    for (struct entry *entry = table_of(self)->oldest; all && entry; entry = entry->newer) {
        if (PyList_Append(all, (PyObject *)entry))
            Py_CLEAR(all);
    }
    return all;
}

static PyObject *table_oldest_key(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct entry *oldest = table_of(self)->oldest;
    if (!oldest)
        PyErr_SetString(PyExc_KeyError, "the table is empty");
    return oldest ? Py_NewRef(oldest->key) : NULL;
}

static PyObject *table_oldest_unused(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct entry *entry = table_of(self)->oldest;
    while (entry && !native_entry_is_unused(entry))
        entry = entry->newer;
    return Py_NewRef(entry ? (PyObject *)entry : Py_None);
}

/*
 * SIEVE (Zhang and others, NSDI 2024): the hand goes from those that were made first to those that were made
 * last, and takes the first that nobody came back to since it was there.
 *
 * Arguments: whether in slots; if not, in how many pages.
 */
static PyObject *table_victim(PyObject *self, PyObject *arguments) {
    int in_slots;
    Py_ssize_t pages = 0;
    if (!PyArg_ParseTuple(arguments, "p|n", &in_slots, &pages))
        return NULL;
    struct made *made = &table_of(self)->made[in_slots];
    for (size_t left = 2 * made->count; left; left--) {
        struct entry *asked = made->hand ? made->hand : made->last;
        made->hand = asked->previous;
        bool is_fit = native_entry_is_unused(asked) &&
                      (in_slots || asked->pages[0]->run.pages == (size_t)pages);
        if (is_fit && !asked->was_used)
            return Py_NewRef((PyObject *)asked);
        if (is_fit)
            asked->was_used = false;
    }
    Py_RETURN_NONE;
}

static void forget_all(struct table *table) {
    release_recent(table, -1);
    while (table->oldest)
        native_table_forget_entry(table->oldest);
}

static PyObject *table_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *array_type, *pinned_type, *board;
    Py_ssize_t most_recent;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "PurgeableTable takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "OO!On", &array_type, &PyType_Type, &pinned_type, &board,
                          &most_recent))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct table *table = (struct table *)allocate(type, 0);
    if (!table)
        return NULL;
    table->array_type = Py_NewRef(array_type);
    table->pinned_type = (PyTypeObject *)Py_NewRef(pinned_type);
    table->board = Py_NewRef(board);
    table->most_recent = most_recent;
    table->entries = PyDict_New();
    if (!table->entries)
        Py_CLEAR(table);
    return (PyObject *)table;
}

static int table_traverse(PyObject *self, visitproc visit, void *arg) {
    struct table *table = table_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(table->entries);
    Py_VISIT(table->array_type);
    Py_VISIT(table->pinned_type);
    Py_VISIT(table->board);
    for (struct entry *entry = table->oldest; entry; entry = entry->newer)
        Py_VISIT(entry->key);
    return 0;
}

static int table_clear(PyObject *self) {
    struct table *table = table_of(self);
    forget_all(table);
    if (table->entries)
        PyDict_Clear(table->entries);
    return 0;
}

static void table_dealloc(PyObject *self) {
    struct table *table = table_of(self);
    PyObject_GC_UnTrack(self);
    forget_all(table);
    Py_CLEAR(table->entries);
    Py_CLEAR(table->array_type);
    Py_CLEAR(table->pinned_type);
    Py_CLEAR(table->board);
    native_free_instance(self);
}

static Py_ssize_t table_length(PyObject *self) { return PyDict_Size(table_of(self)->entries); }

static PyObject *table_hits(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLongLong(table_of(self)->hits);
}

/* A hit of another kind: who waited for a value. */
static PyObject *table_count_hit(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct table *table = table_of(self);
    native_board_show_first(table->board, ++table->hits);
    Py_RETURN_NONE;
}

static PyGetSetDef table_attributes[] = {
    {"hits", table_hits, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef table_methods[] = {
    {"get", (PyCFunction)(void (*)(void))table_get, METH_FASTCALL, NULL},
    {"find", table_find, METH_O, NULL},
    {"entry", table_entry, METH_O, NULL},
    {"insert", table_insert, METH_VARARGS, NULL},
    {"remove", table_remove, METH_O, NULL},
    {"replace", table_replace, METH_VARARGS, NULL},
    {"use", table_use, METH_O, NULL},
    {"count_hit", table_count_hit, METH_NOARGS, NULL},
    {"release_recent", table_release_recent, METH_VARARGS, NULL},
    {"keys_by_use", table_keys_by_use, METH_NOARGS, NULL},
    {"all", table_all, METH_NOARGS, NULL},
    {"oldest_key", table_oldest_key, METH_NOARGS, NULL},
    {"oldest_unused", table_oldest_unused, METH_NOARGS, NULL},
    {"victim", table_victim, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, "Entries by their keys, in the order of their use and in that of their making."},
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_traverse, table_traverse},
    {Py_tp_clear, table_clear},
    {Py_tp_methods, table_methods},
    {Py_tp_getset, table_attributes},
    {Py_mp_length, table_length},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "mapscratch._native.PurgeableTable",
    .basicsize = sizeof(struct table),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = table_slots,
};

int native_add_purgeable_table(PyObject *module) {
    return native_add_type(module, &table_spec) ? native_add_pinned(module) : -1;
}
