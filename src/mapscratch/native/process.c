/* SPDX-License-Identifier: Apache-2.0 */
/* What is of the whole process: its pager, pressure, forks; and the states that pages have. */
#include "native.h"
#include "scratch.h"

static PyObject *native_userfault_status(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    struct scratch_userfault_status status;
    scratch_userfault_probe(&status);
    return Py_BuildValue("{s:i,s:O,s:O,s:O,s:i,s:i}", "error", status.error, "system_calls",
                         status.system_calls ? Py_True : Py_False, "write_protect",
                         status.write_protect ? Py_True : Py_False, "poison",
                         status.poison ? Py_True : Py_False, "remote_read_error",
                         status.remote_read_error, "descriptor_table_error",
                         status.descriptor_table_error);
}

static PyObject *native_kernel_probe(PyObject *module, PyObject *argument) {
    (void)module;
    int descriptor = PyObject_AsFileDescriptor(argument);
    return descriptor < 0 ? NULL : PyLong_FromLong(scratch_kernel_probe(descriptor));
}

static PyObject *native_watch_pressure(PyObject *module, PyObject *arguments) {
    (void)module;
    int kind;
    const char *path, *trigger;
    if (!PyArg_ParseTuple(arguments, "iss:watch_pressure", &kind, &path, &trigger))
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_pressure_watch((enum scratch_pressure_kind)kind, path, trigger);
    Py_END_ALLOW_THREADS
    if (error)
        return native_raise_errno(error);
    Py_RETURN_NONE;
}

static PyObject *native_pressure_counts(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    uint64_t events, pages;
    scratch_pressure_counts(&events, &pages);
    return Py_BuildValue("KK", (unsigned long long)events, (unsigned long long)pages);
}

static PyObject *native_announce_pressure(PyObject *module, PyObject *argument) {
    (void)module;
    long level = PyLong_AsLong(argument);
    if (level == -1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    scratch_pressure_announce((int)level);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *native_release_all(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    uint64_t bytes;
    Py_BEGIN_ALLOW_THREADS
    bytes = scratch_release_all();
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *native_count_pages(PyObject *module, PyObject *arguments) {
    (void)module;
    int pagemap, error;
    unsigned long long address, pages;
    struct scratch_page_counts counts = {0};
    if (!PyArg_ParseTuple(arguments, "iKK:count_pages", &pagemap, &address, &pages))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_pagemap_count(pagemap, (uintptr_t)address, (size_t)pages, &counts);
    Py_END_ALLOW_THREADS
    return error ? native_raise_errno(error)
                 : Py_BuildValue("KKK", (unsigned long long)counts.present,
                                 (unsigned long long)counts.swapped, (unsigned long long)counts.own);
}

static PyObject *native_pager_thread(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(scratch_pager_thread());
}

static PyObject *native_fork_expect(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    scratch_fork_expect();
    Py_RETURN_NONE;
}

static PyObject *native_fork_finish(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    Py_BEGIN_ALLOW_THREADS
    scratch_fork_finish();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *native_page_states(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *states = PyDict_New();
    for (int state = 0; states && state < SCRATCH_STATE_COUNT; state++) {
        PyObject *meaning =
            PyUnicode_FromString(scratch_state_meaning((enum scratch_page_state)state));
        if (!meaning || PyDict_SetItemString(
                            states, scratch_state_label((enum scratch_page_state)state), meaning))
            Py_CLEAR(states);
        Py_XDECREF(meaning);
    }
    return states;
}

static PyObject *native_page_transitions(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *transitions = PyList_New(0);
    for (size_t index = 0; transitions && index < scratch_transition_count; index++) {
        const struct scratch_transition *transition = &scratch_transitions[index];
        PyObject *row = Py_BuildValue(
            "ssss", scratch_engine_label(transition->engine),
            scratch_state_label(transition->from), scratch_event_label(transition->event),
            scratch_state_label(transition->to));
        if (!row || PyList_Append(transitions, row))
            Py_CLEAR(transitions);
        Py_XDECREF(row);
    }
    return transitions;
}

PyMethodDef native_process_functions[] = {
    {"userfault_status", native_userfault_status, METH_NOARGS, NULL},
    {"kernel_probe", native_kernel_probe, METH_O, NULL},
    {"watch_pressure", native_watch_pressure, METH_VARARGS, NULL},
    {"pressure_counts", native_pressure_counts, METH_NOARGS, NULL},
    {"announce_pressure", native_announce_pressure, METH_O, NULL},
    {"release_all", native_release_all, METH_NOARGS, NULL},
    {"count_pages", native_count_pages, METH_VARARGS, NULL},
    {"pager_thread", native_pager_thread, METH_NOARGS, NULL},
    {"fork_expect", native_fork_expect, METH_NOARGS, NULL},
    {"fork_finish", native_fork_finish, METH_NOARGS, NULL},
    {"page_states", native_page_states, METH_NOARGS, NULL},
    {"page_transitions", native_page_transitions, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
