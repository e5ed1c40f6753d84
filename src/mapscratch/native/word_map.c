/* SPDX-License-Identifier: Apache-2.0 */
/* `WordMap`: a subclass of mmap.mmap with the word operations, and the hooks that engines call. */
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "native.h"
#include "scratch.h"
#include "word.h"
#include "words.h"

static PyTypeObject *mmap_type;
static PyObject *mmap_close;
static Py_ssize_t words_offset; /* where our part of an instance begins, behind mmap's */

struct words {
    unsigned char *address; /* NULL before attach and after close */
    size_t length;
    bool is_writable;
    struct scratch_range *range;
};

static struct words *words_of(PyObject *self) {
    return (struct words *)((char *)self + words_offset);
}

/* Why there is no word at an offset. */
static void *refuse_word(const struct words *words, Py_ssize_t offset) {
    if (!words->address)
        PyErr_SetString(PyExc_ValueError, "the scratch mapping is closed");
    else if (offset < 0 || (size_t)offset > words->length - sizeof(uint64_t) ||
             words->length < sizeof(uint64_t))
        PyErr_Format(PyExc_IndexError,
                     "offset %zd is out of range: a word of 8 bytes must lie in the mapping's %zu",
                     offset, words->length);
    else
        PyErr_Format(PyExc_ValueError,
                     "offset %zd is misaligned: only a word at a multiple of 8 is indivisible",
                     offset);
    return NULL;
}

/* A word costs a few nanoseconds, so that each call into the interpreter counts here. */
static void *word_at(const struct words *words, PyObject *offset_object) {
    Py_ssize_t offset = PyLong_AsSsize_t(offset_object);
    if (offset == -1 && PyErr_Occurred()) { /* not an int, or too large for one of these */
        PyErr_Clear();
        offset = PyNumber_AsSsize_t(offset_object, PyExc_IndexError);
        if (offset == -1 && PyErr_Occurred())
            return NULL;
    }
    bool is_word = words->address && words->length >= sizeof(uint64_t) &&
                   (size_t)offset <= words->length - sizeof(uint64_t) &&
                   offset % sizeof(uint64_t) == 0;
    return is_word ? words->address + offset : refuse_word(words, offset);
}

static int word_value(PyObject *object, uint64_t *ret) {
    PyObject *index = PyNumber_Index(object);
    if (!index)
        return -1;
    *ret = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (*ret == UINT64_MAX && PyErr_Occurred()) {
        PyErr_SetString(PyExc_OverflowError, "a word is an int in range(2**64)");
        return -1;
    }
    return 0;
}

static void *writable_word_at(const struct words *words, PyObject *offset_object) {
    void *word = word_at(words, offset_object);
    if (word && !words->is_writable) {
        PyErr_SetString(PyExc_TypeError, "the scratch mapping is read-only (access=ACCESS_READ)");
        return NULL;
    }
    return word;
}

static PyObject *word_map_load(PyObject *self, PyObject *offset) {
    void *word = word_at(words_of(self), offset);
    return word ? PyLong_FromUnsignedLongLong(scratch_word_load(word)) : NULL;
}

static int check_argument_count(const char *name, Py_ssize_t wanted, Py_ssize_t given) {
    if (given == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd arguments (%zd given)", name, wanted,
                 given);
    return -1;
}

static PyObject *word_map_store(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    uint64_t value;
    if (check_argument_count("store", 2, count))
        return NULL;
    /* Values first: an __index__ of Python may close the mapping, and then there is no address. */
    if (word_value(arguments[1], &value))
        return NULL;
    void *word = writable_word_at(words_of(self), arguments[0]);
    if (!word)
        return NULL;
    scratch_word_store(word, value);
    Py_RETURN_NONE;
}

static PyObject *word_map_compare_exchange(PyObject *self, PyObject *const *arguments,
                                           Py_ssize_t count) {
    uint64_t expected, desired;
    if (check_argument_count("compare_exchange", 3, count))
        return NULL;
    if (word_value(arguments[1], &expected) || word_value(arguments[2], &desired))
        return NULL;
    void *word = writable_word_at(words_of(self), arguments[0]);
    if (!word)
        return NULL;
    return PyLong_FromUnsignedLongLong(scratch_word_compare_exchange(word, expected, desired));
}


/* The engines' hooks */

/* Gives the mapping's memory, `memory`, to the engine that the description is for. */
static PyObject *take_over(PyObject *self, enum scratch_engine engine, const Py_buffer *memory,
                           struct scratch_description *description) {
    struct words *words = words_of(self);
    struct scratch_range *range = NULL;
    int error;
    description->address = memory->buf;
    description->length = (size_t)memory->len;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_create(engine, description, &range);
    Py_END_ALLOW_THREADS
    words->address = memory->buf;
    words->length = (size_t)memory->len;
    words->is_writable = description->protection & PROT_WRITE;
    words->range = range;
    if (error)
        return native_raise_errno(error);
    Py_RETURN_NONE;
}

/* The memory of a mapping that has no engine yet. */
static int get_free_memory(PyObject *self, Py_buffer *ret) {
    if (words_of(self)->range) {
        PyErr_SetString(PyExc_RuntimeError, "the mapping has an engine already");
        return -1;
    }
    return PyObject_GetBuffer(self, ret, PyBUF_SIMPLE);
}

static PyObject *word_map_attach(PyObject *self, PyObject *arguments) {
    int engine, protection, source_fd, rule;
    long long source_offset;
    const char *name;
    PyObject *offsets, *operands;
    Py_ssize_t lock_length;
    if (!PyArg_ParseTuple(arguments, "iiiLsiOOn:_attach", &engine, &protection, &source_fd,
                          &source_offset, &name, &rule, &offsets, &operands, &lock_length))
        return NULL;
    Py_buffer memory;
    if (get_free_memory(self, &memory))
        return NULL;
    struct word_buffers buffers;
    bool has_fixup = offsets != Py_None;
    if (has_fixup && native_get_word_buffers(offsets, operands, (size_t)memory.len, &buffers)) {
        PyBuffer_Release(&memory);
        return NULL;
    }
    struct scratch_word_table table = {0};
    if (has_fixup) {
        table.rule = (enum scratch_word_rule)rule;
        table.count = (size_t)buffers.offsets.len / sizeof(uint64_t);
        table.offsets = buffers.offsets.buf;
        table.operands = buffers.operands.buf;
    }
    struct scratch_description description = {
        .protection = protection,
        .source_fd = source_fd,
        .source_offset = (off_t)source_offset,
        .name = name,
        .fixup = has_fixup ? &table : NULL,
        .lock_length = (size_t)lock_length,
    };
    PyObject *result = take_over(self, (enum scratch_engine)engine, &memory, &description);
    if (has_fixup)
        native_release_word_buffers(&buffers);
    PyBuffer_Release(&memory);
    return result;
}

static PyObject *word_map_attach_decoded(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"protection",   "source_fd",  "source_offset",      "source_length",
                            "name",         "function",   "user_data",          "helper",
                            "unit_pages",   "unit_items", "unit_source_length", "items",
                            "block_pages",  "block_is_fixed", "huge_pages", "helper_key", "helper_owner", NULL};
    int source_fd, protection, block_is_fixed, huge_pages, helper_owner;
    long long source_offset;
    unsigned long long source_length, function, unit_items, unit_source_length, items;
    const char *name, *helper;
    Py_buffer user_data, memory, helper_key;
    Py_ssize_t unit_pages, block_pages;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$iiLKsKy*znKKKnppy*i:_attach_decoded", names,
                                     &protection, &source_fd, &source_offset, &source_length, &name,
                                     &function, &user_data, &helper, &unit_pages, &unit_items,
                                     &unit_source_length, &items, &block_pages, &block_is_fixed,
                                     &huge_pages, &helper_key, &helper_owner))
        return NULL;
    PyObject *result = NULL;
    bool has_key = !helper || helper_key.len == SCRATCH_HELPER_KEY_BYTES;
    if (!has_key)
        PyErr_Format(PyExc_ValueError, "a key has %d bytes", SCRATCH_HELPER_KEY_BYTES);
    else if (!get_free_memory(self, &memory)) {
        struct scratch_decoding decoding = {
            .decode = (scratch_decode_function)(uintptr_t)function,
            .user_data = user_data.buf,
            .user_data_length = (size_t)user_data.len,
            .helper = helper,
            .helper_key = helper_key.buf,
            .helper_owner = helper_owner,
            .unit_pages = (size_t)unit_pages,
            .unit_items = unit_items,
            .unit_source_length = unit_source_length,
            .items = items,
            .source_length = source_length,
            .block_pages = (size_t)block_pages,
            .block_is_fixed = block_is_fixed,
            .huge_pages = huge_pages,
        };
        struct scratch_description description = {
            .protection = protection,
            .source_fd = source_fd,
            .source_offset = (off_t)source_offset,
            .name = name,
            .decoding = &decoding,
        };
        result = take_over(self, SCRATCH_ENGINE_LAZYFREE, &memory, &description);
        PyBuffer_Release(&memory);
    }
    PyBuffer_Release(&helper_key);
    PyBuffer_Release(&user_data);
    return result;
}

/*
 * A hook's view of its mapping. It exports the buffer, so that nobody can close the mapping while a
 * call without the interpreter's lock is under way.
 */
static struct scratch_range *hold(PyObject *self, Py_buffer *memory) {
    struct scratch_range *range = words_of(self)->range;
    if (!range) {
        PyErr_SetString(PyExc_ValueError, "the scratch mapping is closed");
        return NULL;
    }
    return PyObject_GetBuffer(self, memory, PyBUF_SIMPLE) ? NULL : range;
}

/* What an engine can do to whole pages; some answer with a number. */
typedef int (*page_operation)(struct scratch_range *, size_t offset, size_t length, uint64_t *ret);

static int reclaim_pages(struct scratch_range *range, size_t offset, size_t length, uint64_t *ret) {
    *ret = 0;
    return scratch_range_reclaim(range, offset, length);
}

static int rearm_pages(struct scratch_range *range, size_t offset, size_t length, uint64_t *ret) {
    *ret = 0;
    return scratch_range_rearm(range, offset, length);
}

/* Arguments: offset and length. */
static PyObject *operate(PyObject *self, PyObject *arguments, page_operation operation) {
    Py_ssize_t offset, length;
    Py_buffer memory;
    if (!PyArg_ParseTuple(arguments, "nn", &offset, &length))
        return NULL;
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    uint64_t answer = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = operation(range, (size_t)offset, (size_t)length, &answer);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    return error ? native_raise_errno(error) : PyLong_FromUnsignedLongLong(answer);
}

static PyObject *word_map_drop(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, scratch_range_drop);
}

static PyObject *word_map_reclaim(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, reclaim_pages);
}

static PyObject *word_map_rearm(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, rearm_pages);
}

static PyObject *word_map_pin(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, scratch_range_pin);
}

static PyObject *word_map_unpin(PyObject *self, PyObject *arguments) {
    Py_ssize_t offset, length;
    unsigned long long generation;
    Py_buffer memory;
    if (!PyArg_ParseTuple(arguments, "nnK:_unpin", &offset, &length, &generation))
        return NULL;
    if (!words_of(self)->range)
        Py_RETURN_NONE; /* closed: its pins went with it */
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_unpin(range, (size_t)offset, (size_t)length, generation);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    if (error)
        return native_raise_errno(error);
    Py_RETURN_NONE;
}

/* Pages by number, as 8-byte integers. */
static struct scratch_range *hold_with_pages(PyObject *self, PyObject *pages, Py_buffer *ret_memory,
                                             Py_buffer *ret_pages) {
    struct scratch_range *range = hold(self, ret_memory);
    if (range && PyObject_GetBuffer(pages, ret_pages, PyBUF_SIMPLE)) {
        PyBuffer_Release(ret_memory);
        return NULL;
    }
    return range;
}

static PyObject *word_map_residence(PyObject *self, PyObject *pages_object) {
    Py_buffer memory, pages;
    struct scratch_range *range = hold_with_pages(self, pages_object, &memory, &pages);
    if (!range)
        return NULL;
    size_t count = (size_t)pages.len / sizeof(uint64_t);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    int error = 0;
    if (bytes) {
        unsigned char *residence = (unsigned char *)PyBytes_AsString(bytes);
        Py_BEGIN_ALLOW_THREADS
        error = scratch_range_residence(range, pages.buf, count, residence);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&pages);
    PyBuffer_Release(&memory);
    if (error) {
        Py_DECREF(bytes);
        return native_raise_errno(error);
    }
    return bytes;
}

static PyObject *word_map_fetch(PyObject *self, PyObject *pages_object) {
    Py_buffer memory, pages;
    struct scratch_range *range = hold_with_pages(self, pages_object, &memory, &pages);
    if (!range)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_fetch(range, pages.buf, (size_t)pages.len / sizeof(uint64_t));
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&pages);
    PyBuffer_Release(&memory);
    if (error)
        return native_raise_errno(error);
    Py_RETURN_NONE;
}

static PyObject *word_map_range_counts(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_buffer memory;
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    struct scratch_counts counts;
    Py_BEGIN_ALLOW_THREADS
    scratch_range_counts(range, &counts);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K}", "filled", (unsigned long long)counts.filled, "rebuilt",
        (unsigned long long)counts.rebuilt, "dropped", (unsigned long long)counts.dropped, "pinned",
        (unsigned long long)counts.pinned, "fixup_ns", (unsigned long long)counts.fixup_ns,
        "locked_bytes", (unsigned long long)counts.locked_bytes);
}

static PyObject *word_map_page_counts(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_buffer memory;
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    struct scratch_page_counts counts;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_page_counts(range, &counts);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    return error ? native_raise_errno(error)
                 : Py_BuildValue("KKK", (unsigned long long)counts.present,
                                 (unsigned long long)counts.swapped, (unsigned long long)counts.own);
}

static PyObject *word_map_address(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(words_of(self)->address);
}

/* Closing: the range is forgotten in the same breath in which its memory is unmapped. */

static PyObject *word_map_close(PyObject *self, PyObject *unused) {
    (void)unused;
    struct words *words = words_of(self);
    struct scratch_range *range = words->range;
    unsigned char *address = words->address;
    if (range && scratch_range_is_sealed(range)) {
        errno = EPERM; /* mmap's own close would not tell */
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (range)
        scratch_range_close_begin(range);
    words->range = NULL;
    words->address = NULL;
    PyObject *result = PyObject_CallFunctionObjArgs(mmap_close, self, NULL);
    if (!result) { /* BufferError: somebody holds a view, and nothing changes */
        words->range = range;
        words->address = address;
        if (range)
            scratch_range_close_abort(range);
        return NULL;
    }
    if (range) {
        Py_BEGIN_ALLOW_THREADS
        scratch_range_forget(range);
        Py_END_ALLOW_THREADS
    }
    return result;
}

static PyObject *word_map_exit(PyObject *self, PyObject *unused) {
    return word_map_close(self, unused);
}

static void word_map_finalize(PyObject *self) {
    struct words *words = words_of(self);
    struct scratch_range *range = words->range;
    words->range = NULL;
    words->address = NULL;
    if (!range)
        return;
    scratch_range_close_begin(range);
    Py_BEGIN_ALLOW_THREADS
    scratch_range_forget(range);
    Py_END_ALLOW_THREADS
}

static PyMethodDef word_map_methods[] = {
    {"load", word_map_load, METH_O,
     "load($self, offset, /)\n--\n\nThe aligned unsigned 8-byte word at `offset`, read "
     "indivisibly."},
    {"store", (PyCFunction)(void (*)(void))word_map_store, METH_FASTCALL,
     "store($self, offset, value, /)\n--\n\nStores an aligned unsigned 8-byte word indivisibly."},
    {"compare_exchange", (PyCFunction)(void (*)(void))word_map_compare_exchange, METH_FASTCALL,
     "compare_exchange($self, offset, expected, desired, /)\n--\n\nStores `desired` if the word is "
     "`expected`; returns the word that was found."},
    {"_attach", word_map_attach, METH_VARARGS, NULL},
    {"_attach_decoded", (PyCFunction)(void (*)(void))word_map_attach_decoded,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_drop", word_map_drop, METH_VARARGS, NULL},
    {"_reclaim", word_map_reclaim, METH_VARARGS, NULL},
    {"_rearm", word_map_rearm, METH_VARARGS, NULL},
    {"_pin", word_map_pin, METH_VARARGS, NULL},
    {"_unpin", word_map_unpin, METH_VARARGS, NULL},
    {"_residence", word_map_residence, METH_O, NULL},
    {"_fetch", word_map_fetch, METH_O, NULL},
    {"_range_counts", word_map_range_counts, METH_NOARGS, NULL},
    {"_page_counts", word_map_page_counts, METH_NOARGS, NULL},
    {"close", word_map_close, METH_NOARGS, NULL},
    {"__exit__", word_map_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef word_map_properties[] = {
    {"_address", word_map_address, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot word_map_slots[] = {
    {Py_tp_doc, "An mmap.mmap with indivisible word operations and the engines' hooks."},
    {Py_tp_methods, word_map_methods},
    {Py_tp_getset, word_map_properties},
    {Py_tp_finalize, word_map_finalize},
    {0, NULL},
};

static int find_mmap(void) {
    PyObject *module = PyImport_ImportModule("mmap");
    if (!module)
        return -1;
    mmap_type = (PyTypeObject *)PyObject_GetAttrString(module, "mmap");
    Py_DECREF(module);
    if (!mmap_type)
        return -1;
    mmap_close = PyObject_GetAttrString((PyObject *)mmap_type, "close");
    PyObject *size = PyObject_GetAttrString((PyObject *)mmap_type, "__basicsize__");
    if (!mmap_close || !size)
        return -1;
    Py_ssize_t basic_size = PyLong_AsSsize_t(size);
    Py_DECREF(size);
    const Py_ssize_t alignment = _Alignof(struct words);
    words_offset = (basic_size + alignment - 1) / alignment * alignment;
    return basic_size < 0 ? -1 : 0;
}

static PyObject *make_word_map_type(void) {
    PyType_Spec spec = {
        .name = "mapscratch._native.WordMap",
        .basicsize = (int)(words_offset + (Py_ssize_t)sizeof(struct words)),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = word_map_slots,
    };
    return PyType_FromSpecWithBases(&spec, (PyObject *)mmap_type);
}

int native_add_word_map(PyObject *module) {
    if (find_mmap())
        return -1;
    PyObject *type = make_word_map_type();
    int result = type ? PyModule_AddObjectRef(module, "WordMap", type) : -1;
    Py_XDECREF(type);
    return result;
}
