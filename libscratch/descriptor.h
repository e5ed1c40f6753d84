/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor that goes through a socket, with some bytes. */
#ifndef SCRATCH_DESCRIPTOR_H
#define SCRATCH_DESCRIPTOR_H

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct scratch_parcel {
    int descriptor;
    const void *bytes;
    size_t length;
    const void *receiver; /* a sockaddr; NULL where the socket is connected */
    socklen_t receiver_length;
};

static inline int scratch_send_descriptor(int socket, const struct scratch_parcel *parcel, int flags) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec payload = {(void *)parcel->bytes, parcel->length};
    struct msghdr message = {
        .msg_name = (void *)parcel->receiver,
        .msg_namelen = parcel->receiver_length,
        .msg_iov = &payload,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &parcel->descriptor, sizeof(int));
    return syscall(SYS_sendmsg, socket, &message, MSG_NOSIGNAL | flags) < 0 ? errno : 0;
}

#endif
