/* A provider that is never the bottleneck: one epoll loop that answers on the OpenAI wire.
 *
 *   fake_provider [-p port] [-c events in a stream] [-t first byte after, ms] [-d between events, ms]
 *
 * POST to any path answers by the body's "stream": true and by words in its "model":
 *   slow     the first byte after -t ms; a stream's events then one by one, -d ms apart
 *   each     a stream written event by event, without a pause (otherwise: the whole stream in one write)
 *   errNNN   an error answer of that status
 * Anything but POST answers a list of models. Keep-alive, pipelining and chunked request bodies are understood.
 *
 * Every answer is built once, at the start, as a list of pieces; a connection is a place in such a list. So
 * answering is one send() per piece, without a copy. Delays are equal for all, so the connections that wait stand
 * in two queues (for the first byte, for the next event), each already in the order of time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_PER_WAIT = 512, BACKLOG = 4096, INPUT_FIRST = 4096, INPUT_MAX = 128 << 20, STATUS_MAX = 600 };

typedef struct {
    char *data;
    size_t size;
} piece;

typedef struct {
    piece *pieces;
    int count;
} answer;

typedef struct connection {
    int fd;
    char *input; /* bytes that arrived and are not answered yet */
    size_t input_size, input_room;
    const answer *answer; /* what is being sent; NULL: nothing */
    int piece;
    size_t sent; /* of that piece */
    bool paced;  /* one piece per pause */
    bool writable_wanted, closes, dead, queued;
    int64_t due_us;
    struct connection *next; /* in a queue */
} connection;

typedef struct {
    connection *first, *last;
    int64_t delay_us;
} queue;

static int events_per_stream = 50, epoll;
static queue first_byte = {.delay_us = 50000}, next_event = {.delay_us = 10000};
static answer plain, stream_whole, stream_pieces, models, errors[STATUS_MAX];

/* ---- answers -------------------------------------------------------------------------------------------- */

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *room(void *old, size_t size) {
    void *new = realloc(old, size);
    if (!new) die("memory");
    return new;
}

static void add_piece(answer *to, const char *format, ...) {
    va_list arguments;
    char *text;
    va_start(arguments, format);
    int size = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (size < 0) die("memory");
    to->pieces = room(to->pieces, sizeof(piece) * (to->count + 1));
    to->pieces[to->count++] = (piece){text, size};
}

static void make_plain(answer *to, int status, const char *reason, const char *body) {
    add_piece(to,
              "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nx-request-id: req_fake\r\n"
              "Content-Length: %zu\r\n\r\n%s",
              status, reason, strlen(body), body);
}

/* One chunk of the chunked coding that holds one server-sent event. */
static void add_event(answer *to, const char *choices, const char *usage) {
    char *event;
    int size = asprintf(&event,
                        "data: {\"id\":\"chatcmpl-fake\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"
                        "\"model\":\"fake\",\"system_fingerprint\":\"fp_fake\",\"choices\":[%s],\"usage\":%s}\n\n",
                        choices, usage);
    if (size < 0) die("memory");
    add_piece(to, "%x\r\n%s\r\n", size, event);
    free(event);
}

static void make_stream(answer *to) {
    char choices[256], usage[160];
    add_piece(to, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
                  "x-request-id: req_fake\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < events_per_stream; i++) {
        snprintf(choices, sizeof choices,
                 "{\"index\":0,\"delta\":{%s\"content\":\" token%d\"},\"logprobs\":null,\"finish_reason\":null}",
                 i ? "" : "\"role\":\"assistant\",", i);
        add_event(to, choices, "null");
    }
    add_event(to, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}", "null");
    snprintf(usage, sizeof usage, "{\"prompt_tokens\":25,\"completion_tokens\":%d,\"total_tokens\":%d}",
             events_per_stream, events_per_stream + 25);
    add_event(to, "", usage);
    add_piece(to, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static void join(answer *to, const answer *from) {
    piece all = {NULL, 0};
    for (int i = 0; i < from->count; i++) {
        all.data = room(all.data, all.size + from->pieces[i].size);
        memcpy(all.data + all.size, from->pieces[i].data, from->pieces[i].size);
        all.size += from->pieces[i].size;
    }
    to->pieces = room(NULL, sizeof(piece));
    to->pieces[0] = all;
    to->count = 1;
}

static void make_answers(void) {
    make_plain(&plain, 200, "OK",
               "{\"id\":\"chatcmpl-fake\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"fake\","
               "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Halo, dunia! This answer has "
               "about fifty tokens, as a short answer of a chat has, so that what is measured around it is what a "
               "gateway does for one ordinary call and nothing that a real answer would not ask of it as well.\","
               "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":25,"
               "\"completion_tokens\":50,\"total_tokens\":75,\"prompt_tokens_details\":{\"cached_tokens\":0,"
               "\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
               "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}},\"service_tier\":\"default\","
               "\"system_fingerprint\":\"fp_fake\"}");
    make_plain(&models, 200, "OK",
               "{\"object\":\"list\",\"data\":[{\"id\":\"fake\",\"object\":\"model\",\"created\":1790000000,"
               "\"owned_by\":\"fake\"}]}");
    make_stream(&stream_pieces);
    join(&stream_whole, &stream_pieces);
}

static const answer *error_answer(int status) {
    if (status < 400 || status >= STATUS_MAX) status = 500;
    answer *found = &errors[status];
    if (!found->count) {
        char body[160];
        snprintf(body, sizeof body,
                 "{\"error\":{\"message\":\"error %d\",\"type\":\"%s\",\"param\":null,\"code\":\"fake_%d\"}}", status,
                 status == 429 ? "rate_limit_error" : "server_error", status);
        make_plain(found, status, "Error", body);
    }
    return found;
}

/* ---- requests ------------------------------------------------------------------------------------------- */

/* The value of a header within a head, or NULL; it ends at the line's end. */
static const char *header(const char *head, const char *end, const char *name) {
    size_t size = strlen(name);
    for (const char *line = memchr(head, '\n', end - head); line; line = memchr(line, '\n', end - line)) {
        line++;
        if ((size_t)(end - line) > size && !strncasecmp(line, name, size) && line[size] == ':') {
            line += size + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

/* The offset behind a chunked body, 0 when it is not all there, -1 when it is none. */
static ssize_t chunked_end(const char *input, size_t size, size_t at) {
    for (;;) {
        char *line_end = memmem(input + at, size - at, "\r\n", 2), *digits_end;
        if (!line_end) return 0;
        unsigned long chunk = strtoul(input + at, &digits_end, 16);
        if (digits_end == input + at || chunk > INPUT_MAX) return -1;
        at = line_end + 2 - input + chunk + 2;
        if (at > size) return 0;
        if (!chunk) return at;
    }
}

/* The bytes of the first whole request, 0 when it is not all there, -1 when it is none. Sets where the body is. */
static ssize_t request_size(const connection *c, size_t *body) {
    char *end = memmem(c->input, c->input_size, "\r\n\r\n", 4);
    if (!end) return c->input_size > 1 << 20 ? -1 : 0;
    *body = end + 4 - c->input;
    const char *coding = header(c->input, end + 2, "transfer-encoding");
    if (coding) return strncasecmp(coding, "chunked", 7) ? -1 : chunked_end(c->input, c->input_size, *body);
    const char *length = header(c->input, end + 2, "content-length");
    size_t size = *body + (length ? strtoul(length, NULL, 10) : 0);
    return c->input_size < size ? 0 : (ssize_t)size;
}

/* The value behind a key of a JSON body, or "" when it has none. Good enough for bodies that we send ourselves. */
static const char *value_of(const char *body, size_t size, const char *quoted_key) {
    const char *found = memmem(body, size, quoted_key, strlen(quoted_key));
    if (!found) return "";
    found += strlen(quoted_key);
    while (found < body + size && strchr(" \t\r\n:\"", *found)) found++;
    return found < body + size ? found : "";
}

static void choose_answer(connection *c, size_t body, size_t size) {
    char model[80] = "";
    c->paced = false;
    if (memcmp(c->input, "POST", 4)) {
        c->answer = &models;
        return;
    }
    const char *name = value_of(c->input + body, size - body, "\"model\"");
    for (size_t i = 0; i + 1 < sizeof model && name[i] && name[i] != '"'; i++) model[i] = name[i];
    bool stream = !strncmp(value_of(c->input + body, size - body, "\"stream\""), "true", 4);
    bool slow = strstr(model, "slow");
    char *error = strstr(model, "err");
    if (error)
        c->answer = error_answer(atoi(error + 3));
    else if (!stream)
        c->answer = &plain;
    else
        c->answer = slow || strstr(model, "each") ? &stream_pieces : &stream_whole;
    c->paced = slow;
}

/* ---- connections ---------------------------------------------------------------------------------------- */

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void enqueue(queue *into, connection *c) {
    c->due_us = now_us() + into->delay_us;
    c->next = NULL;
    c->queued = true;
    if (into->last)
        into->last->next = c;
    else
        into->first = c;
    into->last = c;
}

static void drop(connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->dead = true;
    if (c->queued) return; /* freed when its turn comes */
    free(c->input);
    free(c);
}

static void want_writable(connection *c, bool wanted) {
    if (wanted == c->writable_wanted) return;
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    c->writable_wanted = wanted;
}

/* Send what may be sent now. Returns false when the connection is gone. */
static bool send_pieces(connection *c) {
    while (c->answer && c->piece < c->answer->count) {
        const piece *p = &c->answer->pieces[c->piece];
        ssize_t sent = send(c->fd, p->data + c->sent, p->size - c->sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return false;
            want_writable(c, true);
            return true;
        }
        c->sent += sent;
        if (c->sent < p->size) continue;
        c->sent = 0;
        c->piece++;
        /* The head of a paced stream goes out with its first event. */
        if (c->paced && c->piece > 1 && c->piece < c->answer->count) {
            want_writable(c, false);
            enqueue(&next_event, c);
            return true;
        }
    }
    c->answer = NULL;
    want_writable(c, false);
    return !c->closes;
}

/* Answer every whole request that is there. Returns false when the connection is gone. */
static bool answer_requests(connection *c) {
    size_t used = 0, body = 0;
    while (!c->answer) {
        connection rest = *c;
        rest.input += used;
        rest.input_size -= used;
        ssize_t size = request_size(&rest, &body);
        if (size < 0) return false;
        if (size == 0) break;
        const char *close_wanted = header(rest.input, rest.input + body - 2, "connection");
        c->closes = close_wanted && !strncasecmp(close_wanted, "close", 5);
        choose_answer(&rest, body, size);
        c->answer = rest.answer;
        c->paced = rest.paced;
        c->piece = 0;
        c->sent = 0;
        used += size;
        if (c->paced)
            enqueue(&first_byte, c);
        else if (!send_pieces(c))
            return false;
    }
    memmove(c->input, c->input + used, c->input_size - used);
    c->input_size -= used;
    return true;
}

static bool read_input(connection *c) {
    if (c->input_size == c->input_room) {
        if (c->input_room >= INPUT_MAX) return false;
        c->input_room = c->input_room ? c->input_room * 2 : INPUT_FIRST;
        c->input = room(c->input, c->input_room + 8); /* so that a word may be compared at its end */
    }
    ssize_t got = recv(c->fd, c->input + c->input_size, c->input_room - c->input_size, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
    if (got > 0) c->input_size += got;
    return answer_requests(c);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection *c = room(NULL, sizeof *c);
        *c = (connection){.fd = fd};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void run_queue(queue *q, int64_t now) {
    while (q->first && q->first->due_us <= now) {
        connection *c = q->first;
        q->first = c->next;
        if (!q->first) q->last = NULL;
        c->queued = false;
        if (c->dead || !send_pieces(c) || !answer_requests(c)) drop(c);
    }
}

static int wait_ms(void) {
    int64_t due = INT64_MAX;
    if (first_byte.first) due = first_byte.first->due_us;
    if (next_event.first && next_event.first->due_us < due) due = next_event.first->due_us;
    if (due == INT64_MAX) return -1;
    int64_t left = due - now_us();
    return left <= 0 ? 0 : (int)((left + 999) / 1000);
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, BACKLOG)) die("listen");
    return fd;
}

int main(int count, char **arguments) {
    int port = 9000;
    for (int option; (option = getopt(count, arguments, "p:c:t:d:")) != -1;) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'c') events_per_stream = atoi(optarg);
        else if (option == 't') first_byte.delay_us = atoi(optarg) * 1000LL;
        else if (option == 'd') next_event.delay_us = atoi(optarg) * 1000LL;
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    make_answers();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port);
    struct epoll_event events[EVENTS_PER_WAIT], first = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &first);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_PER_WAIT, wait_ms());
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            bool alive = true;
            if (events[i].events & EPOLLOUT) alive = send_pieces(c) && answer_requests(c);
            if (alive && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = read_input(c);
            if (!alive) drop(c);
        }
        int64_t now = now_us();
        run_queue(&first_byte, now);
        run_queue(&next_event, now);
    }
}
