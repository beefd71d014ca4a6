"""How long after its terminal closed a worker gets SIGTERM: `slashtrace run --policy enforce` with
grace 0, against a C program that does inotify and kill and nothing else. Alternating rounds in one
run; prints a line for each and the ratio of their medians. Ends only processes that it started.

Needs root (as slashtrace does), a C compiler, and the program: bench.py SLASHTRACE [ROUNDS] [--json]
With --json it prints every time, in ns, for `cargo xtask bench`.
"""

import fcntl
import json
import os
import pty
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 20
PROFILE = """
name = "bench"
[worker]
tokens = ["-m", "{token}"]
session_flag = "--session-key"
[graces]
terminal = "0s"
"""


def compile_rival(folder):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        sys.exit("no C compiler: install one (`cc`), or name one in CC")
    rival = folder / "rival"
    subprocess.run([compiler, "-O2", "-o", rival, HERE / "rival.c"], check=True)
    return rival


def start_slashtrace(program, folder, token):
    profile, evidence = folder / "profile.toml", folder / "evidence.ndjson"
    profile.write_text(PROFILE.format(token=token))
    command = [program, "--profile", profile, "run", "--quiet", "--evidence", evidence]
    command += ["--policy", "enforce", "--trigger", "terminal-orphan=strong", "--min-age", "0s"]
    command += ["--budget", "1000", "--gateway", str(os.getpid())]
    tracer = subprocess.Popen(command)
    deadline = time.monotonic() + PATIENCE
    while not (evidence.exists() and evidence.stat().st_size):
        if tracer.poll() is not None or time.monotonic() > deadline:
            sys.exit("slashtrace does not watch")
        time.sleep(0.05)
    return tracer


def one(rival, token, watcher):
    """One worker on a terminal of its own: from the close of the master to SIGTERM, ns."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    argv = [rival, "-m", token, "--session-key", secrets.token_hex(4)]

    def on_terminal():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    worker = subprocess.Popen(
        argv,
        preexec_fn=on_terminal,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    assert worker.stdout.readline() == "ready\n", "the worker does not run"
    if watcher:
        print(worker.pid, path.rpartition("/")[2], file=watcher.stdin, flush=True)
        assert watcher.stdout.readline() == "ready\n"
    # Both are given the time to look at the worker.
    time.sleep(0.3)
    closed = time.monotonic_ns()
    os.close(master)
    try:
        said, _ = worker.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        sys.exit(f"worker {worker.pid} was not ended within {PATIENCE} s")
    return int(said) - closed


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    program = Path(arguments[0]).resolve()
    rounds = int(arguments[1]) if len(arguments) > 1 else 25
    with tempfile.TemporaryDirectory(prefix="slashtrace_bench_") as folder:
        folder = Path(folder)
        rival = compile_rival(folder)
        token = f"slashtrace_bench.worker_{os.getpid()}"
        tracer = start_slashtrace(program, folder, token)
        watcher = subprocess.Popen(
            [rival, "watch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        times = {"slashtrace": [], "inotify + kill": []}
        try:
            for _ in range(rounds):
                times["slashtrace"].append(one(rival, token, None))
                times["inotify + kill"].append(one(rival, "nobody.watches", watcher))
        finally:
            watcher.stdin.close()
            watcher.wait()
            tracer.terminate()
            tracer.wait()
    if "--json" in sys.argv:
        print(json.dumps(times))
        return
    print(f"from the close of a terminal to SIGTERM, us, {rounds} alternating rounds")
    print(f"{'':16}{'median':>9}{'lowest':>9}{'highest':>9}")
    for name, measured in times.items():
        us = [ns / 1000 for ns in measured]
        print(f"{name:16}{statistics.median(us):9.0f}{min(us):9.0f}{max(us):9.0f}")
    medians = [statistics.median(measured) for measured in times.values()]
    print(f"ratio of the medians: {medians[0] / medians[1]:.1f}")


if __name__ == "__main__":
    main()
