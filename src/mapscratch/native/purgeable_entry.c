/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PurgeableEntry: a place in purgeable pages, from its making until nobody has it any more: no table, and no
 * view. So what is there is nobody else's before that.
 *
 * PurgeableView: lives as long as anything that was made of its buffer without a copy. It takes the pages
 * back when it begins, and the last one of some pages releases them when it ends.
 */
#include "purgeable_pages.h"

#include <string.h>

#include "word.h"

static PyTypeObject *entry_type, *view_type;

PyTypeObject *native_type_of_entries(void) { return entry_type; }

/* PurgeableEntry */

static struct scratch_purgeable *run_of(struct pages *pages) {
    return pages->slot ? &pages->slot->pages : &pages->run;
}

/* Which pages of a slot an entry is in: all that it touches, as nobody else is in them. */
static void note(struct entry *entry, struct pages *pages, bool is_used) {
    size_t page_size = scratch_page_size();
    if (!pages->slot)
        return;
    unsigned char *from = run_of(pages)->address;
    uintptr_t start = (uintptr_t)from, end = start + SCRATCH_HUGE_BYTES;
    uintptr_t first = scratch_most((uintptr_t)entry->bytes, start);
    uintptr_t last = scratch_least((uintptr_t)entry->bytes + (size_t)entry->room, end);
    if (first < last)
        scratch_huge_slot_note(pages->slot, (first - start) / page_size,
                               (last - start + page_size - 1) / page_size -
                                   (first - start) / page_size,
                               is_used);
}

static int fill_entry(struct entry *entry, PyObject *all, Py_ssize_t offset) {
    Py_ssize_t size = 0;
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        struct pages *pages = (struct pages *)PyTuple_GetItem(all, number);
        if (!PyObject_TypeCheck((PyObject *)pages, native_type_of_pages())) {
            PyErr_SetString(PyExc_TypeError, "an entry is in a tuple of PurgeablePages");
            return -1;
        }
        if (pages->is_retired) {
            PyErr_SetString(PyExc_LookupError, "the kernel has taken these pages");
            return -1;
        }
        size += (Py_ssize_t)(run_of(pages)->pages * scratch_page_size());
        entry->pages[number] = (struct pages *)Py_NewRef((PyObject *)pages);
        pages->entries++;
    }
    if (offset < 0 || entry->length < 0 || offset > size || entry->length > size - offset) {
        PyErr_SetString(PyExc_ValueError, "these bytes are not in the pages");
        return -1;
    }
    entry->bytes = run_of(entry->pages[0])->address + offset;
    for (Py_ssize_t number = 0; number < entry->count; number++)
        note(entry, entry->pages[number], true);
    return 0;
}

/* Arguments: pages that lie one after another, where in the first, how many bytes, and how they are seen. */
static PyObject *entry_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *all, *form = Py_None;
    Py_ssize_t offset, length;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "PurgeableEntry takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O!nn|O", &PyTuple_Type, &all, &offset, &length, &form))
        return NULL;
    if (form != Py_None && !PyTuple_Check(form)) {
        PyErr_SetString(PyExc_TypeError, "a form is a tuple of shape, type and order");
        return NULL;
    }
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct entry *entry = (struct entry *)allocate(type, PyTuple_Size(all));
    if (!entry)
        return NULL;
    entry->form = Py_NewRef(form);
    entry->length = entry->room = length;
    entry->count = PyTuple_Size(all);
    if (!entry->count)
        PyErr_SetString(PyExc_ValueError, "an entry is somewhere");
    if (PyErr_Occurred() || fill_entry(entry, all, offset))
        Py_CLEAR(entry);
    return (PyObject *)entry;
}

/* Another entry in the same place, for another key or seen in another way; no longer than the first. */
static PyObject *entry_again(PyObject *self, PyObject *arguments) {
    struct entry *first = (struct entry *)self;
    Py_ssize_t length;
    PyObject *form;
    if (!PyArg_ParseTuple(arguments, "nO", &length, &form))
        return NULL;
    if (length < 0 || length > first->room || (form != Py_None && !PyTuple_Check(form))) {
        PyErr_SetString(PyExc_ValueError, "it doesn't fit into the place");
        return NULL;
    }
    allocfunc allocate = PyType_GetSlot(entry_type, Py_tp_alloc);
    struct entry *entry = (struct entry *)allocate(entry_type, first->count);
    if (!entry)
        return NULL;
    entry->form = Py_NewRef(form);
    entry->length = length;
    entry->room = first->room;
    entry->first = (struct entry *)Py_NewRef(first->first ? (PyObject *)first->first : self);
    entry->bytes = first->bytes;
    entry->count = first->count;
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        entry->pages[number] = (struct pages *)Py_NewRef((PyObject *)first->pages[number]);
        entry->pages[number]->entries++;
    }
    return (PyObject *)entry;
}

/* What is left behind is told without an object that the garbage collector looks at: it would run. */
static void leave_behind(struct region *region, unsigned char *from, size_t length) {
    uint64_t words[] = {region->number, (uint64_t)(from - (unsigned char *)region->memory.buf), length};
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *left = PyBytes_FromStringAndSize((const char *)words, sizeof words);
    if (!left || PyList_Append(region->ended, left))
        PyErr_Clear(); /* addresses that nobody uses again */
    Py_XDECREF(left);
    PyErr_Restore(type, value, traceback);
}

static void leave_pages(struct entry *entry, struct pages *pages) {
    bool is_last = --pages->entries == 0;
    if (!entry->first)
        note(entry, pages, false);
    if (is_last && !pages->slot && !pages->is_left) {
        pages->is_retired = pages->is_left = true;
        native_table_forget_pages(pages);
        leave_behind(pages->region, pages->run.address, pages->run.pages * scratch_page_size());
    }
}

static void entry_dealloc(PyObject *self) {
    struct entry *entry = (struct entry *)self;
    size_t page_size = scratch_page_size();
    PyObject_GC_UnTrack(self);
    native_table_forget_entry(entry);
    struct pages *first = entry->bytes ? entry->pages[0] : NULL;
    if (first && first->slot && !entry->first) {
        size_t pages = (scratch_most((size_t)entry->room, 1) + page_size - 1) / page_size;
        leave_behind(first->region, entry->bytes, pages * page_size);
    }
    for (Py_ssize_t number = 0; number < entry->count && entry->pages[number]; number++) {
        if (first)
            leave_pages(entry, entry->pages[number]);
        else
            entry->pages[number]->entries--;
        Py_DECREF(entry->pages[number]);
    }
    Py_XDECREF((PyObject *)entry->first);
    Py_XDECREF(entry->form);
    native_free_instance(self);
}

/* Not its key, which is its table's: else a value that the key's object holds would keep that alive for ever. */
static int entry_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct entry *)self)->form);
    Py_VISIT((PyObject *)((struct entry *)self)->first);
    return 0;
}

/* The pages that an entry is in know it while it is in a table, so that it goes with them. */
int native_entry_move_in(struct entry *entry) {
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        struct pages *pages = entry->pages[number];
        if (pages->tenant_count == pages->tenant_room) {
            uint32_t room = pages->tenant_room ? 2 * pages->tenant_room : 1;
            struct entry **tenants = PyMem_Realloc(pages->tenants, room * sizeof *tenants);
            if (!tenants) {
                native_entry_move_out(entry);
                PyErr_NoMemory();
                return -1;
            }
            pages->tenants = tenants;
            pages->tenant_room = room;
        }
        pages->tenants[pages->tenant_count++] = entry;
    }
    return 0;
}

void native_entry_move_out(struct entry *entry) {
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        struct pages *pages = entry->pages[number];
        for (uint32_t index = 0; index < pages->tenant_count; index++) {
            if (pages->tenants[index] == entry)
                pages->tenants[index] = pages->tenants[--pages->tenant_count];
        }
    }
}

bool native_entry_is_unused(const struct entry *entry) {
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        const struct pages *pages = entry->pages[number];
        if (pages->pins > (pages->recent_in != NULL))
            return false;
    }
    return true;
}

/* A view that may be stored to if it is a draft, because nobody else sees it yet. */
static PyObject *entry_lease(PyObject *self, PyObject *arguments) {
    int is_draft = 0;
    if (!PyArg_ParseTuple(arguments, "|p", &is_draft))
        return NULL;
    PyObject *view = native_view_of((struct entry *)self, is_draft);
    if (!view && !PyErr_Occurred())
        PyErr_SetString(PyExc_LookupError, "the kernel has taken these pages");
    return view;
}

static bool is_zero(const unsigned char *bytes, size_t length) {
    return !length || (!bytes[0] && !memcmp(bytes, bytes + 1, length - 1));
}

/*
 * From now on nobody stores to it. A page in which it has only zeros needs not be found again in what was
 * split: dropped or not, that is what it holds. One that nobody stored to holds what was there before, and
 * is to hold that as long as it is in use: in what was split the kernel may still have it.
 */
static PyObject *entry_seal(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct entry *entry = (struct entry *)self;
    size_t page_size = scratch_page_size();
    const struct scratch_huge_slot *first = entry->pages[0]->slot;
    for (size_t from = 0; first && from < (size_t)entry->length; from += page_size) {
        unsigned char *bytes = entry->bytes + from;
        size_t page = (size_t)(bytes - first->pages.address) / page_size;
        struct scratch_huge_slot *slot = entry->pages[page / first->pages.pages]->slot;
        if (!slot->is_huge)
            scratch_word_make_dirty(bytes);
        if (is_zero(bytes, scratch_least(page_size, (size_t)entry->length - from)))
            scratch_huge_slot_note(slot, page % first->pages.pages, 1, false);
    }
    Py_RETURN_NONE;
}

static PyObject *entry_pages(PyObject *self, void *Py_UNUSED(closure)) {
    struct entry *entry = (struct entry *)self;
    PyObject *all = PyTuple_New(entry->count);
    for (Py_ssize_t number = 0; all && number < entry->count; number++)
        PyTuple_SetItem(all, number, Py_NewRef((PyObject *)entry->pages[number]));
    return all;
}

static PyObject *entry_key(PyObject *self, void *Py_UNUSED(closure)) {
    struct entry *entry = (struct entry *)self;
    return Py_NewRef(entry->key ? entry->key : Py_None);
}

static PyObject *entry_form(PyObject *self, void *Py_UNUSED(closure)) {
    return Py_NewRef(((struct entry *)self)->form);
}

static PyObject *entry_length(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromSsize_t(((struct entry *)self)->length);
}

static PyObject *entry_address(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromVoidPtr(((struct entry *)self)->bytes);
}

static PyObject *entry_is_kept(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct entry *)self)->table != NULL);
}

static PyObject *entry_was_kept(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct entry *)self)->was_kept);
}

static PyObject *entry_is_unused(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(native_entry_is_unused((struct entry *)self));
}

static PyGetSetDef entry_attributes[] = {
    {"address", entry_address, NULL, NULL, NULL},
    {"form", entry_form, NULL, NULL, NULL},
    {"is_kept", entry_is_kept, NULL, NULL, NULL},
    {"is_unused", entry_is_unused, NULL, NULL, NULL},
    {"key", entry_key, NULL, NULL, NULL},
    {"length", entry_length, NULL, NULL, NULL},
    {"pages", entry_pages, NULL, NULL, NULL},
    {"was_kept", entry_was_kept, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef entry_methods[] = {
    {"again", entry_again, METH_VARARGS, NULL},
    {"lease", entry_lease, METH_VARARGS, NULL},
    {"seal", entry_seal, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, "A place in purgeable pages, and how it is seen."},
    {Py_tp_new, entry_new},
    {Py_tp_dealloc, entry_dealloc},
    {Py_tp_traverse, entry_traverse},
    {Py_tp_methods, entry_methods},
    {Py_tp_getset, entry_attributes},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "mapscratch._native.PurgeableEntry",
    .basicsize = sizeof(struct entry),
    .itemsize = sizeof(struct pages *),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = entry_slots,
};

/* PurgeableView */

struct view {
    PyObject_HEAD
    struct entry *entry;
    bool is_draft;
};

static bool pin_all(struct entry *entry) {
    for (Py_ssize_t number = 0; number < entry->count; number++) {
        if (native_pages_pin(entry->pages[number]))
            continue;
        while (number-- > 0)
            native_pages_unpin(entry->pages[number]);
        return false;
    }
    return true;
}

PyObject *native_view_of(struct entry *entry, bool is_draft) {
    allocfunc allocate = PyType_GetSlot(view_type, Py_tp_alloc);
    struct view *view = (struct view *)allocate(view_type, 0);
    if (!view)
        return NULL;
    if (!pin_all(entry)) {
        Py_DECREF(view);
        return NULL;
    }
    view->entry = (struct entry *)Py_NewRef((PyObject *)entry);
    view->is_draft = is_draft;
    return (PyObject *)view;
}

static void view_dealloc(PyObject *self) {
    struct entry *entry = ((struct view *)self)->entry;
    for (Py_ssize_t number = 0; entry && number < entry->count; number++)
        native_pages_unpin(entry->pages[number]);
    Py_XDECREF((PyObject *)entry);
    native_free_instance(self);
}

static int view_buffer(PyObject *self, Py_buffer *buffer, int flags) {
    struct view *view = (struct view *)self;
    return PyBuffer_FillInfo(buffer, self, view->entry->bytes, view->entry->length, !view->is_draft,
                             flags);
}

static PyObject *view_entry(PyObject *self, void *Py_UNUSED(closure)) {
    return Py_NewRef((PyObject *)((struct view *)self)->entry);
}

static PyObject *view_is_draft(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct view *)self)->is_draft);
}

static PyGetSetDef view_attributes[] = {
    {"entry", view_entry, NULL, NULL, NULL},
    {"is_draft", view_is_draft, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "A buffer of an entry, which is in use while it lives."},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_getset, view_attributes},
    {Py_bf_getbuffer, view_buffer},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "mapscratch._native.PurgeableView",
    .basicsize = sizeof(struct view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = view_slots,
};

int native_add_purgeable_entry(PyObject *module) {
    entry_type = native_add_type(module, &entry_spec);
    view_type = entry_type ? native_add_type(module, &view_spec) : NULL;
    return view_type ? 0 : -1;
}
