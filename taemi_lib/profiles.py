"""What to run: the constants everybody shares, and every setting with its name, type, range and
default.

A profile is one complete set of settings: which clips, which encoders, which model sizes, how to
train. Some have a name (`PROFILES`); a TOML file of the same fields is one, too; and either can be
changed field by field. Nothing further down asks for a profile's name.

pydantic checks types and ranges: its dataclasses stay plain dataclasses to everybody who uses
them, and its errors know field and value. TOML is read by Python and written by tomlkit, which
keeps each field's explanation beside it.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from taemi_lib.errors import ChoiceError
from taemi_lib.support.differences import flat

EMOTIONS = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
MODALITIES = ("audio", "vision", "text")
SPLITS = ("train", "selection", "test", "predict")

PACKAGE = Path(__file__).resolve().parent
# the repository, when the package is installed from a clone (pip install -e .)
ROOT = PACKAGE.parent
MICRO = PACKAGE / "micro"

# of a clip table, beside the targets
TABLE_COLUMNS = ("clip_id", "split", "video", "audio", "transcript", "group")
# of the tables of scores
_RESULT_COLUMNS = ("regime", "system", "seed", "emotion", "target", "prediction", "table")
_CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
# Settings of the generator: for clips that exist already they would change nothing, in silence.
_GENERATED_ONLY = ("clips", "regime", "label_noise")
_PATHS = (
    "data.table",
    "data.features",
    *(f"encoders.{role}" for role in ("audio", "vision", "speech", "text")),
)


@dataclass(frozen=True, config=_CHECKED)
class Data:
    """Which clips, with which labels, split how."""

    source: Literal["synthmimic", "vidmimic2", "csv", "features"] = Field(
        default="synthmimic",
        description="synthmimic (generated clips), vidmimic2 (official layout), csv (own clips) "
        "or features (what `taemi import` made)",
    )
    table: str | None = Field(
        default=None, description="own clips: the CSV; files are named relative to its folder"
    )
    features: str | None = Field(
        default=None, description="imported features: the folder that `taemi import` wrote"
    )
    clips: int = Field(default=1200, ge=1, description="how many clips to generate")
    seed: int = Field(
        default=7, ge=0, description="of generated clips, and of splits that are drawn"
    )
    regime: Literal["cue", "fixed", "both", "text", "face_cue"] = Field(
        default="cue", description="which labels of the generated clips"
    )
    label_noise: float = Field(
        default=0.08, ge=0, le=1, description="standard deviation added to generated labels"
    )
    train_clips: int | None = Field(
        default=None, ge=1, description="train on so many of the training clips; none: on all"
    )
    missing_files: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="clips whose file is missing: refuse the table, or skip and list them",
    )
    links: Literal["refuse", "follow"] = Field(
        default="refuse",
        description="symbolic links in the data folder that lead out of it",
    )
    selection_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="of the training clips, where the data has no selection split",
    )
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="of the labelled clips, where a table has no splits"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.table is not None and self.source != "csv":
            raise ValueError(
                f'data.table = {self.table!r} needs data.source = "csv" (profile own), '
                f"not {self.source!r}"
            )
        if self.features is not None and self.source != "features":
            raise ValueError(
                f'data.features = {self.features!r} needs data.source = "features" (profile '
                f"features), not {self.source!r}"
            )
        if self.source != "synthmimic":
            for name in _GENERATED_ONLY:
                if getattr(self, name) != _default(Data, name):
                    raise ValueError(
                        f"data.{name} = {getattr(self, name)!r} is a setting of generated clips, "
                        f"and data.source is {self.source!r}"
                    )
        return self


@dataclass(frozen=True, config=_CHECKED)
class Task:
    """What is predicted: any number of intensities in one range. (Classes are out of scope.)

    Networks see targets between 0 (`low`) and 1 (`high`) whatever the range, so that no learning
    rate, loss weight or sigmoid depends on it; scores and files hold the task's own units.
    """

    targets: tuple[str, ...] = Field(
        default=EMOTIONS, min_length=1, description="their names, in the order of the outputs"
    )
    low: float = Field(default=0.0, description="the lowest value that a label may have")
    high: float = Field(default=1.0, description="the highest value that a label may have")
    missing_labels: Literal["refuse", "mask"] = Field(
        default="refuse",
        description="a clip with some labels only: refuse it, or learn and score what is there",
    )
    metrics: Literal["intensity", "sentiment", "sims"] = Field(
        default="intensity",
        description="intensity: rho; or beside it MAE, accuracies and F1 as MOSI and MOSEI "
        "(sentiment) or SIMS are scored",
    )
    selects: Literal["rho", "mae"] = Field(
        default="rho", description="the best epoch: highest mean rho, or lowest mean absolute error"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if not self.low < self.high:
            raise ValueError(f"task.low = {self.low:g} is not below task.high = {self.high:g}")
        taken = (*TABLE_COLUMNS, *_RESULT_COLUMNS)
        unusable = [name for name in self.targets if not name.strip() or name in taken]
        if unusable or len({name.strip() for name in self.targets}) < len(self.targets):
            raise ValueError(
                f"task.targets = {list(self.targets)}: each needs a name of its own, and none that "
                f"the tables have already ({', '.join(taken)})"
            )
        return self

    def scaled(self, labels: Any) -> Any:
        """Labels in the task's units -> as networks see them, low at 0 and high at 1."""
        return (labels - self.low) / (self.high - self.low)

    def unscaled(self, outputs: Any) -> Any:
        """What networks say -> the task's units; not clipped."""
        return self.low + (self.high - self.low) * outputs


@dataclass(frozen=True, config=_CHECKED)
class Encoders:
    """Which pretrained encoders, each a local folder or a hub id ("micro:audio" is the folder
    embedded in this package), and how their outputs are used."""

    audio: str = Field(
        default="micro:audio",
        min_length=1,
        description="a wav2vec 2.0 (with an emotion head or without), HuBERT, WavLM or Whisper",
    )
    vision: str = Field(default="micro:vision", min_length=1, description="a vision transformer")
    speech: str = Field(
        default="micro:speech",
        min_length=1,
        description="a Whisper: its size, as in large-v3, or a file",
    )
    text: str = Field(
        default="micro:text", min_length=1, description="a text encoder, or language model"
    )
    audio_seconds: float = Field(
        default=12.0, gt=0, description="of sound that are read (paper: 12)"
    )
    max_frames: int = Field(default=400, ge=1, description="of video that are read (paper: 400)")
    frame_choice: Literal["first", "uniform"] = Field(
        default="first",
        description="the first frames, or evenly spread ones (docs/paper.md row 15)",
    )
    max_tokens: int = Field(default=128, ge=1, description="of text that are read")
    vision_pooling: Literal["cls", "mean"] = Field(
        default="cls", description="how patches become a frame"
    )
    text_pooling: Literal["cls", "mean", "last"] = Field(
        default="cls", description="how tokens become one vector; last: of decoder-only models"
    )
    transcripts: Literal["auto", "whisper", "table"] = Field(
        default="auto",
        description="auto: the table's words, Whisper where it has none; or only one of the two",
    )
    language: str = Field(
        default="en",
        pattern=r"^(auto|[a-z]{2,3})$",
        description="of the speech, as Whisper abbreviates it; auto: heard anew in each clip",
    )
    no_speech: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="sound that Whisper holds for no speech with this probability gives no words",
    )
    face: Literal["none", "largest"] = Field(
        default="none", description="largest: frames are cropped to the largest face first"
    )
    face_margin: float = Field(
        default=0.3, ge=0, le=2, description="around the face, as a share of its side"
    )


@dataclass(frozen=True, config=_CHECKED)
class Limits:
    """What one clip may cost before it is given up, with that reason. Changes no number."""

    clip_seconds: float = Field(
        default=600.0, gt=0, description="to read and encode one clip; then its process is ended"
    )
    clip_memory: float = Field(
        default=8.0,
        gt=0,
        description="GB it may take beside the encoders (Linux only; not on a GPU)",
    )


@dataclass(frozen=True, config=_CHECKED)
class Model:
    """Sizes of the fusion model. Defaults are the paper's (docs/paper.md rows 3 and 11)."""

    width: int = Field(default=512, ge=1, description="of the common space of all modalities")
    heads: int = Field(default=8, ge=1, description="attention heads; must divide the width")
    mlp_width: int = Field(default=512, ge=1, description="hidden units of the last layers")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="on hidden units")
    input_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="on the encoders' features; small data needs it"
    )
    modality_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="how often a modality is left out in training"
    )
    time_features: bool = Field(default=True, description="tell attention when each step happens")
    standardise: bool = Field(
        default=False,
        description="features to mean 0 and deviation 1, as measured on the training clips",
    )
    own: tuple[str, ...] = Field(
        default=(), description="sizes that one system alone has, as in bottleneck=32"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.width % self.heads:
            raise ValueError(
                f"model.width = {self.width} is not a multiple of model.heads = {self.heads}"
            )
        return self


@dataclass(frozen=True, config=_CHECKED)
class Training:
    """How to optimise. Defaults are the paper's preset."""

    learning_rate: float = Field(default=1e-4, gt=0, description="the highest, after warm-up")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    batch_size: int = Field(default=32, ge=1, description="clips a step")
    accumulation: int = Field(default=1, ge=1, description="steps an update")
    epochs: int = Field(default=50, ge=1, description="at most")
    patience: int = Field(
        default=5, ge=1, description="epochs without a better one before stopping"
    )
    warmup_epochs: float = Field(default=1.0, ge=0, description="of linearly growing learning rate")
    clip_value: float | None = Field(
        default=100.0,
        gt=0,
        description="of gradients, by value; the paper's 100 is off (docs/paper.md row 12)",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="of gradients, by norm; none: off"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        default="fp16", description="on CUDA only; the CPU computes in float32"
    )
    audio_average: int = Field(
        default=1,
        ge=1,
        description="audio frames averaged into one step (5: 50 become 10 a second)",
    )


@dataclass(frozen=True, config=_CHECKED)
class Profile:
    """One complete answer to "what shall be run"."""

    name: str = Field(default="demo", description="says nothing to the code: settings alone decide")
    data: Data = dataclasses.field(default_factory=Data)
    task: Task = dataclasses.field(default_factory=Task)
    encoders: Encoders = dataclasses.field(default_factory=Encoders)
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=Training)
    limits: Limits = dataclasses.field(default_factory=Limits)
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="of training: one run of each system for each"
    )

    def as_dict(self) -> dict:
        """Plain nested dict."""
        return dataclasses.asdict(self)

    def changed(self, settings: Mapping[str, object], origin: str = "settings") -> Profile:
        """This profile with other values: {"training.batch_size": 8}.

        origin: where the settings came from, for the errors. Raises ChoiceError naming field,
        value, what is allowed and the origin.
        """
        settings = _with_task(settings, origin)
        if isinstance(folder := settings.get("data.features"), str):
            settings = _task_beside(folder) | settings
        _refuse_unknown(settings, origin)
        tree = self.as_dict()
        for name, value in settings.items():
            *section, field = name.split(".")
            (tree[section[0]] if section else tree)[field] = _plain(name, value)
        return _build(tree, dict.fromkeys(settings, origin))


_SECTIONS: dict[str, type] = {
    "data": Data,
    "task": Task,
    "encoders": Encoders,
    "model": Model,
    "training": Training,
    "limits": Limits,
}


def _with_task(settings: Mapping[str, object], origin: str) -> dict[str, object]:
    """A whole task given at once, {"task": "sentiment"} or {"task": "my_task.toml"}, spelled out;
    single settings beside it count more."""
    if "task" not in settings:
        return dict(settings)
    asked, rest = settings["task"], {k: v for k, v in settings.items() if k != "task"}
    if isinstance(asked, Mapping):
        fields = dict(asked)
    elif str(asked) in TASKS:
        fields = dataclasses.asdict(TASKS[str(asked)])
    elif str(asked).endswith(".toml"):
        fields = read_toml(Path(str(asked)).expanduser(), "task")
        fields = fields.get("task", fields)
    else:
        raise ChoiceError(
            f"{origin}: task = {asked!r}; it must be one of {', '.join(TASKS)}, or the path of a "
            ".toml file of its fields (targets, low, high, ...)"
        )
    return {f"task.{name}": value for name, value in fields.items()} | rest


def _task_beside(folder: str) -> dict[str, object]:
    """The task that `taemi import` wrote beside its features, as settings; none where it did
    not."""
    path = resolve(folder) / "task.toml"
    found = read_toml(path, "task") if path.is_file() else {}
    return {f"task.{name}": value for name, value in found.items()}


def imported_task(folder: str) -> Task:
    """The task of imported features. Raises ChoiceError for a task.toml that is none."""
    return PROFILES["demo"].changed(_task_beside(folder), f"{folder}/task.toml").task


def _default(section: Any, name: str) -> object:
    return section.__pydantic_fields__[name].default


# by name: --set task=sentiment
TASKS = {
    "emi": Task(),
    "sentiment": Task(("Sentiment",), -3.0, 3.0, metrics="sentiment", selects="mae"),
    "sims": Task(("Sentiment",), -1.0, 1.0, metrics="sims", selects="mae"),
}

# The micro vision encoder was trained with its token mean, the micro text encoder with its CLS
# vector.
_MICRO = Encoders(vision_pooling="mean", text_pooling="cls", transcripts="whisper")

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
# The paper's backbones. Its text encoder [39] is mGTE (docs/paper.md).
_PAPER_ENCODERS = Encoders(
    audio="audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
    vision="google/vit-base-patch16-224",
    speech="large-v3",
    text="alibaba-nlp-community/gte-multilingual-base",
)
# Widely used public ones, 0.96 GB in all, each Apache-2.0 or MIT: wav2vec 2.0 base (378 MB), a ViT
# that was trained on facial expressions (343 MB), Whisper base (145 MB), MiniLM (91 MB), whose card
# asks for the mean of its tokens. A laptop encodes 100 frames of a clip, spread over all of it, and
# its first 30 s of sound.
_REAL_ENCODERS = Encoders(
    audio="facebook/wav2vec2-base-960h",
    vision="trpakov/vit-face-expression",
    speech="base",
    text="sentence-transformers/all-MiniLM-L6-v2",
    audio_seconds=30.0,
    max_frames=100,
    frame_choice="uniform",
    text_pooling="mean",
    face="largest",
)

_OWN = Profile(
    "own",
    Data(source="csv"),
    encoders=_PAPER_ENCODERS,
    model=_SMALL_MODEL,
    training=_SMALL_TRAINING,
)

PROFILES = {
    "demo": Profile(
        "demo",
        Data(clips=1200),
        encoders=_MICRO,
        model=_SMALL_MODEL,
        training=_SMALL_TRAINING,
    ),
    "smoke": Profile(
        "smoke",
        Data(clips=48),
        encoders=_MICRO,
        model=_SMALL_MODEL,
        training=dataclasses.replace(_SMALL_TRAINING, epochs=2),
        seeds=(0,),
    ),
    "paper": Profile("paper", Data(source="vidmimic2"), encoders=_PAPER_ENCODERS),
    "own": _OWN,
    "real": dataclasses.replace(_OWN, name="real", encoders=_REAL_ENCODERS),
    # What others extracted has any scale, and steps that are not ours to average.
    "features": Profile(
        "features",
        Data(source="features"),
        model=dataclasses.replace(_SMALL_MODEL, standardise=True),
        training=dataclasses.replace(_SMALL_TRAINING, audio_average=1),
    ),
}
DESCRIPTIONS = {
    "demo": "1,200 generated clips and the embedded encoders: the course, about 9 minutes",
    "smoke": "48 generated clips and two epochs: does everything run? its scores mean nothing",
    "paper": "the official layout (--data-root), the paper's encoders and preset; wants a GPU",
    "own": "own clips by a table (--set data.table=clips.csv), the paper's encoders, a small model",
    "real": "own clips, public encoders for a laptop: 1 GB, once, by `taemi fetch --profile real`",
    "features": "imported features (--set data.features=FOLDER), any task, a small model",
}


# --------------------------------------------------------------------------------------------------
# reading and writing


def load(
    profile: str | Path | Profile = "demo",
    settings: Mapping[str, object] | None = None,
    origin: str = "settings",
) -> Profile:
    """A profile by name or TOML file, with changes: load("demo", {"training.batch_size": 8}).

    A file holds every field, or a line `profile = "demo"` and the fields that are other than
    there. Raises ChoiceError naming field, value, what is allowed, and the file or `origin`.
    """
    if isinstance(profile, Profile):
        found = profile
    elif str(profile).endswith(".toml"):
        found = _read(Path(profile).expanduser())
    elif profile in PROFILES:
        found = PROFILES[str(profile)]
    else:
        raise ChoiceError(
            f"unknown profile {str(profile)!r}; the profiles are: {', '.join(PROFILES)}; "
            "or give the path of a .toml file (`taemi profiles demo` prints one)"
        )
    if settings is not None and not isinstance(settings, Mapping):
        raise ChoiceError(
            f"{origin} is {settings!r}; it must be a dictionary of dotted names, "
            'such as {"training.batch_size": 8}'
        )
    return found.changed(settings, origin) if settings else found


def _read(path: Path) -> Profile:
    """The profile in a TOML file; its relative paths may be meant from the file's own folder."""
    path = path if path.exists() else resolve(path)
    tree = read_toml(path, "profile")
    base = tree.pop("profile", None)
    if base is not None and base not in PROFILES:
        raise ChoiceError(
            f"profile {path}: profile = {base!r}; it must be one of: {', '.join(PROFILES)}"
        )
    given = {name: _located(name, value, path.parent) for name, value in flat(tree).items()}
    if base is not None:
        return dataclasses.replace(PROFILES[base], name=path.stem).changed(given, str(path))
    _refuse_unknown(given, str(path))
    if missing := [name for name in names() if name not in given]:
        raise ChoiceError(
            f"profile {path}: {', '.join(missing)} missing; add them "
            '(`taemi profiles demo` prints all), or begin the file with profile = "demo"'
        )
    return PROFILES["demo"].changed(given, str(path))


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises ChoiceError naming `what` it should hold."""
    path = path if path.exists() else resolve(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ChoiceError(f"{what} {path}: the file cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ChoiceError(f"{what} {path}: not valid TOML: {error}") from error


def parse_settings(pairs: Iterable[str]) -> dict[str, object]:
    """["training.batch_size=8", "encoders.text=/models/minilm"] as a dictionary.

    A value is read as TOML; what is none is text. A path that exists from the current folder is
    made absolute. Raises ChoiceError with the right form for a pair that has none.
    """
    found = parse_pairs(pairs, "--set {}: write NAME=VALUE, as in --set training.batch_size=8")
    return {name: _located(name, value, Path.cwd()) for name, value in found.items()}


def parse_pairs(pairs: Iterable[str], right_form: str) -> dict[str, object]:
    """["bottleneck=32", "small=linear"] as a dictionary; a value is read as TOML, what is none is
    text. Raises ChoiceError for a pair that is none: `right_form`, with the pair at its {}."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name.strip() and equals):
            raise ChoiceError(right_form.format(repr(pair)))
        found[name.strip()] = _value(text.strip())
    return found


def _located(name: str, value: object, folder: Path) -> object:
    """A path that exists, seen from this folder, made absolute; anything else as it is."""
    if not (isinstance(value, str) and value and name in _PATHS):
        return value
    here = folder / Path(value).expanduser()
    return str(here.absolute()) if here.exists() else value


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_toml(profile: Profile, sections: Iterable[str] = ()) -> str:
    """The whole profile as a TOML file that `load` reads, each field with its explanation; or only
    some sections of it."""
    import tomlkit  # only written where somebody asks for a profile

    def added(table: Any, name: str, value: object, description: str | None) -> None:
        item = tomlkit.item(_NONE if value is None else value)
        if description:
            item.comment(description)
        table.add(name, item)

    document = tomlkit.document()
    for name, field in Profile.__pydantic_fields__.items():  # type: ignore[attr-defined]
        if name not in _SECTIONS and not sections:
            value = getattr(profile, name)
            added(document, name, list(value) if name == "seeds" else value, field.description)
    for section in sections or _SECTIONS:
        kind: Any = _SECTIONS[section]
        table = tomlkit.table()
        for name, field in kind.__pydantic_fields__.items():  # type: ignore[attr-defined]
            added(table, name, getattr(getattr(profile, section), name), field.description)
        document.add(section, table)
    return tomlkit.dumps(document)


def names() -> list[str]:
    """The dotted names of all settings."""
    return [*flat(PROFILES["demo"].as_dict())]


# --------------------------------------------------------------------------------------------------
# checking

_NONE = "none"  # TOML has no null


def _plain(name: str, value: object) -> object:
    """The value as Python has it: "none" is None where a setting may be that."""
    section, _, field = name.rpartition(".")
    kind: Any = _SECTIONS.get(section, Profile)
    if isinstance(value, str) and value.lower() == _NONE:
        return None if None in _allowed(kind, field) else value.lower()
    return tuple(value) if isinstance(value, list) else value


def _allowed(kind: Any, field: str) -> tuple:
    """What the field's annotation lists: its types, or the texts it may be; None for NoneType."""
    listed = get_args(kind.__pydantic_fields__[field].annotation)
    return tuple(None if entry is type(None) else entry for entry in listed)


def _refuse_unknown(settings: Mapping[str, object], origin: str) -> None:
    valid = names()
    for name in settings:
        if name in valid:
            continue
        section, _, field = str(name).rpartition(".")
        near = [known for known in valid if known.split(".")[-1] == field]
        near = near or difflib.get_close_matches(str(name), valid, 3, 0.8)
        near = near or [known for known in valid if section and known.startswith(f"{section}.")]
        raise ChoiceError(
            f"{origin}: unknown setting {str(name)!r}; "
            f"{'nearest' if near else 'the settings are'}: {', '.join(near or valid)} "
            "(`taemi profiles demo` prints all)"
        )


def _build(tree: dict, origins: Mapping[str, str]) -> Profile:
    """The profile of a nested dict. Raises ChoiceError with a line for each wrong field."""
    problems, built = [], {}
    for section, kind in _SECTIONS.items():
        try:
            built[section] = kind(**_text_where_wanted(kind, tree[section]))
        except ValidationError as error:
            problems += _lines(error, section, origins)
    for name, value in flat(tree).items():
        if name in _PATHS and isinstance(value, str) and Path(value).is_absolute():
            if not Path(value).exists():
                origin = origins.get(name, "settings")
                problems.append(f"{origin}: {name} = {value!r}: no such folder or file")
    top = {name: value for name, value in tree.items() if name not in _SECTIONS}
    try:
        found = Profile(**top, **built)
    except ValidationError as error:
        problems += _lines(error, "", origins)
    if problems:
        raise ChoiceError("\n  ".join(problems))
    return found


def _text_where_wanted(kind: Any, values: dict) -> dict:
    """A folder called 2024 is text, though TOML reads a number."""
    fields = kind.__pydantic_fields__
    return {
        name: str(value)
        if fields[name].annotation in (str, str | None) and type(value) in (int, float)
        else value
        for name, value in values.items()
    }


def _lines(error: ValidationError, section: str, origins: Mapping[str, str]) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False):
        name = ".".join([*filter(None, [section]), *map(str, fault["loc"][:1])])
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # fields that contradict each other: the message names them
            lines.append(f"{', '.join(sorted(set(origins.values())))}: {message}")
            continue
        origin = origins.get(name, "settings")
        message = message[0].lower() + message[1:]
        lines.append(f"{origin}: {name} = {fault['input']!r}: {message}")
    return lines


def resolve(path: str | Path) -> Path:
    """A relative path means "inside the repository", wherever the notebook or the command was
    started."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path
