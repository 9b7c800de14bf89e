"""From stored clips to what a model eats: `Batch`, and the dataset and the batch order that make
it.

Third step of the flow (features -> batch -> model). A batch pads the clips' sequences to one length
and says with masks what is real; an absent modality is marked absent and is never read.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from taemi_lib.features.sequences import ClipFeatures
from taemi_lib.features.sequences import Sequence as FeatureSequence
from taemi_lib.profiles import EMOTIONS, MODALITIES, Task

if TYPE_CHECKING:
    from taemi_lib.data.manifest import Manifest
    from taemi_lib.features.store import Store

# Steps per second when a batch brings no times of its own. Text has no clock: its "time" is the
# token's index.
FRAME_RATE = {"audio": 50.0, "vision": 10.0, "text": 1.0}


@dataclass
class Batch:
    """B clips, modality-keyed. Only `values` (or `pooled`) is needed; the rest has defaults.

    values   {modality: (B, T, D)} features of audio, vision and text (its tokens); T and D differ
             between modalities
    mask     {modality: (B, T)} bool, True = a real step. Default: every step is real
    times    {modality: (B, T)} seconds (text: token index). Default: index / FRAME_RATE
    present  {modality: (B,)} bool. Default: the modality has a real step (text without tokens:
             `pooled` is given). A modality with no real step is absent, whatever is claimed here
    pooled   (B, D) one text vector a clip, or None
    partner  (B, D) another clip's text vector, for the controls that ask for one
             (ClipDataset.with_partners), or None. Read only where the clip has text itself
    labels   (B, K) one column a target, between 0 and 1 (profiles.Task.scaled), or None
    known    (B, K) bool, which labels are real, where some are missing; None: all of them. What
             stands in the others is never read
    clip_id  B names, for messages and tables

    What stands in padding or in an absent modality is never read. Raises ValueError naming the
    field and both shapes.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    mask: dict[str, Tensor] = field(default_factory=dict)
    times: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)
    pooled: Tensor | None = None
    labels: Tensor | None = None
    clip_id: list[str] | None = None
    partner: Tensor | None = None
    known: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("values", "mask", "times", "present"):
            # a copy: filling in defaults must not change the caller's dict
            given = dict(getattr(self, name))
            if unknown := set(given) - set(MODALITIES):
                raise ValueError(
                    f"Batch.{name} has unknown modalities {sorted(unknown)}; they are {MODALITIES}"
                )
            setattr(self, name, given)
        first = next(iter(self.values.values()), self.pooled)
        if first is None:
            raise ValueError(
                "Batch needs at least one of: "
                "values['audio'], values['vision'], values['text'], pooled"
            )
        size, device = len(first), first.device
        if self.pooled is not None and "text" not in self.values and self.pooled.ndim == 2:
            # a text vector alone: to systems that read tokens it is one
            self.values["text"] = self.pooled.unsqueeze(1)
        self._fill_sequences(size, device)
        self._fill_present(size, device)
        for name in ("pooled", "partner"):
            if (vectors := getattr(self, name)) is not None:
                _check(name, vectors, (size, vectors.shape[-1]))
        if self.labels is not None:
            _check("labels", self.labels, (size, self.labels.shape[-1]))
        if self.known is not None:
            if self.labels is None:
                raise ValueError("Batch.known says which labels are real, but there are no labels")
            _check("known", self.known, self.labels.shape, torch.bool)
        if self.clip_id is None:
            self.clip_id = [f"clip {index}" for index in range(size)]
        if len(self.clip_id) != size:
            raise ValueError(f"Batch.clip_id has {len(self.clip_id)} names for {size} clips")

    def _fill_sequences(self, size: int, device: torch.device) -> None:
        """Check the sequences' values, masks and times, and fill in those that are not given."""
        for name, values in self.values.items():
            if (
                values.ndim != 3
                or len(values) != size
                or values.shape[1] == 0
                or not values.is_floating_point()
            ):
                raise ValueError(
                    f"Batch.values[{name!r}] is {_describe(values)}; "
                    f"expected a float tensor (B={size}, T >= 1, D)"
                )
            steps = values.shape[:2]
            self.mask.setdefault(name, torch.ones(steps, dtype=torch.bool, device=device))
            _check(f"mask[{name!r}]", self.mask[name], steps, torch.bool)
            clock = torch.arange(steps[1], device=device) / FRAME_RATE[name]
            self.times.setdefault(name, clock.expand(steps))
            _check(f"times[{name!r}]", self.times[name], steps)
        for name in ("mask", "times"):
            if extra := set(getattr(self, name)) - set(self.values):
                raise ValueError(
                    f"Batch.{name} has {sorted(extra)}, "
                    f"but Batch.values has only {sorted(self.values)}"
                )

    def _fill_present(self, size: int, device: torch.device) -> None:
        """Check who has which modality, and fill in what is not given."""
        for name in MODALITIES:
            if name in self.values:
                real = self.mask[name].any(dim=1)
            else:
                real = torch.full(
                    (size,), name == "text" and self.pooled is not None, device=device
                )
            given = self.present.get(name, real)
            _check(f"present[{name!r}]", given, (size,), torch.bool)
            self.present[name] = given & real

    @property
    def labelled(self) -> Tensor:
        """(B, K) bool: `known`, also where it is None because all labels are."""
        assert self.labels is not None
        if self.known is not None:
            return self.known
        return torch.ones_like(self.labels, dtype=torch.bool)

    def __len__(self) -> int:
        assert self.clip_id is not None  # filled in above
        return len(self.clip_id)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device (checked once already, so not checked again)."""
        moved = copy.copy(self)
        for name in ("values", "mask", "times", "present"):
            tensors = getattr(self, name)
            setattr(
                moved,
                name,
                {key: t.to(device, non_blocking=non_blocking) for key, t in tensors.items()},
            )
        for name in ("pooled", "labels", "known", "partner"):
            tensor = getattr(self, name)
            setattr(
                moved,
                name,
                None if tensor is None else tensor.to(device, non_blocking=non_blocking),
            )
        return moved


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}"


def _check(
    name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
) -> None:
    if tuple(tensor.shape) != tuple(shape) or (dtype is not None and tensor.dtype != dtype):
        expected = f"{tuple(shape)} of {dtype}" if dtype else f"{tuple(shape)}"
        raise ValueError(f"Batch.{name} is {_describe(tensor)}; expected {expected}")


def average(sequence: FeatureSequence, steps: int) -> FeatureSequence:
    """Every `steps` neighbouring steps become their mean, values and times (s); the last group may
    be smaller."""
    if steps == 1 or not len(sequence.values):
        return sequence
    starts = np.arange(0, len(sequence.values), steps)
    counts = np.diff(np.append(starts, len(sequence.values)))
    values = (
        np.add.reduceat(np.asarray(sequence.values, dtype=np.float32), starts) / counts[:, None]
    )
    times = np.add.reduceat(np.asarray(sequence.times, dtype=np.float64), starts) / counts
    return dataclasses.replace(sequence, values=values.astype(np.float32), times=times)


def _sequences(features: ClipFeatures) -> dict[str, FeatureSequence | None]:
    return {"audio": features.audio, "vision": features.vision, "text": features.tokens}


def collate(
    features: Sequence[ClipFeatures],
    targets: np.ndarray | None = None,
    audio_average: int = 1,
    dims: Mapping[str, int] | None = None,
) -> Batch:
    """Clips to one batch, padded to the longest of them. fp16 stays fp16: the model converts.

    targets       (N, K) between 0 and 1, NaN where a label is missing, or None: no labels
    audio_average audio steps to average into one
    dims          widths of audio, vision and text; without it, a modality that no clip has is left
                  out of `values`
    Raises ValueError naming the clip whose features are of another width.
    """
    dims = dims or {}
    values, mask, times = {}, {}, {}
    for name in MODALITIES:
        found = [_sequences(clip)[name] for clip in features]
        if name == "audio":
            found = [sequence and average(sequence, audio_average) for sequence in found]
        width = dims.get(name, next((s.values.shape[1] for s in found if s is not None), None))
        if width is None:
            continue
        for clip, sequence in zip(features, found, strict=True):
            if sequence is not None:
                _check_width(clip.clip_id, name, sequence.values.shape[1], width)
        values[name], mask[name], times[name] = _padded(found, width)

    present = {name: mask[name].any(dim=1) for name in values}
    pooled = None
    width = dims.get(
        "text", next((len(clip.pooled) for clip in features if clip.pooled is not None), None)
    )
    if width is not None:
        vectors = np.zeros((len(features), width), dtype=np.float32)
        for row, clip in enumerate(features):
            if clip.pooled is not None:
                _check_width(clip.clip_id, "text", len(clip.pooled), width)
                vectors[row] = clip.pooled
        pooled = torch.from_numpy(vectors)
        present["text"] = torch.tensor([clip.pooled is not None for clip in features])
    labels = known = None
    if targets is not None:
        real = ~np.isnan(targets)
        known = None if real.all() else torch.from_numpy(real)
        labels = torch.as_tensor(np.where(real, targets, 0), dtype=torch.float32)
    return Batch(
        *(values, mask, times, present, pooled, labels),
        clip_id=[clip.clip_id for clip in features],
        known=known,
    )


def _padded(
    sequences: Sequence[FeatureSequence | None], width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values (B, T, width), mask (B, T) and times (B, T), with zeros behind each sequence."""
    found = [sequence for sequence in sequences if sequence is not None]
    steps = len(sequences), max([1, *(len(sequence.values) for sequence in found)])
    kinds = {np.asarray(sequence.values).dtype for sequence in found} or {np.dtype(np.float32)}
    values = np.zeros((*steps, width), dtype=np.result_type(*kinds))
    mask, times = np.zeros(steps, dtype=bool), np.zeros(steps, dtype=np.float32)
    for row, sequence in enumerate(sequences):
        if sequence is not None:
            count = len(sequence.values)
            values[row, :count], times[row, :count] = sequence.values, sequence.times
            mask[row, :count] = True
    return torch.from_numpy(values), torch.from_numpy(mask), torch.from_numpy(times)


def _check_width(clip_id: str, name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(
            f"clip {clip_id!r}: {name} features are {found} wide, expected {expected}; "
            "were they extracted with other encoders? Extract them again."
        )


class ClipDataset(torch.utils.data.Dataset):
    """The clips of one split, read from the store when needed and kept in memory while they fit.

    store          features.Store (anything with its `read`, `shapes` and `in`)
    manifest       the clip table; `split` selects its part (None: all of it)
    audio_average  audio steps averaged into one (5: 50 -> 10 steps/s)
    dims           widths {modality: D}, where no clip of this dataset may show them
    cache_bytes    clips read beyond this many bytes are read again each time

    clip_ids (N), targets (N, K) float64 in the units of `task`, with NaN where a label is missing.
    Raises ValueError naming the clips that are not in the store.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        split: str | None = None,
        audio_average: int = 1,
        *,
        dims: Mapping[str, int] | None = None,
        cache_bytes: int = 2 << 30,
    ) -> None:
        if split is not None:
            manifest = manifest.select(split)
        self.store, self.audio_average, self.task = store, audio_average, manifest.task
        self._still = audio_average  # to be averaged when a clip is read
        self.clip_ids = [str(clip_id) for clip_id in manifest.table.index]
        self.targets = manifest.table[list(self.task.targets)].to_numpy(dtype=np.float64, copy=True)
        # clip -> the clip whose text its batches hold beside its own
        self.partners: dict[str, str] = {}
        self._given_dims, self._free = dict(dims or {}), cache_bytes
        self._kept: dict[str, ClipFeatures] = {}
        if missing := [clip_id for clip_id in self.clip_ids if clip_id not in store]:
            raise ValueError(
                f"{len(missing)} of {len(self.clip_ids)} clips have no features in the store, "
                f"the first: {', '.join(missing[:5])}. Extract them first (notebook 02)."
            )

    @classmethod
    def from_clips(
        cls,
        clips: Sequence[ClipFeatures],
        labels: np.ndarray,
        task: Task | None = None,
        audio_average: int = 1,
        *,
        averaged: int = 1,
        dims: Mapping[str, int] | None = None,
    ) -> ClipDataset:
        """Clips that are in memory already, their sound averaged over `averaged` steps before.

        labels (N, K) in the units of `task`, NaN where one is missing; dims as of the class. Raises
        ValueError when they do not fit the clips or the task.
        """
        task = task or Task()
        labels = np.asarray(labels, dtype=np.float64)
        if labels.shape != (len(clips), len(task.targets)):
            raise ValueError(
                f"labels are {labels.shape}; expected {(len(clips), len(task.targets))}: one row a "
                f"clip, one column for each of {', '.join(task.targets)}"
            )
        if (outside := (labels < task.low) | (labels > task.high)).any():
            row, column = np.argwhere(outside)[0]
            raise ValueError(
                f"clip {clips[row].clip_id!r}: {task.targets[column]} is {labels[row, column]:g}, "
                f"outside [{task.low:g}, {task.high:g}]"
            )
        names = [clip.clip_id for clip in clips]
        table = pd.DataFrame(labels, columns=list(task.targets), index=names)
        rows: Any = _Rows(table, task)
        store: Any = _MemoryStore(clips)
        found = cls(store, rows, None, audio_average, dims=dims)
        found.audio_average *= averaged
        return found

    @classmethod
    def from_batch(cls, batch: Batch, task: Task | None = None) -> ClipDataset:
        """The clips of a labelled batch, whose labels lie between 0 and 1: what tensors at hand
        need to be trained on."""
        if batch.labels is None:
            raise ValueError("the batch has no labels: set Batch.labels (B, K)")
        labels = batch.labels.double().cpu().numpy()
        if batch.known is not None:
            labels = np.where(batch.known.cpu().numpy(), labels, np.nan)
        if task is None:
            names = EMOTIONS if labels.shape[1] == len(EMOTIONS) else None
            task = Task(
                names or tuple(f"target {number}" for number in range(1, labels.shape[1] + 1)),
                missing_labels="refuse" if batch.known is None else "mask",
            )
        return cls.from_clips(_clips(batch), task.unscaled(labels), task)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, index: int) -> tuple[ClipFeatures, np.ndarray]:
        """One clip's features (audio averaged) and its targets (K,)."""
        return self._features(self.clip_ids[index]), self.targets[index]

    def _features(self, clip_id: str) -> ClipFeatures:
        features = self._kept.get(clip_id)
        if features is None:
            features = self.store.read(clip_id)
            if features.audio is not None:
                features = dataclasses.replace(features, audio=average(features.audio, self._still))
            size = sum(
                s.values.size * s.values.itemsize
                for s in _sequences(features).values()
                if s is not None
            )
            if size <= self._free:
                self._free -= size
                self._kept[clip_id] = features
        return features

    def collate(self, items: Sequence[tuple[ClipFeatures, np.ndarray]]) -> Batch:
        """Items of this dataset as a batch. Labels (scaled) only where every clip has them, or,
        where the task allows for missing ones, any clip has any."""
        targets = np.stack([target for _, target in items])
        missing = np.isnan(targets)
        none = missing.all() if self.task.missing_labels == "mask" else missing.any()
        batch = collate(
            [clip for clip, _ in items],
            None if none else self.task.scaled(targets),
            dims=self.dims,
        )
        if self.partners:
            vectors = np.zeros((len(items), self.dims["text"]), dtype=np.float32)
            for row, (clip, _) in enumerate(items):
                if clip.clip_id in self.partners:
                    vectors[row] = self._features(self.partners[clip.clip_id]).pooled
            batch = dataclasses.replace(batch, partner=torch.from_numpy(vectors))
        return batch

    def batch(self, indices: Sequence[int]) -> Batch:
        """The clips at these positions."""
        return self.collate([self[int(index)] for index in indices])

    def with_partners(self, seed: int = 0) -> ClipDataset:
        """The same dataset, whose batches also hold another clip's text vector, `Batch.partner`.

        Partners are drawn among the clips of this split that have text, so that who has text stays
        as it is: a derangement (nobody is their own partner, everybody is somebody's) that depends
        on the seed and the clips only. A single clip gets none.
        """
        speaking = [
            clip_id for clip_id, shapes in zip(self.clip_ids, self._shapes) if "text" in shapes
        ]
        other = copy.copy(self)
        other.partners = derangement(sorted(speaking), seed)
        return other

    @cached_property
    def dims(self) -> dict[str, int]:
        """{modality: D}, from the first clip that has it; a modality that no clip has is not in
        it."""
        found = dict(self._given_dims)
        for shapes in self._shapes:
            for name, (_, width) in shapes.items():
                found.setdefault(name, width)
        return found

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) audio and vision steps of each clip: what a clip costs."""
        none = (0, 0)
        steps = [
            (-(-s.get("audio", none)[0] // self._still), s.get("vision", none)[0])
            for s in self._shapes
        ]
        return np.array(steps, dtype=int).reshape(-1, 2).sum(axis=1)

    @cached_property
    def _shapes(self) -> list[dict[str, tuple[int, int]]]:
        """(T, D) of every clip's modalities, from the files' headers: nothing is read twice for
        it."""
        return [self.store.shapes(clip_id) for clip_id in self.clip_ids]


@dataclass(frozen=True)
class _Rows:
    """What ClipDataset reads of a manifest."""

    table: pd.DataFrame
    task: Task


class _MemoryStore:
    """What ClipDataset reads of a store, of clips in memory."""

    def __init__(self, clips: Sequence[ClipFeatures]) -> None:
        self.identity = {"features": "in memory"}
        self._clips = {clip.clip_id: clip for clip in clips}
        if len(self._clips) < len(clips):
            raise ValueError("two clips have the same clip_id: give each one of its own")

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._clips

    def read(self, clip_id: str) -> ClipFeatures:
        return self._clips[clip_id]

    def shapes(self, clip_id: str) -> dict[str, tuple[int, ...]]:
        found = _sequences(self._clips[clip_id])
        return {name: steps.values.shape for name, steps in found.items() if steps is not None}

    def fingerprint(self, clip_ids: Sequence[str]) -> str:
        """Of the numbers themselves: a run of other numbers is another run."""
        digest = hashlib.sha256()
        for clip_id in clip_ids:
            clip = self._clips[clip_id]
            digest.update(clip_id.encode())
            for name, steps in _sequences(clip).items():
                for part in () if steps is None else (steps.values, steps.times):
                    digest.update(f"{name}{part.shape}{part.dtype}".encode())
                    digest.update(np.ascontiguousarray(part).tobytes())
            if clip.pooled is not None:
                digest.update(np.ascontiguousarray(clip.pooled).tobytes())
        return digest.hexdigest()[:16]


def _clips(batch: Batch) -> list[ClipFeatures]:
    """The clips of a batch, without their padding."""
    assert batch.clip_id is not None
    found = []
    for row, clip_id in enumerate(batch.clip_id):
        steps: dict[str, FeatureSequence | None] = dict.fromkeys(MODALITIES)
        for name, values in batch.values.items():
            if batch.present[name][row]:
                real = batch.mask[name][row]
                steps[name] = FeatureSequence(
                    values[row][real].float().cpu().numpy(),
                    batch.times[name][row][real].float().cpu().numpy(),
                )
        pooled = None
        if steps["text"] is not None:
            if batch.pooled is None:
                raise ValueError(f"{clip_id} has text tokens but no vector: set Batch.pooled")
            pooled = batch.pooled[row].float().cpu().numpy()
        found.append(
            ClipFeatures(
                clip_id,
                audio=steps["audio"],
                vision=steps["vision"],
                tokens=steps["text"],
                pooled=pooled,
                absent={name: "not in the batch" for name in MODALITIES if steps[name] is None},
            )
        )
    return found


def derangement(names: Sequence[str], seed: int) -> dict[str, str]:
    """Each name with another one, none with itself: a random cycle through all of them. Fewer than
    two names: nobody."""
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return dict(zip(order, order[1:] + order[:1])) if len(order) > 1 else {}


class LengthGroupedBatches:
    """Batches of clips of similar length, so that padding is not paid for; a torch batch sampler.

    The order depends on (seed, epoch) only. Clips are shuffled, cut into pools of `pool` batches,
    sorted by length within a pool, and the batches are shuffled again. Every clip comes once an
    epoch: one batch may be smaller.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int = 0, pool: int = 8
    ) -> None:
        self.lengths, self.batch_size = np.asarray(lengths), batch_size
        self.seed, self.pool, self.epoch = seed, pool, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        span = self.batch_size * self.pool
        batches = []
        for start in range(0, len(order), span):
            chunk = order[start : start + span]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            batches += [
                chunk[i : i + self.batch_size].tolist()
                for i in range(0, len(chunk), self.batch_size)
            ]
        for index in rng.permutation(len(batches)):
            yield batches[index]
