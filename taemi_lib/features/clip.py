"""One clip, decoded and encoded: what a file gives becomes features, what it does not give is a
reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taemi_lib.data.manifest import Clip
from taemi_lib.data.media import (
    SAMPLE_RATE,
    Audio,
    Frames,
    Unreadable,
    is_silent,
    read_audio,
    read_frames,
)
from taemi_lib.features import face
from taemi_lib.features.changes import words_of_table
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.profiles import MODALITIES

if TYPE_CHECKING:
    from taemi_lib.features.encoders import Encoders

NOT_ASKED = "not asked for"  # the reason of a modality that nobody wanted


def extract_clip(
    clip: Clip,
    encoders: Encoders,
    only: Collection[str] = MODALITIES,
    spoil: Mapping[str, Callable[[Any], Any]] | None = None,
) -> ClipFeatures:
    """Decode and encode one clip. A modality that a file does not give is absent, with its reason;
    the others are encoded all the same.

    only    the modalities that are wanted; the others are absent, too
    spoil   {"audio": samples -> samples, "vision": Frames -> Frames}: what happens to the clip
            before anything looks at it. Words are heard in the spoiled sound
    """
    absent: dict[str, str] = {}
    settings, spoil = encoders.settings, spoil or {}
    frames: Frames | None = None
    found: dict = {"transcript": None}

    sound, why_no_sound = _sound(clip) if {"audio", "text"} & set(only) else (None, NOT_ASKED)
    if sound is not None and "audio" in spoil:
        sound = replace(sound, samples=spoil["audio"](sound.samples))
    try:
        if "audio" not in only:
            raise Unreadable(NOT_ASKED)
        if sound is None:
            raise Unreadable(why_no_sound)
        if is_silent(sound.samples[: round(settings.audio_seconds * SAMPLE_RATE)]):
            raise Unreadable(f"silent audio in the first {settings.audio_seconds:g} s")
        found["audio"] = encoders.audio.encode(sound.samples)
    except Unreadable as error:
        absent["audio"] = error.reason

    try:
        if "vision" not in only:
            raise Unreadable(NOT_ASKED)
        if clip.video is None:
            raise Unreadable("no video file")
        frames = read_frames(clip.video, settings.max_frames, settings.frame_choice)
        if "vision" in spoil:
            frames = spoil["vision"](frames)
        if settings.face == "largest":
            frames = face.largest(frames, settings.face_margin)
        found["vision"] = encoders.vision.encode(frames)
    except Unreadable as error:
        absent["vision"] = error.reason

    try:
        if "text" not in only:
            raise Unreadable(NOT_ASKED)
        if (words := words_of_table(clip, settings)) is not None:
            found["transcript"] = words
        elif encoders.speech is None:
            raise Unreadable("no transcript in the table")
        elif sound is not None:
            heard = encoders.speech.transcribe(sound.samples)
            found |= {"transcript": heard.text, "language": heard.language, "words": heard.words}
            if not heard.text:
                raise Unreadable("no words heard")
        else:
            raise Unreadable(f"no transcript: {why_no_sound}")
        found["tokens"], found["pooled"] = encoders.text.encode(found["transcript"])
    except Unreadable as error:
        absent["text"] = error.reason

    used = [(name, read) for name, read in (("audio", sound), ("vision", frames)) if name in found]
    damaged = {name: read.damage for name, read in used if read and read.damage}
    notes = {name: read.note for name, read in used if read and read.note}
    return ClipFeatures(clip.clip_id, **found, absent=absent, damaged=damaged, notes=notes)


def _sound(clip: Clip) -> tuple[Audio | None, str]:
    """(Audio, "") or (None, why not). The whole sound: the words after the audio encoder's 12 s
    count too."""
    try:
        if (source := clip.audio or clip.video) is None:
            raise Unreadable("no file")
        return read_audio(source), ""
    except Unreadable as error:
        return None, error.reason
