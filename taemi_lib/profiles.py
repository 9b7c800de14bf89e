"""What to run: the constants everybody shares and the named profiles.

This is the start of the flow (profiles -> data -> features -> models -> training -> course). A
profile says which clips, which backbones, which model sizes and which optimisation; nothing below
it asks whether a run is "demo" or "real".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

EMOTIONS = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
MODALITIES = ("audio", "vision", "text")
SPLITS = ("train", "selection", "test", "predict")

PACKAGE = Path(__file__).resolve().parent
ROOT = (
    PACKAGE.parent
)  # the repository, when the package is installed from a clone (pip install -e .)
MICRO = PACKAGE / "micro"


class ChoiceError(ValueError):
    """A name that does not exist. The message lists the valid ones."""


@dataclass(frozen=True)
class Data:
    """Which clips. `source` is "synthmimic" (generated), "vidmimic2" (official layout) or "csv"
    (one's own clips)."""

    source: str = "synthmimic"
    clips: int = 1200  # how many to generate; real sources bring their own number
    seed: int = 7
    regime: str = "cue"  # which label columns of the generator; real sources have one set of labels
    label_noise: float = 0.08
    train_clips: int | None = None  # train on this many of the training clips only; None: on all


@dataclass(frozen=True)
class Encoders:
    """Which backbones, each a local folder or a hub id ("micro:audio" is the folder embedded in
    this package)."""

    audio: str = "micro:audio"
    vision: str = "micro:vision"
    speech: str = "micro:speech"
    text: str = "micro:text"
    audio_seconds: float = 12.0  # PAPER: the waveform is cut to 12 s
    max_frames: int = 400  # PAPER: at most 400 frames
    frame_choice: str = "first"  # or "uniform" over the clip (docs/paper.md row 15)
    max_tokens: int = 128
    vision_pooling: str = "cls"  # or "mean" over the patch tokens
    text_pooling: str = "cls"  # or "mean" over the tokens
    transcripts: str = "whisper"  # or "manifest": use the transcript column where there is one


@dataclass(frozen=True)
class Model:
    """Sizes of the fusion model. Defaults are the paper's (docs/paper.md rows 3 and 11)."""

    width: int = 512
    heads: int = 8
    mlp_width: int = 512
    dropout: float = 0.1
    input_dropout: float = 0.0  # on the encoders' features; small data needs it
    modality_dropout: float = 0.1
    time_features: bool = True


@dataclass(frozen=True)
class Training:
    """How to optimise. Defaults are the paper's preset."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    batch_size: int = 32
    accumulation: int = 1
    epochs: int = 50
    patience: int = 5
    warmup_epochs: float = 1.0
    clip_value: float | None = (
        100.0  # the paper's "100.0", by value: in effect off (docs/paper.md row 12)
    )
    clip_norm: float | None = None
    mixed_precision: str = "fp16"  # used on CUDA only; CPU runs float32
    audio_average: int = 1  # average this many audio frames into one step (5: 50 -> 10 frames/s)


@dataclass(frozen=True)
class Profile:
    """One complete answer to "what shall be run"."""

    name: str
    data: Data = field(default_factory=Data)
    encoders: Encoders = field(default_factory=Encoders)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    seeds: tuple[int, ...] = (0, 1, 2)

    def as_dict(self) -> dict:
        """Plain nested dict, as written into run folders."""
        return dataclasses.asdict(self)


# The micro vision encoder was trained with its token mean, the micro text encoder with its CLS
# vector.
_MICRO = Encoders(vision_pooling="mean", text_pooling="cls")

# Small data wants a small, strongly regularised model and a higher learning rate than the paper's
# 1e-4. Values were chosen on the selection split; notebook 04 shows the choice.
_SMALL_MODEL = Model(width=64, heads=4, mlp_width=64, dropout=0.2, input_dropout=0.2)
_SMALL_TRAINING = Training(
    learning_rate=2e-3,
    epochs=40,
    patience=10,
    clip_value=None,
    clip_norm=1.0,
    audio_average=5,
)

PROFILES = {
    "demo": Profile("demo", Data(clips=1200), _MICRO, _SMALL_MODEL, _SMALL_TRAINING),
    "smoke": Profile(
        "smoke",
        Data(clips=48),
        _MICRO,
        _SMALL_MODEL,
        dataclasses.replace(_SMALL_TRAINING, epochs=2),
        seeds=(0,),
    ),
    "paper": Profile(
        "paper",
        Data(source="vidmimic2"),
        Encoders(
            audio="audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
            vision="google/vit-base-patch16-224",
            speech="large-v3",
            text="thenlper/gte-base",
        ),
    ),
}


def profile(name: str) -> Profile:
    """The named profile. Raises ChoiceError with the valid names."""
    if name not in PROFILES:
        raise ChoiceError(f"there is no profile {name!r}; the profiles are: {', '.join(PROFILES)}")
    return PROFILES[name]


def resolve(path: str | Path) -> Path:
    """A relative path means "inside the repository", wherever the notebook or the command was
    started."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path
