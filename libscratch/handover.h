/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing a descriptor from one thread's descriptor table to another's: through a socket that the taker has
 * just made and only for a moment, so that no descriptor of the giver lies in the taker's table before.
 */
#ifndef SCRATCH_HANDOVER_H
#define SCRATCH_HANDOVER_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Where to send it, and by what the taker knows the message. */
struct scratch_handover {
    struct sockaddr_un receiver;
    socklen_t receiver_length;
    uint64_t cookie[2];
};

/* The taker's: a socket, or -1. */
int scratch_handover_bind(struct scratch_handover *ret);
/* The giver's; 0 or an errno value. */
int scratch_handover_send(const struct scratch_handover *handover, int descriptor);
/* The taker's: the descriptor in the message that bears our cookie; what others may have sent is thrown away. */
int scratch_handover_receive(const struct scratch_handover *handover, int receiver);

#endif
