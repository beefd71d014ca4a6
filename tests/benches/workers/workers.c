/* Workers for measuring what slashtrace costs.
 *
 *   workers live TOKEN COUNT SESSIONS [PROGRAM ARG...]   COUNT workers that wait on their stdin
 *   workers lives TOKEN COUNT SESSIONS                   COUNT workers, one at a time, gone at once
 *
 * Each worker gets the argv `NAME [ARG...] -m TOKEN --session-key s<i modulo SESSIONS>`. Without a
 * PROGRAM it is this program. `live` prints "ready" and waits for the end of its own stdin. Both
 * print how long they took, in ns of CLOCK_MONOTONIC, on stderr.
 *
 * Build with `cc -O2 -static`.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int worker(void)
{
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--session-key"))
			return getenv("WORKER_ENDS") ? 0 : worker();
	if (argc < 5 || (strcmp(argv[1], "live") && strcmp(argv[1], "lives"))) {
		fprintf(stderr, "usage: %s live|lives TOKEN COUNT SESSIONS [PROGRAM ARG...]\n", argv[0]);
		return 2;
	}
	int live = !strcmp(argv[1], "live"), count = atoi(argv[3]), sessions = atoi(argv[4]);
	int given = argc - 5, at = 0;
	char self[4096], key[64], *args[given + 6];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	if (length < 0 || sessions < 1)
		return 2;
	self[length] = 0;
	if (!given)
		args[at++] = "worker";
	for (int i = 5; i < argc; i++)
		args[at++] = argv[i];
	args[at++] = "-m";
	args[at++] = argv[2];
	args[at++] = "--session-key";
	args[at++] = key;
	args[at] = NULL;
	char *program = given ? argv[5] : self;

	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (!live)
		setenv("WORKER_ENDS", "1", 1);

	long long began = now();
	for (int i = 0; i < count; i++) {
		int ends[2];
		snprintf(key, sizeof key, "s%d", i % sessions);
		if (live && pipe2(ends, O_CLOEXEC)) {
			perror("pipe");
			return 1;
		}
		pid_t child = vfork();
		if (child < 0) {
			perror("fork");
			return 1;
		}
		if (!child) {
			if (live)
				dup2(ends[0], 0);
			execvp(program, args);
			_exit(127);
		}
		if (live)
			close(ends[0]);
		else
			waitpid(child, NULL, 0);
	}
	fprintf(stderr, "%lld\n", now() - began);
	if (live) {
		puts("ready");
		fflush(stdout);
		worker();
	}
	return 0;
}
