/* Between the order book of a load generator, load.c, and its clients: load_tcp.c, load_tls.c or load_udp.c.
 *
 * A slot is one client after another: it has at most one request on its way.
 */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

struct slot; /* what the clients need for one; the order book knows only where it is */

/* The order and what has become of it; see load.c for what the words mean. */
struct load {
    const char *kind;
    uint16_t port;
    int connections;
    size_t bytes;
    size_t piece_bytes;
    int epoll;
    int in_flight;
    long operations;
    long errors;
    long resumed;
};
extern struct load load;

/* What every file of clients defines. */

/* Makes load.connections slots without a connection; returns -1 if it cannot do what is ordered. */
int open_slots(void);
struct slot *slot_at(int index);
/* Counts it as in flight, or as an error. */
void send_request(struct slot *slot);
/* Is called when the slot's socket has something; returns whether the slot may send again. */
int take_answer(struct slot *slot);

/* What the order book does for them. */

/* Returns a connected socket of this type that is watched for these events of epoll, or -1. */
int open_socket(int type, uint32_t events, struct slot *slot);
/* Fills a whole request; no two neighbours have the same. */
void fill_request(char *request, int index);
/* Writes a number into the beginning of a piece. */
void stamp(char *piece, size_t bytes, unsigned number);

#endif
