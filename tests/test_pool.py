"""Clips that cost their process its life: the others are encoded, and these have a reason."""

import multiprocessing
import os
import pathlib
import signal
import time

import numpy as np
import pytest
from inputs import audio_folder, text_folder, vision_folder, write_clip

from taemi_lib.data import Clip
from taemi_lib.errors import EncoderError
from taemi_lib.features import pool
from taemi_lib.features.changes import source_of
from taemi_lib.features.store import Store
from taemi_lib.profiles import Encoders, Limits

IN_A_WORKER = multiprocessing.parent_process() is not None


class Trap(type(pathlib.Path())):
    """A file that does something to the worker which opens it: what its name says."""

    def open(self, *arguments, **options):
        if IN_A_WORKER:
            deed = self.stem
            if deed == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if deed == "hang":
                while True:
                    time.sleep(1)
            if deed == "flood":
                held = []
                while True:
                    held.append(np.ones(10**7))
            if deed == "once":
                marker = self.with_suffix(".seen")
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().open(*arguments, **options)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return Encoders(
        str(audio_folder(folder / "audio")),
        str(vision_folder(folder / "vision")),
        text=str(text_folder(folder / "text")),
        transcripts="table",
    )


def clips(folder, *names):
    return [
        Clip(name, "predict", Trap(write_clip(folder / f"{name}.mp4")), transcript="so glad")
        for name in names
    ]


@pytest.mark.slow
def test_crash_hang_and_flood_stop_no_other_clip(tmp_path, settings):
    store = Store(tmp_path / "store", {"text": "any"})
    there = clips(tmp_path, "a", "crash", "b", "hang", "c", "flood", "once", "d")
    limits = Limits(clip_seconds=8, clip_memory=3)
    found = {
        outcome.clip.clip_id: outcome.trouble
        for outcome in pool.encode_clips(there, settings, "cpu", limits, 2, store)
    }
    assert found == {
        **dict.fromkeys(["a", "b", "c", "d", "once"], ""),
        "crash": "given up after 2 attempts: its process died (segmentation fault)",
        "hang": "given up after 2 attempts: took longer than 8 s (limits.clip_seconds)",
        "flood": "given up after 2 attempts: needs more than 3 GB (limits.clip_memory)",
    }
    assert store.clip_ids() == ["a", "b", "c", "d", "once"]
    assert store.source("a") == source_of(there[0], settings)


def test_without_a_store_the_features_come_back(tmp_path, settings):
    there = clips(tmp_path, "a", "b")
    found = {one.clip.clip_id: one.features for one in pool.encode_clips(there, settings)}
    here = {
        one.clip.clip_id: one.features for one in pool.encode_clips(there, settings, processes=0)
    }
    assert sorted(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"].tokens.values, here["b"].tokens.values)
    np.testing.assert_array_equal(found["b"].audio.values, here["b"].audio.values)


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path, settings):
    broken = tmp_path / "text"
    text_folder(broken)
    (broken / "config.json").write_text("{}")
    given = Encoders(settings.audio, settings.vision, text=str(broken), transcripts="table")
    with pytest.raises(EncoderError, match="text encoder"):
        list(pool.encode_clips(clips(tmp_path, "a"), given))


def test_what_was_given_up_is_absent_with_its_reason(tmp_path):
    features = pool.given_up(Clip("a", "predict", tmp_path / "a.mp4"), "too long")
    assert features.absent == dict.fromkeys(["audio", "vision", "text"], "too long")
