/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exclusive: calls functions, one thread at a time.
 *
 * A signal handler may raise at the end of any call of Python: in Python 3.14 also between a lock's __enter__ and
 * the body of its "with" statement (python/cpython#148874), in all versions at the end of an __enter__ that is
 * written in Python (threading.Condition's, and so Event's). A lock taken there is never given back. Here
 * nothing of Python runs between taking a lock and the call, nor between the call and giving it back.
 */
#include "native.h"

#include <stdbool.h>
#include <stddef.h>

#define LOCK_FOR_FORK_MICROSECONDS 1000000

/* All but waiting happens while the interpreter's lock is held. */
struct exclusive {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long holder; /* a thread's number; 0: nobody */
    bool is_for_fork;     /* taken before a fork, to be given back after it */
    struct exclusive *next, *previous;
};

static struct exclusive *all;
static unsigned long long forks;

static PyObject *exclusive_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    if (PyTuple_Size(arguments) || (keywords && PyDict_Size(keywords))) {
        PyErr_SetString(PyExc_TypeError, "Exclusive takes no arguments");
        return NULL;
    }
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct exclusive *self = (struct exclusive *)allocate(type, 0);
    if (!self)
        return NULL;
    self->next = all;
    if (all)
        all->previous = self;
    all = self;
    self->lock = PyThread_allocate_lock();
    if (!self->lock) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void exclusive_dealloc(PyObject *object) {
    struct exclusive *self = (struct exclusive *)object;
    *(self->previous ? &self->previous->next : &all) = self->next;
    if (self->next)
        self->next->previous = self->previous;
    if (self->lock) {
        if (self->holder)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* Signal handlers run while it waits, and what they raise ends it: then the lock isn't taken. */
static int take(struct exclusive *self) {
    PyLockStatus status = PyThread_acquire_lock_timed(self->lock, 0, 0);
    while (status != PY_LOCK_ACQUIRED) {
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->lock, -1, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_INTR && PyErr_CheckSignals())
            return -1;
    }
    self->holder = PyThread_get_thread_ident();
    return 0;
}

static void give_back(struct exclusive *self) {
    self->holder = 0;
    self->is_for_fork = false;
    PyThread_release_lock(self->lock);
}

static PyObject *exclusive_call(PyObject *object, PyObject *arguments, PyObject *keywords) {
    struct exclusive *self = (struct exclusive *)object;
    if (PyTuple_Size(arguments) < 1) {
        PyErr_SetString(PyExc_TypeError, "which function is to be called?");
        return NULL;
    }
    if (self->holder == PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a signal handler, or a finalizer, uses a cache that the code it interrupted "
                        "was just using");
        return NULL;
    }
    PyObject *others = PyTuple_GetSlice(arguments, 1, PyTuple_Size(arguments));
    if (!others || take(self)) {
        Py_XDECREF(others);
        return NULL;
    }
    PyObject *result = PyObject_Call(PyTuple_GetItem(arguments, 0), others, keywords);
    give_back(self);
    Py_DECREF(others);
    return result;
}

/*
 * Fork: the child shall find nothing half done, so no thread is in such a call while the process is copied.
 * Two that wait for each other go on after a while: what the child then finds half done is no worse than what
 * an interrupt leaves.
 */
static void take_for_fork(struct exclusive *self) {
    PyLockStatus status;
    Py_BEGIN_ALLOW_THREADS
    status = PyThread_acquire_lock_timed(self->lock, LOCK_FOR_FORK_MICROSECONDS, 0);
    Py_END_ALLOW_THREADS
    if (status == PY_LOCK_ACQUIRED) {
        self->holder = PyThread_get_thread_ident();
        self->is_for_fork = true;
    }
}

static PyObject *before_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    struct exclusive *each = all;
    if (each)
        Py_INCREF((PyObject *)each);
    while (each) {
        if (each->holder != PyThread_get_thread_ident())
            take_for_fork(each);
        struct exclusive *next = each->next; /* it stays in the list while it lives */
        if (next)
            Py_INCREF((PyObject *)next);
        Py_DECREF((PyObject *)each);
        each = next;
    }
    Py_RETURN_NONE;
}

static PyObject *after_fork_in_parent(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    for (struct exclusive *each = all; each; each = each->next)
        if (each->is_for_fork && each->holder == PyThread_get_thread_ident())
            give_back(each);
    Py_RETURN_NONE;
}

/* Other threads are not here: whatever they had, or were about to get, is free. */
static void begin_anew(struct exclusive *self) {
    PyThread_type_lock fresh = PyThread_allocate_lock();
    if (!fresh)
        Py_FatalError("no memory for a lock");
    PyThread_free_lock(self->lock);
    self->lock = fresh;
    self->holder = 0;
    self->is_for_fork = false;
}

static PyObject *after_fork_in_child(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    forks++;
    for (struct exclusive *each = all; each; each = each->next)
        if (each->is_for_fork || each->holder != PyThread_get_thread_ident())
            begin_anew(each);
    Py_RETURN_NONE;
}

static PyObject *native_forks(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    return PyLong_FromUnsignedLongLong(forks);
}

static PyType_Slot exclusive_slots[] = {
    {Py_tp_doc, "Calls functions, one thread at a time."},
    {Py_tp_new, exclusive_new},
    {Py_tp_dealloc, exclusive_dealloc},
    {Py_tp_call, exclusive_call},
    {0, NULL},
};

static PyType_Spec exclusive_spec = {
    .name = "mapscratch._native.Exclusive",
    .basicsize = sizeof(struct exclusive),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = exclusive_slots,
};

static PyMethodDef fork_handlers[] = {
    {"before", before_fork, METH_NOARGS, NULL},
    {"after_in_parent", after_fork_in_parent, METH_NOARGS, NULL},
    {"after_in_child", after_fork_in_child, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Not by way of Python functions: a signal handler could end one before it has done anything. */
static int register_fork_handlers(void) {
    PyObject *os = PyImport_ImportModule("os");
    PyObject *function = os ? PyObject_GetAttrString(os, "register_at_fork") : NULL;
    PyObject *nothing = PyTuple_New(0), *handlers = PyDict_New();
    int status = function && nothing && handlers ? 0 : -1;
    for (PyMethodDef *each = fork_handlers; each->ml_name && !status; each++) {
        PyObject *handler = PyCFunction_New(each, NULL);
        status = handler ? PyDict_SetItemString(handlers, each->ml_name, handler) : -1;
        Py_XDECREF(handler);
    }
    PyObject *result = status ? NULL : PyObject_Call(function, nothing, handlers);
    Py_XDECREF(result);
    Py_XDECREF(handlers);
    Py_XDECREF(nothing);
    Py_XDECREF(function);
    Py_XDECREF(os);
    return result ? 0 : -1;
}

int native_add_exclusive(PyObject *module) {
    return !register_fork_handlers() && native_add_type(module, &exclusive_spec) ? 0 : -1;
}

PyMethodDef native_exclusive_functions[] = {
    {"forks", native_forks, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
