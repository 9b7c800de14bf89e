"""Where an encoder is on this machine: a folder, a file, or a cache that `taemi fetch` has filled.
Finds it, and names it beyond doubt. Nothing is downloaded here: what is not there is an error that
says how to get it (`fetching` is the only file of the package that downloads an encoder).

The identity of an encoder is its name and a hash of its contents. The store keeps the identities of
those that made it, so that features of different encoders can never be mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from taemi_lib import profiles
from taemi_lib.errors import EncoderError
from taemi_lib.features.foreign import check_files
from taemi_lib.profiles import MICRO, resolve

SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
# the first pattern that matches, as transformers chooses
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# which files the weights are, where they are several
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PUBLISHED = "openai-whisper:"
# where whisper keeps what it has fetched
WHISPER_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"


@dataclass(frozen=True)
class Source:
    """A folder or file of this machine; identity is "name@hash" of its contents."""

    where: str
    identity: str


def locate(source: str, role: str) -> Source:
    """Find an encoder: "micro:NAME" in this package, a folder or file, else a model id of the
    Hugging Face hub, in the hub's cache.

    `role` (audio, vision, speech, text) is for the errors. Raises EncoderError naming the setting,
    its value, and how to get the encoder.
    """
    if source.startswith("micro:"):
        path = MICRO / source.removeprefix("micro:")
        if not path.is_dir():
            there = sorted(
                folder.name for folder in MICRO.glob("*") if (folder / "config.json").exists()
            )
            raise EncoderError(
                f"encoders.{role} = {source!r}: the package has no micro backbone of this name "
                f"(it has: {', '.join(there) or 'none'}); appendix A1 trains them"
            )
        return Source(str(path), f"{source}@{digest(path)}")
    path = resolve(source)
    if path.exists():
        check_files(path, role, source)
        return Source(str(path), f"{path.name}@{digest(path)}")
    if Path(source).is_absolute():
        raise EncoderError(
            f"encoders.{role} = {source!r}: no such folder or file; give the folder of a model "
            f"(config.json and weights), or its hub id: --set encoders.{role}=FOLDER"
        )
    return _in_cache(source, role)


def digest(path: Path) -> str:
    """Eight hex digits over the weights and settings in a folder, or over one file."""
    if path.is_file():
        files = [path]
    else:
        files = [path / name for name in SETTINGS if (path / name).exists()] + _weights(path)
    total = hashlib.sha256()
    for file in files:
        total.update(_digest_of(file, file.stat().st_size, file.stat().st_mtime_ns))
    return total.hexdigest()[:8]


def _weights(folder: Path) -> list[Path]:
    return next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])


@lru_cache(maxsize=64)
def _digest_of(file: Path, size: int, changed: int) -> bytes:
    """Size and time only make a changed file a new entry."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def how_to_get(role: str, source: str) -> str:
    """The command that downloads this encoder, for errors."""
    for name, profile in profiles.PROFILES.items():
        if getattr(profile.encoders, role) == source:
            return f"`taemi fetch --profile {name}` shows its size and downloads it, once"
    setting = shlex.quote(f"encoders.{role}={source}")
    return f"`taemi fetch --set {setting}` shows its size and downloads it, once"


def _in_cache(name: str, role: str) -> Source:
    try:
        config = hf_hub_download(name, "config.json", local_files_only=True)
    except HFValidationError as error:
        raise EncoderError(
            f"encoders.{role} = {name!r}: neither a folder here nor a hub id (owner/name)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise EncoderError(
            f"encoders.{role} = {name!r}: neither a folder here nor in the cache of the Hugging "
            f"Face hub. {_ways(role, name)}"
        ) from error
    folder = Path(config).parent  # .../snapshots/<commit>: names the weights, too
    if absent := _absent(folder):
        raise EncoderError(
            f"encoders.{role} = {name!r}: only a part of it is in the cache of the Hugging Face "
            f"hub, without {absent}. {_ways(role, name)}"
        )
    check_files(folder, role, name)
    return Source(str(folder), f"{name}@{folder.name[:8]}")


def _ways(role: str, source: str) -> str:
    return (
        f"{how_to_get(role, source)}; or give a copy that lies on this machine: "
        f"--set encoders.{role}=FOLDER"
    )


def _absent(folder: Path) -> str:
    """What the weights of a snapshot lack; "" when they are whole."""
    for index in (folder / name for name in INDEX):
        if index.is_file():
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            absent = sorted(part for part in parts if not (folder / part).is_file())
            return f"{len(absent)} of the {len(parts)} files of its weights" if absent else ""
    return "" if _weights(folder) else "its weights"


def locate_audio(source: str) -> Source:
    """As `locate`; sound may also be encoded by a published Whisper ("large-v3"). Raises
    EncoderError."""
    here = source.startswith("micro:") or resolve(source).exists()
    if here or "/" in source or published(source) is None:
        return locate(source, "audio")
    return _in_whispers_cache(source, "audio")


def locate_speech(source: str) -> Source:
    """As `locate`; a published Whisper's name ("large-v3") is also known, by the hash of its
    weights: whisper's own cache has it, not the hub's. Raises EncoderError."""
    if source.startswith("micro:") or resolve(source).exists():
        return locate(source, "speech")
    if published(source) is not None:
        return _in_whispers_cache(source, "speech")
    raise EncoderError(
        f"encoders.speech = {source!r}: no such folder or file; the published models are: "
        f"{', '.join(openai_whisper().available_models())}"
    )


def is_openai_whisper(place: Source) -> bool:
    """Whether this is a file that openai-whisper loads, not a folder."""
    return Path(place.where).is_file()


def is_of_hub(place: Source) -> bool:
    """Whether this is a snapshot in the cache of the Hugging Face hub."""
    return "/" in place.identity  # owner/name; folders are named by their last part


def published_name(place: Source) -> str | None:
    """Of a published Whisper, such as large-v3; None of all others."""
    if not place.identity.startswith(_PUBLISHED):
        return None
    return place.identity.removeprefix(_PUBLISHED).rpartition("@")[0]


def openai_whisper() -> ModuleType:
    """The module, loaded when it is first asked for."""
    import whisper  # takes seconds, and only the models that it publishes need it

    return whisper


@dataclass(frozen=True)
class Published:
    """A Whisper that openai publishes: its name, its address, the SHA-256 of its file, and where
    whisper keeps it."""

    name: str
    address: str
    sha256: str
    cached: Path

    def is_here(self) -> bool:
        """Whether the whole file is: an interrupted download leaves a part under the same name."""
        if not self.cached.is_file():
            return False
        stat = self.cached.stat()
        return _digest_of(self.cached, stat.st_size, stat.st_mtime_ns).hex() == self.sha256


def published(source: str) -> Published | None:
    """The published Whisper of this name; None when there is none."""
    name = source.removeprefix(_PUBLISHED)
    if name not in openai_whisper().available_models():
        return None
    address = openai_whisper()._MODELS[name]
    # whisper itself reads the hash from there
    *_, sha256, file = address.split("/")
    return Published(name, address, sha256, WHISPER_CACHE / file)


def _in_whispers_cache(source: str, role: str) -> Source:
    model = published(source)
    assert model is not None
    if not model.is_here():
        said = "is damaged, or only a part of it is" if model.cached.is_file() else "is not"
        raise EncoderError(
            f"encoders.{role} = {source!r}: {model.cached.name} {said} in whisper's cache. "
            f"{how_to_get(role, source)}; or give a copy that lies on this machine: "
            f"--set encoders.{role}=FILE"
        )
    return Source(str(model.cached), f"{_PUBLISHED}{model.name}@{model.sha256[:8]}")


# --------------------------------------------------------------------------------------------------
# the encoders of a profile


def located(settings: profiles.Encoders) -> dict[str, Source]:
    """{role: where its encoder is}, of the encoders that are needed. Raises EncoderError with a
    line for each that is not there."""
    found, lines = _looked_for(settings)
    if lines:
        raise EncoderError("\n  ".join(lines))
    return found


def missing(settings: profiles.Encoders) -> list[str]:
    """One line for each encoder that is not on this machine: its setting, its name, how to get
    it."""
    return _looked_for(settings)[1]


def _looked_for(settings: profiles.Encoders) -> tuple[dict[str, Source], list[str]]:
    found, lines = {}, []
    for role in needed(settings):
        try:
            found[role] = find(role, getattr(settings, role))
        except EncoderError as error:
            lines.append(str(error))
    return found, lines


def identity(settings: profiles.Encoders) -> dict[str, str]:
    """What names the profile's encoders in a store, with every setting that changes their features;
    nothing is loaded. Raises EncoderError."""
    found = {role: source.identity for role, source in located(settings).items()}
    heard = f", {settings.language}, no speech above {settings.no_speech:g}"
    speech = {
        "whisper": "{speech}" + heard,
        "auto": "the table's words, else {speech}" + heard,
        "table": "the table's words",
    }
    face = {"none": "", "largest": f", the largest face + {settings.face_margin:g}"}
    return {
        "audio": f"{found['audio']}, {settings.audio_seconds:g} s",
        "vision": f"{found['vision']}, {settings.vision_pooling}, "
        f"{settings.frame_choice} {settings.max_frames} frames{face[settings.face]}",
        "speech": speech[settings.transcripts].format(**found),
        "text": f"{found['text']}, {settings.text_pooling}, {settings.max_tokens} tokens",
    }


def needed(settings: profiles.Encoders) -> tuple[str, ...]:
    """The roles whose encoders these settings use."""
    return ("audio", "vision", "text") + (("speech",) if settings.transcripts != "table" else ())


def find(role: str, source: str) -> Source:
    """The encoder of a role, wherever its kind is looked for. Raises EncoderError."""
    if role == "speech":
        return locate_speech(source)
    if role == "audio":
        return locate_audio(source)
    return locate(source, role)
