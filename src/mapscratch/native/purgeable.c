/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Purgeable memory for Python: runs of pages of an anonymous mmap.mmap, and what lends them to users.
 *
 * Which run is used when, and what is given back, is decided in Python (cache.py).
 */
#include "native.h"

#include <stdbool.h>
#include <unistd.h>

#include "purgeable.h"
#include "base.h"

/* PurgeablePages */

struct pages {
    PyObject_HEAD
    Py_buffer region; /* keeps the mapping where it is */
    struct scratch_purgeable run;
    Py_ssize_t pins; /* views that live */
    bool is_released;
    bool was_used;   /* somebody came back to it */
    bool is_retired; /* the memory is others' by now */
};

/*
 * All that is below happens while the interpreter's lock is held and without running any Python code. So
 * no thread, no signal handler and no garbage collection comes between a view's end and the release.
 */
static uint64_t canary_state;
static int refused; /* errno of the last release that the kernel refused */

/* A forked child has a sequence of its own: else it would make pages equal to its parent's, for KSM to merge. */
static void seed_canaries(void) {
    static pid_t seeded_in;
    uint64_t seed;
    pid_t process = getpid();
    if (process == seeded_in)
        return;
    seeded_in = process;
    if (getentropy(&seed, sizeof seed))
        seed = (uint64_t)process;
    canary_state = (canary_state ^ seed) | 1; /* any state but 0 */
}

/* xorshift64*, Vigna 2016; never 0. */
static uint64_t next_canary(void) {
    seed_canaries();
    canary_state ^= canary_state >> 12;
    canary_state ^= canary_state << 25;
    canary_state ^= canary_state >> 27;
    return canary_state * 0x2545F4914F6CDD1DULL | 1;
}

static int release_pages(struct pages *pages, uint64_t canary) {
    pages->run.canary = canary;
    pages->is_released = true;
    int error = scratch_purgeable_release(&pages->run, pages->was_used);
    if (error) {
        refused = error;
        /* If it isn't whole it stays released, and whoever takes it finds out. */
        pages->is_released = !scratch_purgeable_pin(&pages->run, 0, pages->run.pages);
    }
    return error;
}

static int find_run(struct pages *pages, Py_ssize_t offset, Py_ssize_t count) {
    Py_ssize_t page_size = (Py_ssize_t)scratch_page_size();
    if (offset < 0 || offset % page_size || count < 1 || offset > pages->region.len ||
        count > (pages->region.len - offset) / page_size) {
        PyErr_SetString(PyExc_ValueError, "these pages are not in the region");
        return -1;
    }
    pages->run.address = (unsigned char *)pages->region.buf + offset;
    pages->run.pages = (size_t)count;
    pages->run.displaced = PyMem_Malloc((size_t)count * sizeof *pages->run.displaced);
    if (!pages->run.displaced) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *pages_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *region;
    Py_ssize_t offset, count;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "PurgeablePages takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "Onn", &region, &offset, &count))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct pages *pages = (struct pages *)allocate(type, 0);
    if (pages && (PyObject_GetBuffer(region, &pages->region, PyBUF_WRITABLE) ||
                  find_run(pages, offset, count)))
        Py_CLEAR(pages);
    return (PyObject *)pages;
}

static void free_instance(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static void pages_dealloc(PyObject *self) {
    struct pages *pages = (struct pages *)self;
    PyMem_Free(pages->run.displaced);
    if (pages->region.obj)
        PyBuffer_Release(&pages->region);
    free_instance(self);
}

static PyObject *pages_release(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct pages *pages = (struct pages *)self;
    if (pages->is_released || pages->is_retired || pages->pins) {
        PyErr_SetString(PyExc_RuntimeError, "these pages are in use, or released already");
        return NULL;
    }
    return PyLong_FromLong(release_pages(pages, next_canary()));
}

/* In parts only for tests, which drop pages in between. */
static PyObject *pages_pin(PyObject *self, PyObject *arguments) {
    struct pages *pages = (struct pages *)self;
    Py_ssize_t first = 0, end = (Py_ssize_t)pages->run.pages;
    if (!PyArg_ParseTuple(arguments, "|nn", &first, &end))
        return NULL;
    if (!pages->is_released) {
        PyErr_SetString(PyExc_RuntimeError, "these pages are not released");
        return NULL;
    }
    if (first < 0 || first >= end || end > (Py_ssize_t)pages->run.pages) {
        PyErr_SetString(PyExc_ValueError, "there are no such pages");
        return NULL;
    }
    if (!scratch_purgeable_pin(&pages->run, (size_t)first, (size_t)end))
        Py_RETURN_FALSE;
    if (end == (Py_ssize_t)pages->run.pages)
        pages->is_released = false;
    Py_RETURN_TRUE;
}

static PyObject *pages_retire(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    ((struct pages *)self)->is_retired = true;
    Py_RETURN_NONE;
}

static PyObject *pages_is_whole(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    return PyBool_FromLong(scratch_purgeable_is_whole(&((struct pages *)self)->run));
}

static PyObject *pages_address(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromVoidPtr(((struct pages *)self)->run.address);
}

static PyObject *pages_is_released(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct pages *)self)->is_released);
}

static PyObject *pages_is_retired(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct pages *)self)->is_retired);
}

static PyObject *pages_pins(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromSsize_t(((struct pages *)self)->pins);
}

static PyObject *pages_was_used(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct pages *)self)->was_used);
}

static int pages_set_was_used(PyObject *self, PyObject *value, void *Py_UNUSED(closure)) {
    int truth = value ? PyObject_IsTrue(value) : -1;
    if (truth < 0) {
        if (!value)
            PyErr_SetString(PyExc_AttributeError, "was_used can't be deleted");
        return -1;
    }
    ((struct pages *)self)->was_used = truth;
    return 0;
}

static PyGetSetDef pages_attributes[] = {
    {"address", pages_address, NULL, NULL, NULL},
    {"pins", pages_pins, NULL, NULL, NULL},
    {"is_released", pages_is_released, NULL, NULL, NULL},
    {"is_retired", pages_is_retired, NULL, NULL, NULL},
    {"was_used", pages_was_used, pages_set_was_used, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef pages_methods[] = {
    {"release", pages_release, METH_NOARGS, NULL},
    {"pin", pages_pin, METH_VARARGS, NULL},
    {"retire", pages_retire, METH_NOARGS, NULL},
    {"is_whole", pages_is_whole, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot pages_slots[] = {
    {Py_tp_doc, "Pages of an anonymous mapping that the kernel may take while they are released."},
    {Py_tp_new, pages_new},
    {Py_tp_dealloc, pages_dealloc},
    {Py_tp_methods, pages_methods},
    {Py_tp_getset, pages_attributes},
    {0, NULL},
};

static PyType_Spec pages_spec = {
    .name = "mapscratch._native.PurgeablePages",
    .basicsize = sizeof(struct pages),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = pages_slots,
};

/*
 * PurgeableView: lives as long as anything that was made of its buffer without a copy. It takes the pages
 * back when it begins, and the last one of some pages releases them when it ends.
 */

struct view {
    PyObject_HEAD
    PyObject *pages;
    void *bytes;
    Py_ssize_t length;
    int is_writable;
};

static PyTypeObject *pages_type;

static PyObject *view_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *object;
    Py_ssize_t offset, length;
    int is_writable;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "PurgeableView takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O!nnp", pages_type, &object, &offset, &length,
                          &is_writable))
        return NULL;
    struct pages *pages = (struct pages *)object;
    Py_ssize_t size = (Py_ssize_t)(pages->run.pages * scratch_page_size());
    if (offset < 0 || length < 0 || offset > size || length > size - offset) {
        PyErr_SetString(PyExc_ValueError, "these bytes are not in the pages");
        return NULL;
    }
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct view *view = (struct view *)allocate(type, 0);
    if (!view)
        return NULL;
    /* The allocation may have collected garbage, and so released the pages just now. */
    bool is_lost = pages->is_retired ||
                   (pages->is_released && !scratch_purgeable_pin(&pages->run, 0, pages->run.pages));
    if (is_lost) {
        Py_DECREF(view);
        PyErr_SetString(PyExc_LookupError, "the kernel has taken these pages");
        return NULL;
    }
    pages->is_released = false;
    pages->pins++;
    view->pages = Py_NewRef(object);
    view->bytes = pages->run.address + offset;
    view->length = length;
    view->is_writable = is_writable;
    return (PyObject *)view;
}

static void view_dealloc(PyObject *self) {
    struct view *view = (struct view *)self;
    struct pages *pages = (struct pages *)view->pages;
    if (pages && --pages->pins == 0 && !pages->is_retired)
        release_pages(pages, next_canary());
    Py_CLEAR(view->pages);
    free_instance(self);
}

static int view_buffer(PyObject *self, Py_buffer *buffer, int flags) {
    struct view *view = (struct view *)self;
    return PyBuffer_FillInfo(buffer, self, view->bytes, view->length, !view->is_writable, flags);
}

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "A buffer of pages that are in use."},
    {Py_tp_new, view_new},
    {Py_tp_dealloc, view_dealloc},
    {Py_bf_getbuffer, view_buffer},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "mapscratch._native.PurgeableView",
    .basicsize = sizeof(struct view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = view_slots,
};

static PyObject *native_purgeable_refused(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    int error = refused;
    refused = 0;
    return PyLong_FromLong(error);
}

int native_add_purgeable(PyObject *module) {
    pages_type = (PyTypeObject *)PyType_FromSpec(&pages_spec);
    PyObject *view_type = PyType_FromSpec(&view_spec);
    int status = !pages_type || !view_type ||
                         PyModule_AddObjectRef(module, "PurgeablePages", (PyObject *)pages_type) ||
                         PyModule_AddObjectRef(module, "PurgeableView", view_type)
                     ? -1
                     : 0;
    Py_XDECREF(view_type);
    return status; /* pages_type stays, for the life of the process, as the module does */
}

PyMethodDef native_purgeable_functions[] = {
    {"purgeable_refused", native_purgeable_refused, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
