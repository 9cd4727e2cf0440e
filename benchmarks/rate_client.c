/* A load client that keeps a rate, whatever the server does: an open loop, on the OpenAI wire.
 *
 *   rate_client -p port [-r calls a second | 0] [-s seconds] [-w seconds] [-c connections] [-m model] [-k key] [-S] [-g seconds]
 *
 * -r  calls are due at a fixed rate; 0: each connection calls again as soon as it has its answer (a closed loop)
 * -w  warm-up before the seconds that count            -c  connections, kept alive
 * -S  ask for a stream                                 -g  how long to wait at the end for answers on their way
 *
 * Latency is counted from the moment a call was *due*, not from when a connection was free to send it, so a server
 * that stalls is charged for every call that it kept waiting (no coordinated omission). Calls that never got an
 * answer count as errors, and as answered at the end of the run. Prints one JSON object; times in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_PER_WAIT = 512, HEAD_MAX = 16384, READ_BYTES = 65536 };

/* Where in an answer the reading stands. */
typedef enum { HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE } state;

typedef struct connection {
    int fd;
    bool busy;
    state state;
    char head[HEAD_MAX];
    size_t head_size;
    int64_t left; /* bytes of the body or of the chunk; of a chunk's size line: its value so far */
    int line;     /* characters of a line so far */
    int status;
    int64_t due_us, first_byte_us;
    size_t sent;
    struct connection *next_idle;
} connection;

typedef struct {
    int64_t *values;
    size_t count, room;
} series;

static int port = 8080, rate = 1000, seconds = 10, warm_up = 1, connection_count = 64, grace = 5, epoll;
static bool streamed;
static const char *model = "fake", *key = "sk-bench";
static char *request;
static size_t request_size;
static connection *connections, *idle;
static series latency, first_byte;
static int64_t start_us, count_from_us, stop_us;
static long started, answered, errors, not_200, bytes_read, connects, busy_max, busy_now;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void note(series *to, int64_t value) {
    if (to->count == to->room) {
        to->room = to->room ? to->room * 2 : 65536;
        to->values = realloc(to->values, to->room * sizeof *to->values);
        if (!to->values) die("memory");
    }
    to->values[to->count++] = value;
}

/* ---- one call ------------------------------------------------------------------------------------------- */

static void finish(connection *c, bool good) {
    int64_t now = now_us();
    busy_now--;
    if (c->due_us >= count_from_us) {
        if (!good || c->status != 200) {
            errors++;
            if (good) not_200++;
        } else
            answered++;
        note(&latency, now - c->due_us);
        if (c->first_byte_us) note(&first_byte, c->first_byte_us - c->due_us);
    }
    c->busy = false;
    if (c->fd >= 0) {
        c->next_idle = idle;
        idle = c;
    }
}

static void watch(connection *c, bool writable, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void open_connection(connection *c) {
    int one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    connects++;
    watch(c, true, EPOLL_CTL_ADD);
}

static void lost(connection *c) {
    close(c->fd);
    c->fd = -1;
    if (c->busy) finish(c, false);
    open_connection(c); /* comes back to the idle ones */
    c->next_idle = idle;
    idle = c;
}

/* Send what is left of the request. Returns false when the connection is gone. */
static bool send_rest(connection *c) {
    while (c->sent < request_size) {
        ssize_t sent = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return false;
            watch(c, true, EPOLL_CTL_MOD);
            return true;
        }
        c->sent += sent;
    }
    return true;
}

static void begin(connection *c, int64_t due_us) {
    c->busy = true;
    c->due_us = due_us;
    c->first_byte_us = 0;
    c->state = HEAD;
    c->head_size = 0;
    c->sent = 0;
    started++;
    if (++busy_now > busy_max) busy_max = busy_now;
    if (!send_rest(c)) lost(c);
}

/* ---- reading an answer ---------------------------------------------------------------------------------- */

static const char *header(const connection *c, const char *name) {
    size_t size = strlen(name);
    for (const char *line = strchr(c->head, '\n'); line && line[1]; line = strchr(line, '\n')) {
        line++;
        if (!strncasecmp(line, name, size) && line[size] == ':') return line + size + 1 + strspn(line + size + 1, " ");
    }
    return NULL;
}

/* The head is complete: what comes next? */
static void head_done(connection *c) {
    c->head[c->head_size] = 0;
    c->status = c->head_size > 12 ? atoi(c->head + 9) : 0;
    c->line = 0;
    c->left = 0;
    const char *length = header(c, "content-length");
    if (c->status / 100 == 1) {
        c->state = HEAD;
        c->head_size = 0;
    } else if (header(c, "transfer-encoding"))
        c->state = CHUNK_SIZE;
    else if (length) {
        c->state = LENGTH;
        c->left = atoll(length);
    } else
        c->state = UNTIL_CLOSE;
}

static int hex(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit |= 32;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Take in what was read. Returns 1 at the answer's end, 0 when there is more to come, -1 when it makes no sense. */
static int take(connection *c, const char *data, size_t size) {
    for (size_t i = 0; i < size;) {
        if (c->state == HEAD) {
            if (c->head_size + 1 >= HEAD_MAX) return -1;
            c->head[c->head_size++] = data[i++];
            if (c->head_size >= 4 && !memcmp(c->head + c->head_size - 4, "\r\n\r\n", 4)) {
                head_done(c);
                if (c->state == LENGTH && !c->left) return i == size ? 1 : -1;
            }
        } else if (c->state == LENGTH || c->state == CHUNK_DATA) {
            size_t part = size - i < (size_t)c->left ? size - i : (size_t)c->left;
            i += part;
            c->left -= part;
            if (!c->left && c->state == LENGTH) return i == size ? 1 : -1;
            if (!c->left) c->state = CHUNK_END;
        } else if (c->state == CHUNK_SIZE) {
            char one = data[i++];
            if (one == '\n') {
                c->state = c->left ? CHUNK_DATA : TRAILER;
                c->line = 0;
            } else if (hex(one) >= 0)
                c->left = c->left * 16 + hex(one);
            else if (one != '\r')
                return -1;
        } else if (c->state == CHUNK_END) {
            if (data[i++] == '\n') c->state = CHUNK_SIZE;
        } else if (c->state == TRAILER) {
            char one = data[i++];
            if (one == '\n') {
                if (!c->line) return i == size ? 1 : -1;
                c->line = 0;
            } else if (one != '\r')
                c->line++;
        } else
            i = size;
    }
    return 0;
}

/* Take a connection out of the idle ones and open it anew. */
static void close_idle(connection *c) {
    connection **place = &idle;
    while (*place && *place != c) place = &(*place)->next_idle;
    if (*place) *place = c->next_idle;
    lost(c);
}

static void read_answer(connection *c) {
    static char data[READ_BYTES];
    ssize_t got = recv(c->fd, data, sizeof data, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0 && c->busy) {
        bytes_read += got;
        int ended = take(c, data, got);
        /* The first byte of an answer is the first of its body: heads may go out early. */
        if (!c->first_byte_us && c->state != HEAD) c->first_byte_us = now_us();
        if (ended == 0) return;
        if (ended == 1) {
            const char *close_wanted = header(c, "connection");
            finish(c, true);
            if (close_wanted && !strncasecmp(close_wanted, "close", 5)) close_idle(c);
            return;
        }
    }
    if (got == 0 && c->busy && c->state == UNTIL_CLOSE) {
        finish(c, true);
        close_idle(c);
        return;
    }
    if (c->busy)
        lost(c);
    else /* closed, or talking out of turn */
        close_idle(c);
}

/* ---- the run -------------------------------------------------------------------------------------------- */

static void make_request(void) {
    char *body;
    int size = asprintf(&body,
                        "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
                        "{\"role\":\"user\",\"content\":\"Say hello to the world, please, in one sentence.\"}],"
                        "\"max_tokens\":64}",
                        model, streamed ? "\"stream\":true,\"stream_options\":{\"include_usage\":true}," : "");
    int all = asprintf(&request,
                       "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                       "Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
                       port, key, size, body);
    if (size < 0 || all < 0) die("memory");
    request_size = all;
    free(body);
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t percentile(const series *of, double share) {
    if (!of->count) return -1;
    size_t rank = (size_t)(share * of->count);
    return of->values[rank < of->count ? rank : of->count - 1];
}

static void print_series(const char *name, series *of) {
    qsort(of->values, of->count, sizeof *of->values, by_size);
    printf("\"%s\":{\"p50\":%ld,\"p90\":%ld,\"p99\":%ld,\"p999\":%ld,\"max\":%ld}", name, (long)percentile(of, .5),
           (long)percentile(of, .9), (long)percentile(of, .99), (long)percentile(of, .999), (long)percentile(of, 1));
}

/* Start every call that is due. */
static void start_due(int64_t now) {
    if (rate == 0) {
        while (idle && now < stop_us) {
            connection *c = idle;
            idle = c->next_idle;
            begin(c, now_us());
        }
        return;
    }
    while (idle) {
        int64_t due = start_us + (int64_t)((double)started * 1e6 / rate);
        if (due > now || due >= stop_us) return;
        connection *c = idle;
        idle = c->next_idle;
        begin(c, due);
    }
}

static void set_timer(int timer) {
    int64_t due = rate ? start_us + (int64_t)((double)started * 1e6 / rate) : stop_us;
    if (due <= now_us() && !idle) due = now_us() + 10000; /* nobody is free: an answer will wake us first */
    struct itimerspec when = {.it_value = {.tv_sec = due / 1000000, .tv_nsec = due % 1000000 * 1000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Calls that were due and never sent, or sent and never answered, at the end of the run. */
static void charge_unanswered(int64_t now) {
    for (int i = 0; i < connection_count; i++)
        if (connections[i].busy) {
            connections[i].status = 0;
            connections[i].first_byte_us = 0;
            connections[i].fd = -1;
            finish(&connections[i], false);
        }
    for (; rate; started++) {
        int64_t due = start_us + (int64_t)((double)started * 1e6 / rate);
        if (due >= stop_us) break;
        if (due < count_from_us) continue;
        errors++;
        note(&latency, now - due);
    }
}

static void run(void) {
    struct epoll_event events[EVENTS_PER_WAIT];
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event timed = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &timed);
    int64_t now = now_us();
    while (now < stop_us || (busy_now && now < stop_us + grace * 1000000LL)) {
        if (now < stop_us) set_timer(timer);
        int ready = epoll_wait(epoll, events, EVENTS_PER_WAIT, 100);
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            uint64_t expirations;
            if (!c) {
                if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timer");
                continue;
            }
            if (events[i].events & EPOLLOUT) {
                watch(c, false, EPOLL_CTL_MOD);
                if (c->busy && !send_rest(c)) {
                    lost(c);
                    continue;
                }
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_answer(c);
        }
        now = now_us();
        start_due(now);
    }
    charge_unanswered(now_us());
}

int main(int count, char **arguments) {
    for (int option; (option = getopt(count, arguments, "p:r:s:w:c:m:k:Sg:")) != -1;) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'r') rate = atoi(optarg);
        else if (option == 's') seconds = atoi(optarg);
        else if (option == 'w') warm_up = atoi(optarg);
        else if (option == 'c') connection_count = atoi(optarg);
        else if (option == 'm') model = optarg;
        else if (option == 'k') key = optarg;
        else if (option == 'S') streamed = true;
        else if (option == 'g') grace = atoi(optarg);
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1); /* the default of 50 µs would show in every latency */
    make_request();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(connection_count, sizeof *connections);
    if (!connections) die("memory");
    for (int i = 0; i < connection_count; i++) {
        open_connection(&connections[i]);
        connections[i].next_idle = idle;
        idle = &connections[i];
    }
    usleep(200000); /* the handshakes are no part of a call */
    start_us = now_us();
    count_from_us = start_us + warm_up * 1000000LL;
    stop_us = count_from_us + seconds * 1000000LL;
    run();
    printf("{\"answered\":%ld,\"errors\":%ld,\"not_200\":%ld,\"seconds\":%d,\"connects\":%ld,\"busy_max\":%ld,"
           "\"bytes_read\":%ld,",
           answered, errors, not_200, seconds, connects, busy_max, bytes_read);
    print_series("latency_us", &latency);
    printf(",");
    print_series("first_byte_us", &first_byte);
    printf("}\n");
    return 0;
}
