"""Writing to a disk that is full, and two processes at one folder."""

import os
import subprocess
import sys

import pytest

from taemi_lib.profiles import ROOT
from taemi_lib.support import files

# what a process may write into one file ends in the middle of it: half of the content is on the
# disk when the error comes, as when the disk is full
FULL = """
import resource, sys
from taemi_lib.support import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""
HOLD = """
import sys, time
from taemi_lib.support import files
with files.locked(sys.argv[1]), open(sys.argv[1] + "/said", "a") as said:
    for word in ("in", "out"):
        print(word, file=said, flush=True)
        time.sleep(0.2)
"""


def started(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize(
    "write",
    [
        "files.write_bytes(sys.argv[1] + '/a.bin', b'n' * 5000)",
        "files.write_json(sys.argv[1] + '/a.json', ['n'] * 5000)",
        """
with files.new_folder(sys.argv[1] + '/last') as fresh:
    (fresh / 'a.bin').write_bytes(b'n' * 900)
    (fresh / 'b.bin').write_bytes(b'n' * 5000)
""",
    ],
    ids=["file", "json", "folder"],
)
def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(tmp_path, write):
    (tmp_path / "last").mkdir()
    for name in ("a.bin", "a.json", "last/a.bin"):
        (tmp_path / name).write_bytes(b"old")
    before = contents(tmp_path)
    process = started(FULL + write, tmp_path)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "OSError" in said.splitlines()[-1]
    assert contents(tmp_path) == before and len(os.listdir(tmp_path)) == 3


def test_of_two_processes_at_one_folder_the_second_waits(tmp_path):
    both = [started(HOLD, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    assert (tmp_path / "said").read_text().split() == ["in", "out"] * 2


def test_what_a_killed_writer_left_is_swept_and_a_living_one_s_is_not(tmp_path):
    gone = started("")
    gone.communicate(timeout=60)
    left, own = tmp_path / f".a.{gone.pid}.tmp", tmp_path / f".b.{os.getpid()}.tmp"
    for path in (left, own):
        path.write_bytes(b"half")
    with files.locked(tmp_path):
        assert own.exists() and not left.exists()
