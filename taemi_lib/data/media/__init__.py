"""Decoding with PyAV: a file becomes 16 kHz mono sound and RGB frames with their times, on one
clock (`container`: the file and its clock, `sound`, `picture`).

What cannot be decoded raises `Unreadable` with a short reason, which the extraction writes into its
report: a modality that is absent is never zeros and never noise. Of a damaged file the part before
the damage is kept; `damage` says so.
"""

from taemi_lib.data.media.container import Unreadable
from taemi_lib.data.media.picture import LONGEST_SIDE, Frames, read_frames
from taemi_lib.data.media.sound import SAMPLE_RATE, SILENCE, Audio, is_silent, read_audio

__all__ = [
    "LONGEST_SIDE",
    "SAMPLE_RATE",
    "SILENCE",
    "Audio",
    "Frames",
    "Unreadable",
    "is_silent",
    "read_audio",
    "read_frames",
]
