/* What close_to_term/bench.py compares slashtrace with: the least that can end a worker when its
 * terminal closes.
 *
 *   rival watch   waits with inotify on /dev/pts; reads lines "PID INDEX" on stdin, says "ready",
 *                 and sends SIGTERM to PID when INDEX goes away
 *   rival ARGS... a worker: says "ready", survives the end of its terminal, and at SIGTERM says when
 *                 that came (CLOCK_MONOTONIC, ns) and ends
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

static int watch(void) {
    char line[64], events[4096], name[16];
    int pid, index;
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%d %d", &pid, &index) == 2) {
        /* A new one each time: what happened before does not count. */
        int watched = inotify_init1(IN_CLOEXEC);
        if (watched < 0 || inotify_add_watch(watched, "/dev/pts", IN_DELETE) < 0) return 2;
        snprintf(name, sizeof name, "%d", index);
        puts("ready");
        fflush(stdout);
        for (int found = 0; !found;) {
            ssize_t length = read(watched, events, sizeof events);
            if (length <= 0) return 2;
            for (char *at = events; at < events + length;) {
                struct inotify_event *event = (struct inotify_event *)at;
                found |= event->len && !strcmp(event->name, name);
                at += sizeof *event + event->len;
            }
        }
        kill(pid, SIGTERM);
        close(watched);
    }
    return 0;
}

static int work(void) {
    sigset_t term;
    struct timespec now;
    signal(SIGHUP, SIG_IGN);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    puts("ready");
    fflush(stdout);
    sigwaitinfo(&term, NULL);
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    return 0;
}

int main(int argc, char **argv) {
    return argc == 2 && !strcmp(argv[1], "watch") ? watch() : work();
}
