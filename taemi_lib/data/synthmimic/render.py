"""One clip as a file: speech and face of the latents, encoded as an MP4 (H.264 and AAC) that
browsers play."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from taemi_lib.data.synthmimic import face, voice
from taemi_lib.data.synthmimic.world import Latents

# Looking ahead, x264 (as built into PyAV's wheels) reads beyond pictures this small, so that its
# choices, and the decoded pixels of about one clip in ten, depend on what lies in memory.
# Everything that looks ahead is off: the same frames in give the same frames out, on one machine.
_X264 = {
    "crf": "18",
    "preset": "veryfast",
    "threads": "1",
    "x264-params": "bframes=0:mbtree=0:rc-lookahead=0:scenecut=0:weightp=0",
}


def _loudness(speech: voice.Speech) -> np.ndarray:
    """(T,) 0..1 per video frame."""
    step = voice.RATE // face.FPS
    frames = int(np.ceil(len(speech.samples) / step))
    padded = np.pad(speech.samples, (0, frames * step - len(speech.samples)))
    level = np.sqrt((padded.reshape(frames, step) ** 2).mean(axis=1))
    return np.clip(level / 0.15, 0, 1)


def clip(latents: Latents) -> tuple[voice.Speech, np.ndarray, np.ndarray]:
    """Speech, expressions (T, 9) and frames (T, 96, 96, 3) uint8 of a clip, before encoding."""
    speech = voice.speak(latents)
    values = face.expressions(latents, speech.duration, speech.events, _loudness(speech))
    return speech, values, face.film(latents, values)


def write(latents: Latents, path: Path) -> voice.Speech:
    """Render the clip into `path`, atomically. Returns its speech, which knows when the events are.

    The decoded pictures and sound are the same every time on one machine.
    """
    speech, _, frames = clip(latents)
    samples = np.zeros_like(speech.samples) if latents.missing == "silent" else speech.samples
    unfinished = path.with_suffix(".part.mp4")
    with av.open(str(unfinished), "w", options={"movflags": "+faststart"}) as container:
        if latents.missing != "video track":
            video = container.add_stream("libx264", rate=face.FPS, options=_X264)
            video.width = video.height = face.SIZE
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
        if latents.missing != "audio track":
            sound = container.add_stream("aac", rate=voice.RATE, layout="mono")
            sound.bit_rate = 64_000
        if latents.missing != "video track":
            for index, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, face.FPS)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if latents.missing != "audio track":
            for start in range(0, len(samples), 1024):
                block = av.AudioFrame.from_ndarray(
                    samples[None, start : start + 1024], format="fltp", layout="mono"
                )
                block.sample_rate, block.pts = voice.RATE, start
                block.time_base = Fraction(1, voice.RATE)
                container.mux(sound.encode(block))
            container.mux(sound.encode())
    os.replace(unfinished, path)
    return speech
