"""Drawn faces: who somebody is (`Identity`) and what the face does at each moment (`expressions`),
painted with Pillow.

An expression is a vector of the nine parameters named in `world.EXPRESSION`, each about -1..1
(mouth_open 0..1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from taemi_lib.data.synthmimic.world import EMOTIONS, EXPRESSION, FACE, Latents

SIZE = 96  # pixels
FPS = 10  # frames/s
_SCALE = 2  # painted at twice the size, then reduced: smooth edges
_SPEECH_FLAP = 0.45  # how far speech opens the mouth
# the corners of an oval: (cosine, sine) of their angles
_ROUND = [
    (float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 28, endpoint=False)
]
_INDEX = {name: index for index, name in enumerate(EXPRESSION)}


@dataclass(frozen=True)
class Identity:
    """Looks of one person; lengths in units of the face's half-width."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    iris: tuple[int, int, int]
    lips: tuple[int, int, int]
    shirt: tuple[int, int, int]
    background: tuple[int, int, int]
    width: float
    height: float
    eye_distance: float
    eye_size: float
    brow_thickness: float
    nose: float
    mouth_height: float
    mouth_width: float
    hair_line: float
    long_hair: bool
    glasses: bool

    @classmethod
    def draw(cls, seed: int) -> Identity:
        rng = np.random.default_rng([seed, 2])
        tone = rng.uniform(0, 1)
        skin = (
            (1 - tone) * np.array([244, 208, 178])
            + tone * np.array([104, 66, 44])
            + rng.normal(0, 6, 3)
        )
        hairs = [
            (30, 24, 22),
            (72, 46, 28),
            (136, 92, 48),
            (206, 172, 104),
            (140, 140, 144),
            (126, 48, 28),
        ]

        def colour(values) -> tuple[int, int, int]:
            red, green, blue = np.clip(values, 0, 255)
            return int(red), int(green), int(blue)

        return cls(
            skin=colour(skin),
            hair=colour(np.array(hairs[rng.integers(len(hairs))]) + rng.normal(0, 8, 3)),
            iris=colour([(70, 110, 160), (80, 60, 40), (70, 120, 80)][rng.integers(3)]),
            lips=colour(skin * 0.7 + np.array([60, 0, 10])),
            shirt=colour(rng.uniform(30, 220, 3)),
            background=colour(rng.uniform(60, 230, 3)),
            width=rng.uniform(0.88, 1.08),
            height=rng.uniform(1.2, 1.4),
            eye_distance=rng.uniform(0.38, 0.48),
            eye_size=rng.uniform(0.15, 0.2),
            brow_thickness=rng.uniform(0.05, 0.1),
            nose=rng.uniform(0.2, 0.32),
            mouth_height=rng.uniform(0.56, 0.68),
            mouth_width=rng.uniform(0.3, 0.4),
            hair_line=rng.uniform(0.6, 0.85),
            long_hair=bool(rng.integers(2)),
            glasses=bool(rng.random() < 0.25),
        )


def paint(
    identity: Identity, expression: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """One picture (SIZE, SIZE, 3) uint8 of a face. `shift` moves the head, in half-widths."""
    act = dict(zip(EXPRESSION, map(float, expression)))
    canvas = SIZE * _SCALE
    unit = canvas * 0.27
    image = Image.new("RGB", (canvas, canvas), identity.background)
    draw = ImageDraw.Draw(image)
    roll = 0.22 * act["head_roll"]
    cos, sin = float(np.cos(roll)), float(np.sin(roll))
    centre_x, centre_y = (
        canvas * 0.5 + unit * float(shift[0]),
        canvas * 0.52 + unit * float(shift[1]),
    )
    neck_x, neck_y = centre_x, centre_y + 1.1 * unit  # the head turns about the neck

    # Plain floats all the way: some ten thousand points a clip, with the same digits as numpy's
    # numbers in a third of the time.
    def at(x: float, y: float) -> tuple[float, float]:
        """Face coordinates (half-widths from the face's centre, y down) to pixels."""
        dx, dy = centre_x + unit * x - neck_x, centre_y + unit * y - neck_y
        return neck_x + cos * dx - sin * dy, neck_y + sin * dx + cos * dy

    def oval(x: float, y: float, rx: float, ry: float, fill) -> None:
        draw.polygon([at(x + rx * c, y + ry * s) for c, s in _ROUND], fill=fill)

    def curve(points, fill, thickness: float) -> None:
        draw.line(
            [at(x, y) for x, y in points],
            fill=fill,
            width=max(2, int(thickness * unit)),
            joint="curve",
        )

    dark = tuple(int(c * 0.72) for c in identity.skin)
    # shoulders and neck stay, the head moves above them
    draw.ellipse([canvas * 0.12, canvas * 0.86, canvas * 0.88, canvas * 1.4], fill=identity.shirt)
    draw.rectangle([canvas * 0.43, canvas * 0.7, canvas * 0.57, canvas * 0.92], fill=dark)
    if identity.long_hair:
        oval(0, 0.15, identity.width * 1.18, identity.height * 1.1, identity.hair)
    else:
        oval(0, -0.25, identity.width * 1.08, identity.height * 0.95, identity.hair)
    oval(0, 0.08, identity.width, identity.height * 0.95, identity.skin)
    fringe = np.linspace(np.pi * 1.1, np.pi * 1.9, 16)
    draw.polygon(
        [at(identity.width * 1.02 * np.cos(a), 0.0 + identity.height * np.sin(a)) for a in fringe]
        + [at(0.6, -identity.hair_line), at(-0.6, -identity.hair_line)],
        fill=identity.hair,
    )

    pitch = -0.16 * act["head_pitch"]  # looking up moves the features up
    eye_y = -0.18 + pitch
    opening = identity.eye_size * min(max(0.62 + 0.5 * act["eye_open"], 0.04), 1.2)
    for side in (-1, 1):
        x = side * identity.eye_distance
        oval(x, eye_y, identity.eye_size, opening, (250, 250, 248))
        if opening > 0.03:
            pupil = x + 0.5 * identity.eye_size * act["gaze"]
            radius = min(identity.eye_size * 0.55, opening)
            oval(pupil, eye_y, radius, radius, identity.iris)
            oval(pupil, eye_y, radius * 0.5, radius * 0.5, (12, 12, 14))
        curve(
            [(x - identity.eye_size, eye_y), (x, eye_y - opening), (x + identity.eye_size, eye_y)],
            dark,
            0.04,
        )
        if identity.glasses:
            angles = np.linspace(0, 2 * np.pi, 20)
            curve(
                [(x + 0.27 * np.cos(a), eye_y + 0.24 * np.sin(a)) for a in angles],
                (30, 30, 34),
                0.03,
            )
        lift = eye_y - 0.3 - 0.14 * act["brow_raise"]
        inner, outer = (
            -0.14 * act["brow_tilt"],
            0.08 * act["brow_tilt"],
        )  # tilt > 0: inner ends up, as in pain
        curve(
            [(x - side * 0.2, lift + inner), (x, lift - 0.03), (x + side * 0.2, lift + outer)],
            identity.hair,
            identity.brow_thickness + 0.02,
        )
    curve(
        [
            (0.02, eye_y + 0.1),
            (-0.06, eye_y + 0.12 + identity.nose),
            (0.05, eye_y + 0.14 + identity.nose),
        ],
        dark,
        0.05,
    )

    mouth_y = identity.mouth_height + 0.8 * pitch
    half = identity.mouth_width * (1 + 0.3 * act["mouth_width"])
    corner = -0.16 * act["smile"]
    gap = 0.26 * min(max(act["mouth_open"], 0.0), 1.4)
    xs = np.linspace(-1, 1, 9)
    bow = 1 - xs**2
    xs, bow = xs.tolist(), bow.tolist()
    upper = [
        (half * x, mouth_y + corner * (1 - b) - 0.3 * gap * b - 0.3 * corner * b)
        for x, b in zip(xs, bow)
    ]
    lower = [
        (half * x, mouth_y + corner * (1 - b) + 0.7 * gap * b - 0.5 * corner * b)
        for x, b in zip(xs, bow)
    ]
    if gap > 0.02:
        draw.polygon([at(*p) for p in upper + lower[::-1]], fill=(70, 20, 26))
    curve(upper, identity.lips, 0.07)
    curve(lower, identity.lips, 0.08)
    return np.asarray(image.reduce(_SCALE))


def _envelope(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """0..1 over time (s): a face needs about 0.2 s to arrive at an expression and to leave it."""
    rise = np.clip((times - start) / 0.2 + 0.5, 0, 1)
    fall = np.clip((end - times) / 0.2 + 0.5, 0, 1)
    return (3 * rise**2 - 2 * rise**3) * (3 * fall**2 - 2 * fall**3)


def _wander(rng: np.random.Generator, steps: int, width: int, scale: float) -> np.ndarray:
    """(steps, width) slow random movement of about `scale`."""
    knots = rng.normal(0, scale, size=(max(2, steps // 8 + 2), width))
    positions = np.linspace(0, len(knots) - 1, steps)
    return np.stack(
        [np.interp(positions, np.arange(len(knots)), knots[:, k]) for k in range(width)], axis=1
    )


def expressions(latents: Latents, duration: float, events, loudness: np.ndarray) -> np.ndarray:
    """(T, 9) what the face does at FPS: both events, speech, blinks, restlessness. `loudness` (T,)
    0..1 moves the mouth."""
    rng = np.random.default_rng([latents.seed, 3])
    steps = len(loudness)
    times = (np.arange(steps) + 0.5) / FPS
    values = _wander(rng, steps, len(EXPRESSION), 0.07)
    for window, emotion, strength in zip(events, latents.emotions, latents.face):
        values += strength * _envelope(times, *window)[:, None] * np.array(FACE[EMOTIONS[emotion]])
    values[:, _INDEX["mouth_open"]] = (
        np.maximum(values[:, _INDEX["mouth_open"]], 0) + _SPEECH_FLAP * loudness
    )
    blink = rng.uniform(0.3, 2.0)
    while blink < duration:
        values[np.abs(times - blink) < 0.08, _INDEX["eye_open"]] = -1.3
        blink += rng.uniform(1.2, 3.0)
    values[:, _INDEX["gaze"]] = (1 if latents.gaze else -1) * 0.8 + rng.normal(0, 0.05)
    return values


def film(latents: Latents, values: np.ndarray) -> np.ndarray:
    """(T, SIZE, SIZE, 3) uint8: the face of the latents' identity with expressions `values` (T, 9),
    a drifting head, and the burst of destroyed frames if the latents say so."""
    rng = np.random.default_rng([latents.seed, 4])
    identity = Identity.draw(latents.identity)
    drift = _wander(rng, len(values), 2, 0.05)
    frames = np.stack([paint(identity, value, tuple(shift)) for value, shift in zip(values, drift)])
    if latents.damaged:
        first = int(rng.integers(0, max(1, len(frames) - 8)))
        for index in range(first, min(len(frames), first + int(rng.integers(3, 8)))):
            blocks = rng.integers(0, 256, size=(SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
            frames[index] = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return frames
