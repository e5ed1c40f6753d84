/* SPDX-License-Identifier: Apache-2.0 */
/* PinnedValue: what `Cache.get` returns, as far as that is wanted at every hit; the rest is Python. */
#include "purgeable_pages.h"

struct pinned {
    PyObject_HEAD
    PyObject *value; /* NULL: it was used */
};

PyObject *native_pinned(PyTypeObject *type, PyObject *value) {
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct pinned *pinned = (struct pinned *)allocate(type, 0);
    if (pinned)
        pinned->value = value;
    else
        Py_DECREF(value);
    return (PyObject *)pinned;
}

static PyObject *pinned_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *value;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "PinnedValue takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O", &value))
        return NULL;
    return native_pinned(type, Py_NewRef(value));
}

static void pinned_dealloc(PyObject *self) {
    Py_CLEAR(((struct pinned *)self)->value);
    native_free_instance(self);
}

static PyObject *pinned_enter(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    PyObject *value = ((struct pinned *)self)->value;
    if (!value)
        PyErr_SetString(PyExc_RuntimeError, "this use of the cache is over; ask it again");
    return Py_XNewRef(value);
}

/* Bytes are released, if nothing was made of them that lives. */
static PyObject *pinned_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)arguments, (void)count;
    struct pinned *pinned = (struct pinned *)self;
    PyObject *value = pinned->value;
    pinned->value = NULL;
    if (value && PyMemoryView_Check(value)) {
        PyObject *nothing = PyObject_CallMethod(value, "release", NULL);
        Py_XDECREF(nothing);
        if (!nothing && PyErr_ExceptionMatches(PyExc_BufferError))
            PyErr_Clear();
    }
    Py_XDECREF(value);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *pinned_value(PyObject *self, void *Py_UNUSED(closure)) {
    PyObject *value = ((struct pinned *)self)->value;
    return Py_NewRef(value ? value : Py_None);
}

static PyGetSetDef pinned_attributes[] = {
    {"value", pinned_value, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef pinned_methods[] = {
    {"__enter__", pinned_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))pinned_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pinned_slots[] = {
    {Py_tp_doc, "A value, for one `with`."},
    {Py_tp_new, pinned_new},
    {Py_tp_dealloc, pinned_dealloc},
    {Py_tp_methods, pinned_methods},
    {Py_tp_getset, pinned_attributes},
    {0, NULL},
};

static PyType_Spec pinned_spec = {
    .name = "mapscratch._native.PinnedValue",
    .basicsize = sizeof(struct pinned),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = pinned_slots,
};

int native_add_pinned(PyObject *module) {
    return native_add_type(module, &pinned_spec) ? 0 : -1;
}
