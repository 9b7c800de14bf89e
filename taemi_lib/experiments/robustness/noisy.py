"""Test clips with noise in their sound, their picture or their words, encoded anew.

    <features>/noisy/white-3/     a store of all test clips, for each noise and level
    <features>/noisy/training/    training clips with a noise each (trained.py)

Noise comes before the encoders: words are heard in the noisy sound, and what is read is what was
heard. A clip is encoded once for all systems, and again only when it, or what the noise is made of,
is another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from taemi_lib import features, profiles
from taemi_lib.batches import ClipDataset, average
from taemi_lib.data.manifest import Clip
from taemi_lib.data.media import Unreadable, is_silent, read_audio
from taemi_lib.data.noise import NOISES, rng_of, words
from taemi_lib.errors import ExtractionError, TaemiError
from taemi_lib.experiments.masks import hidden, in_place_of
from taemi_lib.experiments.robustness.conditions import SEED, Mixed, Noisy, reworded
from taemi_lib.features.changes import words_of_table
from taemi_lib.features.clip import extract_clip
from taemi_lib.features.encoders import Encoders
from taemi_lib.features.extract import GIVEN_UP
from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.features.store import Store
from taemi_lib.features.text import TextEncoder
from taemi_lib.support import device as devices
from taemi_lib.support import files
from taemi_lib.workspace import Workspace, worker_datasets

NO_WORDS = "no words left by the noise"
VOICES = 12  # training clips whose sound babble is made of
# what is encoded of a clip: its fields
_FIELDS = {
    "audio": ("audio",),
    "vision": ("vision",),
    "text": ("tokens", "pooled", "transcript", "language", "words"),
}


def clips(workspace: Workspace, condition: Noisy, test: ClipDataset) -> ClipDataset:
    """The clips of `test` with this noise, in its order and with its labels, in memory. What is not
    in the store yet is encoded.

    Raises ExtractionError naming a clip that cannot be encoded with noise, though it could without.
    """
    name = f"{condition.noise}-{condition.level}"
    return each(workspace, name, dict.fromkeys(test.clip_ids, condition), test)


def each(
    workspace: Workspace, name: str, conditions: Mapping[str, Noisy], dataset: ClipDataset
) -> ClipDataset:
    """As `clips`, with a noise for each clip, or none; name: of the store."""
    store = _filled(workspace, name, conditions)
    steps = workspace.profile.training.audio_average
    found = []
    for index, clip_id in enumerate(dataset.clip_ids):
        clip = dataset[index][0]
        if clip_id in conditions:
            clip = store.read(clip_id)
            if clip.audio is not None:
                clip = replace(clip, audio=average(clip.audio, steps))
        found.append(clip)
    return in_place_of(dataset, found)


def mixed(workspace: Workspace, condition: Mixed, test: ClipDataset) -> ClipDataset:
    """As `clips`, with noise in the sound and in the picture, without what is lost."""
    sounding, seen = (
        clips(workspace, one, test) if one.level else test for one in condition.noises
    )
    found = [
        hidden(_in_place(sounding[index][0], seen[index][0], ("vision",)), condition.lost)
        for index in range(len(test))
    ]
    return in_place_of(test, found)


def _filled(workspace: Workspace, name: str, conditions: Mapping[str, Noisy]) -> Store:
    folder = workspace.features_folder / "noisy" / name
    clean = Store(workspace.features_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder):  # a second command finds the work done
        store = Store(folder, clean.identity)
        store.clean()
        made_of = {one: _made_of(workspace, one, clean) for one in set(conditions.values())}
        found = {clip.clip_id: clip for clip in workspace.clips()}
        for clip_id, condition in conditions.items():
            source = clean.source(clip_id) | made_of[condition]
            if clip_id not in store or store.source(clip_id) != source:
                clip = found[clip_id]
                store.write(spoiled(workspace, condition, clip, clean.read(clip_id)), source)
    return store


def spoiled(
    workspace: Workspace, condition: Noisy, clip: Clip, clean: ClipFeatures
) -> ClipFeatures:
    """The features of a clip with this noise in it; what the noise does not reach is as in `clean`.

    A clip that nothing could be encoded of stays as it is.
    """
    noise = NOISES[condition.noise]
    if all(clean.absent.get(name, "").startswith(GIVEN_UP) for name in profiles.MODALITIES):
        return clean
    device = str(devices.choose(workspace.device))
    with devices.threads(1):
        encoders = _encoders(workspace.profile.encoders, device)
        change = partial(
            noise.function,
            strength=condition.strength,
            rng=rng_of(clip.clip_id, noise.name, SEED),
            **_needed(workspace, noise.needs, clip),
        )
        try:
            if noise.modality == "text":
                if clean.transcript is None or "text" in clean.absent:
                    return clean
                return reworded(clean, change(clean.transcript), encoders.text.encode, NO_WORDS)
            heard = noise.modality == "audio" and words_of_table(clip, encoders.settings) is None
            only = (noise.modality, "text") if heard else (noise.modality,)
            made = extract_clip(clip, encoders, only, {noise.modality: change})
        except TaemiError:
            raise
        except Exception as error:
            raise ExtractionError(
                f"clip {clip.clip_id} cannot be encoded with noise ({condition.name}): "
                f"{type(error).__name__}: {error}"
            ) from error
    return _in_place(clean, made, only)


def _in_place(clean: ClipFeatures, made: ClipFeatures, only: Sequence[str]) -> ClipFeatures:
    """`clean` with these modalities of `made`."""
    fields: dict[str, Any] = {
        name: getattr(made, name) for modality in only for name in _FIELDS[modality]
    }
    for name in ("absent", "damaged", "notes"):
        own = {key: text for key, text in getattr(made, name).items() if key in only}
        rest = {key: text for key, text in getattr(clean, name).items() if key not in only}
        fields[name] = rest | own
    return replace(clean, **fields)


@lru_cache(maxsize=1)
def text_encoder(settings: profiles.Encoders) -> TextEncoder:
    """The text encoder alone, on the CPU."""
    return TextEncoder(settings.text, "cpu", settings.text_pooling, settings.max_tokens)


@lru_cache(maxsize=1)
def _encoders(settings: profiles.Encoders, device: str) -> Encoders:
    return features.load_encoders(settings, device)


def _made_of(workspace: Workspace, condition: Noisy, clean: Store) -> dict[str, str]:
    """What noisy features depend on beside the clip and its encoders."""
    noise = NOISES[condition.noise]
    found = {"noise": f"{noise.name} {condition.strength:g}, seed {SEED}"}
    if noise.needs == "vocabulary":
        about: object = _vocabulary(workspace)
    elif noise.needs == "voices":
        about = [[clip.clip_id, clean.source(clip.clip_id)] for clip in _speakers(workspace)]
    else:
        return found
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return found | {noise.needs: digest}


def _needed(workspace: Workspace, needs: str, clip: Clip) -> dict[str, object]:
    """The noise's further argument, for a clip: {} where it has none."""
    if needs == "vocabulary":
        return {needs: _vocabulary(workspace)}
    if needs == "voices":
        groups = _groups(workspace)
        own = groups.get(clip.clip_id)
        return {
            needs: [
                voice
                for clip_id, voice in _voices(workspace).items()
                if own is None or groups.get(clip_id) != own  # not the speaker of the clip
            ]
        }
    return {}


@cache
def _vocabulary(workspace: Workspace) -> list[str]:
    """The words of the training clips, as they were heard."""
    train = worker_datasets(workspace)["train"]
    said = (train[index][0].transcript for index in range(len(train)))
    return sorted({word for text in said if text for word in words.words_of(text)})


@cache
def _speakers(workspace: Workspace) -> list[Clip]:
    """Training clips in a drawn order."""
    train = [clip for clip in workspace.clips() if clip.split == "train"]
    order = np.random.default_rng(SEED).permutation(len(train))
    return [train[index] for index in order]


@cache
def _voices(workspace: Workspace) -> dict[str, np.ndarray]:
    """{clip: its sound} of the first speakers who are to be heard."""
    found: dict[str, np.ndarray] = {}
    for clip in _speakers(workspace):
        if (source := clip.audio or clip.video) is None or len(found) == VOICES:
            continue
        try:
            samples = read_audio(source).samples
        except Unreadable:
            continue
        if not is_silent(samples):
            found[clip.clip_id] = samples
    return found


@cache
def _groups(workspace: Workspace) -> dict[str, str]:
    return workspace.groups()
