"""Where an encoder comes from: a folder, a file, or a name on a hub. Finds it, and names it beyond
doubt.

The identity of an encoder is its name and a hash of its contents. The store keeps the identities of
those that made it, so that features of different encoders can never be mixed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from taemi_lib import profiles
from taemi_lib.errors import EncoderError
from taemi_lib.features.foreign import check_files
from taemi_lib.profiles import MICRO, resolve

_SETTINGS = (
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
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_PUBLISHED = "openai-whisper:"
# where whisper keeps what it has fetched
WHISPER_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"


@dataclass(frozen=True)
class Source:
    """A place that `from_pretrained(where, revision=revision)` can load; identity is "name@hash" of
    its contents."""

    where: str
    identity: str
    revision: str | None = None


def locate(source: str, role: str, download: bool = True) -> Source:
    """Find an encoder: "micro:NAME" in this package, a folder or file, else a model id of the
    Hugging Face hub.

    The hub's cache is looked at first; only what is missing there is downloaded, unless
    HF_HUB_OFFLINE is set or `download` is false. `role` (audio, vision, speech, text) is for the
    errors. Raises EncoderError naming the setting, its value, and how to get the encoder.
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
    return _on_hub(source, role, download)


def digest(path: Path) -> str:
    """Eight hex digits over the weights and settings in a folder, or over one file."""
    if path.is_file():
        files = [path]
    else:
        files = [path / name for name in _SETTINGS if (path / name).exists()] + _weights(path)
    total = hashlib.sha256()
    for file in files:
        total.update(_digest_of(file, file.stat().st_size, file.stat().st_mtime_ns))
    return total.hexdigest()[:8]


def _weights(folder: Path) -> list[Path]:
    return next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])


@lru_cache(maxsize=64)
def _digest_of(file: Path, size: int, changed: int) -> bytes:
    """Size and time only make a changed file a new entry."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _on_hub(name: str, role: str, download: bool) -> Source:
    help_ = (
        "neither a folder here nor in the cache of the Hugging Face hub. Connect to the network "
        f"once, or copy the model's folder to this machine: --set encoders.{role}=FOLDER"
    )
    try:
        try:
            config = hf_hub_download(name, "config.json", local_files_only=True)
            if not download and not _weights(Path(config).parent):
                raise LocalEntryNotFoundError("its weights are missing")
        except LocalEntryNotFoundError:
            offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
            if offline or not download:
                raise
            config = hf_hub_download(name, "config.json")
    except HFValidationError as error:
        raise EncoderError(
            f"encoders.{role} = {name!r}: neither a folder here nor a hub id (owner/name)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EncoderError(
            f"encoders.{role} = {name!r}: {help_} ({type(error).__name__})"
        ) from error
    check_files(Path(config).parent, role, name)
    commit = Path(config).parent.name  # .../snapshots/<commit>/config.json: names the weights too
    return Source(name, f"{name}@{commit[:8]}", commit)


def locate_audio(source: str, download: bool = True) -> Source:
    """As `locate`; sound may also be encoded by a published Whisper ("large-v3"). Raises
    EncoderError."""
    here = source.startswith("micro:") or resolve(source).exists()
    if here or "/" in source or not _is_published(source):
        return locate(source, "audio", download)
    return _published(source, "audio", download)


def locate_speech(source: str, download: bool = True) -> Source:
    """As `locate`; a published Whisper's name ("large-v3") is also known, by the hash of its
    weights, and fetched by whisper itself, not from the hub. Raises EncoderError, without
    `download` also for a published model that is not in whisper's cache."""
    if source.startswith("micro:") or resolve(source).exists():
        return locate(source, "speech")
    if _is_published(source):
        return _published(source, "speech", download)
    raise EncoderError(
        f"encoders.speech = {source!r}: no such folder or file; the published models are: "
        f"{', '.join(_whisper().available_models())}"
    )


def is_openai_whisper(place: Source) -> bool:
    """Whether this is a file or a published name that openai-whisper loads, not a folder."""
    return Path(place.where).is_file() or place.identity.startswith(_PUBLISHED)


def _whisper() -> ModuleType:
    import whisper  # takes seconds, and only the models that it publishes need it

    return whisper


def _is_published(source: str) -> bool:
    return source.removeprefix(_PUBLISHED) in _whisper().available_models()


def _published(source: str, role: str, download: bool) -> Source:
    name = source.removeprefix(_PUBLISHED)
    address = _whisper()._MODELS[name]
    expected = address.split("/")[-2]  # the hash that whisper itself checks
    cached = WHISPER_CACHE / address.rsplit("/", 1)[-1]
    if not (download or cached.is_file()):
        raise EncoderError(
            f"encoders.{role} = {source!r}: {cached.name} is not in whisper's cache. "
            f'Connect to the network once: python -c "import whisper; whisper.load_model'
            f"('{name}')\"; or copy the file: --set encoders.{role}=FILE"
        )
    return Source(name, f"{_PUBLISHED}{name}@{expected[:8]}")


# --------------------------------------------------------------------------------------------------
# the encoders of a profile


def located(settings: profiles.Encoders) -> dict[str, Source]:
    """{role: where its encoder is}, of the encoders that are needed. Raises EncoderError."""
    return {role: _find(role, getattr(settings, role)) for role in _needed(settings)}


def missing(settings: profiles.Encoders) -> list[str]:
    """One line for each encoder that is not on this machine: its setting, its name, how to get it.
    Downloads nothing."""
    lines = []
    for role in _needed(settings):
        try:
            _find(role, getattr(settings, role), download=False)
        except EncoderError as error:
            lines.append(str(error))
    return lines


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


def _needed(settings: profiles.Encoders) -> tuple[str, ...]:
    return ("audio", "vision", "text") + (("speech",) if settings.transcripts != "table" else ())


def _find(role: str, source: str, download: bool = True) -> Source:
    if role == "speech":
        return locate_speech(source, download)
    if role == "audio":
        return locate_audio(source, download)
    return locate(source, role, download)
