/* SPDX-License-Identifier: Apache-2.0 */
#include "helper.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "descriptor.h"
#include "raw.h"

/* Both sides: src/mapscratch/arrays/fixup_process.py. */
struct question {
    uint64_t number;
    uint64_t first_unit;
    uint64_t units;
};
struct answer {
    uint64_t number;
    int64_t error; /* 0: the units are in the shared memory */
    char text[SCRATCH_HELPER_TEXT];
};

static const size_t shared_bytes = SCRATCH_HELPER_QUESTIONS * SCRATCH_STAGING_BYTES;

/* Of the pager that runs, to all helpers. */
static struct {
    int epoll; /* -1: there is none */
    unsigned pager_number;
} connections = {.epoll = -1, .pager_number = 1};

int scratch_helpers_descriptor(void) { return connections.epoll; }

void scratch_helpers_forget_descriptors(void) {
    connections.epoll = -1;
    connections.pager_number++;
}

/* The pager's, like all that opens something here: nobody else can close what is in its table. */
static int share_memory(struct scratch_helper *helper, int *ret_memory) {
    int memory = (int)syscall(SYS_memfd_create, "mapscratch", MFD_CLOEXEC);
    if (memory < 0)
        return errno;
    int fixed = helper->memory ? MAP_FIXED : 0;
    void *mapped = MAP_FAILED;
    if (!syscall(SYS_ftruncate, memory, (long)shared_bytes))
        mapped = mmap(helper->memory, shared_bytes, PROT_READ, MAP_SHARED | fixed, memory, 0);
    if (mapped == MAP_FAILED) {
        int error = errno;
        raw_close(memory);
        return error;
    }
    helper->memory = mapped;
    madvise(mapped, shared_bytes, MADV_DONTFORK); /* a child shares memory of its own */
    madvise(mapped, shared_bytes, MADV_DONTDUMP);
    *ret_memory = memory;
    return 0;
}

static bool is_file(int descriptor, uint64_t file) {
    struct stat status;
    return descriptor >= 0 && !fstat(descriptor, &status) && S_ISSOCK(status.st_mode) &&
           status.st_ino == file;
}

void scratch_helper_set_owner(struct scratch_helper *helper, int owner) {
    struct stat status;
    bool is_known = owner >= 0 && !fstat(owner, &status);
    helper->owner = is_known ? owner : -1;
    helper->owner_file = is_known ? status.st_ino : 0;
}

static void close_end(int *descriptor) {
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

/* One end of a new connection; the process has the other. -1: it can't be made. */
static int connect_through_owner(const struct scratch_helper *helper) {
    int ends[2];
    if (!is_file(helper->owner, helper->owner_file) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return -1;
    const char connection = 'c';
    struct scratch_parcel parcel = {ends[1], &connection, 1, NULL, 0};
    int error = scratch_send_descriptor(helper->owner, &parcel, MSG_DONTWAIT);
    close(ends[1]);
    if (!error)
        return ends[0];
    close(ends[0]);
    return -1;
}

void scratch_helper_before_fork(struct scratch_helper *helper) {
    if (helper->next < 0) /* it is there where no pager has been started since a fork */
        helper->next = connect_through_owner(helper);
    helper->childs = connect_through_owner(helper);
}

void scratch_helper_after_fork_in_parent(struct scratch_helper *helper) {
    close_end(&helper->childs);
}

void scratch_helper_after_fork_in_child(struct scratch_helper *helper) {
    close_end(&helper->next);
    helper->next = helper->childs;
    helper->childs = helper->handed = helper->descriptor = -1;
    helper->memory = NULL; /* DONTFORK */
    memset(helper->questions, 0, sizeof helper->questions);
}

void scratch_helper_restart(struct scratch_helper *helper) {
    helper->handed = helper->next;
    helper->descriptor = -1;
    helper->pager_number = connections.pager_number;
    memset(helper->questions, 0, sizeof helper->questions);
}

void scratch_helper_close_next(struct scratch_helper *helper) { close_end(&helper->next); }

static int connect_by_name(const char *address, int *ret_socket) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t length = strlen(address);
    if (length > sizeof name.sun_path - 1)
        return ENAMETOOLONG;
    memcpy(name.sun_path + 1, address, length);
    int socket = (int)syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (socket < 0)
        return errno;
    if (syscall(SYS_connect, socket, &name, offsetof(struct sockaddr_un, sun_path) + 1 + length)) {
        int error = errno;
        raw_close(socket);
        return error;
    }
    *ret_socket = socket;
    return 0;
}

static int await_answers(int socket, uintptr_t token) {
    if (connections.epoll < 0)
        connections.epoll = (int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC);
    if (connections.epoll < 0)
        return errno;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = token};
    return syscall(SYS_epoll_ctl, connections.epoll, EPOLL_CTL_ADD, socket, &event) ? errno : 0;
}

/* Takes over the socket, or closes it. */
static int begin(struct scratch_helper *helper, int socket, uintptr_t token) {
    int memory = -1;
    int error = share_memory(helper, &memory);
    if (!error) {
        struct scratch_parcel parcel = {memory, helper->key, sizeof helper->key, NULL, 0};
        error = scratch_send_descriptor(socket, &parcel, 0);
        raw_close(memory);
    }
    if (!error)
        error = await_answers(socket, token);
    if (error) {
        raw_close(socket);
        return error;
    }
    helper->descriptor = socket;
    helper->pager_number = connections.pager_number;
    return 0;
}

int scratch_helper_connect(struct scratch_helper *helper, uintptr_t token) {
    if (helper->descriptor >= 0)
        return 0;
    int socket = helper->handed;
    helper->handed = -1;
    if (socket >= 0 && !begin(helper, socket, token))
        return 0;
    /* The process could not take its end (it may have no more descriptors than it has). */
    int error = connect_by_name(helper->address, &socket);
    return error ? error : begin(helper, socket, token);
}

size_t scratch_helper_free_question(const struct scratch_helper *helper) {
    size_t number = 0;
    while (number < SCRATCH_HELPER_QUESTIONS && helper->questions[number].is_asked)
        number++;
    return number;
}

bool scratch_helper_is_asked_for(const struct scratch_helper *helper, size_t page) {
    for (size_t number = 0; number < SCRATCH_HELPER_QUESTIONS; number++) {
        const struct scratch_helper_question *question = &helper->questions[number];
        if (question->is_asked && page >= question->first && page < question->end)
            return true;
    }
    return false;
}

int scratch_helper_ask(struct scratch_helper *helper, size_t number, uint64_t first_unit,
                       uint64_t units) {
    struct question question = {number, first_unit, units};
    if (syscall(SYS_sendto, helper->descriptor, &question, sizeof question, MSG_NOSIGNAL, NULL, 0) < 0) {
        int error = errno;
        scratch_helper_disconnect(helper);
        return error;
    }
    helper->questions[number].is_asked = true;
    return 0;
}

int scratch_helper_answer(struct scratch_helper *helper, size_t *ret_number,
                          char reason[SCRATCH_HELPER_TEXT]) {
    struct answer answer = {0};
    long got = syscall(SYS_recvfrom, helper->descriptor, &answer, sizeof answer, MSG_DONTWAIT, NULL, NULL);
    if (got < 0 && errno == EAGAIN)
        return EAGAIN;
    if (got < (long)sizeof answer || answer.number >= SCRATCH_HELPER_QUESTIONS) {
        scratch_helper_disconnect(helper);
        snprintf(reason, SCRATCH_HELPER_TEXT, "the process of its fixup has ended");
        return EPIPE;
    }
    *ret_number = answer.number;
    helper->questions[answer.number].is_asked = false;
    answer.text[sizeof answer.text - 1] = 0;
    memcpy(reason, answer.text, sizeof answer.text);
    return answer.error ? EIO : 0;
}

void scratch_helper_disconnect(struct scratch_helper *helper) {
    /* A range that was being closed while somebody forked has numbers of the last pager's. */
    bool is_ours = helper->pager_number == connections.pager_number;
    if (is_ours && helper->handed >= 0)
        raw_close(helper->handed);
    if (is_ours && helper->descriptor >= 0)
        raw_close(helper->descriptor); /* and so it leaves the epoll set */
    helper->handed = helper->descriptor = -1;
}

uintptr_t scratch_helpers_next(void) {
    struct epoll_event event;
    if (connections.epoll < 0 || syscall(SYS_epoll_pwait, connections.epoll, &event, 1, 0, NULL, 0) != 1)
        return 0;
    return (uintptr_t)event.data.u64;
}
