/* The load generators of the benchmark: a closed loop over many clients, in one thread.
 *
 * usage: load_tcp|load_tls|load_udp KIND PORT CONNECTIONS BYTES PIECE_BYTES
 * Reads "run SECONDS" lines from stdin; answers each with "OPERATIONS ERRORS SECONDS RESUMED" once every request
 * that was sent has its whole answer, so that nothing is in flight between two runs. End of file on stdin ends it.
 *
 *   exchange   each connection sends BYTES and sends again when the same bytes have come back. PIECE_BYTES is the
 *              length of a line or of a datagram, 0: the request is one piece
 *   connect    connect, send 1 byte, receive it, close, and again
 *   resume     the same over TLS, each client presenting the newest ticket that it was given; RESUMED counts the
 *              handshakes for which the server took it
 *
 * Knows: what is in flight, and when a run is over.
 * Does not know: protocols; those are the clients' matter, see load.h.
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
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

enum { EVENTS = 256, MAX_ERRORS = 100, STAMP_BYTES = 8, SOURCES = 8 };
static const double STALL = 3.0; /* seconds without any answer that end a run */

struct load load;

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

int open_socket(int type, uint32_t events, struct slot *slot)
{
    static unsigned opened;
    struct sockaddr_in server = loopback(1, load.port);
    /* Clients that close first leave their port in TIME_WAIT: one source address has some 28,000 of them. */
    struct sockaddr_in source = loopback(1 + opened++ % SOURCES, 0);
    struct epoll_event event = {.events = events, .data.ptr = slot};
    int one = 1;
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (type == SOCK_STREAM)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0 ||
        connect(fd, (struct sockaddr *)&server, sizeof server) < 0 ||
        epoll_ctl(load.epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void fill_request(char *request, int index)
{
    for (size_t i = 0; i < load.bytes; i++)
        request[i] = (char)('a' + ((size_t)index + i * 7) % 26);
    for (size_t i = load.piece_bytes; load.piece_bytes && i <= load.bytes; i += load.piece_bytes)
        request[i - 1] = '\n';
}

void stamp(char *piece, size_t bytes, unsigned number)
{
    if (bytes < STAMP_BYTES) {
        piece[0] = (char)('a' + number % 26);
        return;
    }
    for (int i = 0; i < STAMP_BYTES; i++, number >>= 4)
        piece[i] = "0123456789abcdef"[number & 15];
}

static void run(double seconds)
{
    struct epoll_event events[EVENTS];
    double start = now(), end = start + seconds, last_answer = start, time = start;

    load.operations = load.errors = load.resumed = load.in_flight = 0;
    for (int i = 0; i < load.connections; i++)
        send_request(slot_at(i));
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
    printf("%ld %ld %.6f %ld\n", load.operations, load.errors + load.in_flight, now() - start, load.resumed);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[64];

    if (argc != 6)
        return 2;
    load.kind = argv[1];
    load.port = (uint16_t)atoi(argv[2]);
    load.connections = atoi(argv[3]);
    load.bytes = (size_t)atoi(argv[4]);
    load.piece_bytes = (size_t)atoi(argv[5]);
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll < 0 || load.connections < 1 || load.bytes < 1 || open_slots() < 0)
        return 2;
    while (fgets(line, sizeof line, stdin) != NULL && strncmp(line, "run ", 4) == 0)
        run(atof(line + 4));
    return 0;
}
