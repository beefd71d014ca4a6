/* A gateway that starts workers as fast as one core can, for `cargo xtask bench`. It lives on until
 * its stdin ends, as a gateway outlives its workers.
 *
 *   spawner burst WORKER TOKEN            for each line "LIVES SESSIONS" on stdin: that many lives,
 *                                         one after the other; answers with the ns they took
 *   spawner hold WORKER TOKEN COUNT       COUNT workers, a session each, which stay until the end of
 *                                         stdin; says "ready" when all are there
 *   spawner drip WORKER TOKEN COMMAND...  starts COMMAND, says its pid and when (CLOCK_BOOTTIME,
 *                                         ns), then a life each 200 us; at the end of stdin sends
 *                                         COMMAND SIGTERM and waits for it
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *worker, *token;

static long long now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

/* Starts a worker; its stdin is `input` unless that is negative. */
static pid_t spawn(long session, char *model, int input) {
    char key[32];
    snprintf(key, sizeof key, "session_%08ld", session);
    char *argv[] = {worker, "-m", token, "--session-key", key, "--model", model, NULL};
    char *environment[] = {NULL};
    /* The child has the parent's memory until it executes, and only calls the kernel. */
    pid_t pid = vfork();
    if (pid == 0) {
        if (input >= 0) dup2(input, 0);
        execve(worker, argv, environment);
        _exit(127);
    }
    if (pid < 0) die("vfork");
    return pid;
}

static void live(long session) {
    int status;
    pid_t pid = spawn(session, "m", -1);
    if (waitpid(pid, &status, 0) != pid || status != 0) die("a worker");
}

static void pin(void) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    if (sched_setaffinity(0, sizeof first, &first)) die("sched_setaffinity");
}

static int burst(void) {
    long lives, sessions;
    pin();
    while (scanf("%ld %ld", &lives, &sessions) == 2) {
        long long began = now(CLOCK_MONOTONIC);
        for (long n = 0; n < lives; n++) live(n % sessions);
        printf("%lld\n", now(CLOCK_MONOTONIC) - began);
        fflush(stdout);
    }
    return 0;
}

static int hold(long count) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int *masters = calloc(count, sizeof *masters);
    for (long n = 0; n < count; n++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC)) die("pipe2");
        spawn(n, "stay", ends[0]);
        close(ends[0]);
        masters[n] = ends[1];
    }
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF) {}
    for (long n = 0; n < count; n++) close(masters[n]);
    while (wait(NULL) > 0) {}
    return 0;
}

static int drip(char **command) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    /* Below 1 ms the default slack of timers would tell. */
    struct timespec pause = {.tv_nsec = 200000};
    long long began = now(CLOCK_BOOTTIME);
    pid_t pid = vfork();
    if (pid == 0) {
        execv(command[0], command);
        _exit(127);
    }
    if (pid < 0) die("vfork");
    printf("%d %lld\n", pid, began);
    fflush(stdout);
    while (poll(&input, 1, 0) == 0) {
        live(0);
        nanosleep(&pause, NULL);
    }
    kill(pid, SIGTERM);
    int status;
    if (waitpid(pid, &status, 0) != pid) die("waitpid");
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    worker = argv[2];
    token = argv[3];
    if (!strcmp(argv[1], "burst")) return burst();
    if (!strcmp(argv[1], "hold") && argc == 5) return hold(atol(argv[4]));
    if (!strcmp(argv[1], "drip") && argc > 4) return drip(argv + 4);
    return 2;
}
