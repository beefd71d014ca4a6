"""What every case needs: a work folder, processes that can be found again, a truth, a clean end.

    with Case(needs=["node"]) as case:
        case.start([...])
        pid = case.find("--session", "K")
        case.truth(in_use=[pid], leaked=[leak(other, "unreachable")])
        case.hold()

A case gets its work folder in $WORK and is run as `case.py --hold SECONDS`; `case.py --prepare` only
installs what it needs. Every process that it starts carries a mark of this very run in its
environment: by that (and by descent from a marked one) they are found, and at the end ended, each by
its pidfd. Exit codes: 0 fine, 77 skipped (`SKIP reason`), anything else: the case itself is broken.
"""
import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "SLASHTRACE_CASE"
CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("CASES_CACHE", CHECKOUT / "target/cases"))
SKIPPED = 77


class Skip(Exception):
    """This machine cannot run the case."""


class Proc:
    """A process as /proc shows it: `start` in clock ticks, so (pid, start) is nobody else."""

    def __init__(self, pid):
        base = f"/proc/{pid}"
        with open(f"{base}/stat", "rb") as f:
            text = f.read()
        fields = text[text.rindex(b")") + 2:].split()
        self.pid = pid
        self.comm = text[text.index(b"(") + 1:text.rindex(b")")].decode(errors="replace")
        self.state = fields[0].decode()
        self.ppid, self.sid, self.start = int(fields[1]), int(fields[3]), int(fields[19])
        try:
            with open(f"{base}/cmdline", "rb") as f:
                self.argv = [a.decode(errors="replace") for a in f.read().split(b"\0")[:-1]]
        except OSError:
            self.argv = []

    def has(self, *tokens):
        """Whether its argv has these tokens, one behind the other."""
        n = len(tokens)
        return any(tuple(self.argv[i:i + n]) == tokens for i in range(len(self.argv) - n + 1))


def processes():
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = Proc(int(name))
            except (OSError, ValueError):
                pass
    return found


class Family:
    """The processes of one run: whoever has its mark, and whoever descends from one of them."""

    def __init__(self, mark, session=None):
        """`session`: who is in this session belongs to the run, too."""
        self.mark = f"{MARK}={mark}".encode()
        self.session = {session} if session else set()
        self.known = {}  # pid -> start

    def members(self):
        everybody = processes()
        everybody.pop(os.getpid(), None)
        mine = set()
        for p in everybody.values():
            if self.known.get(p.pid) == p.start or self._marked(p.pid):
                mine.add(p.pid)
        more = True
        while more:
            more = {p.pid for p in everybody.values()
                    if p.pid not in mine and (p.ppid in mine or p.sid in mine | self.session)}
            mine |= more
        self.known = {pid: everybody[pid].start for pid in mine}
        return sorted((everybody[pid] for pid in mine), key=lambda p: (p.start, p.pid))

    def _marked(self, pid):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                return self.mark in f.read().split(b"\0")
        except OSError:
            return False

    def end(self, within=10, reaping=False):
        """Ends them, each by its pidfd. Returns how many there were."""
        ended, until = 0, time.monotonic() + within
        while time.monotonic() < until:
            alive = [p for p in self.members() if p.state not in "ZX"]
            if not alive:
                break
            ended += sum(end_one(p.pid, p.start) for p in alive)
            time.sleep(0.1)
            if reaping:
                reap()
        return ended


def end_one(pid, start, sig=signal.SIGKILL):
    """Signals this very process: not one that got its pid meanwhile."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if Proc(pid).start != start:
            return False
        signal.pidfd_send_signal(fd, sig)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError:
        pass


def leak(pid, *kinds, same=()):
    """A worker that must be named by an open finding of one of these kinds. `same`: processes (its
    launchers) that stand for the same worker: to name one of them is as good."""
    return {"pid": pid, "kinds": list(kinds), "same": list(same)}


class Case:
    def __init__(self, needs=(), venv=None):
        """`needs`: commands that must be there. `venv`: packages of a Python environment in the cache."""
        args = argparse.ArgumentParser()
        args.add_argument("--hold", type=float, default=30)
        args.add_argument("--prepare", action="store_true", help="install what it needs, and end")
        self.args = args.parse_args()
        self.needs, self.packages = needs, venv
        self.here = Path(sys.argv[0]).resolve().parent
        self.python = sys.executable
        self.mark = os.environ.get(MARK) or secrets.token_hex(8)
        # check.py gives a case a session of its own
        own = MARK in os.environ and os.getsid(0) == os.getpid()
        self.family = Family(self.mark, os.getpid() if own else None)
        self.names = {}
        self.children = []

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            for command in self.needs:
                if not shutil.which(command):
                    raise Skip(f"needs {command}")
            if self.packages:
                self.venv = venv(self.packages)
            if self.args.prepare:
                sys.exit(0)
        except Skip as e:
            skip(e)
        if not os.environ.get("WORK"):
            sys.exit("WORK must name a fresh folder")
        self.work = Path(os.environ["WORK"]).resolve()
        os.chdir(self.work)
        os.environ.update({MARK: self.mark, "PYTHONPATH": str(self.here), "PYTHONDONTWRITEBYTECODE": "1",
                           "WORK": str(self.work), "CASE": str(self.here), "PYTHON": self.python})
        return self

    def __exit__(self, kind, error, _trace):
        self.family.end(reaping=True)
        for p in self.children:
            for f in (p.stdin, p.stdout):
                if f:
                    try:
                        f.close()
                    except OSError:
                        pass
        if isinstance(error, Skip):
            skip(error)
        return False

    def start(self, argv, **kw):
        """Starts a process in the work folder, by default without stdin and quiet."""
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("stdout", subprocess.DEVNULL)
        p = subprocess.Popen([str(a) for a in argv], **kw)
        self.children.append(p)
        return p

    def script(self, name, *args, **kw):
        """Starts a Python script of the case's folder."""
        return self.start([self.python, self.here / name, *args], **kw)

    def compile(self, source, *flags):
        """Compiles a C file of the case's folder into the work folder."""
        if not shutil.which("gcc"):
            raise Skip("needs gcc")
        out = self.work / Path(source).stem
        subprocess.run(["gcc", "-O1", "-w", "-o", out, self.here / source, *flags], check=True)
        return out

    def all(self, *tokens, n=1, within=30, where=lambda p: True):
        """Pids of the case's processes with these tokens in argv, oldest first, as soon as there are n."""
        until = time.monotonic() + within
        while True:
            found = [p.pid for p in self.family.members()
                     if p.state not in "ZX" and p.has(*tokens) and where(p)]
            if len(found) >= n:
                return found
            if time.monotonic() > until:
                raise SystemExit(f"broken: {len(found)} of {n} processes with {tokens} after {within} s")
            time.sleep(0.1)

    def find(self, *tokens, **kw):
        return self.all(*tokens, **kw)[0]

    def until(self, what, condition, within=40):
        """Waits for a condition of the situation."""
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"broken: {what} did not come about within {within} s")
            time.sleep(0.1)

    def alive(self, pid):
        return any(p.pid == pid and p.state not in "ZX" for p in self.family.members())

    def name(self, pid, what):
        """Gives a process a name for people; returns the pid."""
        self.names[pid] = what
        return pid

    def truth(self, in_use=(), leaked=(), note="", **more):
        """Prints what is true from now on. `more`: see the README."""
        everybody = processes()
        mentioned = [*in_use, *(p for e in leaked for p in (e["pid"], *e["same"])), *self.names]
        starts = {str(p): everybody[p].start for p in mentioned if p in everybody}
        truth = {"in_use": list(in_use), "leaked": list(leaked), **more, "note": note,
                 "names": {str(p): n for p, n in self.names.items()}, "starts": starts}
        print("TRUTH", json.dumps(truth), flush=True)

    def hold(self):
        """Keeps the situation; SIGTERM ends it earlier."""
        time.sleep(self.args.hold)


def skip(reason):
    print("SKIP", reason, flush=True)
    sys.exit(SKIPPED)


def venv(packages):
    """A Python environment with these packages in the cache, made once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / ("venv-" + "-".join(packages))
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
                subprocess.run([folder / "bin/pip", "install", "-q", "--disable-pip-version-check",
                                "--retries", "1", *packages], check=True, capture_output=True, timeout=480)
            except (OSError, subprocess.SubprocessError):
                raise Skip(f"{' and '.join(packages)} cannot be installed (is the package registry reachable?)")
            (folder / "complete").touch()
    return folder / "bin/python"
