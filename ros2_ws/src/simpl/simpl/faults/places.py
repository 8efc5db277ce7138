"""Where faults happen that need the kernel's help: a small disk, and a wire between two machines.

A scenario that needs one runs in namespaces of its own, so nothing outside of it is touched and no rights are needed
where unprivileged user namespaces are allowed. What the machine does not allow is left out, and said.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from simpl_core.errors import EnvironmentMissingError

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LARGEST_FRAME = 65536
_ADDRESSES = ("10.77.0.1/24", "10.77.0.2/24")
_TUN = Path("/dev/net/tun")


def namespaces(needs: str) -> list[str]:
    """Words before the command of a scenario that `needs` this."""
    if needs not in ("mounts", "network"):
        return []
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", *(["--net"] if needs == "network" else []), "--"]


def missing(needs: str) -> str:
    """Why this machine cannot give what a scenario `needs`; empty when it can."""
    if needs == "onnx":
        return "" if find_spec("onnx") else "needs onnx (extra `train`) to make such a model"
    if needs == "compiler":
        return "" if shutil.which("cc") else "needs a C compiler for the clock that jumps"
    if not needs:
        return ""
    tools = ["unshare", "mount"] + (["ip", "nsenter"] if needs == "network" else [])
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if needs == "network" and not os.access(_TUN, os.R_OK | os.W_OK):
        return f"needs {_TUN}"
    tried = subprocess.run([*namespaces(needs), "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


def before_others() -> list[str]:
    """Words before a command that let it go before whatever else the machine does; none where that is not allowed.

    Below the priorities that policy, guard and arm take themselves: a bridge must not keep them waiting.
    """
    words = ["chrt", "--fifo", "5"]
    tool = shutil.which(words[0])
    allowed = tool and not subprocess.run([*words, "true"], capture_output=True, check=False).returncode
    return words if allowed else []


class SmallDisk:
    """A file system of its own in memory at `folder`, which can be full, or read-only."""

    def __init__(self, folder: Path, megabytes: int = 8) -> None:
        """Mount it; only in a mount namespace of our own."""
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir(parents=True, exist_ok=True)
        _call("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink()

    def read_only(self, on: bool) -> None:
        """Nobody may have a file open for writing; raises EnvironmentMissingError else."""
        _call("mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.folder))


class Wire:
    """A second machine, as its network sees it: a network namespace behind an Ethernet cable that passes our hands.

    Each end is a TAP device; a thread carries the frames over, and may lose or delay them. Use as a context manager,
    in a network namespace of our own, which becomes the first machine.

    Attributes:
        cut: nothing passes.
        loss: share of frames that are lost, each way.
        delay: between these many seconds, each frame for itself, so that frames overtake each other.
        enter: words before a command that make it run on the second machine.
    """

    def __init__(self) -> None:
        self.cut = False
        self.loss = 0.0
        self.delay = (0.0, 0.0)
        self._random = random.Random(0)
        self._closing = False
        # It lives as long as its standard input, so it cannot outlive us.
        self._holder = subprocess.Popen(["unshare", "--net", "--", "cat"], stdin=subprocess.PIPE)
        self.enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]
        self._ends: list[int] = []
        self._thread = threading.Thread(target=self._carry, name="wire", daemon=True)

    def __enter__(self) -> Wire:
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._holder.pid}/ns/net").readlink() == ours:
            time.sleep(0.01)
        for where, address in zip(([], self.enter), _ADDRESSES, strict=True):
            name = f"simpl{len(self._ends)}"
            self._ends.append(_on_thread(lambda where=where, name=name: self._open(bool(where), name)))
            for command in (
                "ip link set lo up",
                f"ip address add {address} dev {name}",
                f"ip link set {name} up",
                f"ip route add 224.0.0.0/4 dev {name}",
            ):
                _call(*where, *command.split())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._thread.join()
        for end in self._ends:
            os.close(end)
        self._holder.kill()
        self._holder.wait()

    def _open(self, there: bool, name: str) -> int:
        """The file descriptor of a new TAP device, here or on the second machine."""
        if there:
            with Path(f"/proc/{self._holder.pid}/ns/net").open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise EnvironmentMissingError(f"setns failed: {os.strerror(ctypes.get_errno())}")
        descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
        return descriptor

    def _carry(self) -> None:
        first, second = self._ends
        under_way: list[tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while not self._closing:
            ready, _, _ = select.select([first, second], [], [], 0.002 if under_way else 0.05)
            for end in ready:
                frame = os.read(end, _LARGEST_FRAME)
                if not self.cut and self._random.random() >= self.loss:
                    due = time.monotonic() + self._random.uniform(*self.delay)
                    heapq.heappush(under_way, (due, next(numbers), second if end == first else first, frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, target, frame = heapq.heappop(under_way)
                try:
                    os.write(target, frame)
                except OSError as error:
                    if error.errno not in (errno.EIO, errno.EAGAIN):  # the device is down or its queue full: lost
                        raise


def isolate_shared_memory() -> None:
    """A /dev/shm of our own; only in a mount namespace of our own. Segments are named by port, not by machine."""
    _call("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")


_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *ahead;  /* seconds, in a file that the harness writes to */

__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("SIMPL_CLOCK_AHEAD"), O_RDONLY | O_CLOEXEC);
  if (file >= 0) ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (!result && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return result;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec fine;
  (void)zone;
  int result = clock_gettime(CLOCK_REALTIME, &fine);
  now->tv_sec = fine.tv_sec;
  now->tv_usec = fine.tv_nsec / 1000;
  return result;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
/* The kernel knows the true time alone: an end of waiting that was counted from ours is told in its own. Times since
   the machine's start, which are smaller, are left alone. */
static struct timespec told(const struct timespec *until) {
  struct timespec same = *until;
  if (ahead && same.tv_sec > 1000000000) same.tv_sec -= *ahead;
  return same;
}
int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
  static int (*real)(sem_t *, const struct timespec *);
  if (!real) real = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec end = told(until);
  return real(semaphore, &end);
}
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
  typedef int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  static wait real;
  if (!real) real = (wait)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");  /* not its older namesake */
  if (!real) real = (wait)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  struct timespec end = told(until);
  return real(condition, mutex, &end);
}
"""


class WallClock:
    """A wall clock for the processes that are given `environment`; nobody else's is touched.

    A few lines of C stand before the C library's clock functions, for CLOCK_REALTIME alone. What is not told: a wait
    that was begun before the clock jumped ends when it would have ended without.
    """

    def __init__(self, folder: Path) -> None:
        """Compile it into `folder`."""
        source, library, self._ahead = folder / "clock.c", folder / "clock.so", folder / "clock.ahead"
        source.write_text(_CLOCK)
        _call("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl")
        self._seconds = 0
        self.advance(0)
        self.environment = {"LD_PRELOAD": str(library), "SIMPL_CLOCK_AHEAD": str(self._ahead)}

    def advance(self, seconds: int) -> None:
        """Jump so far, at once."""
        self._seconds += seconds
        with self._ahead.open("r+b" if self._ahead.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("q", self._seconds))


def _on_thread(what: Callable[[], int]) -> int:
    """Run it on a thread of its own, which may change its namespaces."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(what()))
    thread.start()
    thread.join()
    if not found:
        raise EnvironmentMissingError("a network device could not be made; see above")
    return found[0]


def _call(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise EnvironmentMissingError(f"`{' '.join(command)}` failed: {(result.stderr or result.stdout).strip()}")
