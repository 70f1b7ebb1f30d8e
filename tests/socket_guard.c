/* Preloaded into every process of the test suite: refuses, and notes in $AUGMILL_GUARD_LOG, whatever is sent or connected
   beyond the loopback device, and every look-up of a name but localhost's and this machine's own. Python's audit hook sees
   its own process's Python code alone; this sees Rust (obstore), C and children too. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *where) {
    const char *path = getenv("AUGMILL_GUARD_LOG"), *test = getenv("PYTEST_CURRENT_TEST");
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s by process %d in %s\n", what, where, getpid(), test ? test : "no test");
    if (length >= (int)sizeof line) {
        length = sizeof line - 1;
        line[length - 1] = '\n';
    }
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file >= 0) {
        if (write(file, line, length) < 0) { /* the refusal counts all the same */
        }
        close(file);
    }
}

/* Whether the address lies beyond this machine; then it is noted, and errno says why nothing goes there. */
static int refused(const char *what, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN + 8] = "";
    if (!address)
        return 0;
    if (address->sa_family == AF_INET) {
        unsigned long ip = ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr);
        if (ip >> 24 == 127 || ip == 0)
            return 0;
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, INET6_ADDRSTRLEN);
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *)address)->sin6_addr;
        if (IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_UNSPECIFIED(ip) || (IN6_IS_ADDR_V4MAPPED(ip) && ip->s6_addr[12] == 127))
            return 0;
        inet_ntop(AF_INET6, ip, text, INET6_ADDRSTRLEN);
    } else {
        return 0;
    }
    note(what, text);
    errno = ENETUNREACH;
    return 1;
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (refused("connect", address))
        return -1;
    if (!real)
        real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    return real(socket, address, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    static ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (refused("sendto", address))
        return -1;
    if (!real)
        real = (ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "sendto");
    return real(socket, data, size, flags, address, length);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    static ssize_t (*real)(int, const struct msghdr *, int);
    if (message && refused("sendmsg", message->msg_name))
        return -1;
    if (!real)
        real = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
    return real(socket, message, flags);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    char own[256] = "";
    unsigned char number[sizeof(struct in6_addr)];
    gethostname(own, sizeof own - 1);
    if (name && *name && strcmp(name, "localhost") && strcmp(name, own) && inet_pton(AF_INET, name, number) != 1 &&
        inet_pton(AF_INET6, name, number) != 1) {
        note("look up", name);
        return EAI_FAIL;
    }
    if (!real)
        real = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
    return real(name, service, hints, found);
}
