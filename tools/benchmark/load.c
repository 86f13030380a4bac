/* The load generator of the benchmark: a closed loop over many connections, in one thread.
 *
 * usage: load exchange|connect PORT CONNECTIONS BYTES LINE_BYTES
 * Reads "run SECONDS" lines from stdin; answers each with "OPERATIONS ERRORS SECONDS" once every request that was
 * sent has its whole answer, so that nothing is in flight between two runs. End of file on stdin ends it.
 *
 *   exchange   each connection sends BYTES (with a line feed after each LINE_BYTES, 0: none) and sends again when
 *              the same bytes have come back
 *   connect    connect, send 1 byte, receive it, close, and again
 *
 * Knows: the whole content of every answer; each request carries its own number.
 * Does not know: partial sends. A request goes into the send buffer of an idle connection, BYTES <= 4096.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { EVENTS = 256, MAX_BYTES = 4096, MAX_ERRORS = 100, STAMP_BYTES = 8, SOURCES = 8 };
static const double STALL = 3.0; /* seconds without any answer that end a run */

struct slot {
    int fd;
    size_t got;
    unsigned number;
    char request[MAX_BYTES];
};

static struct {
    int is_connect;
    uint16_t port;
    int connections;
    size_t bytes;
    size_t line_bytes;
    int epoll;
    int in_flight;
    long operations;
    long errors;
    unsigned opened;
    struct slot *slots;
} load;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct sockaddr_in loopback(uint32_t last_byte, uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(0x7f000000u | last_byte);
    return address;
}

static int open_connection(struct slot *slot)
{
    struct sockaddr_in server = loopback(1, load.port);
    /* Clients that close first leave their port in TIME_WAIT: one source address has some 28,000 of them. */
    struct sockaddr_in source = loopback(1 + load.opened++ % SOURCES, 0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = slot};
    int one = 1;

    slot->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (slot->fd < 0)
        return -1;
    setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(slot->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(slot->fd, (struct sockaddr *)&source, sizeof source) < 0 ||
        connect(slot->fd, (struct sockaddr *)&server, sizeof server) < 0 ||
        epoll_ctl(load.epoll, EPOLL_CTL_ADD, slot->fd, &event) < 0) {
        close(slot->fd);
        slot->fd = -1;
        return -1;
    }
    return 0;
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

static void fill_request(struct slot *slot, size_t index)
{
    for (size_t i = 0; i < load.bytes; i++)
        slot->request[i] = (char)('a' + (index + i * 7) % 26);
    for (size_t i = load.line_bytes; load.line_bytes && i <= load.bytes; i += load.line_bytes)
        slot->request[i - 1] = '\n';
}

static void stamp(struct slot *slot)
{
    unsigned number = slot->number++;

    if (load.bytes < STAMP_BYTES) {
        slot->request[0] = (char)('a' + number % 26);
        return;
    }
    for (int i = 0; i < STAMP_BYTES; i++, number >>= 4)
        slot->request[i] = "0123456789abcdef"[number & 15];
}

static void send_request(struct slot *slot)
{
    if (slot->fd < 0 && open_connection(slot) < 0) {
        fail(slot);
        return;
    }
    stamp(slot);
    slot->got = 0;
    if (send(slot->fd, slot->request, load.bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)load.bytes) {
        fail(slot);
        return;
    }
    load.in_flight++;
}

/* Returns whether the slot may send again. */
static int take_answer(struct slot *slot)
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
    if (load.is_connect)
        close_connection(slot);
    return 1;
}

static void run(double seconds)
{
    struct epoll_event events[EVENTS];
    double start = now(), end = start + seconds, last_answer = start, time = start;

    load.operations = load.errors = load.in_flight = 0;
    for (int i = 0; i < load.connections; i++)
        send_request(&load.slots[i]);
    while (load.in_flight > 0 && load.errors < MAX_ERRORS && time - last_answer < STALL) {
        int count = epoll_wait(load.epoll, events, EVENTS, 100);
        time = now();
        if (count > 0)
            last_answer = time;
        for (int i = 0; i < count; i++) {
            struct slot *slot = events[i].data.ptr;
            if (take_answer(slot) && time < end && load.errors < MAX_ERRORS)
                send_request(slot);
        }
    }
    printf("%ld %ld %.6f\n", load.operations, load.errors + load.in_flight, now() - start);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[64];

    if (argc != 6)
        return 2;
    load.is_connect = strcmp(argv[1], "connect") == 0;
    load.port = (uint16_t)atoi(argv[2]);
    load.connections = atoi(argv[3]);
    load.bytes = (size_t)atoi(argv[4]);
    load.line_bytes = (size_t)atoi(argv[5]);
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    load.slots = calloc((size_t)load.connections, sizeof *load.slots);
    if (load.epoll < 0 || load.slots == NULL || load.bytes < 1 || load.bytes > MAX_BYTES)
        return 2;
    for (int i = 0; i < load.connections; i++) {
        load.slots[i].fd = -1;
        fill_request(&load.slots[i], (size_t)i);
    }
    while (fgets(line, sizeof line, stdin) != NULL && strncmp(line, "run ", 4) == 0)
        run(atof(line + 4));
    return 0;
}
