"""Where an encoder comes from: a folder, a file, or a name on a hub. Finds it, and names it beyond
doubt.

The identity of an encoder is its name and a hash of its contents. The store keeps the identities of
those that made it, so that features of different encoders can never be mixed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from taemi_lib.errors import EncoderError
from taemi_lib.profiles import MICRO, resolve

_SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_WEIGHTS = (
    "*.safetensors",
    "pytorch_model*.bin",
)  # the first pattern that matches, as transformers chooses


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
                f"{role} encoder {source!r}: the package has no micro backbone of this name "
                f"(it has: {', '.join(there) or 'none'}); appendix A1 trains them"
            )
        return Source(str(path), f"{source}@{digest(path)}")
    path = resolve(source)
    if path.exists():
        return Source(str(path), f"{path.name}@{digest(path)}")
    if Path(source).is_absolute():
        raise EncoderError(f"encoders.{role} = {source!r}: no such folder or file")
    return _on_hub(source, role, download)


def digest(path: Path) -> str:
    """Eight hex digits over the weights and settings in a folder, or over one file."""
    if path.is_file():
        files = [path]
    else:
        weights = next((found for pattern in _WEIGHTS if (found := sorted(path.glob(pattern)))), [])
        files = [path / name for name in _SETTINGS if (path / name).exists()] + weights
    total = hashlib.sha256()
    for file in files:
        total.update(_digest_of(file, file.stat().st_size, file.stat().st_mtime_ns))
    return total.hexdigest()[:8]


@lru_cache(maxsize=64)
def _digest_of(
    file: Path, size: int, changed: int
) -> bytes:  # size and time only make a changed file a new entry
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _on_hub(name: str, role: str, download: bool) -> Source:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    help_ = (
        "neither a folder here nor in the cache of the Hugging Face hub. Connect to the network "
        f"once, or copy the model's folder to this machine: --set encoders.{role}=FOLDER"
    )
    try:
        try:
            config = hf_hub_download(name, "config.json", local_files_only=True)
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
    commit = Path(config).parent.name  # .../snapshots/<commit>/config.json: names the weights too
    return Source(name, f"{name}@{commit[:8]}", commit)


@contextmanager
def loading(source: str, role: str) -> Iterator[None]:
    """Load a model quietly, leaving torch's random state alone; what fails is an EncoderError
    naming the encoder."""
    import torch
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise EncoderError(f"{role} encoder {source!r} cannot be loaded: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_complete(info: dict, source: str, role: str, optional: tuple[str, ...] = ()) -> None:
    """Refuse weights with gaps: transformers would fill them with random numbers. `info` is its
    loading info."""
    missing = sorted(
        key for key in info["missing_keys"] if not any(word in key for word in optional)
    )
    if missing or info["mismatched_keys"]:
        names = ", ".join(map(str, [*missing, *info["mismatched_keys"]][:5]))
        raise EncoderError(
            f"{role} encoder {source!r}: its weights do not fit its config.json; "
            f"missing or of another shape: {names}"
        )
