/* A load generator that never sleeps: it polls with epoll_wait and a timeout of 0, on a core of its own.
 *
 * A client that sleeps must be woken by the server's own write, and the server pays for that. A client on another
 * machine has no such cost, so this client has none either (--sleep brings it back, for comparison).
 *
 *   client --port P --bodies FILE --connections N --seconds S --count C --status 200 --length L
 *          [--mode keep|new|open] [--rate R] [--core K] [--sleep]
 *
 * keep: each response is followed by the next request on the same connection (closed loop).
 * new:  each request has a connection of its own, which the server closes (Connection: close).
 * open: requests are due at a constant rate, whatever became of those before; a time counts from the moment at which
 *       a request was due, not from the moment at which a connection was free.
 *
 * Every response must have the status and the body length that were given. The run ends after S seconds or C
 * requests. One line of JSON is printed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 1024, BUFFER = 65536, BUCKETS = 1000000, ADDRESSES = 200, PATIENCE_S = 10 };
enum mode { KEEP, NEW, OPEN };

struct request {
    char *data;
    size_t size;
};

struct connection {
    int fd;
    int busy;     /* a request is under way */
    int complete; /* its response is here; in mode new the end of the connection is not */
    double since; /* when the request was due */
    size_t received;
    char buffer[BUFFER];
};

static enum mode mode = KEEP;
static int port, status = 200, length = -1, core = -1, sleeping;
static long wanted_connections = 16, count = 1000000000;
static double seconds = 1, rate = 1000;
static const char *bodies;
static struct request *requests;
static size_t request_count, next_request;
static struct connection connections[MOST_CONNECTIONS];
static uint32_t histogram[BUCKETS + 1]; /* by microsecond; the last for all that took longer */
static double longest;
static long started, finished, errors;
static unsigned next_address;
static int poller;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* One request for each line of the file. */
static void read_requests(void) {
    FILE *file = fopen(bodies, "r");
    char *line = NULL;
    size_t room = 0, capacity = 0;
    ssize_t size;
    if (!file) fail(bodies);
    while ((size = getline(&line, &room, file)) > 0) {
        if (line[size - 1] == '\n') size--;
        if (request_count == capacity) {
            capacity = capacity ? capacity * 2 : 1024;
            requests = realloc(requests, capacity * sizeof *requests);
            if (!requests) fail("realloc");
        }
        char *data = malloc(size + 256);
        if (!data) fail("malloc");
        int head = sprintf(data,
                           "POST /profile HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                           "%sContent-Length: %zd\r\n\r\n",
                           port, mode == NEW ? "Connection: close\r\n" : "", size);
        memcpy(data + head, line, size);
        requests[request_count].data = data;
        requests[request_count++].size = head + size;
    }
    free(line);
    fclose(file);
    if (!request_count) {
        fprintf(stderr, "%s: no request\n", bodies);
        exit(1);
    }
}

/* Connect from many local addresses in turn: ports of closed connections stay in use for a minute. */
static void open_connection(struct connection *c) {
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + next_address++ % ADDRESSES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) fail("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK)) fail("fcntl");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
}

static void send_request(struct connection *c, double due) {
    struct request *r = &requests[next_request++ % request_count];
    c->busy = 1;
    c->complete = 0;
    c->since = due;
    c->received = 0;
    if (mode == NEW) open_connection(c);
    started++;
    if (send(c->fd, r->data, r->size, MSG_NOSIGNAL) != (ssize_t)r->size) fail("send");
}

static void finish(struct connection *c, int good) {
    double took = now() - c->since;
    long bucket = took * 1e6;
    histogram[bucket < BUCKETS ? bucket : BUCKETS]++;
    if (took > longest) longest = took;
    finished++;
    errors += !good;
    c->busy = 0;
}

/* The status and the body length of a whole response; 0 as long as there is more to come. */
static int whole_response(struct connection *c, int *seen_status, int *seen_length) {
    c->buffer[c->received] = 0;
    char *end = memmem(c->buffer, c->received, "\r\n\r\n", 4);
    if (!end) return 0;
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    if (!field || field > end) {
        fprintf(stderr, "a response without a length: %.200s\n", c->buffer);
        exit(1);
    }
    *seen_status = atoi(c->buffer + 9);
    *seen_length = atoi(field + 17);
    return (size_t)(end + 4 - c->buffer) + *seen_length <= c->received;
}

static void close_connection(struct connection *c) {
    close(c->fd);
    c->fd = -1;
}

/* Read what there is; a response that is complete ends its request. */
static void read_response(struct connection *c) {
    ssize_t size = recv(c->fd, c->buffer + c->received, BUFFER - 1 - c->received, 0);
    int seen_status = 0, seen_length = 0;
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        if (mode != NEW || !c->complete) fprintf(stderr, "a connection ended without a response\n");
        close_connection(c);
        if (c->busy) finish(c, mode == NEW && c->complete);
        if (mode != NEW) open_connection(c);
        return;
    }
    c->received += size;
    if (!c->busy || !whole_response(c, &seen_status, &seen_length)) return;
    int good = seen_status == status && (length < 0 || seen_length == length);
    if (!good && errors < 3) fprintf(stderr, "an unexpected response: %.400s\n", c->buffer);
    if (mode == NEW && good)
        c->complete = 1; /* and wait for the end of the connection */
    else {
        if (mode == NEW) close_connection(c);
        finish(c, good);
    }
}

static double quantile_ms(double share) {
    long left = finished * share;
    for (long bucket = 0; bucket < BUCKETS; bucket++) {
        left -= histogram[bucket];
        if (left < 0) return bucket / 1e3;
    }
    return longest * 1e3;
}

static void take_turn(double began, int may_send, double *progress) {
    struct epoll_event events[64];
    int ready = epoll_wait(poller, events, 64, sleeping ? 100 : 0);
    for (int i = 0; i < ready; i++) {
        struct connection *c = events[i].data.ptr;
        read_response(c);
        *progress = now();
        if (may_send && mode != OPEN && !c->busy && started < count) send_request(c, now());
    }
    if (mode != OPEN || !may_send) return;
    for (long i = 0; i < wanted_connections && started < count; i++) {
        double due = began + started / rate;
        if (due > now()) return;
        if (!connections[i].busy) send_request(&connections[i], due);
    }
}

static void run(void) {
    double began = now(), progress = began, at = began, until = seconds;
    if (mode == OPEN) { /* all that is due is sent, however late */
        count = rate * seconds < count ? rate * seconds : count;
        until = 3 * seconds + PATIENCE_S;
    }
    for (long i = 0; i < wanted_connections; i++) {
        if (mode != NEW) open_connection(&connections[i]);
    }
    began = now();
    for (long i = 0; mode != OPEN && i < wanted_connections; i++) {
        if (started < count) send_request(&connections[i], began);
    }
    while (started > finished || (at - began < until && started < count)) {
        take_turn(began, at - began < until, &progress);
        at = now();
        if (started > finished && at - progress > PATIENCE_S) {
            fprintf(stderr, "no response for %d s\n", PATIENCE_S);
            exit(1);
        }
    }
    printf("{\"requests\": %ld, \"seconds\": %f, \"errors\": %ld, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"p999_ms\": %.3f, \"max_ms\": %.3f}\n",
           finished, at - began, errors, quantile_ms(0.5), quantile_ms(0.99), quantile_ms(0.999), longest * 1e3);
}

static void read_options(int argc, char **argv) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'},  {"bodies", 1, 0, 'b'}, {"connections", 1, 0, 'n'}, {"seconds", 1, 0, 's'},
        {"count", 1, 0, 'c'}, {"status", 1, 0, 't'}, {"length", 1, 0, 'l'},      {"mode", 1, 0, 'm'},
        {"rate", 1, 0, 'r'},  {"core", 1, 0, 'k'},   {"sleep", 0, 0, 'z'},       {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
            case 'p': port = atoi(optarg); break;
            case 'b': bodies = optarg; break;
            case 'n': wanted_connections = atol(optarg); break;
            case 's': seconds = atof(optarg); break;
            case 'c': count = atol(optarg); break;
            case 't': status = atoi(optarg); break;
            case 'l': length = atoi(optarg); break;
            case 'm': mode = strcmp(optarg, "new") == 0 ? NEW : strcmp(optarg, "open") == 0 ? OPEN : KEEP; break;
            case 'r': rate = atof(optarg); break;
            case 'k': core = atoi(optarg); break;
            case 'z': sleeping = 1; break;
            default: exit(2);
        }
    }
    if (!port || !bodies || wanted_connections < 1 || wanted_connections > MOST_CONNECTIONS || rate <= 0) {
        fprintf(stderr, "needs --port, --bodies, --connections 1 to %d, --rate above 0\n", MOST_CONNECTIONS);
        exit(2);
    }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    if (core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(core, &cores);
        if (sched_setaffinity(0, sizeof cores, &cores)) fail("sched_setaffinity");
    }
    poller = epoll_create1(0);
    if (poller < 0) fail("epoll_create1");
    read_requests();
    run();
    return errors ? 3 : 0;
}
