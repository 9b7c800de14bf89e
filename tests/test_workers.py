"""Work that may cost a process its life: the item that did it is named, the others are done."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from taemi_lib.errors import EncoderError, ExtractionError
from taemi_lib.profiles import ROOT
from taemi_lib.support import workers

LIMIT = 0.3  # GB

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def ready(memory=None):
    if memory is not None:
        workers.limit_memory(memory)


def do(item):
    """What the item's name says. `where` tells attempts apart, as files do."""
    deed, where = item
    with open(Path(where) / f"{deed}.{os.getpid()}", "w"):
        pass
    if deed == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "leave":
        os._exit(3)
    elif deed == "leave quietly":
        os._exit(0)
    elif deed == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as a loop in C is deaf
        while True:
            time.sleep(0.1)
    elif deed == "flood":
        held = []
        try:
            while True:
                held.append(np.ones(10**6))
        except MemoryError:
            return f"stopped at {8e-3 * len(held):.1f} GB"
    elif deed == "once" and attempts(where, deed) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "raise":
        raise EncoderError("of all items")
    return deed.upper()


def attempts(where, deed):
    return len(list(Path(where).glob(f"{deed}.*")))


def outcomes(where, *deeds, processes=1, seconds=30.0, start=ready, arguments=()):
    items = [(deed, str(where)) for deed in deeds]
    found = dict(workers.each(items, do, start, arguments, processes, seconds))
    assert sorted(found) == list(range(len(items)))  # each once
    return [found[number] for number in range(len(items))]


def children():
    """The processes that were started for work, by the fork server or (elsewhere) by this one."""
    found, servers = [], []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(one.cmdline())
            found += [one] * ("spawn_main" in line)
            servers += [one] * ("forkserver" in line)
    return found + [one for server in servers for one in server.children()]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    _, alive = psutil.wait_procs(children(), timeout=10)
    assert not alive


def test_whatever_one_item_does_the_others_are_done_and_it_is_named(tmp_path):
    found = outcomes(tmp_path, "a", "crash", "b", "leave", "once", "c", processes=2)
    assert found == [
        "A",
        workers.Lost("its process died: signal 11, SIGSEGV"),
        "B",
        workers.Lost("its process died: exit code 3"),
        "ONCE",
        "C",
    ]
    counts = {deed: attempts(tmp_path, deed) for deed in ("a", "crash", "leave", "once", "c")}
    assert counts == {"a": 1, "crash": 2, "leave": 2, "once": 2, "c": 1}


def test_what_is_killed_from_outside_says_that_memory_may_be_the_reason(tmp_path):
    (found,) = outcomes(tmp_path, "kill")
    assert found.reason == "its process died: signal 9, SIGKILL, often for lack of memory"


def test_what_never_ends_is_ended(tmp_path):
    started = time.monotonic()
    found = outcomes(tmp_path, "hang", "a", "leave quietly", processes=2, seconds=1.0)
    late = workers.Lost("took longer than 1 s")
    assert found == [late, "A", late]
    assert time.monotonic() - started < 60


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts")
def test_memory_is_limited_beside_what_the_process_holds_already(tmp_path):
    found = outcomes(tmp_path, "flood", "a", arguments=(LIMIT,))
    assert found[1] == "A"
    assert found[0].startswith("stopped at ")
    assert float(found[0].split()[2]) == pytest.approx(LIMIT, abs=0.15)


def test_an_error_of_all_items_is_raised_and_ends_the_processes(tmp_path):
    with pytest.raises(EncoderError, match="of all items"):
        outcomes(tmp_path, "a", "raise", *"bcdef", processes=2)


def refuse():
    raise EncoderError("text encoder: not there")


def fail():
    raise KeyError("layers")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("start", "kind", "says"),
    [
        (refuse, EncoderError, "text encoder: not there"),
        (fail, ExtractionError, "could not start: KeyError: 'layers'"),
        (die, ExtractionError, "before its first clip .*too little memory for the encoders"),
    ],
)
def test_a_process_that_cannot_start_blames_no_item(tmp_path, start, kind, says):
    with pytest.raises(kind, match=says):
        outcomes(tmp_path, "a", "b", start=start, processes=2)
    assert attempts(tmp_path, "a") == 0


def test_who_stops_listening_ends_the_processes(tmp_path):
    items = [(deed, str(tmp_path)) for deed in "abcdefgh"]
    for _ in workers.each(items, do, ready, processes=2):
        break
    assert len(list(tmp_path.iterdir())) < len(items)


def test_an_idle_process_that_is_killed_loses_nothing(tmp_path):
    items = [(deed, str(tmp_path)) for deed in "abcd"]
    found = {}
    for number, result in workers.each(items, do, ready, processes=1):
        found[number] = result
        for child in children():
            child.kill()
        time.sleep(0.3)
    assert sorted(found) == [0, 1, 2, 3]
    for number, result in found.items():  # at work or not, it had its second chance, or a name
        assert result == "abcd"[number].upper() or isinstance(result, workers.Lost)


FOLDER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from taemi_lib.support import workers
def found(item):
    return [sys.modules[item].__file__ if item in sys.modules else None, os.environ.get("CHOSEN")]
def ready():
    pass
if __name__ == "__main__":
    os.environ["CHOSEN"] = "first"
    for _ in workers.each(["json"], found, ready):
        pass
    os.environ["CHOSEN"] = "later"
    print(json.dumps([result for _, result in workers.each(sys.argv[2:], found, ready)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_processes_begin_with_what_was_imported_and_this_environment(tmp_path):
    for shadow in ("whisper", "taemi_lib"):  # in the current folder, where the script is not
        (tmp_path / shadow).mkdir()
        (tmp_path / shadow / "__init__.py").write_text("raise SystemExit('a stranger')")
    place = tmp_path / "scripts"
    place.mkdir()
    (place / "command.py").write_text(FOLDER)
    wanted = ("transformers", "taemi_lib.workspace", "torch")
    done = subprocess.run(
        [sys.executable, str(place / "command.py"), str(ROOT), *wanted],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    files, chosen = zip(*json.loads(done.stdout))
    assert all(files) and Path(files[1]) == ROOT / "taemi_lib" / "workspace.py"
    assert set(chosen) == {"later"}


COMMAND = """
import json, sys, time
sys.path[:0] = json.loads(sys.argv[1])
import test_workers
from taemi_lib.support import workers
if __name__ == "__main__":
    for _ in workers.each([("a", sys.argv[2]), ("hang", sys.argv[2])], test_workers.do,
                          test_workers.ready, processes=2):
        print("ready", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(tmp_path, how):
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    paths = json.dumps([str(ROOT), str(Path(__file__).parent)])
    command = subprocess.Popen(
        [sys.executable, str(script), paths, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # what a shell starts in the background ignores Ctrl-C, and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert command.stdout.readline() == b"ready\n"
    while not attempts(tmp_path, "hang"):
        time.sleep(0.05)
    there = psutil.Process(command.pid).children(recursive=True)
    assert there
    command.send_signal(how)
    command.wait(timeout=60)
    command.stdout.close()
    _, alive = psutil.wait_procs(there, timeout=20)
    assert not alive


def test_no_limit_where_the_platform_cannot_count(monkeypatch):
    monkeypatch.setattr(workers, "_private_bytes", lambda: None)
    assert workers.limit_memory(1.0) is False
    monkeypatch.undo()
    monkeypatch.setattr(workers, "resource", None)
    assert workers.limit_memory(1.0) is False
