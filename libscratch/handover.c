/* SPDX-License-Identifier: Apache-2.0 */
#include "handover.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "descriptor.h"
#include "raw.h"

int scratch_handover_bind(struct scratch_handover *ret) {
    int receiver = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (receiver < 0)
        return -1;
    /* Only the family: the kernel picks an unused abstract name (unix(7), "Autobind feature"). */
    struct sockaddr_un anywhere = {.sun_family = AF_UNIX};
    ret->receiver_length = sizeof ret->receiver;
    if (bind(receiver, (struct sockaddr *)&anywhere, sizeof(sa_family_t)) ||
        getsockname(receiver, (struct sockaddr *)&ret->receiver, &ret->receiver_length) ||
        getrandom(ret->cookie, sizeof ret->cookie, 0) != sizeof ret->cookie) {
        close(receiver);
        return -1;
    }
    return receiver;
}

int scratch_handover_send(const struct scratch_handover *handover, int descriptor) {
    int sender = (int)syscall(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sender < 0)
        return errno;
    struct scratch_parcel parcel = {
        .descriptor = descriptor,
        .bytes = handover->cookie,
        .length = sizeof handover->cookie,
        .receiver = &handover->receiver,
        .receiver_length = handover->receiver_length,
    };
    int error = scratch_send_descriptor(sender, &parcel, MSG_DONTWAIT);
    raw_close(sender);
    return error;
}

int scratch_handover_receive(const struct scratch_handover *handover, int receiver) {
    for (;;) {
        uint64_t cookie[2] = {0, 0};
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec payload = {cookie, sizeof cookie};
        struct msghdr message = {
            .msg_iov = &payload,
            .msg_iovlen = 1,
            .msg_control = control.bytes,
            .msg_controllen = sizeof control.bytes,
        };
        if (recvmsg(receiver, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
            return -1;
        int descriptor = -1;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header && header->cmsg_type == SCM_RIGHTS)
            memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
        if (!memcmp(cookie, handover->cookie, sizeof cookie))
            return descriptor;
        if (descriptor >= 0)
            close(descriptor);
    }
}
