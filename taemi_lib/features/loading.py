"""Loading a pretrained encoder: quietly, completely, and without side effects on random numbers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    FeatureExtractionMixin,
)
from transformers.utils import logging

from taemi_lib.data.media import SAMPLE_RATE
from taemi_lib.errors import EncoderError
from taemi_lib.features.foreign import check_size
from taemi_lib.features.sources import Source, how_to_get, is_of_hub

# Of every `from_pretrained`: what is not on this machine is an error, not a download, and nothing
# that a folder brings is run.
HERE_ONLY = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def loading(source: str, role: str, place: Source | None = None) -> Iterator[None]:
    """Load a model quietly, leaving torch's random state alone; what fails is an EncoderError
    naming the encoder. place: of a transformers folder, whose claims are checked first."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            if place is not None and Path(place.where).is_dir():
                _check_claims(Path(place.where))
            yield
    except EncoderError:
        raise
    except pickle.UnpicklingError as error:  # its own text advises to read the file all the same
        raise EncoderError(
            f"{role} encoder {source!r} cannot be loaded: the file is damaged, or holds more than "
            "weights, which could run code. Get it again from its publisher"
        ) from error
    except Exception as error:  # there is no end to what a stranger's folder can make fail
        said = " ".join(str(error).split()) or type(error).__name__
        if place is not None and is_of_hub(place):  # a download may have left files out
            said = f"{said}. If a file of it is missing: {how_to_get(role, source)}"
        raise EncoderError(f"{role} encoder {source!r} cannot be loaded: {said}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check_claims(folder: Path) -> None:
    """Build the model without memory, and count its numbers. Raises ValueError where its weights
    have not so many."""
    try:
        config = AutoConfig.from_pretrained(folder, **HERE_ONLY)
    except (ValueError, KeyError, OSError):
        return  # not of transformers: whoever asked for it says so
    if type(config) in MODEL_MAPPING:
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
        tensors = [*model.parameters(), *model.buffers()]
        check_size(sum(tensor.numel() for tensor in tensors), folder)


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


def feature_extractor(place: Source, source: str, expected: str) -> FeatureExtractionMixin:
    """The encoder's own preparation of sound, by transformers, so that all its settings count.

    expected: its class. Raises EncoderError for another, and for another sampling rate than that of
    the sound that is read.
    """
    found = AutoFeatureExtractor.from_pretrained(place.where, **HERE_ONLY)
    about = f"encoders.audio = {source!r}: its preprocessor_config.json says"
    if type(found).__name__ != expected:
        raise EncoderError(
            f"{about} feature_extractor_type = {type(found).__name__}, expected {expected}"
        )
    if found.sampling_rate != SAMPLE_RATE:
        raise EncoderError(
            f"{about} sampling_rate = {found.sampling_rate}, but sound is read at {SAMPLE_RATE} "
            f"Hz; use an encoder that was trained on {SAMPLE_RATE} Hz"
        )
    return found
