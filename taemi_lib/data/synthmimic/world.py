"""The small world that SynthMimic draws from: its words, its expressions, its people, and how
labels follow from them.

Everything random about a clip is decided here, in one `Latents` record, before a pixel or a sample
exists; `voice`, `face` and `render` only carry it out. So the record is the ground truth that
notebooks and tests compare against.

A clip holds two clauses and, during each, one short expressive event in face and voice. The words
of the clauses name two emotions; the events show two others; a cue in the sentence ("mostly at
first", "above all later on") says which event counts. That is the regime `cue`; the other regimes
label the same clips by other rules (`counting_event`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from taemi_lib.profiles import EMOTIONS

# The people and sentences of different pools never meet: "encoder" trained the micro backbones, the
# others are splits.
POOLS = ("encoder", "train", "selection", "test")
# A regime is another rule for the labels of the same clips; `counting_event` and `noiseless` say
# which.
REGIMES = ("cue", "fixed", "both", "text", "face_cue")
WEIGHTS = {"text": 0.3, "vision": 0.4, "audio": 0.3}
TEXT_WEIGHTS = {
    "text": 0.6,
    "vision": 0.2,
    "audio": 0.2,
}  # of the regime `text`, where words say most of it themselves
# In `both`, each of the two events shows with this share of its weight: labels stay in [0, 1] and
# spread as much as in `cue`, so that the text part and the raters' noise weigh the same (at 1, two
# events would drown both; at 0.5, neither would show).
BOTH_SHARE = 0.78
# labels below this are recorded as 0: raters do not report traces, and real labels are sparse
TRACE = 0.08

WORDS = {
    "Admiration": ("impressed", "inspired", "admiring", "humbled", "dazzled"),
    "Amusement": ("amused", "tickled", "entertained", "giggly", "playful"),
    "Determination": ("determined", "driven", "resolved", "focused", "stubborn"),
    "Empathic Pain": ("hurt", "sorry", "heartbroken", "saddened", "sorrowful"),
    "Excitement": ("excited", "thrilled", "eager", "restless", "electrified"),
    "Joy": ("happy", "joyful", "glad", "delighted", "cheerful"),
}
DEGREES = {
    0.25: ("a bit", "slightly", "a little"),
    0.5: ("rather", "fairly", "quite"),
    0.75: ("very", "really"),
    1.0: ("deeply", "utterly", "completely"),
}
OPENINGS = ("i was", "i felt", "i am", "we were", "we felt", "she was", "he felt", "they were")
LINKS = ("then", "and", "but", "yet", "and then", "but also")
STRESS = ("mostly", "mainly", "above all", "chiefly")
CUES = {
    0: ("at first", "early on", "to begin with", "from the start"),
    1: ("in the end", "later on", "at last", "by the finish"),
}

# What a face does at full strength of each emotion; also the targets that the micro vision encoder
# learns to read.
EXPRESSION = (
    "brow_raise",
    "brow_tilt",
    "eye_open",
    "smile",
    "mouth_open",
    "mouth_width",
    "head_roll",
    "head_pitch",
    "gaze",
)
FACE = {
    "Admiration": (0.9, 0.2, 0.8, 0.1, 0.35, -0.3, 0.0, 0.9, 0.0),
    "Amusement": (0.3, 0.0, -0.7, 0.7, 0.7, 0.3, 0.9, 0.2, 0.0),
    "Determination": (-1.0, -0.9, -0.3, -0.2, 0.0, -0.8, 0.0, -0.5, 0.0),
    "Empathic Pain": (0.2, 1.0, -0.3, -0.9, 0.1, -0.2, -0.8, -0.6, 0.0),
    "Excitement": (0.9, 0.0, 0.9, 0.5, 1.0, 0.7, -0.2, 0.1, 0.0),
    "Joy": (0.2, 0.1, -0.2, 1.0, 0.2, 0.9, 0.1, 0.0, 0.0),
}
# What a voice does at full strength: pitch and rate relative to the speaker's own, loudness in dB,
# depth of a laugh-like tremor. Kept in a range that real Whisper still understands.
PROSODY = ("pitch", "rate", "loudness", "tremor")
VOICE = {
    "Admiration": (0.15, -0.40, -1.0, 0.0),
    "Amusement": (0.20, 0.05, 1.0, 0.7),
    "Determination": (-0.25, -0.05, 8.0, 0.0),
    "Empathic Pain": (-0.35, -0.20, -8.0, 0.0),
    "Excitement": (0.30, 0.45, 4.0, 0.0),
    "Joy": (0.60, 0.05, 1.0, 0.0),
}
PROSODY_SCALE = (0.35, 0.35, 6.0, 0.5)  # divides the prosody into numbers of order one
# Arousal, dominance, valence of a voice showing each emotion: proxies that this world defines, not
# ratings by people.
AFFECT = {
    "Admiration": (-0.4, -0.5, 0.6),
    "Amusement": (0.5, -0.2, 0.9),
    "Determination": (0.4, 1.0, 0.0),
    "Empathic Pain": (-0.6, -0.7, -0.9),
    "Excitement": (1.0, 0.3, 0.3),
    "Joy": (0.1, 0.5, 1.0),
}

_ACCENTS = ("en", "en-us", "en-029", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
_VARIANTS = ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "steph")
VOICES = tuple(f"{accent}+{variant}" for variant in _VARIANTS for accent in _ACCENTS)


def voices(pool: str) -> tuple[str, ...]:
    """The voices (accent and speaker) of a pool; pools share none. Every pool hears every accent
    and many speakers."""
    order = np.random.default_rng(20_26).permutation(len(VOICES))
    cuts = {"encoder": (0, 32), "train": (32, 50), "selection": (50, 58), "test": (58, 72)}[pool]
    return tuple(VOICES[i] for i in sorted(order[slice(*cuts)]))


def identity(pool: str, number: int) -> int:
    """Seed of face number `number` of a pool: the pool is the last digit, so pools share none."""
    return 10 * int(number) + POOLS.index(pool)


def sentence_pool(sentence: str) -> str:
    """Which pool may speak this sentence: decided by its words alone, so no two pools share one."""
    share = zlib.crc32(sentence.encode()) % 100
    return (
        "encoder"
        if share < 40
        else "train"
        if share < 70
        else "selection"
        if share < 80
        else "test"
    )


@dataclass(frozen=True)
class Latents:
    """Everything that decides a clip. Index 0 is the first clause or event, 1 the second."""

    seed: int  # of everything below the latents: micro-movements, blinks, background, noise
    pool: str
    voice: str
    base_pitch: int  # espeak's 0..99
    base_rate: int  # words/min
    base_gain: float  # dB
    identity: int
    words: tuple[str, ...]
    breaks: tuple[int, ...]  # a pause follows these word indices
    # first and one-past-last word of the words that carry each event
    clause_words: tuple[tuple[int, int], tuple[int, int]]
    text: tuple[float, ...]  # (6,) how strongly the words express each emotion
    cue: int  # which event the words say counts
    # which event a glance to the left (0) or right (1), held through the clip, would point at
    gaze: int
    emotions: tuple[int, int]  # of the two events
    face: tuple[float, float]  # strength of each event in the face
    voice_strength: tuple[float, float]  # ... and in the voice
    missing: str  # "", "audio track", "video track" or "silent": what this clip lacks
    damaged: bool  # a burst of destroyed frames

    @property
    def sentence(self) -> str:
        return " ".join(self.words)


def _phrase(rng: np.random.Generator, emotion: str, strength: float) -> list[str]:
    degree = str(rng.choice(DEGREES[strength]))
    return degree.split() + [str(rng.choice(WORDS[emotion]))]


def draw_words(rng: np.random.Generator, pool: str) -> dict:
    """Words of one clip of `pool`, with what they mean: keys of Latents. Draws until the sentence
    belongs to the pool."""
    while True:
        first, second = rng.choice(len(EMOTIONS), size=2, replace=False)
        strengths = rng.choice(list(DEGREES), size=2)
        cue, lead = int(rng.integers(2)), bool(rng.integers(2))
        sign = str(rng.choice(STRESS)).split() + str(rng.choice(CUES[cue])).split()
        opening = str(rng.choice(OPENINGS)).split()
        a = opening + _phrase(rng, EMOTIONS[first], strengths[0])
        b = str(rng.choice(LINKS)).split() + _phrase(rng, EMOTIONS[second], strengths[1])
        parts = [sign, a, b] if lead else [a, b, sign]
        words = [word for part in parts for word in part]
        if sentence_pool(" ".join(words)) != pool:
            continue
        starts = np.cumsum([0] + [len(part) for part in parts])
        at_a, at_b = (starts[1], starts[2]) if lead else (starts[0], starts[1])
        text = [0.0] * len(EMOTIONS)
        text[first], text[second] = float(strengths[0]), float(strengths[1])
        return {
            "words": tuple(words),
            "breaks": tuple(int(start) - 1 for start in starts[1:3]),
            # the event colours the degree and the feeling, not the opening
            "clause_words": (
                (int(at_a) + len(opening), int(at_a) + len(a)),
                (int(at_b) + 1, int(at_b) + len(b)),
            ),
            "text": tuple(text),
            "cue": cue,
        }


def draw(seed: int, pool: str, complete: bool = False) -> Latents:
    """Latents of one clip: the same seed gives the same clip. `complete`: no missing modality, no
    damage."""
    rng = np.random.default_rng([seed, POOLS.index(pool)])
    strength = rng.uniform(0.3, 1.0, size=2)
    # one event shows in face and voice with strengths that agree only roughly
    face, voice = np.clip(strength + rng.normal(0, 0.15, size=(2, 2)), 0.15, 1.0)
    emotions = rng.choice(len(EMOTIONS), size=2, replace=False)
    missing = str(
        rng.choice(["", "audio track", "video track", "silent"], p=[0.92, 0.03, 0.03, 0.02])
    )
    damaged = bool(rng.random() < 0.08)
    return Latents(
        seed=seed,
        pool=pool,
        voice=str(rng.choice(voices(pool))),
        base_pitch=int(rng.integers(40, 61)),
        base_rate=int(rng.integers(175, 206)),
        base_gain=float(rng.uniform(-3, 3)),
        identity=identity(pool, int(rng.integers(1_000_000))),
        **draw_words(rng, pool),
        gaze=int(rng.integers(2)),
        emotions=(int(emotions[0]), int(emotions[1])),
        face=(float(face[0]), float(face[1])),
        voice_strength=(float(voice[0]), float(voice[1])),
        missing="" if complete else missing,
        damaged=damaged and not complete,
    )


def counting_event(latents: Latents, regime: str) -> int:
    """Index of the event that counts in a regime, -1 where both do.

    cue       what the words say ("mostly at first")
    fixed     always the last
    both      both, each with BOTH_SHARE of its weight
    text      as cue, but words, face and voice weigh .6/.2/.2
    face_cue  what the glance held through the clip says: seen, not spoken, so that no transcript
              can tell
    """
    return {
        "cue": latents.cue,
        "fixed": 1,
        "both": -1,
        "text": latents.cue,
        "face_cue": latents.gaze,
    }[regime]


def noiseless(latents: Latents, regime: str) -> np.ndarray:
    """(6,) intensities in [0, 1] before rating noise: the regime's weights over what words, face
    and voice say."""
    weights = TEXT_WEIGHTS if regime == "text" else WEIGHTS
    event = counting_event(latents, regime)
    events, share = ((0, 1), BOTH_SHARE) if event < 0 else ((event,), 1.0)
    intensities = weights["text"] * np.array(latents.text)
    for index in events:  # the emotions of the two events differ: no intensity gets both
        shown = (
            weights["vision"] * latents.face[index]
            + weights["audio"] * latents.voice_strength[index]
        )
        intensities[latents.emotions[index]] += share * shown
    return intensities


def rate(intensities: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(6,) labels as raters would give them: noisy, clipped to [0, 1], traces below TRACE recorded
    as 0."""
    noisy = np.clip(intensities + rng.normal(0, noise, size=len(intensities)), 0, 1)
    return np.where(noisy < TRACE, 0.0, noisy)
