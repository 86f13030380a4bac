/* The floor of the benchmark for datagrams: an echo server that does only what the kernel asks for.
 *
 * usage: echo_udp single|segmented
 * Prints "port N" and serves until it is killed.
 *
 *   single      one recvfrom and one sendto for each datagram
 *   segmented   one recvmsg with UDP_GRO and one sendmsg with UDP_SEGMENT for as many as came together (udp(7))
 *
 * Knows: one socket, and to wait in the receive itself.
 * Does not know: what to do with an answer that cannot be sent; it is dropped.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { READ_BYTES = 65536 };

static void check(int result, const char *what)
{
    if (result >= 0)
        return;
    perror(what);
    exit(1);
}

static int open_socket(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(fd, "socket");
    check(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    check(getsockname(fd, (struct sockaddr *)&address, &length), "getsockname");
    *port = ntohs(address.sin_port);
    return fd;
}

static void serve_single(int fd)
{
    static char buffer[READ_BYTES];

    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0)
            sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&peer, length);
    }
}

/* Turns the control data of a UDP_GRO receive into that of a UDP_SEGMENT send, or into none. */
static void turn_around(struct msghdr *message)
{
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    int size = 0;
    uint16_t segment;

    if (header != NULL && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO)
        memcpy(&size, CMSG_DATA(header), sizeof size);
    if (size == 0) {
        message->msg_controllen = 0;
        return;
    }
    segment = (uint16_t)size;
    header->cmsg_type = UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof segment);
    memcpy(CMSG_DATA(header), &segment, sizeof segment);
    message->msg_controllen = CMSG_SPACE(sizeof segment);
}

static void serve_segmented(int fd)
{
    static char buffer[READ_BYTES];
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    int one = 1;

    check(setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one), "UDP_GRO");
    for (;;) {
        struct sockaddr_in peer;
        struct iovec part = {.iov_base = buffer, .iov_len = sizeof buffer};
        struct msghdr message = {.msg_name = &peer,
                                 .msg_namelen = sizeof peer,
                                 .msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(fd, &message, 0);
        if (got < 0)
            continue;
        part.iov_len = (size_t)got;
        turn_around(&message);
        sendmsg(fd, &message, 0);
    }
}

int main(int argc, char **argv)
{
    uint16_t port;
    int fd = open_socket(&port);

    printf("port %u\n", port);
    fflush(stdout);
    if (argc > 1 && strcmp(argv[1], "segmented") == 0)
        serve_segmented(fd);
    serve_single(fd);
}
