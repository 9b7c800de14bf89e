"""Downloading encoders: the only place that does, and only when somebody asks (`taemi fetch`).

First the plan: which encoders the settings name, which files of each are not on this machine, how
many bytes these are. Then the download, with progress: through huggingface_hub into its own cache,
a published Whisper through whisper's own downloader into whisper's. A connection that breaks is
resumed by the hub's library; after anything worse, the same command gets the files that are not
whole yet.
"""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from taemi_lib import profiles
from taemi_lib.errors import EncoderError
from taemi_lib.features import sources
from taemi_lib.features.sources import INDEX, SETTINGS

# as transformers looks for them: safetensors before pickled weights, one file or several
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_PATIENCE = 20  # s, to answer how large a file is


@dataclass(frozen=True)
class Encoder:
    """One encoder of some settings: its roles, its name, and what of it is to be downloaded."""

    roles: tuple[str, ...]
    source: str
    files: tuple[str, ...] = ()  # those that are not here
    size: int = 0  # bytes of them
    place: str = ""  # where it is, or where it comes from
    revision: str | None = None  # a snapshot of which a part is here already

    def __str__(self) -> str:
        said = f"{megabytes(self.size)} from {self.place}" if self.files else f"here: {self.place}"
        return f"{', '.join(self.roles):13} {self.source}: {said}"


def plan(settings: profiles.Encoders) -> list[Encoder]:
    """The encoders that these settings use, each once, with what of them is not here.

    Asks the hub, and nobody for what lies in a folder; downloads nothing. Raises EncoderError, with
    a line for each of them, when something is to be downloaded and its size cannot be learned, or
    when a name is none.
    """
    found: list[Encoder] = []
    problems: list[str] = []
    for (source, _), roles in _once(settings).items():
        try:
            found.append(_planned(source, roles))
        except EncoderError as error:
            problems.append(str(error))
    if problems:
        raise EncoderError("\n  ".join([*problems, *_how_without_network(problems)]))
    return found


def download(encoder: Encoder) -> None:
    """Get what is not here, with progress. Raises EncoderError naming the encoder."""
    if not encoder.files:
        return
    role = encoder.roles[0]
    model = _published(role, encoder.source)
    try:
        if model is not None:
            _from_openai(model)
        else:
            # The weights last: where they are, all is.
            weights = [name for name in encoder.files if name not in (*SETTINGS, *INDEX)]
            for files in (sorted(set(encoder.files) - set(weights)), weights):
                if files:
                    snapshot_download(
                        encoder.source, revision=encoder.revision, allow_patterns=files
                    )
    # There is no end to what can go wrong on a network.
    except Exception as error:
        raise EncoderError(
            f"encoders.{role} = {encoder.source!r}: the download stopped ({_said(error)}); the "
            "same command gets what is missing"
        ) from error
    sources.find(role, encoder.source)  # raises EncoderError where something is missing still


def megabytes(size: int) -> str:
    """Bytes as people read them, in thousands as the hub counts."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.1f} MB"


# --------------------------------------------------------------------------------------------------
# planning


def _once(settings: profiles.Encoders) -> dict[tuple[str, bool], tuple[str, ...]]:
    """{(source, whether openai publishes it): its roles}: one Whisper may hear the words and give
    the sound's features."""
    found: dict[tuple[str, bool], tuple[str, ...]] = {}
    for role in sources.needed(settings):
        source = getattr(settings, role)
        key = (source, _published(role, source) is not None)
        found[key] = (*found.get(key, ()), role)
    return found


def _planned(source: str, roles: tuple[str, ...]) -> Encoder:
    role = roles[0]
    model = _published(role, source)
    if model is not None:
        if model.is_here():
            return Encoder(roles, source, place=str(model.cached))
        size = _size_at_openai(model, role, source)
        host = model.address.split("/")[2]
        return Encoder(roles, source, (model.cached.name,), size, host)
    if role == "speech" or _is_path(source):
        return Encoder(roles, source, place=sources.find(role, source).where)
    return _planned_of_hub(source, roles)


def _published(role: str, source: str) -> sources.Published | None:
    """A Whisper to be had from openai, as sources finds it."""
    if role not in ("audio", "speech") or _is_path(source) or "/" in source:
        return None
    return sources.published(source)


def _is_path(source: str) -> bool:
    return (
        source.startswith("micro:")
        or Path(source).is_absolute()
        or profiles.resolve(source).exists()
    )


def _planned_of_hub(name: str, roles: tuple[str, ...]) -> Encoder:
    # What is here of a snapshot is completed, not replaced by a newer one.
    try:
        config = hf_hub_download(name, "config.json", local_files_only=True)
        revision = Path(config).parent.name
    except LocalEntryNotFoundError:
        revision = None
    except HFValidationError:
        sources.find(roles[0], name)  # raises, naming what it may be
        raise
    patterns = [*SETTINGS, *(one for kind in _WEIGHTS for one in kind)]
    try:
        with _without_bars():
            listed = snapshot_download(
                name, revision=revision, allow_patterns=patterns, dry_run=True
            )
    except Exception as error:  # there is no end to what can go wrong on a network
        try:
            return Encoder(roles, name, place=sources.find(roles[0], name).where)
        except EncoderError:
            here = "it is not" if revision is None else "only a part of it is"
            raise EncoderError(
                f"encoders.{roles[0]} = {name!r}: {here} on this machine, and the Hugging Face hub "
                f"does not give it ({_said(error)})"
            ) from error
    wanted = _chosen([entry.filename for entry in listed])
    if not any(name not in (*SETTINGS, *INDEX) for name in wanted):
        raise EncoderError(
            f"encoders.{roles[0]} = {name!r}: the hub has no weights of it that are read here "
            "(model.safetensors or pytorch_model.bin)"
        )
    absent = [
        entry
        for entry in listed
        if entry.filename in wanted and (entry.will_download or not Path(entry.local_path).exists())
    ]
    if not absent:
        return Encoder(roles, name, place=sources.find(roles[0], name).where)
    return Encoder(
        roles,
        name,
        tuple(entry.filename for entry in absent),
        sum(entry.file_size or 0 for entry in absent),
        f"{constants.ENDPOINT}/{name}",
        revision,
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Nothing moves while sizes are asked for."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _chosen(names: Sequence[str]) -> set[str]:
    """Of the files of a repository: its settings, and its weights in one format."""
    for first, *rest in _WEIGHTS:
        if first in names:
            weights = {name for name in names if any(fnmatch(name, one) for one in (first, *rest))}
            return weights | (set(names) & set(SETTINGS))
    return set(names) & set(SETTINGS)


def _size_at_openai(model: sources.Published, role: str, source: str) -> int:
    said = "HF_HUB_OFFLINE is set"
    if not constants.is_offline_mode():
        request = urllib.request.Request(model.address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                return int(answer.headers["Content-Length"])
        except (OSError, TypeError, ValueError) as error:
            said = _said(error)
    raise EncoderError(
        f"encoders.{role} = {source!r}: {model.cached.name} is not on this machine, and "
        f"{model.address} does not give it ({said})"
    )


def _how_without_network(problems: Sequence[str]) -> list[str]:
    if not any("on this machine, and" in line for line in problems):
        return []
    off = " (HF_HUB_OFFLINE is set: unset it)" if constants.is_offline_mode() else ""
    return [
        f"nothing was downloaded. Give the same command where there is a network{off}; or on "
        f"another machine, and copy {constants.HF_HUB_CACHE} and {sources.WHISPER_CACHE} from "
        "there; or name folders of this machine: --set encoders.text=FOLDER"
    ]


def _from_openai(model: sources.Published) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a part of the file is here, and is begun again
        sources.openai_whisper()._download(model.address, str(model.cached.parent), in_memory=False)


def _said(error: BaseException) -> str:
    """What an error says, in one line; a dry run hides its reason behind itself."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
