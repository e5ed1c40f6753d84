/* SPDX-License-Identifier: Apache-2.0 */
#include "helper.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "raw.h"

/* Both sides: src/mapscratch/fixup_process.py. */
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

static int all_helpers = -1; /* epoll */

int scratch_helpers_descriptor(void) { return all_helpers; }

void scratch_helpers_forget_descriptors(void) { all_helpers = -1; }

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

static int send_descriptor(int socket, int sent) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    char nothing = 0;
    struct iovec payload = {&nothing, 1};
    struct msghdr message = {
        .msg_iov = &payload,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &sent, sizeof(int));
    return syscall(SYS_sendmsg, socket, &message, MSG_NOSIGNAL) < 0 ? errno : 0;
}

static int connect_to(const char *address, int *ret_socket) {
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
    if (all_helpers < 0)
        all_helpers = (int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC);
    if (all_helpers < 0)
        return errno;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = token};
    return syscall(SYS_epoll_ctl, all_helpers, EPOLL_CTL_ADD, socket, &event) ? errno : 0;
}

int scratch_helper_connect(struct scratch_helper *helper, uintptr_t token) {
    if (helper->descriptor >= 0)
        return 0;
    int socket = -1, memory = -1;
    int error = connect_to(helper->address, &socket);
    if (error)
        return error;
    error = share_memory(helper, &memory);
    if (!error) {
        error = send_descriptor(socket, memory);
        raw_close(memory);
    }
    if (!error)
        error = await_answers(socket, token);
    if (error) {
        raw_close(socket);
        return error;
    }
    helper->descriptor = socket;
    return 0;
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
    if (helper->descriptor >= 0)
        raw_close(helper->descriptor); /* and so it leaves the epoll set */
    helper->descriptor = -1;
}

uintptr_t scratch_helpers_next(void) {
    struct epoll_event event;
    if (all_helpers < 0 || syscall(SYS_epoll_pwait, all_helpers, &event, 1, 0, NULL, 0) != 1)
        return 0;
    return (uintptr_t)event.data.u64;
}
