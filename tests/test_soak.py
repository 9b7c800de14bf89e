"""The soak benchmark: a sample of it, and that it sees what it is there to see."""

import contextlib
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time

import numpy as np
import pytest

from taemi_lib.data.media import Audio, Frames, Unreadable, read_audio
from taemi_lib.profiles import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # its workers import it by this name, too
import soak


class Trap(type(pathlib.Path())):
    """A file that does to the process which reads it what its name says."""


def trapped(path):
    """Read the sound of a file, or of a Trap."""
    if isinstance(path, Trap) and path.stem == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    while isinstance(path, Trap) and path.stem == "hang":
        time.sleep(1)
    return read_audio(path)


if multiprocessing.parent_process() is not None:  # in a worker that was sent a Trap
    soak.READINGS["sound"] = trapped


def sound(samples, **changes):
    samples = np.asarray(samples, np.float32)
    return Audio(**{"samples": samples, "duration": samples.size / 16_000} | changes)


def pictures(times=(0.0, 0.1), shape=(8, 8, 3), kind=np.uint8):
    return Frames(np.zeros((len(times), *shape), kind), np.asarray(times, np.float32))


# --- the sample


@pytest.mark.slow
def test_sixty_damaged_files_give_values_or_reasons(capfd, monkeypatch):
    # half a minute of silence shows the same as an hour
    monkeypatch.setattr(soak, "LONG", 30)
    assert soak.main(["--files", "60", "--seed", "3"]) == 0
    said = capfd.readouterr().out
    assert "FAILURE" not in said
    rows = {line[:18].strip(): line[18:].split() for line in said.splitlines()}
    assert all(rows[kind][0] == "5" and rows[kind][-1] == "0" for kind in soak.KINDS)
    files, values, damaged, reasons, failures = map(int, rows["all"])
    assert (files, failures) == (60, 0)
    assert values + damaged + reasons == 60 * len(soak.READINGS)
    assert min(values, reasons) > 20 and damaged > 5


def test_a_seed_gives_the_same_files(tmp_path):
    """Of the same good files: FFmpeg does not promise the same bytes each time it encodes."""

    def made(seed, folder):
        folder.mkdir()
        kinds = ("bits flipped", "absurd headers", "blocks of zeros", "truncated")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(soak, "KINDS", {kind: soak.KINDS[kind] for kind in kinds})
            return [
                (kind, path.name, path.read_bytes())
                for kind, path in soak.damaged(40, seed, folder)
            ]

    first = made(7, tmp_path / "1")
    assert made(7, tmp_path / "2") == first
    assert made(8, tmp_path / "3") != first


def test_there_are_as_many_as_asked_for_and_no_kind_is_short():
    endless = {kind: soak.KINDS[kind](random.Random(0)) for kind in soak.ENDLESS}
    number = {
        kind: len(list(way(random.Random(0))))
        for kind, way in soak.KINDS.items()
        if kind not in endless
    }
    assert min(number.values()) >= 9 and number["truncated"] == 20 * len(soak.GOOD)
    assert all(next(way) for way in endless.values())


# --- what is wrong is seen


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (sound([0.1, np.nan]), "no numbers"),
        (sound([0.1, np.inf]), "no numbers"),
        (sound([]), "samples are"),
        (sound([[0.1, 0.1]]), "samples are"),
        (Audio(np.zeros(10), 10 / 16_000), "float64"),
        (sound([0.1, 0.1], duration=1.0), "duration"),
        (sound([0.1, 1.1]), "peak"),
        (sound(np.zeros(16_000 * 3600 + 1)), "longer than an hour"),
    ],
)
def test_sound_that_does_not_hold_is_seen(audio, said):
    assert said in soak.wrong_sound(audio, floating=False)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (pictures(()), "images are"),
        (pictures(kind=np.float32), "float32"),
        (pictures(shape=(8, 8)), "images are"),
        (pictures(shape=(8, 513, 3)), "513"),
        (pictures((0.1, 0.1)), "do not increase"),
        (pictures((-0.1, 0.1)), "times from"),
        (pictures((0.1, np.nan)), "times from"),
        (Frames(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(1, np.float32)), "for 2 images"),
    ],
)
def test_pictures_that_do_not_hold_are_seen(frames, said):
    assert said in soak.wrong_frames(frames)


def test_what_holds_is_right():
    assert soak.wrong_sound(sound([0.1, 1.0]), floating=False) == ""
    assert soak.wrong_sound(sound([0.1, 1.3]), floating=True) == ""
    assert soak.wrong_frames(pictures()) == ""


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 201, "a\x00b"])
def test_a_reason_has_to_be_a_short_line(reason, monkeypatch, tmp_path):
    def refuse(path):
        raise Unreadable(reason)

    monkeypatch.setitem(soak.READINGS, "first frames", refuse)
    assert soak.read("first frames", tmp_path / "a.mp4").result == "failure"


def test_any_other_exception_is_a_failure_with_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setitem(soak.READINGS, "first frames", lambda path: 1 / 0)
    reading = soak.read("first frames", tmp_path / "a.mp4")
    assert reading.result == "failure"
    assert "Traceback" in reading.text and "ZeroDivisionError" in reading.text


@pytest.mark.slow
def test_lost_processes_and_endless_ones_are_failures_and_the_next_file_is_read(tmp_path):
    files = []
    for name, kind in (("crash", Trap), ("hang", Trap), ("good", pathlib.Path)):
        path = kind(tmp_path / f"{name}.wav")
        path.write_bytes(soak.good("wav"))
        files.append(("kind", path))
    # a busy machine may take seconds to import this file in a worker
    with contextlib.closing(soak.read_files(files, seconds=6)) as outcomes:
        found = {outcome.path.stem: outcome.readings for outcome in outcomes}
    assert [one.result for one in found["good"]] == ["value", "reason", "reason"]
    for name, said in (("crash", "died"), ("hang", "still at it after 6 s")):
        (reading,) = found[name]
        assert reading.result == "failure" and said in reading.text


def test_a_failure_is_printed_kept_and_in_the_exit_code(capsys, monkeypatch, tmp_path):
    def one(files, processes):
        for kind, path in files:
            reading = soak.Reading("sound", "failure", "Traceback: something")
            yield soak.Outcome(kind, path, [reading], 0.1)

    monkeypatch.setattr(soak, "read_files", one)
    assert soak.main(["--files", "1", "--keep", str(tmp_path / "kept")]) == 1
    said = capsys.readouterr().out
    assert "FAILURE truncated: cut at" in said and "Traceback: something" in said
    (kept,) = (tmp_path / "kept").rglob("cut at*")
    assert kept.name in said
