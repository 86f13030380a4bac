/* Clients of a load generator over TCP; load.c tells the kinds, here exchange and connect.
 *
 * Knows: the whole content of every answer; each request carries its own number.
 * Does not know: partial sends. A request goes into the send buffer of an idle connection, BYTES <= 4096.
 */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_BYTES = 4096 };

struct slot {
    int fd;
    size_t got;
    unsigned number;
    char request[MAX_BYTES];
};

static struct slot *slots;
static int is_connect;

int open_slots(void)
{
    is_connect = strcmp(load.kind, "connect") == 0;
    slots = calloc((size_t)load.connections, sizeof *slots);
    if (slots == NULL || load.bytes > MAX_BYTES)
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

static void close_connection(struct slot *slot)
{
    close(slot->fd);
    slot->fd = -1;
}

static void fail(struct slot *slot)
{
    load.errors++;
    if (slot->fd >= 0)
        close_connection(slot);
}

void send_request(struct slot *slot)
{
    if (slot->fd < 0)
        slot->fd = open_socket(SOCK_STREAM, EPOLLIN, slot);
    if (slot->fd < 0) {
        fail(slot);
        return;
    }
    stamp(slot->request, load.bytes, slot->number++);
    slot->got = 0;
    if (send(slot->fd, slot->request, load.bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)load.bytes) {
        fail(slot);
        return;
    }
    load.in_flight++;
}

int take_answer(struct slot *slot)
{
    static char buffer[MAX_BYTES + 1];
    ssize_t count = recv(slot->fd, buffer, load.bytes - slot->got + 1, MSG_DONTWAIT);

    if (count < 0 && errno == EAGAIN)
        return 0;
    if (count <= 0 || slot->got + (size_t)count > load.bytes ||
        memcmp(buffer, slot->request + slot->got, (size_t)count) != 0) {
        load.in_flight--;
        fail(slot);
        return 1;
    }
    slot->got += (size_t)count;
    if (slot->got < load.bytes)
        return 0;
    load.in_flight--;
    load.operations++;
    if (is_connect)
        close_connection(slot);
    return 1;
}
