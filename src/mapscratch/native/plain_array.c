/* SPDX-License-Identifier: Apache-2.0 */
/* Instances of a subclass of NumPy's array that become plain arrays. */
#include "native.h"

/*
 * A class whose instances are laid out as those of its base, byte by byte. Classes made by a class statement
 * are not: in front of their instances is what the garbage collector needs.
 */
static PyObject *native_subclass_alike(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    PyTypeObject *base;
    if (!PyArg_ParseTuple(args, "sO!", &name, &PyType_Type, &base))
        return NULL;
    PyType_Slot no_slots[] = {{0, NULL}};
    PyType_Spec spec = {
        .name = name,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = no_slots,
    };
    return PyType_FromSpecWithBases(&spec, (PyObject *)base);
}

static int has_equal_size(PyTypeObject *one, PyTypeObject *other) {
    PyObject *a = PyObject_GetAttrString((PyObject *)one, "__basicsize__");
    PyObject *b = a ? PyObject_GetAttrString((PyObject *)other, "__basicsize__") : NULL;
    int is_equal = b ? PyObject_RichCompareBool(a, b, Py_EQ) : -1;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return is_equal;
}

/*
 * What `object.__class__ = base` would do, which Python refuses where the base is made in C. Only the type
 * changes, and the reference to it that instances of classes made at run time hold.
 */
static PyObject *native_become_base(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    PyTypeObject *base;
    if (!PyArg_ParseTuple(args, "OO!", &object, &PyType_Type, &base))
        return NULL;
    PyTypeObject *type = Py_TYPE(object);
    unsigned long flags = PyType_GetFlags(type), base_flags = PyType_GetFlags(base);
    if (!(flags & Py_TPFLAGS_HEAPTYPE) || base_flags & Py_TPFLAGS_HEAPTYPE ||
        (flags | base_flags) & Py_TPFLAGS_HAVE_GC || !PyType_IsSubtype(type, base))
        Py_RETURN_FALSE;
    int is_alike = has_equal_size(type, base);
    if (is_alike < 0)
        return NULL;
    if (!is_alike)
        Py_RETURN_FALSE;
    Py_SET_TYPE(object, base);
    Py_DECREF(type);
    Py_RETURN_TRUE;
}

PyMethodDef native_plain_array_functions[] = {
    {"subclass_alike", native_subclass_alike, METH_VARARGS, NULL},
    {"become_base", native_become_base, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
