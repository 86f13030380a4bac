/* Clients of a load generator over TLS 1.3, which verify no certificate; load.c tells the kinds.
 *
 * Knows: OpenSSL; the whole content of every answer; tickets, of which each is presented by the client that was
 * given it.
 * Does not know: who answers.
 */
#include "load.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct slot {
    int fd;
    int is_waiting;
    SSL *ssl;
    SSL_SESSION *ticket;
    size_t sent;
    size_t got;
    unsigned number;
    char *request;
};

enum step { WAIT, DONE, BROKEN };

static struct slot *slots;
static SSL_CTX *context;
static char *buffer;
static int is_exchange, is_resume;

/* Is called when a ticket has come; returns that it is kept. */
static int keep_ticket(SSL *ssl, SSL_SESSION *ticket)
{
    struct slot *slot = SSL_get_app_data(ssl);

    SSL_SESSION_free(slot->ticket);
    slot->ticket = ticket;
    return 1;
}

static SSL_CTX *new_context(void)
{
    SSL_CTX *made = SSL_CTX_new(TLS_client_method());

    if (made == NULL || !SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION))
        return NULL;
    SSL_CTX_set_verify(made, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    if (is_resume)
        SSL_CTX_sess_set_new_cb(made, keep_ticket);
    return made;
}

int open_slots(void)
{
    is_exchange = strcmp(load.kind, "exchange") == 0;
    is_resume = strcmp(load.kind, "resume") == 0;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    context = new_context();
    slots = calloc((size_t)load.connections, sizeof *slots);
    buffer = malloc(load.bytes + 1);
    if (context == NULL || slots == NULL || buffer == NULL)
        return -1;
    for (int i = 0; i < load.connections; i++) {
        slots[i].fd = -1;
        slots[i].request = malloc(load.bytes);
        if (slots[i].request == NULL)
            return -1;
        fill_request(slots[i].request, i);
    }
    return 0;
}

struct slot *slot_at(int index)
{
    return &slots[index];
}

static int open_connection(struct slot *slot)
{
    int one = 1;

    /* Edges, not levels: OpenSSL may have read more than it has given. */
    slot->fd = open_socket(SOCK_STREAM, EPOLLIN | EPOLLOUT | EPOLLET, slot);
    slot->ssl = SSL_new(context);
    if (slot->fd < 0 || slot->ssl == NULL || ioctl(slot->fd, FIONBIO, &one) < 0 ||
        !SSL_set_fd(slot->ssl, slot->fd))
        return -1;
    SSL_set_app_data(slot->ssl, slot);
    SSL_set_connect_state(slot->ssl);
    if (slot->ticket != NULL)
        SSL_set_session(slot->ssl, slot->ticket);
    return 0;
}

static void close_connection(struct slot *slot)
{
    SSL_free(slot->ssl);
    if (slot->fd >= 0)
        close(slot->fd);
    slot->ssl = NULL;
    slot->fd = -1;
}

/* Returns what follows from a return value of OpenSSL that is not a number of bytes. */
static enum step hindrance(struct slot *slot, int result)
{
    int error = SSL_get_error(slot->ssl, result);

    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? WAIT : BROKEN;
}

static enum step send_rest(struct slot *slot)
{
    while (slot->sent < load.bytes) {
        ERR_clear_error();
        int count = SSL_write(slot->ssl, slot->request + slot->sent, (int)(load.bytes - slot->sent));
        if (count <= 0)
            return hindrance(slot, count);
        slot->sent += (size_t)count;
    }
    return DONE;
}

static enum step receive_rest(struct slot *slot)
{
    while (slot->got < load.bytes) {
        ERR_clear_error();
        int count = SSL_read(slot->ssl, buffer, (int)(load.bytes - slot->got + 1));
        if (count <= 0)
            return hindrance(slot, count);
        if (slot->got + (size_t)count > load.bytes ||
            memcmp(buffer, slot->request + slot->got, (size_t)count) != 0)
            return BROKEN;
        slot->got += (size_t)count;
    }
    return SSL_pending(slot->ssl) ? BROKEN : DONE;
}

/* An answer may begin before the whole request is sent: a server that echoes waits for a client that reads. */
static enum step advance(struct slot *slot)
{
    enum step sent = send_rest(slot);

    if (sent == BROKEN || !SSL_is_init_finished(slot->ssl))
        return sent;
    return receive_rest(slot);
}

static void finish(struct slot *slot)
{
    load.operations++;
    load.resumed += SSL_session_reused(slot->ssl);
    if (is_exchange)
        return;
    /* Says goodbye and does not wait for the answer, as a client does that needs nothing more. */
    ERR_clear_error();
    SSL_shutdown(slot->ssl);
    close_connection(slot);
}

static void fail(struct slot *slot)
{
    load.errors++;
    close_connection(slot);
}

void send_request(struct slot *slot)
{
    if (slot->fd < 0 && open_connection(slot) < 0) {
        fail(slot);
        return;
    }
    stamp(slot->request, load.bytes, slot->number++);
    slot->sent = slot->got = 0;
    if (send_rest(slot) == BROKEN) {
        fail(slot);
        return;
    }
    slot->is_waiting = 1;
    load.in_flight++;
}

int take_answer(struct slot *slot)
{
    enum step step = slot->is_waiting ? advance(slot) : WAIT;

    if (step == WAIT)
        return 0;
    slot->is_waiting = 0;
    load.in_flight--;
    if (step == BROKEN)
        fail(slot);
    else
        finish(slot);
    return 1;
}
