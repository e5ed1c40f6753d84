/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cache's place on the board of its process, where others can read its figures (libscratch/board.h). Nothing
 * here reads them.
 */
#include "purgeable_pages.h"

#include "board.h"
#include "scratch.h"

struct board_entry {
    PyObject_HEAD
    scratch_slot_number slot;
    _Atomic uint64_t unseen[SCRATCH_SLOT_FIGURES]; /* in place of a slot */
};

static PyTypeObject *entry_type;

/* Arguments: the cache whose memory it is, or None: then it is a cache; and that memory, or None. */
static PyObject *entry_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *owner, *memory;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "BoardEntry takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "OO", &owner, &memory))
        return NULL;
    if (owner != Py_None && !PyObject_TypeCheck(owner, entry_type)) {
        PyErr_SetString(PyExc_TypeError, "the first argument is a BoardEntry or None");
        return NULL;
    }
    Py_buffer region = {0};
    if (memory != Py_None && PyObject_GetBuffer(memory, &region, PyBUF_SIMPLE))
        return NULL;
    struct scratch_slot_description description = {
        .kind = owner == Py_None ? SCRATCH_KIND_CACHE : SCRATCH_KIND_REGION,
        .address = (uintptr_t)region.buf,
        .length = (uint64_t)region.len,
        .owner = owner == Py_None ? 0 : ((struct board_entry *)owner)->slot,
        .name = "",
    };
    if (memory != Py_None)
        PyBuffer_Release(&region);
    scratch_fork_prepare(); /* if it fails a child has no board */
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct board_entry *entry = (struct board_entry *)allocate(type, 0);
    if (entry)
        entry->slot = scratch_board_allot(&description);
    return (PyObject *)entry;
}

static void entry_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    scratch_board_release(((struct board_entry *)self)->slot);
    release(self);
    Py_DECREF(type);
}

/* Arguments: the first figures, as many as there are. */
static PyObject *entry_show(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    struct board_entry *entry = (struct board_entry *)self;
    uint64_t values[SCRATCH_SLOT_FIGURES];
    if (count > SCRATCH_SLOT_FIGURES) {
        PyErr_SetString(PyExc_TypeError, "there are not so many figures");
        return NULL;
    }
    for (Py_ssize_t figure = 0; figure < count; figure++) {
        values[figure] = PyLong_AsUnsignedLongLong(arguments[figure]);
        if (values[figure] == UINT64_MAX && PyErr_Occurred())
            return NULL;
    }
    _Atomic uint64_t *figures = scratch_board_figures(entry->slot, entry->unseen);
    for (Py_ssize_t figure = 0; figure < count; figure++)
        atomic_store_explicit(&figures[figure], values[figure], memory_order_relaxed);
    Py_RETURN_NONE;
}

void native_board_show_first(PyObject *board, uint64_t value) {
    struct board_entry *entry = (struct board_entry *)board;
    _Atomic uint64_t *figures = scratch_board_figures(entry->slot, entry->unseen);
    atomic_store_explicit(figures, value, memory_order_relaxed);
}

static PyObject *native_turn_off_board(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    scratch_board_turn_off();
    Py_RETURN_NONE;
}

static PyMethodDef entry_methods[] = {
    {"show", (PyCFunction)(void (*)(void))entry_show, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, "Figures of a cache, where other processes can read them."},
    {Py_tp_new, entry_new},
    {Py_tp_dealloc, entry_dealloc},
    {Py_tp_methods, entry_methods},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "mapscratch._native.BoardEntry",
    .basicsize = sizeof(struct board_entry),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = entry_slots,
};

int native_add_board(PyObject *module) {
    entry_type = native_add_type(module, &entry_spec);
    return entry_type ? 0 : -1;
}

PyMethodDef native_board_functions[] = {
    {"turn_off_board", native_turn_off_board, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
