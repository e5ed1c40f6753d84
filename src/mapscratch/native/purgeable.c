/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of anonymous memory that the kernel may take while nobody uses them: runs of small pages, and
 * slots in huge ones.
 *
 * Which are used when, and what is given back, is decided in Python (cache/purgeable.py).
 */
#include "purgeable_pages.h"

#include <unistd.h>

#include "free_lazily.h"
#include "look.h"

static PyTypeObject *pages_type, *region_type;

PyTypeObject *native_type_of_pages(void) { return pages_type; }

void native_free_instance(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* PurgeableRegion */

/* Arguments: a mmap.mmap, its number, and a list for what ends there. */
static PyObject *region_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *memory, *ended;
    unsigned long long number;
    (void)keywords; /* a subclass has some */
    if (!PyArg_ParseTuple(arguments, "OKO!", &memory, &number, &PyList_Type, &ended))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct region *region = (struct region *)allocate(type, 0);
    if (!region)
        return NULL;
    if (PyObject_GetBuffer(memory, &region->memory, PyBUF_WRITABLE)) {
        Py_DECREF(region);
        return NULL;
    }
    region->number = number;
    region->ended = Py_NewRef(ended);
    return (PyObject *)region;
}

static int region_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct region *)self)->ended);
    return 0;
}

static void region_dealloc(PyObject *self) {
    struct region *region = (struct region *)self;
    PyObject_GC_UnTrack(self);
    if (region->memory.obj)
        PyBuffer_Release(&region->memory);
    Py_CLEAR(region->ended);
    native_free_instance(self);
}

static PyObject *region_address(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromVoidPtr(((struct region *)self)->memory.buf);
}

static PyGetSetDef region_attributes[] = {
    {"address", region_address, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot region_slots[] = {
    {Py_tp_doc, "An anonymous mapping that pages are cut from; it stays where it is."},
    {Py_tp_new, region_new},
    {Py_tp_dealloc, region_dealloc},
    {Py_tp_traverse, region_traverse},
    {Py_tp_getset, region_attributes},
    {0, NULL},
};

static PyType_Spec region_spec = {
    .name = "mapscratch._native.PurgeableRegion",
    .basicsize = sizeof(struct region),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = region_slots,
};

/* PurgeablePages */

static int refused; /* errno of the last release that the kernel refused */
static uint64_t canary_state;

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

static struct scratch_purgeable *run_of(struct pages *pages) {
    return pages->slot ? &pages->slot->pages : &pages->run;
}

static Py_ssize_t size_of(struct pages *pages) {
    return (Py_ssize_t)(run_of(pages)->pages * scratch_page_size());
}

static bool take(struct pages *pages) {
    return pages->slot ? scratch_huge_slot_pin(pages->slot)
                       : scratch_purgeable_pin(&pages->run, 0, pages->run.pages);
}

/* A word a page, if it isn't there yet: a slot needs them when it isn't huge any more. */
static bool has_room_for_words(struct scratch_purgeable *run) {
    if (!run->displaced)
        run->displaced = PyMem_Malloc(run->pages * sizeof *run->displaced);
    return run->displaced;
}

/* Returns an errno value if it has to stay in use, until it is used again. */
static int put_canaries(struct pages *pages) {
    struct scratch_purgeable *run = run_of(pages);
    bool is_huge = pages->slot && pages->slot->is_huge;
    if (!is_huge && !has_room_for_words(run))
        return ENOMEM;
    run->canary = next_canary();
    pages->is_released = true;
    if (pages->slot)
        scratch_huge_slot_put_canaries(pages->slot);
    else
        scratch_purgeable_put_canaries(run);
    return 0;
}

static void was_freed(struct pages *pages, int error) {
    if (error) {
        refused = error;
        /* If it isn't whole it stays released, and whoever takes it finds out. */
        pages->is_released = !take(pages);
    } else if (pages->was_used && pages->slot) {
        scratch_huge_slot_make_young(pages->slot);
    } else if (pages->was_used) {
        scratch_purgeable_make_young(&pages->run);
    }
}

static int release_pages(struct pages *pages) {
    int error = put_canaries(pages);
    if (error)
        return error;
    error = scratch_free_lazily(run_of(pages)->address, (size_t)size_of(pages));
    was_freed(pages, error);
    return error;
}

void native_pages_release_all(struct pages *const *all, size_t count) {
    struct iovec places[NATIVE_PAGES_AT_ONCE];
    struct pages *freed[NATIVE_PAGES_AT_ONCE];
    size_t ready = 0;
    for (size_t index = 0; index < count; index++) {
        if (put_canaries(all[index]))
            continue;
        freed[ready] = all[index];
        places[ready++] = (struct iovec){run_of(all[index])->address, (size_t)size_of(all[index])};
    }
    bool at_once = ready > 1 && scratch_free_all_lazily(places, ready);
    for (size_t index = 0; index < ready; index++)
        was_freed(freed[index], at_once ? 0
                                        : scratch_free_lazily(places[index].iov_base,
                                                              places[index].iov_len));
}

bool native_pages_pin(struct pages *pages) {
    if (pages->is_retired)
        return false;
    if (pages->is_released && !take(pages)) {
        pages->is_retired = true;
        return false;
    }
    pages->is_released = false;
    pages->pins++;
    return true;
}

void native_pages_unpin(struct pages *pages) {
    if (--pages->pins == 0 && !pages->is_retired)
        release_pages(pages);
}

static int find_run(struct pages *pages, Py_ssize_t offset, Py_ssize_t count, int is_slot) {
    Py_ssize_t page_size = (Py_ssize_t)scratch_page_size();
    const Py_buffer *memory = &pages->region->memory;
    if (offset < 0 || offset % page_size || count < 1 || offset > memory->len ||
        count > (memory->len - offset) / page_size) {
        PyErr_SetString(PyExc_ValueError, "these pages are not in the region");
        return -1;
    }
    unsigned char *address = (unsigned char *)memory->buf + offset;
    if (is_slot && ((uintptr_t)address % SCRATCH_HUGE_BYTES || count * page_size != SCRATCH_HUGE_BYTES)) {
        PyErr_SetString(PyExc_ValueError, "these pages are no slot of a huge page");
        return -1;
    }
    if (is_slot && !(pages->slot = PyMem_Calloc(1, sizeof *pages->slot))) {
        PyErr_NoMemory();
        return -1;
    }
    struct scratch_purgeable *run = run_of(pages);
    run->address = address;
    run->pages = (size_t)count;
    run->displaced = count == 1 ? &pages->displaced : NULL;
    if (!is_slot && !has_room_for_words(run)) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Arguments: the region, where in it, how many pages, and whether it is to be a slot. */
static PyObject *pages_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *region;
    Py_ssize_t offset, count;
    int is_slot = 0;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "PurgeablePages takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O!nn|p", region_type, &region, &offset, &count, &is_slot))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    struct pages *pages = (struct pages *)allocate(type, 0);
    if (!pages)
        return NULL;
    pages->region = (struct region *)Py_NewRef(region);
    if (find_run(pages, offset, count, is_slot))
        Py_CLEAR(pages);
    return (PyObject *)pages;
}

static void pages_dealloc(PyObject *self) {
    struct pages *pages = (struct pages *)self;
    struct scratch_purgeable *run = run_of(pages);
    if (run->displaced != &pages->displaced)
        PyMem_Free(run->displaced);
    PyMem_Free(pages->slot);
    PyMem_Free(pages->tenants);
    Py_XDECREF((PyObject *)pages->region);
    native_free_instance(self);
}

/* Has all its pages at once, which costs less than a page fault each; of a slot in a huge page, if there is one. */
static PyObject *pages_populate(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct pages *pages = (struct pages *)self;
    if (pages->slot)
        scratch_huge_slot_populate(pages->slot);
    else
        scratch_purgeable_populate(&pages->run);
    return PyBool_FromLong(pages->slot && pages->slot->is_huge);
}

static PyObject *pages_release(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct pages *pages = (struct pages *)self;
    if (pages->is_released || pages->is_retired || pages->pins) {
        PyErr_SetString(PyExc_RuntimeError, "these pages are in use, or released already");
        return NULL;
    }
    return PyLong_FromLong(release_pages(pages));
}

/* In parts only for tests, which drop pages in between. */
static PyObject *pages_pin(PyObject *self, PyObject *arguments) {
    struct pages *pages = (struct pages *)self;
    Py_ssize_t count = (Py_ssize_t)run_of(pages)->pages, first = 0, end = count;
    if (!PyArg_ParseTuple(arguments, "|nn", &first, &end))
        return NULL;
    if (!pages->is_released) {
        PyErr_SetString(PyExc_RuntimeError, "these pages are not released");
        return NULL;
    }
    if (first < 0 || first >= end || end > count || (pages->slot && end - first < count)) {
        PyErr_SetString(PyExc_ValueError, "there are no such pages");
        return NULL;
    }
    bool is_there = pages->slot ? take(pages)
                                : scratch_purgeable_pin(&pages->run, (size_t)first, (size_t)end);
    if (is_there && end == count)
        pages->is_released = false;
    return PyBool_FromLong(is_there);
}

static PyObject *pages_retire(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    ((struct pages *)self)->is_retired = true;
    Py_RETURN_NONE;
}

static PyObject *pages_is_whole(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    struct pages *pages = (struct pages *)self;
    return PyBool_FromLong(pages->slot ? scratch_huge_slot_is_whole(pages->slot)
                                       : scratch_purgeable_is_whole(&pages->run));
}

static PyObject *pages_tenants(PyObject *self, void *Py_UNUSED(closure)) {
    struct pages *pages = (struct pages *)self;
    PyObject *tenants = PyList_New(0);
    for (uint32_t number = 0; tenants && number < pages->tenant_count; number++) {
        if (PyList_Append(tenants, (PyObject *)pages->tenants[number]))
            Py_CLEAR(tenants);
    }
    return tenants;
}

static PyObject *pages_address(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromVoidPtr(run_of((struct pages *)self)->address);
}

static PyObject *pages_offset(PyObject *self, void *Py_UNUSED(closure)) {
    struct pages *pages = (struct pages *)self;
    return PyLong_FromSsize_t(run_of(pages)->address - (unsigned char *)pages->region->memory.buf);
}

static PyObject *pages_size(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromSsize_t(size_of((struct pages *)self));
}

static PyObject *pages_region(PyObject *self, void *Py_UNUSED(closure)) {
    return Py_NewRef((PyObject *)((struct pages *)self)->region);
}

static PyObject *pages_pins(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(((struct pages *)self)->pins);
}

static PyObject *pages_entries(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(((struct pages *)self)->entries);
}

/* `flag` of pages, as an attribute. */
#define ATTRIBUTE_OF_FLAG(flag)                                                                    \
    static PyObject *pages_##flag(PyObject *self, void *Py_UNUSED(closure)) {                      \
        return PyBool_FromLong(((struct pages *)self)->flag);                                      \
    }
ATTRIBUTE_OF_FLAG(is_released)
ATTRIBUTE_OF_FLAG(is_retired)
ATTRIBUTE_OF_FLAG(was_used)

/* In use because it was used lately, and for nothing else. */
static PyObject *pages_is_only_recent(PyObject *self, void *Py_UNUSED(closure)) {
    struct pages *pages = (struct pages *)self;
    return PyBool_FromLong(pages->recent_in && pages->pins == 1);
}

static PyObject *pages_is_slot(PyObject *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(((struct pages *)self)->slot != NULL);
}

static PyObject *pages_is_huge(PyObject *self, void *Py_UNUSED(closure)) {
    struct pages *pages = (struct pages *)self;
    return PyBool_FromLong(pages->slot && pages->slot->is_huge);
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
    {"entries", pages_entries, NULL, NULL, NULL},
    {"is_huge", pages_is_huge, NULL, NULL, NULL},
    {"is_only_recent", pages_is_only_recent, NULL, NULL, NULL},
    {"is_released", pages_is_released, NULL, NULL, NULL},
    {"is_retired", pages_is_retired, NULL, NULL, NULL},
    {"is_slot", pages_is_slot, NULL, NULL, NULL},
    {"offset", pages_offset, NULL, NULL, NULL},
    {"pins", pages_pins, NULL, NULL, NULL},
    {"region", pages_region, NULL, NULL, NULL},
    {"size", pages_size, NULL, NULL, NULL},
    {"tenants", pages_tenants, NULL, NULL, NULL},
    {"was_used", pages_was_used, pages_set_was_used, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef pages_methods[] = {
    {"populate", pages_populate, METH_NOARGS, NULL},
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
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = pages_slots,
};

static PyObject *native_purgeable_refused(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    int error = refused;
    refused = 0;
    return PyLong_FromLong(error);
}

static PyObject *native_why_not_huge(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    const char *why = scratch_why_no_look();
    if (!why)
        Py_RETURN_NONE;
    return PyUnicode_FromString(why);
}

int native_add_purgeable(PyObject *module) {
    region_type = native_add_type(module, &region_spec);
    pages_type = region_type ? native_add_type(module, &pages_spec) : NULL;
    if (!pages_type)
        return -1;
    return native_add_purgeable_entry(module) || native_add_purgeable_table(module) ? -1 : 0;
}

PyMethodDef native_purgeable_functions[] = {
    {"purgeable_refused", native_purgeable_refused, METH_NOARGS, NULL},
    {"why_not_huge", native_why_not_huge, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
