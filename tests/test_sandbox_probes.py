"""What a hostile program tries stays inside: files, sockets, processes, memory, time, verdicts.

Every probe stops by itself: a fork attempt after 60 processes, which sleep for a minute, memory
after some hundred MiB, a loop when its process is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from sandboxes import BACKENDS, ENOUGH, EVERY, SMALL, as_program, run, the_sandbox

from fnsft.evaluation.sandbox import Candidate, Sandbox


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return the_sandbox(request.param)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of the host in which every user may write, with a file that every user may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "secret").write_text("secret")
        (folder / "secret").chmod(0o666)
        yield folder


def eventually(condition: Callable[[], bool], seconds: float = ENOUGH) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def running(mark: str) -> list[int]:
    """The processes, of any user and namespace, that sleep for ``mark`` seconds."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if mark in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_files_of_the_host_are_neither_written_nor_read(
    sandbox: Sandbox, open_folder: Path
) -> None:
    """Names may exist inside as well; what is behind them is not the host's."""
    body = """
import os
found = []
for path in x[0]:
    for action in (
        lambda path: open(path).read(),
        lambda path: str(os.listdir(path)),
        lambda path: open(path, "a").write("changed"),
        lambda path: os.chmod(path, 0o777),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.truncate(path, 0),
        lambda path: os.mkdir(path + "-made"),
        lambda path: os.unlink(path),
    ):
        try:
            found.append(str(action(path)))
        except OSError:
            pass
return found
"""
    own, secret = Path(__file__).resolve(), open_folder / "secret"
    folders = [str(own.parent), str(open_folder), str(Path.home()), os.getcwd(), "/usr"]

    def states() -> list[tuple[int, ...]]:
        found = (path.stat() for path in (own, secret, open_folder))
        return [(state.st_mode, state.st_mtime_ns, state.st_ctime_ns) for state in found]

    before = [own.read_bytes(), *states()]
    paths = [str(secret), str(open_folder / "new"), str(own), "/etc/passwd", "/usr/new", *folders]
    found = run(sandbox, body, paths)
    assert found.kind == "returned", found
    for text in ("secret", "root:", own.name, "test_what_is_written_inside", ".bash"):
        assert not [line for line in found.value if text in line]
    assert secret.read_text() == "secret"
    assert [path.name for path in open_folder.iterdir()] == ["secret"]
    assert [own.read_bytes(), *states()] == before
    assert not [*Path("/usr").glob("new*"), *Path("/").glob("usr-made")]


def test_what_is_written_inside_is_bounded_and_not_on_the_host(sandbox: Sandbox) -> None:
    body = """
import os
total = 0
for folder in ("/tmp", "/dev/shm", "/dev", "/", "/inside", "/packages"):
    for number in range(20):
        try:
            with open(f"{folder}/fnsft-probe-{number}", "wb", buffering=0) as file:
                total += file.write(bytes(500_000))
        except OSError:
            pass
return total
"""
    found = run(sandbox, body)
    most = 2 * SMALL.file_mib * 2**20 if sandbox.name.startswith("bubblewrap") else 0
    assert (found.kind, found.value <= most) == ("returned", True), found
    assert not [*Path("/tmp").glob("fnsft-probe-*"), *Path("/dev/shm").glob("fnsft-probe-*")]


def test_no_socket_reaches_a_listening_one(sandbox: Sandbox) -> None:
    body = """
import socket
reached = []
def attempt(name, action):
    try:
        action()
        reached.append(name)
    except OSError:
        pass
tcp, udp, unix = x
def send(sock):
    sock.sendto(b"hello", ("127.0.0.1", udp))
def abstract():
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"hello", "\\0" + unix)
def by_pair():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"hello", "\\0" + unix)
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", tcp), 1))
attempt("udp", lambda: send(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
attempt("abstract", abstract)
attempt("pair", by_pair)
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
return reached
"""
    name = f"fnsft-{os.getpid()}-{time.monotonic_ns()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind("\0" + name)
        found = run(sandbox, body, tcp.getsockname()[1], udp.getsockname()[1], name)
        for listening in (tcp, udp, unix):
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept() if listening is tcp else listening.recv(1)
    assert (found.kind, found.value) == ("returned", [])


def test_processes_and_threads_are_few(sandbox: Sandbox) -> None:
    body = """
import os, threading, time
children, threads = [], []
try:
    for _ in range(60):
        children.append(os.fork())
        if children[-1] == 0:
            time.sleep(60)
            os._exit(0)
except OSError:
    pass
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
try:
    for _ in range(60):
        threads.append(threading.Thread(target=time.sleep, args=(60,), daemon=True))
        threads[-1].start()
except RuntimeError:
    pass
return len(children), len(threads)
"""
    found = run(sandbox, body)
    assert found.kind == "returned", found
    # Without a namespace of its own the limit makes room for what else the user runs.
    assert max(found.value) <= (SMALL.processes if os.getuid() == 0 else 50)


def test_memory_beyond_the_limit_ends_the_program_alone(sandbox: Sandbox) -> None:
    found = run(sandbox, "return len(bytearray(600 * 2**20))")
    assert (found.kind, found.message[:11]) == ("raised", "MemoryError")
    assert run(sandbox, "return len(bytearray(100 * 2**20))").value == 100 * 2**20


def test_a_program_that_does_not_stop_is_stopped(sandbox: Sandbox) -> None:
    bodies = [
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(0, range(1, 65))\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
        "import threading\nthreading.Lock().acquire()\nthreading.Event().wait()",
        "return sum(range(10 ** 12))",
    ]
    start = time.monotonic()
    with ThreadPoolExecutor(len(bodies)) as pool:
        found = list(pool.map(lambda body: run(sandbox, body, seconds=0.3), bodies))
    assert [outcome.kind for outcome in found] == ["timeout"] * len(bodies)
    assert {outcome.message for outcome in found} <= {"over 0.3 s", "killed after 0.3 s"}
    assert time.monotonic() - start < ENOUGH


def test_a_flood_of_output_is_not_kept(sandbox: Sandbox) -> None:
    body = """
import os
for descriptor in range(3, 64):
    try:
        os.set_blocking(descriptor, False)
        os.write(descriptor, b"\\xff" * 10)
    except OSError:
        pass
while True:
    print("x" * 100_000)
    os.write(2, b"x" * 100_000)
"""
    before = psutil.Process().memory_info().rss
    found = run(sandbox, body)
    assert (found.kind, "4294967299 bytes" in found.message) == ("died", True), found
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


@pytest.mark.parametrize(
    "sent",
    [
        b"no json",
        b"[" * 100_000,
        b"[3, 1, 2]",
        b'[2, "returned", "1", "", {"unknown": 1}]',
        b'[2, "returned", Infinity, 7, 1]',
        b'[2, ["returned"], 0.1, "", 1]',
        b'[9, "returned", 0.1, "", 1]',
        b'{"a": 1}',
        b"9" * 5_000,
    ],
    ids=lambda sent: sent[:20].decode(),
)
def test_an_answer_that_no_worker_gives_is_a_death(sandbox: Sandbox, sent: bytes) -> None:
    body = """
import os, struct, time
for descriptor in range(3, 64):
    try:
        os.write(descriptor, struct.pack(">I", len(x[0])) + x[0])
    except OSError:
        pass
time.sleep(3)
"""
    assert run(sandbox, body, sent).kind == "died"


def test_a_program_finds_no_verdict_to_forge(sandbox: Sandbox) -> None:
    """It sees its own process alone, and what it makes of the worker's changes its own data."""
    body = """
import builtins, glob, json, os, sys
class Equal(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __repr__(self): return "42"
entries = [entry.split("/")[2] for entry in glob.glob("/proc/[0-9]*/fd/*")]
others = [pid for pid in entries if int(pid) not in (os.getpid(), 1)]
builtins.all = builtins.any = lambda *_: True
json.loads = lambda *_: 42
frame = sys._getframe()
while frame is not None:
    if "values" in frame.f_globals:
        frame.f_globals["values"].PLAIN.add(Equal)
    frame = frame.f_back
return Equal("plain"), others
"""
    found = run(sandbox, body)
    assert (found.kind, found.value[1]) == ("returned", []), found
    assert (type(found.value[0]), found.value[0].encode()) == (str, b"plain")


def test_a_program_that_answers_for_itself_sends_data_alone(sandbox: Sandbox) -> None:
    body = """
import json, os, struct
text = json.dumps([2, "returned", 1e9, "", [1, {"tuple": [2]}]]).encode()
for descriptor in range(3, 64):
    try:
        os.write(descriptor, struct.pack(">I", len(text)) + text)
    except OSError:
        pass
os._exit(0)
"""
    found = run(sandbox, body)
    assert (found.kind, found.value) == ("returned", [1, (2,)])
    assert found.seconds < ENOUGH


def test_the_environment_holds_nothing_of_ours(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FNSFT_SECRET", "secret")
    found = run(sandbox, "import os\nreturn dict(os.environ), os.getcwd(), os.listdir('/tmp')")
    if found.kind == "raised":  # a folder that may not be listed
        found = run(sandbox, "import os\nreturn dict(os.environ), os.getcwd(), []")
    environment, cwd, files = found.value
    assert set(environment) == {
        *("PATH", "HOME", "LC_ALL", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *(["PWD"] if "PWD" in environment else []),
    }
    assert (cwd in ("/", "/tmp"), files) == (True, [])


def test_signals_and_limits_do_not_leave(sandbox: Sandbox) -> None:
    received = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    body = """
import os, resource, signal
done = []
try:
    done.append(resource.prlimit(x[0], resource.RLIMIT_CORE))
except OSError:
    pass
for pid in (x[0], -1):
    try:
        os.kill(pid, signal.SIGUSR1 if pid > 0 else 0)
        done.append(pid)
    except OSError:
        pass
return done
"""
    try:
        found = run(sandbox, body, os.getpid())
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert received == []
    assert (found.kind, {*found.value} <= {-1}) == ("returned", True), found


def test_nothing_is_gained_by_namespaces_or_calls_of_another_interface(sandbox: Sandbox) -> None:
    body = """
import ctypes, os, platform, signal
libc = ctypes.CDLL(None, use_errno=True)
newuser, x86 = 0x10000000, platform.machine() == "x86_64"
gained = []
if libc.unshare(newuser) == 0:
    gained.append("unshare")
child = libc.syscall(56 if x86 else 220, newuser | signal.SIGCHLD, 0, 0, 0, 0)
if child == 0:
    os._exit(0)
if child > 0:
    gained.append("clone")
if x86 and libc.syscall(0x40000000 + 41, 1, 1, 0) >= 0:
    gained.append("socket of x32")
if libc.syscall(425, 1, bytearray(120) and ctypes.create_string_buffer(120)) >= 0:
    gained.append("io_uring")
for name in ("setsid", "setpgrp"):
    try:
        getattr(os, name)()
        gained.append(name)
    except OSError:
        pass
with open("/dev/null") as file:
    pass
return gained, os.getuid() != 0 and os.geteuid() != 0
"""
    found = run(sandbox, body)
    assert (found.kind, found.value) == ("returned", ([], True)), found


def test_whatever_a_program_started_ends_with_it(sandbox: Sandbox) -> None:
    mark = f"3{os.getpid()}.{time.monotonic_ns()}"
    body = """
import os, subprocess
if os.fork() == 0 and os.fork() == 0:
    os.execv("/bin/sleep", ["sleep", x[0]])
subprocess.Popen(["/bin/sleep", x[0]])
return 1
"""
    with Candidate(sandbox, as_program(body), "f", SMALL) as candidate:
        assert candidate.call([mark], ENOUGH).value == 1
        assert eventually(lambda: len(running(mark)) >= 2)
    assert eventually(lambda: not running(mark))


@pytest.mark.parametrize("name", EVERY)
def test_a_machine_without_memory_ends_a_program_first(name: str) -> None:
    mark = f"3{os.getpid()}.{time.monotonic_ns()}"
    code = as_program("import subprocess\nsubprocess.Popen(['/bin/sleep', x[0]])\nreturn 1")
    with Candidate(the_sandbox(name), code, "f", SMALL) as candidate:
        assert candidate.call([mark], ENOUGH).value == 1
        assert eventually(lambda: bool(running(mark)))
        adjustment = Path(f"/proc/{running(mark)[0]}/oom_score_adj").read_text()
    assert adjustment.strip() == "1000"


def test_a_caller_that_is_killed_leaves_nothing(sandbox: Sandbox) -> None:
    """Nobody is left to clean up."""
    mark = f"3{os.getpid()}.{time.monotonic_ns()}"
    script = f"""
from fnsft.evaluation.sandbox import Candidate
from fnsft.evaluation.sandbox.bubblewrap import bubblewrap
from fnsft.evaluation.sandbox.landlock import landlock
sandbox = {"bubblewrap" if sandbox.name.startswith("bubblewrap") else "landlock"}()
code = "import subprocess\\ndef f(x):\\n    subprocess.Popen(['/bin/sleep', x])"
code += "\\n    while True: pass"
with Candidate(sandbox, code, "f") as candidate:
    candidate.call(["{mark}"], {ENOUGH})
"""
    caller = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert eventually(lambda: bool(running(mark)))
    finally:
        caller.kill()
        caller.wait()
    assert eventually(lambda: not running(mark))
