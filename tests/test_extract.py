"""Extraction: every bad file ends in a reason, nothing stops the others, and being killed loses
nothing."""

import errno
import multiprocessing
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from inputs import encoder_settings, tone, write_clip, write_wav

from taemi_lib.data import Clip, Manifest
from taemi_lib.data.media import read_frames
from taemi_lib.errors import EncoderError, ExtractionError, StoreError
from taemi_lib.features import Store, changes, load_encoders
from taemi_lib.features import clip as clip_features
from taemi_lib.features import extract as extraction
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.extract import extract
from taemi_lib.features.sequences import Transcript
from taemi_lib.profiles import MODALITIES, ROOT, Limits


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return encoder_settings(tmp_path_factory.mktemp("encoders"), vision_pooling="mean")


@pytest.fixture(scope="module")
def encoders(settings):
    return load_encoders(settings)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """What a test puts into place acts in this process only; some ask for others."""
    monkeypatch.setattr(extraction, "_processes", lambda clips, device: 0)


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """A random Whisper says anything: let it say something (in this process)."""
    from taemi_lib.features.speech import SpeechToText

    said = {"words": "so glad"}
    monkeypatch.setattr(
        SpeechToText, "transcribe", lambda self, samples: Transcript(said["words"], "en")
    )
    return said


def manifest_of(folder, count=3, **columns):
    ids = [f"c{i}" for i in range(count)]
    for i, clip_id in enumerate(ids):
        write_clip(folder / f"{clip_id}.mp4", 1.0, sound=tone(1.0, hertz=200 + 50 * i))
    return Manifest(
        pd.DataFrame({"clip_id": ids, "video": [f"{i}.mp4" for i in ids]} | columns),
        folder,
        "clips.csv",
    )


def stored_bytes(root):
    return {file.name: file.read_bytes() for file in sorted((root / "clips").iterdir())}


def test_a_clip_becomes_three_sequences(tmp_path, encoders):
    features = extract_clip(Clip("a", "test", write_clip(tmp_path / "a.mp4")), encoders)
    assert (
        features.audio.dim == 19
        and features.vision.values.shape == (10, 16)
        and features.tokens.dim == 16
    )
    assert features.transcript == "so glad" and not features.absent and not features.damaged


@pytest.mark.parametrize(
    ("make", "absent"),
    [
        (
            lambda path: write_clip(path, sound=None),
            {"audio": "no audio track", "text": "no transcript: no audio track"},
        ),
        (lambda path: write_clip(path, frame_times=None), {"vision": "no video track"}),
        (
            lambda path: write_clip(path, sound=np.zeros((1, 16_000), np.float32)),
            {"audio": "silent audio", "text": "no transcript: silent audio"},
        ),
        (
            lambda path: path.touch(),
            {"audio": "empty file", "vision": "empty file", "text": "no transcript: empty file"},
        ),
        (
            lambda path: path.write_text("no media\n" * 99),
            {
                "audio": "not a media file",
                "vision": "not a media file",
                "text": "no transcript: not a media file",
            },
        ),
        (
            lambda path: write_wav(path, tone(0.05)),
            {
                "audio": "audio shorter than one frame (800 of 920 samples)",
                "vision": "no video track",
            },
        ),
    ],
)
def test_what_is_absent_has_its_reason_and_the_rest_is_encoded(tmp_path, encoders, make, absent):
    path = tmp_path / "clip.mp4"
    make(path)
    features = extract_clip(Clip("a", "test", path), encoders)
    assert features.absent == absent
    there = {"audio": features.audio, "vision": features.vision, "text": features.tokens}
    assert {modality for modality, sequence in there.items() if sequence is None} == absent.keys()


def test_words_that_are_empty_and_files_that_are_cut_off_say_so(tmp_path, encoders, heard):
    heard["words"] = ""
    whole = write_clip(tmp_path / "a.mp4", 3.0, options={"movflags": "faststart"})
    assert extract_clip(Clip("a", "test", whole), encoders).absent == {"text": "no words heard"}
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    features = extract_clip(Clip("a", "test", whole), encoders)
    assert features.damaged["vision"].startswith("truncated") and 0 < len(features.vision) < 30


def test_the_first_12_s_are_heard_but_all_words_are(tmp_path, encoders):
    late = np.concatenate([np.zeros((1, 13 * 16_000), np.float32), tone(1.0)], axis=1)
    features = extract_clip(
        Clip("a", "test", None, write_wav(tmp_path / "late.wav", late)), encoders
    )
    assert features.absent == {"audio": "silent audio in the first 12 s", "vision": "no video file"}
    assert features.transcript == "so glad"


def test_given_transcripts_and_sound_files_are_used_when_asked_for(tmp_path, settings):
    given = load_encoders(replace(settings, transcripts="auto"))
    video = write_clip(tmp_path / "a.mp4", sound=None)
    sound = write_wav(tmp_path / "a.wav", tone(1.0))
    features = extract_clip(Clip("a", "test", video, sound, transcript="to see you"), given)
    assert features.transcript == "to see you" and len(features.tokens) == 5 and not features.absent
    for words in ("", None):  # none in the table: heard
        heard = extract_clip(Clip("a", "test", video, sound, transcript=words), given)
        assert heard.transcript == "so glad"


def test_with_the_table_alone_no_whisper_is_needed(tmp_path, settings):
    table = replace(settings, transcripts="table", speech=str(tmp_path / "nowhere"))
    encoders = load_encoders(table)
    video = write_clip(tmp_path / "a.mp4", sound=None)
    assert encoders.speech is None and "nowhere" not in encoders.identity["speech"]
    spoken = extract_clip(Clip("a", "test", video, transcript="to see you"), encoders)
    assert spoken.transcript == "to see you"
    for words, reason in (("", "empty transcript"), (None, "no transcript in the table")):
        silent = extract_clip(Clip("a", "test", video, transcript=words), encoders)
        assert silent.absent["text"] == reason


def test_the_report_says_where_the_words_come_from(tmp_path, settings):
    manifest = manifest_of(tmp_path)
    write_clip(tmp_path / "c1.mp4", sound=None)
    manifest.table.loc["c0", "transcript"] = "to see you"
    for asked, expected in (
        ("whisper", {"table": 0, "whisper": 2, "none": 1}),
        ("auto", {"table": 1, "whisper": 1, "none": 1}),
    ):
        chosen = replace(settings, transcripts=asked)
        report = extract(manifest, chosen, tmp_path / asked, progress=False)
        assert report.transcripts == expected
    assert "transcripts (clips): from the table 1, from Whisper 1, none 1" in str(report)


def test_a_clip_is_encoded_again_when_its_bytes_or_words_changed_and_never_for_a_new_date(
    tmp_path, settings
):
    settings = replace(settings, transcripts="auto")
    manifest = manifest_of(tmp_path)
    place = tmp_path / "store"
    extract(manifest, settings, place, progress=False)
    before = Store(place).fingerprint(["c0", "c1", "c2"])
    kept = stored_bytes(place)

    (tmp_path / "c0.mp4").touch()
    report = extract(manifest, settings, place, progress=False)
    assert (report.done, report.changed) == (0, []) and stored_bytes(place) == kept
    (place / "seen.json").unlink()  # only saves time
    assert extract(manifest, settings, place, progress=False).done == 0

    (tmp_path / "c0.mp4").write_bytes(b"broken")
    report = extract(manifest, settings, place, progress=False)
    assert report.changed == ["c0"] and report.done == 1 and "changed: c0" in str(report)
    assert Store(place).read("c0").vision is None
    assert Store(place).fingerprint(["c0"]) != before
    write_clip(tmp_path / "c0.mp4")  # and repaired
    assert extract(manifest, settings, place, progress=False).changed == ["c0"]
    assert Store(place).read("c0").vision is not None

    manifest.table.loc["c1", "transcript"] = "to see you"
    assert extract(manifest, settings, place, progress=False).changed == ["c1"]
    assert Store(place).read("c1").transcript == "to see you"


def test_a_file_of_a_new_date_is_read_once_and_remembered(tmp_path, settings, monkeypatch):
    manifest, place = manifest_of(tmp_path, 2), tmp_path / "store"
    extract(manifest, settings, place, progress=False)
    read, digest = [], changes._digest
    monkeypatch.setattr(changes, "_digest", lambda path: [read.append(path.name), digest(path)][1])
    extract(manifest, settings, place, progress=False)
    assert read == []
    (tmp_path / "c0.mp4").touch()
    for _ in range(2):
        assert extract(manifest, settings, place, progress=False).done == 0
    assert set(read) == {"c0.mp4"}
    read.clear()
    extract(manifest, settings, place, progress=False)
    assert read == []


def test_a_file_that_changes_while_it_is_encoded_is_noticed_the_next_time(
    tmp_path, settings, monkeypatch
):
    manifest, place = manifest_of(tmp_path, 1), tmp_path / "store"
    encode = extraction.extract_clip

    def meanwhile(clip, encoders):
        found = encode(clip, encoders)
        write_clip(clip.video, 2.0)
        return found

    monkeypatch.setattr(extraction, "extract_clip", meanwhile)
    extract(manifest, settings, place, progress=False)
    assert len(Store(place).read("c0").vision) == 10
    monkeypatch.setattr(extraction, "extract_clip", encode)
    assert extract(manifest, settings, place, progress=False).changed == ["c0"]
    assert len(Store(place).read("c0").vision) == 20


def test_a_file_that_cannot_be_read_stops_no_other_and_is_encoded_when_it_is_back(
    tmp_path, settings
):
    manifest, place = manifest_of(tmp_path, 2), tmp_path / "store"
    (tmp_path / "c0.mp4").rename(tmp_path / "away.mp4")
    report = extract(manifest, settings, place, progress=False)
    assert report.done == 2
    assert Store(place).read("c0").absent["vision"].startswith("cannot be read")
    assert extract(manifest, settings, place, progress=False).done == 0
    (tmp_path / "away.mp4").rename(tmp_path / "c0.mp4")
    assert extract(manifest, settings, place, progress=False).changed == ["c0"]
    assert Store(place).read("c0").vision is not None


UNGUARDED = """
import pickle, sys
from taemi_lib.features.extract import extract
manifest, settings, root = pickle.load(open(sys.argv[1], "rb"))
extract(manifest, settings, root, processes=2, progress=False)
"""


@pytest.mark.parametrize(
    "note", ["", "# not under __main__\n", "if __name__ == '__main__':\n    print('elsewhere')\n"]
)
def test_extraction_in_a_script_without_a_main_guard_ends_with_an_error_and_never_waits(
    tmp_path, settings, note
):
    manifest = manifest_of(tmp_path, 2, transcript="so glad")
    job = (manifest, replace(settings, transcripts="auto"), tmp_path / "store")
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    script = tmp_path / "mine.py"
    script.write_text(note + UNGUARDED)
    command = [sys.executable, str(script), str(tmp_path / "job")]
    options = {
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "capture_output": True,
        "text": True,
        "timeout": 300,  # far more than it needs: without the check it waits for ever
    }
    done = subprocess.run(command, **options)
    assert done.returncode != 0 and "ExtractionError" in done.stderr
    assert "starts processes" in done.stderr and "if __name__ ==" in done.stderr
    if note.startswith("if"):  # only the processes themselves can tell
        assert "a process died while encoding" in done.stderr.splitlines()[-1]
    else:
        assert "mine.py starts processes" in done.stderr
        assert not list((tmp_path / "store").glob("clips/*"))
        extract(*job, processes=0, progress=False)
        done = subprocess.run(command, **options)  # everything is there: no process is needed
        assert done.returncode == 0, done.stderr


def test_a_script_without_a_main_guard_fails_at_once_and_says_why(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from taemi_lib.workspace import Workspace\n"
        f"Workspace('smoke', {str(tmp_path / 'data')!r}, {str(tmp_path / 'runs')!r}).features()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode != 0 and "ExtractionError: mine.py" in done.stderr
    assert "if __name__ ==" in done.stderr and not (tmp_path / "runs").exists()


def test_extraction_fills_the_store_once_and_reports(tmp_path, settings):
    manifest = manifest_of(tmp_path)
    write_clip(tmp_path / "c1.mp4", sound=None)
    report = extract(manifest, settings, tmp_path / "store", progress=False)
    assert (report.done, report.found) == (3, 0)
    assert report.absent.values.tolist() == [
        ["c1", "audio", "no audio track"],
        ["c1", "text", "no transcript: no audio track"],
    ]
    assert "audio absent: no audio track (1 clips)" in str(report)
    before = stored_bytes(tmp_path / "store")
    (tmp_path / "store" / "clips" / "c2.safetensors").unlink()
    again = extract(manifest, settings, tmp_path / "store", progress=False)
    assert (again.done, again.found) == (1, 2) and again.absent.equals(report.absent)
    assert stored_bytes(tmp_path / "store") == before


def test_a_store_of_other_encoders_is_refused_before_anything_is_encoded(tmp_path, settings):
    manifest = manifest_of(tmp_path, 1)
    extract(manifest, settings, tmp_path / "store", progress=False)
    with pytest.raises(
        StoreError, match=r"mean, first 400 frames' there, .*mean, uniform 400 frames' now"
    ):
        extract(
            manifest, replace(settings, frame_choice="uniform"), tmp_path / "store", progress=False
        )


def failing(error, *names):
    """read_frames that fails for these clips, as an unforeseen file makes a decoder fail."""

    def read(path, *arguments):
        if path.stem in names:
            raise error
        return read_frames(path, *arguments)

    return read


def reasons(report):
    return {clip_id: set(rows["reason"]) for clip_id, rows in report.absent.groupby("clip_id")}


def test_an_error_in_one_clip_stops_no_other_and_is_its_reason(tmp_path, settings, monkeypatch):
    manifest, place = manifest_of(tmp_path), tmp_path / "store"
    monkeypatch.setattr(clip_features, "read_frames", failing(ZeroDivisionError("rate"), "c1"))
    report = extract(manifest, settings, place, progress=False)
    assert report.done == 3 and report.given_up == ["c1"]
    assert reasons(report) == {"c1": {"given up: ZeroDivisionError: rate"}}
    assert set(report.absent["modality"]) == set(MODALITIES)
    assert "given up (1 clips): c1" in str(report)
    # known from now on: later steps work, and nothing is tried for ever
    assert extract(manifest, settings, place, progress=False).done == 0
    assert extract(manifest, settings, place, progress=False, limits=Limits(1.0, 1.0)).done == 0
    monkeypatch.undo()
    write_clip(tmp_path / "c1.mp4", 2.0)  # another file is tried
    report = extract(manifest, replace(settings), place, processes=0, progress=False)
    assert report.changed == ["c1"] and report.given_up == []


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_what_was_given_up_at_a_limit_is_tried_again_under_another(
    tmp_path, settings, monkeypatch, error
):
    manifest, place = manifest_of(tmp_path), tmp_path / "store"
    monkeypatch.setattr(clip_features, "read_frames", failing(error, "c1"))
    first, other = Limits(clip_memory=2.0), Limits(clip_memory=4.0)
    report = extract(manifest, settings, place, progress=False, limits=first)
    assert reasons(report) == {"c1": {"given up: needs more than the memory"}}
    for limits, done in ((first, 0), (other, 1), (other, 0)):
        assert extract(manifest, settings, place, progress=False, limits=limits).done == done
    monkeypatch.setattr(clip_features, "read_frames", read_frames)
    assert extract(manifest, settings, place, progress=False, limits=first).given_up == []
    assert extract(manifest, settings, place, progress=False, limits=other).done == 0


def test_a_file_that_changed_while_it_was_given_up_is_tried_again(tmp_path, settings, monkeypatch):
    def replaced(path, *_):
        write_clip(path, 2.0)
        raise ZeroDivisionError("rate")

    manifest, place = manifest_of(tmp_path, 1), tmp_path / "store"
    monkeypatch.setattr(clip_features, "read_frames", replaced)
    assert extract(manifest, settings, place, progress=False).given_up == ["c0"]
    monkeypatch.setattr(clip_features, "read_frames", read_frames)
    report = extract(manifest, settings, place, progress=False)
    assert report.changed == ["c0"] and report.given_up == []


@pytest.mark.parametrize("encoder", ["AudioEncoder", "VisionEncoder", "TextEncoder"])
def test_encoders_that_fail_with_any_input_are_no_reason_of_a_clip(
    tmp_path, settings, monkeypatch, encoder
):
    def fail(self, *_):
        raise RuntimeError("no kernel image")

    from taemi_lib.features import encoders

    manifest, place = manifest_of(tmp_path), tmp_path / "store"
    extract(manifest_of(tmp_path, 1), settings, place, progress=False)
    monkeypatch.setattr(getattr(encoders, encoder), "encode", fail)
    with pytest.raises(ExtractionError, match="fail with any input: RuntimeError: no kernel"):
        extract(manifest, settings, place, progress=False)
    assert Store(place).clip_ids() == ["c0"]


def test_a_store_that_cannot_be_written_is_no_reason_of_a_clip(tmp_path, settings, monkeypatch):
    def full(self, features, source=None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    manifest, place = manifest_of(tmp_path), tmp_path / "store"
    extract(manifest_of(tmp_path, 1), settings, place, progress=False)
    before = stored_bytes(place)
    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(ExtractionError, match="clip c1 cannot be written to .*No space left"):
        extract(manifest, settings, place, progress=False)
    assert stored_bytes(place) == before


# --- in processes of their own, where Whisper is the real class: the table gives the words

IN_A_WORKER = multiprocessing.parent_process() is not None


class Trap(type(pathlib.Path())):
    """A file that does to the process which reads it what its name says."""

    def open(self, *arguments, **options):
        if IN_A_WORKER and self.stem == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        while IN_A_WORKER and self.stem == "hang":
            time.sleep(0.1)
        held = []
        while IN_A_WORKER and self.stem == "flood":
            held.append(np.empty(10**7))  # asked for, not even used
        return super().open(*arguments, **options)


class Trapped(Manifest):
    def __getitem__(self, clip_id):
        clip = super().__getitem__(clip_id)
        return replace(clip, video=Trap(clip.video))


LIMITS = Limits(clip_seconds=120.0, clip_memory=1.0)
TROUBLE = {
    "crash": "given up: 2 attempts, its process died: signal 11, SIGSEGV",
    "flood": "given up: needs more than the memory of 1 GB (limits.clip_memory)",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts memory")
def test_a_crash_and_a_flood_are_reasons_and_stop_nothing(tmp_path, settings):
    given = replace(settings, transcripts="table")
    ids = ["a", "crash", "b", "flood", "c"]
    videos = [write_clip(tmp_path / f"{clip_id}.mp4").name for clip_id in ids]
    table = pd.DataFrame({"clip_id": ids, "video": videos, "transcript": "so glad"})
    manifest, place = Trapped(table, tmp_path, "clips.csv"), tmp_path / "store"
    report = extract(manifest, given, place, processes=2, progress=False, limits=LIMITS)
    assert report.done == 5 and report.given_up == sorted(TROUBLE)
    assert reasons(report) == {clip_id: {reason} for clip_id, reason in TROUBLE.items()}
    assert Store(place).clip_ids() == sorted(ids)
    assert extract(manifest, given, place, progress=False, limits=LIMITS).done == 0
    here = tmp_path / "here"
    extract(manifest, given, here, processes=0, progress=False)
    whole, mended = stored_bytes(here), stored_bytes(place)
    assert all(mended[f"{clip}.safetensors"] == whole[f"{clip}.safetensors"] for clip in "abc")


@pytest.mark.slow
def test_a_clip_that_takes_too_long_is_ended(tmp_path, settings):
    given, place = replace(settings, transcripts="table"), tmp_path / "store"
    video = write_clip(tmp_path / "hang.mp4").name
    table = pd.DataFrame({"clip_id": ["a"], "video": [video], "transcript": ["so glad"]})
    manifest = Trapped(table, tmp_path, "clips.csv")
    limits = Limits(clip_seconds=0.5)
    report = extract(manifest, given, place, processes=1, progress=False, limits=limits)
    assert report.given_up == ["a"]
    found = Store(place).read("a")
    assert found.absent["vision"] == "given up: 2 attempts, took longer than 0.5 s"


@pytest.mark.slow
def test_an_encoder_that_cannot_be_loaded_in_a_worker_is_named(tmp_path, settings):
    broken = replace(settings, transcripts="table", text=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    manifest, place = manifest_of(tmp_path, 1), tmp_path / "store"
    with pytest.raises(EncoderError, match="text encoder"):
        extract(manifest, broken, place, processes=1, progress=False)


@pytest.mark.slow
def test_the_number_of_processes_changes_no_bit(tmp_path, settings):
    manifest = manifest_of(tmp_path, 5, transcript="so glad to see you")
    given = replace(settings, transcripts="auto")
    for processes in (1, 2):
        extract(
            manifest, given, tmp_path / f"store{processes}", processes=processes, progress=False
        )
    one, two = (stored_bytes(tmp_path / f"store{processes}") for processes in (1, 2))
    assert len(one) == 5 and one == two


COMMAND = """
import pickle, sys
from taemi_lib.features.extract import extract
if __name__ == "__main__":
    manifest, settings, root = pickle.load(open(sys.argv[1], "rb"))
    extract(manifest, settings, root, processes=2, progress=False)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_and_leaves_no_process_behind(tmp_path, settings):
    few = manifest_of(tmp_path, 3).table
    many = pd.DataFrame({"clip_id": [f"c{i:03d}" for i in range(200)], "transcript": "so glad"})
    manifest = Manifest(
        many.assign(video=[few["video"].iloc[i % 3] for i in range(200)]), tmp_path, "many"
    )
    given = replace(settings, transcripts="auto")
    extract(manifest, given, tmp_path / "whole", processes=1, progress=False)
    root = tmp_path / "killed"
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "job").write_bytes(pickle.dumps((manifest, given, root)))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "command.py"), str(tmp_path / "job")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(list(root.glob("clips/*.safetensors"))) < 5:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    # the pipe closes when the last of its processes has ended, long before any of this
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert 5 <= len(Store(root)) < 200
    report = extract(manifest, given, root, processes=1, progress=False)
    assert report.found >= 5 and report.done == 200 - report.found
    assert stored_bytes(root) == stored_bytes(tmp_path / "whole")
