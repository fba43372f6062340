"""The sandbox: what comes out of it is data or a failure with its reason; and which is chosen."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import psutil
import pytest
from sandboxes import BACKENDS, ENOUGH, SMALL, run, the_sandbox

from fnsft.errors import InputError
from fnsft.evaluation.sandbox import Candidate, Limits, Sandbox, choose_sandbox
from fnsft.evaluation.sandbox.bubblewrap import bubblewrap
from fnsft.evaluation.sandbox.landlock import unconfined
from fnsft.evaluation.sandbox.process import Process, Unavailable


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return the_sandbox(request.param)


# What comes back.


def test_a_call_returns_what_the_function_does_and_keeps_its_state(sandbox: Sandbox) -> None:
    code = "calls = []\ndef f(x):\n    calls.append(x)\n    x.append(0)\n    return calls, len(x)"
    given = [1]
    with Candidate(sandbox, code, "f", SMALL) as candidate:
        first, second = (candidate.call([x], ENOUGH) for x in (given, [2, 3]))
    assert (first.kind, first.value) == ("returned", ([[1, 0]], 2))
    assert (second.kind, second.value) == ("returned", ([[1, 0], [2, 3, 0]], 3))
    assert given == [1]
    assert 0 < first.seconds < ENOUGH


def test_numpy_threads_and_processes_are_there_for_honest_programs(sandbox: Sandbox) -> None:
    body = """
import asyncio, numpy, subprocess
from concurrent.futures import ThreadPoolExecutor
async def three():
    return 3
with ThreadPoolExecutor(2) as pool:
    absolute = list(pool.map(abs, [-1, 2]))
said = subprocess.run(["/bin/echo", "hi"], stdout=subprocess.PIPE).stdout
return numpy.arange(x[0]) * 2, absolute, said, asyncio.run(three())
"""
    found = run(sandbox, body, 3, limits=Limits(seconds=ENOUGH))
    assert found.kind == "returned", found
    assert found.value[0].tolist() == [0, 2, 4]
    assert found.value[1:] == ([1, 2], b"hi\n", 3)


def test_numpy_is_there_before_the_first_call_of_a_program_that_names_it(sandbox: Sandbox) -> None:
    body = "import sys\nreturn 'num' + 'py' in sys.modules"
    assert run(sandbox, body).value is False
    assert run(sandbox, f"{body}\nimport numpy").value is True


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("def f(:", "raised", "SyntaxError"),
        ("f_ = 1", "raised", "NameError: no 'f' in the program"),
        ("def f(): return 1 / 0", "raised", "ZeroDivisionError: division by zero"),
        ("def f(): raise SystemExit(3)", "raised", "SystemExit: 3"),
        ("def f(): return f()", "raised", "RecursionError"),
        ("def f(): return iter([])", "raised", "unserialisable: list_iterator"),
        ("def f():\n x = []\n x.append(x)\n return x", "raised", "unserialisable"),
        ("import os\ndef f(): os._exit(0)", "died", "ended"),
        ("import os\ndef f(): os.closerange(0, 60)", "died", "ended"),
        ("import os\nos._exit(0)", "died", "ended"),
        ("while True: pass", "timeout", " 0.5 s"),
        ("def f():\n while True: pass", "timeout", " 0.5 s"),
        ("def f(): return 'x' * 2 ** 21", "too-large", "bytes"),
        ("class E(Exception):\n def __str__(self): 1 / 0\ndef f(): raise E", "raised", "E: (an"),
    ],
)
def test_a_failure_is_an_outcome_with_its_reason(
    sandbox: Sandbox, code: str, kind: str, message: str
) -> None:
    seconds = 0.5 if kind == "timeout" else ENOUGH
    limits = Limits(seconds=ENOUGH, load_seconds=seconds, memory_mib=1_024, output_mib=1)
    with Candidate(sandbox, code, "f", limits) as candidate:
        found = candidate.call([], seconds)
        assert (found.kind, found.value) == (kind, None), found
        assert message in found.message


def test_after_a_call_that_was_killed_the_next_one_starts_anew(sandbox: Sandbox) -> None:
    code = "import os\ndef f(x):\n while x == 1: pass\n if x == 2: os._exit(0)\n return x"
    with Candidate(sandbox, code, "f", SMALL) as candidate:
        kinds = [candidate.call([x], 0.3 if x == 1 else ENOUGH).kind for x in (0, 1, 3, 2, 4)]
    assert kinds == ["returned", "timeout", "returned", "died", "returned"]


def test_a_program_that_cannot_be_loaded_is_not_loaded_again(sandbox: Sandbox) -> None:
    code = "import time\ntime.sleep(0.4)\nraise ValueError"
    with Candidate(sandbox, code, "f", SMALL) as candidate:
        start = time.monotonic()
        kinds = {candidate.call([], ENOUGH).message for _ in range(50)}
    assert kinds == {"ValueError: "}
    assert time.monotonic() - start < 50 * 0.4


def test_a_program_has_its_seconds_for_all_calls_together(sandbox: Sandbox) -> None:
    code = "import time\ndef f(x): time.sleep(x)"
    with Candidate(sandbox, code, "f", Limits(seconds=4)) as candidate:
        kinds = [candidate.call([x], ENOUGH).kind for x in (0, 3, 3, 0)]
    assert kinds[0] == "returned"
    assert kinds[2:] == ["timeout"] * 2


# What is left of ours.


def test_descriptors_and_processes_of_ours_are_closed(sandbox: Sandbox) -> None:
    def ours() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(psutil.Process().children())

    before = ours()
    for body in ("return 1", "import os\nos._exit(1)", "while True: pass"):
        run(sandbox, body, seconds=0.2)
    with pytest.raises(InputError, match="expected that a process starts in it"):
        Process(Sandbox("broken", ("/bin/false",), {}), SMALL)
    assert ours() == before


def test_candidates_of_several_threads_do_not_disturb_each_other(sandbox: Sandbox) -> None:
    def work(number: int) -> list[Any]:
        code = f"def f(x): return {number} * x"
        with Candidate(sandbox, code, "f", SMALL) as candidate:
            return [candidate.call([x], ENOUGH).value for x in range(50)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert found == [[number * x for x in range(50)] for number in range(4)]


# Which sandbox.


def test_without_a_sandbox_it_is_refused_in_one_line_or_said_loudly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing() -> Sandbox:
        raise Unavailable("no bwrap in PATH")

    with pytest.raises(InputError) as refused:
        choose_sandbox(False, [missing, missing])
    assert str(refused.value) == (
        "programs of a model: expected a sandbox to run them in, found none (no bwrap in PATH); "
        "install bubblewrap, or set allow_unsandboxed: true where nothing can be lost"
    )
    assert capsys.readouterr().err == ""
    assert choose_sandbox(True, [missing]).name == "none"
    assert "WITHOUT A SANDBOX (no bwrap in PATH)" in capsys.readouterr().err


def test_a_sandbox_that_does_not_hold_is_passed_over() -> None:
    with pytest.raises(InputError, match="none does not refuse writing files, reading files, con"):
        choose_sandbox(False, [unconfined])
    assert choose_sandbox(False, [unconfined, *BACKENDS.values()]).name != "none"


@pytest.mark.parametrize("owner", [os, socket])
def test_what_the_system_refuses_to_a_trial_is_a_reason_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], owner: ModuleType
) -> None:
    def refused(*_: object) -> NoReturn:
        raise PermissionError(errno.EPERM, "not permitted here")

    monkeypatch.setattr(owner, {os: "pidfd_open", socket: "create_server"}[owner], refused)
    before = psutil.Process().children()
    assert choose_sandbox(True, [unconfined]).name == "none"
    assert psutil.Process().children() == before
    assert "not permitted here" in capsys.readouterr().err
    if owner is os:  # of a sandbox that was chosen before too
        with pytest.raises(InputError, match="^sandbox none: .*pidfd_open: not permitted here$"):
            run(unconfined(), "return 1")


def test_a_path_without_bubblewrap_leaves_landlock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no bwrap in PATH"):
        bubblewrap()


def test_an_older_bubblewrap_which_bounds_no_folder_has_none_to_write_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = shutil.which("bwrap")
    if real is None:
        pytest.skip("needs bwrap")
    script = f'case $1 in --version) echo bubblewrap 0.4.1;; --help) ;; *) exec {real} "$@";; esac'
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    try:
        sandbox = choose_sandbox(False, [bubblewrap])
    except InputError as error:
        pytest.skip(str(error))
    assert sandbox.name == "bubblewrap 0.4.1"
    found = run(sandbox, "open('/tmp/new', 'w')")
    assert (found.kind, "Read-only file system" in found.message) == ("raised", True)


def test_without_a_sandbox_time_and_memory_are_limited_all_the_same() -> None:
    assert run(unconfined(), "while True: pass", seconds=0.2).kind == "timeout"
    assert "MemoryError" in run(unconfined(), "return len(bytearray(600 * 2**20))").message


@pytest.mark.parametrize("namespaces", [True, False])
def test_what_is_forbidden_is_so_for_a_plain_user_too(repository: Path, namespaces: bool) -> None:
    """With the user's own namespaces, and where the system allows none and Landlock is left."""
    if os.getuid() != 0:
        pytest.skip("this is a plain user already")
    if not shutil.which("bwrap") or not shutil.which("setpriv"):
        pytest.skip("needs bwrap and setpriv, to become one")
    command = plain_user(repository)
    if not namespaces:
        command += ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/"]
    command += [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("test_sandbox_probes.py"))],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(Path.home()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert ("skipped" in done.stdout) != namespaces


def plain_user(repository: Path) -> list[str]:
    """A command line for another user, who can read the interpreter and the repository."""
    readable = {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, repository)}
    private = sorted({path for path in readable if Path.home() in path.parents})
    command = ["bwrap", "--dev-bind", "/", "/"]
    if private:
        command += ["--tmpfs", str(Path.home())]
        between = {parent for path in private for parent in path.parents}
        for parent in sorted(parent for parent in between if Path.home() in parent.parents):
            command += ["--dir", str(parent)]
    for path in private:
        command += ["--ro-bind", str(path), str(path)]
    # In a namespace of users, 65534 is whoever is not in it.
    user = ["--reuid", "60123", "--regid", "60123", "--clear-groups"]
    return [*command, "--", "setpriv", *user]
