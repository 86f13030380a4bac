/* Clients of a load generator over UDP, each with a connected socket; load.c tells the kinds, here exchange.
 *
 * A request of several datagrams is one send with UDP_SEGMENT (udp(7)); its answers may come one by one, or
 * together by UDP_GRO, in any order.
 *
 * Knows: the whole content of every datagram; each carries its own number.
 * Does not know: losses. A datagram that does not come back is an error when the run ends for want of answers.
 */
#include "load.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { MAX_BYTES = 4096, MAX_PIECES = 64, READ_BYTES = 65536 };

struct slot {
    int fd;
    uint64_t missing; /* a bit for each datagram that has not come back */
    unsigned number;
    char request[MAX_BYTES];
};

static struct slot *slots;
static size_t pieces;

int open_slots(void)
{
    slots = calloc((size_t)load.connections, sizeof *slots);
    if (slots == NULL || load.bytes > MAX_BYTES || load.piece_bytes < 1 || load.bytes % load.piece_bytes)
        return -1;
    pieces = load.bytes / load.piece_bytes;
    if (pieces > MAX_PIECES)
        return -1;
    for (int i = 0; i < load.connections; i++) {
        slots[i].fd = -1;
        fill_request(slots[i].request, i);
    }
    return 0;
}

struct slot *slot_at(int index)
{
    return &slots[index];
}

static void open_client(struct slot *slot)
{
    int size = (int)load.piece_bytes, one = 1;

    slot->fd = open_socket(SOCK_DGRAM, EPOLLIN, slot);
    if (slot->fd < 0 || pieces == 1)
        return;
    setsockopt(slot->fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size);
    setsockopt(slot->fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
}

static void fail(struct slot *slot)
{
    load.errors++;
    slot->missing = 0;
    if (slot->fd >= 0)
        close(slot->fd);
    slot->fd = -1;
}

void send_request(struct slot *slot)
{
    if (slot->fd < 0)
        open_client(slot);
    for (size_t i = 0; i < pieces; i++)
        stamp(slot->request + i * load.piece_bytes, load.piece_bytes, slot->number++);
    if (slot->fd < 0 || send(slot->fd, slot->request, load.bytes, MSG_DONTWAIT) != (ssize_t)load.bytes) {
        fail(slot);
        return;
    }
    slot->missing = UINT64_MAX >> (MAX_PIECES - pieces);
    load.in_flight++;
}

/* Returns the bytes that were received, of datagrams of *size bytes each, or -1. */
static ssize_t receive(int fd, char *buffer, size_t *size)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {.iov_base = buffer, .iov_len = READ_BYTES};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t count = recvmsg(fd, &message, MSG_DONTWAIT);
    struct cmsghdr *header = count < 0 ? NULL : CMSG_FIRSTHDR(&message);
    int segment = 0;

    if (header != NULL && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO)
        memcpy(&segment, CMSG_DATA(header), sizeof segment);
    *size = segment > 0 ? (size_t)segment : (size_t)(count > 0 ? count : 0);
    return count;
}

/* Returns whether this is a datagram that is missing. */
static int cross_off(struct slot *slot, const char *datagram)
{
    for (size_t i = 0; i < pieces; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if (!(slot->missing & bit) ||
            memcmp(slot->request + i * load.piece_bytes, datagram, load.piece_bytes) != 0)
            continue;
        slot->missing &= ~bit;
        return 1;
    }
    return 0;
}

/* Returns whether all that was received is missing. */
static int cross_off_all(struct slot *slot, const char *received, size_t count, size_t size)
{
    if (size != load.piece_bytes || count % size != 0)
        return 0;
    for (size_t at = 0; at < count; at += size)
        if (!cross_off(slot, received + at))
            return 0;
    return 1;
}

int take_answer(struct slot *slot)
{
    static char buffer[READ_BYTES];
    int was_waiting = slot->missing != 0;
    size_t size;

    for (;;) {
        ssize_t count = receive(slot->fd, buffer, &size);
        if (count < 0 && errno == EAGAIN)
            return 0;
        if (count < 0 || !cross_off_all(slot, buffer, (size_t)count, size)) {
            load.in_flight -= was_waiting;
            fail(slot);
            return was_waiting;
        }
        if (slot->missing == 0)
            break;
    }
    load.in_flight--;
    load.operations++;
    return 1;
}
