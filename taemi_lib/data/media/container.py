"""A media file: opened, its tracks chosen, decoded frame by frame on one clock."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

# s that are read of a file at most; what begins later is stamped by another clock
LONGEST = 3600.0
# s before the file's start that a stream may begin
_EARLY = 1.0
# s, how much earlier than its header says a stream may end before it counts as truncated
_LATE = 0.25
_CUT = "a packet is cut off"
# containers whose header knows the true duration (others estimate it)
_EXACT_HEADERS = ("mov,", "wav")
# pictures that are no film: the cover of a music file, thumbnails
_STILL = (
    av.stream.Disposition.attached_pic
    | av.stream.Disposition.timed_thumbnails
    | av.stream.Disposition.still_image
)
# what an MP4 or a QuickTime file begins with
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")
# FFmpeg renders a .txt as the screen of a terminal; the others name files to be read instead
_NO_MEDIA = {"tty", "hls", "concat", "dash", "imf"}
_ABSENT = {"audio": "no audio track", "video": "no video track"}


class Unreadable(Exception):
    """A modality that a file does not give; `reason` is short and goes into the report."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


@contextmanager
def opened(path: str | Path) -> Iterator[av.container.InputContainer]:
    """The file, open. Raises Unreadable saying why it cannot be opened, or what FFmpeg found wrong
    while it was."""
    # absolute: FFmpeg takes what stands before a colon for a protocol (12:30.mp4)
    path = Path(path).absolute()
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe may never answer or never end
            raise Unreadable("cannot be read: not a file")
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    if not head:
        raise Unreadable("empty file")
    try:
        # a playlist may name addresses: nothing is asked for over a network
        container = av.open(
            str(path), metadata_errors="replace", options={"protocol_whitelist": "file"}
        )
    except av.InvalidDataError as error:
        if head[4:8] not in _MP4_BOXES:
            raise Unreadable("not a media file") from error
        whole = "moov" in _boxes(path)
        raise Unreadable(
            f"damaged: {error.strerror}" if whole else "truncated: the file's index is missing"
        ) from error
    except av.FFmpegError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from error
    with container:
        # FFmpeg cannot say what is in a file of unknown content
        if not _NO_MEDIA.isdisjoint(container.format.name.split(",")) or not (
            container.streams.audio or container.streams.video
        ):
            raise Unreadable("not a media file")
        try:
            yield container
        except av.FFmpegError as error:
            raise Unreadable(f"damaged: {error.strerror or type(error).__name__}") from error


def _boxes(path: Path) -> set[str]:
    """The kinds of the boxes that an MP4 consists of, as far as they can be followed."""
    found: set[str] = set()
    at, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while at + 8 <= size and len(found) < 100:
            file.seek(at)
            header = file.read(16)
            length = int.from_bytes(header[:4])
            if length == 1:  # its true length follows
                length = int.from_bytes(header[8:16])
            if length < 8 or at + length > size:
                break
            found.add(header[4:8].decode("latin-1"))
            at += length
    return found


def choose(container, kind: str) -> tuple[Any, str]:
    """(track, note): of the tracks of a kind ("audio", "video") the one that players choose, which
    is the default one, else the first; the note says so where there were several. Raises
    Unreadable."""
    tracks = [
        stream
        for stream in getattr(container.streams, kind)
        if kind == "audio" or not stream.disposition & _STILL
    ]
    if not tracks:
        raise Unreadable(_ABSENT[kind])
    known = [track for track in tracks if track.codec_context is not None]
    if not known:
        raise Unreadable(f"no decoder for its {kind} track")
    default = [track for track in known if track.disposition & av.stream.Disposition.default]
    chosen = (default or known)[0]
    if len(tracks) == 1:
        return chosen, ""
    which = "the default one" if default else "the first"
    return chosen, (
        f"{len(tracks)} {kind} tracks: track {tracks.index(chosen) + 1}, {which}, is read"
    )


class Decoder:
    """The frames of one stream, up to its end or to the first damage after something was
    decoded."""

    def __init__(self, container: av.container.InputContainer, stream):
        self.container, self.stream = container, stream
        self.trouble = ""
        self.early = 0.0  # s by which the stream's clock is wrong
        self.end = 0.0  # s, end of what was decoded
        # both streams are timed from the file's start
        self._start = (container.start_time or 0) / av.time_base
        # One thread: the clips are what is run in parallel.
        stream.codec_context.thread_count = 1

    def __iter__(self) -> Iterator:
        packets = self.container.demux(self.stream)
        decoded = False
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if packet.is_corrupt:  # the file ends in the middle of it
                    self.trouble = _CUT
                    # what the decoder still holds back
                    frames = self.stream.codec_context.decode(None)
                else:
                    frames = packet.decode()
            except av.FFmpegError as error:
                self.trouble = error.strerror or type(error).__name__
                if decoded:
                    return
                continue  # some files begin with rubbish and are sound after it
            for frame in frames:
                if frame.is_corrupt:
                    self.trouble = "a frame is corrupt"
                    return
                if not decoded:
                    self.check_start(self.time(frame))
                decoded = True
                self.end = max(self.end, self.time(frame) + self._length(frame))
                yield frame
            if packet.is_corrupt:
                return

    def _length(self, frame) -> float:
        if self.stream.type != "audio":
            return self.frame_seconds
        return frame.samples / frame.sample_rate if frame.sample_rate > 0 else 0.0

    def check_start(self, time: float) -> None:
        """A stream may set in late; one that begins hours after its file, or before it, has another
        clock than the rest."""
        if time > LONGEST:
            kind = {"audio": "sound", "video": "picture"}[self.stream.type]
            raise Unreadable(f"its {kind} begins at {time:.0f} s")
        if time < -_EARLY:
            self.early = -time
            self._start += time

    @property
    def frame_seconds(self) -> float:
        """How long one picture is shown, where its successor does not say it."""
        return 1 / float(self.stream.average_rate or 25)

    def time(self, frame) -> float:
        """Seconds from the start of the file of a frame or packet; one without a time stamp follows
        the one before it."""
        if frame.pts is None:
            return self.end
        # frames that the decoder had held back come without one
        clock = frame.time_base or self.stream.time_base
        return frame.pts * clock.numerator / clock.denominator - self._start

    def damage(self, ended_early: bool) -> str:
        """What is wrong with the stream, "" if nothing. Most is known once it was read to its
        end."""
        early = f"its time stamps are {self.early:.1f} s too early" if self.early else ""
        return "; ".join(filter(None, [early, "" if ended_early else self._broken()]))

    def _broken(self) -> str:
        declared = None
        if self.stream.duration and self.container.format.name.startswith(_EXACT_HEADERS):
            first = (self.stream.start_time or 0) + self.stream.duration
            declared = float(first * self.stream.time_base) - self._start
        if declared is not None and declared - self.end > _LATE:
            return f"truncated: {self.end:.1f} of {declared:.1f} s decode"
        if self.trouble == _CUT:
            return f"truncated: decodes up to {self.end:.1f} s"
        return f"damaged: decodes up to {self.end:.1f} s ({self.trouble})" if self.trouble else ""
