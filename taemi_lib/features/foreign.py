"""Encoders come from strangers: what their files claim is checked before it is believed.

Nothing that a model's folder brings is ever run, and nothing takes memory because a number in a
settings file says so. Weights are read as weights (safetensors, or torch.load with
weights_only=True); what would need more is refused here, by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import transformers

from taemi_lib.errors import EncoderError
from taemi_lib.support import files

# read by transformers in one piece; the words of a tokenizer are a file of megabytes
_SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_LARGEST_WORDS = 256 << 20  # bytes of any other JSON
# Things that are made one after the other when a model is built, before any weight is read
_COUNTED = re.compile(r"layers?$|^depths?$|stages$|blocks$|experts$")
_MOST_LAYERS = 2_000
# some of these take memory of their own, before the weights are compared
_SIZED = re.compile(r"sizes?$|dims?$|channels$|width$|^d_model$")
_LARGEST_SIZE = 10_000_000
# labels; s that a Whisper hears at once (the published ones: 30)
_BOUNDS = {"num_labels": 1_000_000, "chunk_length": 600}
# numbers that a model may have beyond those of its weights: a summary's layer that nothing reads
_SLACK = 20_000_000
_MOST_WORDS = 100_000  # of a Whisper; the published ones know 51,866
_PICKLED = ("*.bin", "*.pt", "*.pth")


def check_files(path: Path, role: str, source: str) -> None:
    """Raises EncoderError, naming the file, for an encoder's folder or file with settings that are
    none, that ask for code of their own or claim absurd counts, and for packed weights."""
    pickled = [path] if path.is_file() else [f for kind in _PICKLED for f in path.glob(kind)]
    try:
        for file in pickled:
            name = file.name
            files.check_archive(file)
        if path.is_dir():
            for file in sorted(path.glob("*.json")):
                name = file.name
                if name in _SETTINGS:
                    _check_settings(files.read_json(file), name)
                elif file.stat().st_size > _LARGEST_WORDS:
                    raise ValueError(f"it has more than {_LARGEST_WORDS:,} bytes")
    except (ValueError, OSError) as error:
        raise EncoderError(
            f"encoders.{role} = {source!r}: its {name} is refused: {error}"
        ) from error


def _check_settings(settings: dict, name: str) -> None:
    code = settings.get("auto_map")
    known = settings.get("architectures")
    if code and not (isinstance(known, list) and known and all(map(_in_transformers, known))):
        raise ValueError(
            f"it asks for code of its own (auto_map = {str(code)[:200]}), which is never run here; "
            "use a model that transformers knows by itself"
        )
    for key, value in _numbers(settings):
        most = _most(key)
        if most is not None and value > most:
            raise ValueError(f"it says {key} = {value}, at most {most:,} are believed")


def _most(key: str) -> int | None:
    """The largest number that is believed under this name; None: any."""
    if key in _BOUNDS:
        return _BOUNDS[key]
    if _COUNTED.search(key):
        return _MOST_LAYERS
    return _LARGEST_SIZE if _SIZED.search(key) else None


def _in_transformers(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and hasattr(transformers, name)


def _numbers(found: object, key: str = "") -> Iterator[tuple[str, float]]:
    """(key, number) of all numbers, also those in lists and in settings of parts."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield from _numbers(value, name)
    elif isinstance(found, list):
        for value in found:
            yield from _numbers(value, key)
    elif isinstance(found, (int, float)):
        yield key, found


def check_size(claimed: int, folder: Path) -> None:
    """Raises ValueError when a model has more numbers than its weights have bytes: what they lack
    would be filled in, and take memory. What a part of them may lack fits into the slack."""
    held = sum(
        file.stat().st_size for kind in ("*.safetensors", *_PICKLED) for file in folder.glob(kind)
    )
    if held and claimed > held + _SLACK:
        raise ValueError(
            f"its config.json makes a model of {claimed:,} numbers, its weights have {held:,} bytes"
        )


def check_whisper(dims: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError when a Whisper's sizes are not those of its weights {name: shape}; without
    shapes of the words' table (the micro format) their number is bounded alone."""
    places = {
        "n_mels": ("encoder.conv1.weight", 1),
        "n_audio_ctx": ("encoder.positional_embedding", 0),
        "n_audio_state": ("encoder.positional_embedding", 1),
        "n_text_ctx": ("decoder.positional_embedding", 0),
        "n_text_state": ("decoder.positional_embedding", 1),
        "n_vocab": ("decoder.token_embedding.weight", 0),
    }
    held: dict[str, int] = {}
    for key, (name, axis) in places.items():
        if key != "n_vocab" or name in shapes:
            held[key] = (*shapes.get(name, ()), 0, 0)[axis]
    for part, key in (("encoder", "n_audio_layer"), ("decoder", "n_text_layer")):
        held[key] = len(
            {name.split(".")[2] for name in shapes if name.startswith(f"{part}.blocks.")}
        )
    for key, value in dims.items():
        most = _MOST_WORDS if key == "n_vocab" else 10_000
        if not isinstance(value, int) or not 0 < value <= most:
            raise ValueError(f"it says {key} = {str(value)[:40]}, expected 1 to {most:,}")
        if value != held.get(key, value):
            raise ValueError(f"it says {key} = {value}, its weights have {held[key]}")
