"""The feature store: one safetensors file a clip, so that an extraction can stop anywhere and
training reads lazily.

Every file is written beside its place and renamed, so it is there completely or not at all,
whatever kills the process. store.json names the encoders; a store made with others is refused.
Values are fp16 at rest, times float32; imported features are float32 throughout, as they came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from taemi_lib.errors import StoreError
from taemi_lib.features.sequences import ClipFeatures, Sequence, Word
from taemi_lib.support import files
from taemi_lib.support.differences import differences

LAYOUT = 3  # raise when files written before can no longer be read
# what a clip's file tells beside its numbers, and of which type
_TOLD = {"absent": dict, "damaged": dict, "notes": dict, "words": list, "source": dict}
# field of ClipFeatures -> modality
_SEQUENCES = {"audio": "audio", "vision": "vision", "tokens": "text"}


class Store:
    """Features of many clips in one folder.

    identity: which encoders the features come from, {"audio": "micro:audio@1a2b3c4d, 12 s", ...}. A
    folder without a store becomes one; an existing store of another identity is refused. None opens
    an existing store as it is. Raises StoreError.
    """

    def __init__(self, root: str | Path, identity: Mapping[str, str] | None = None):
        self.root = Path(root)
        self._clips = self.root / "clips"
        about = self.root / "store.json"
        if not about.exists():
            if identity is None:
                raise StoreError(
                    f"{self.root}: no feature store in this folder; extract the features first"
                )
            self._clips.mkdir(parents=True, exist_ok=True)
            files.write_json(about, {"layout": LAYOUT, "identity": dict(identity)})
        try:
            known = files.read_json(about)
            layout, self.identity = known["layout"], dict(known["identity"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StoreError(
                f"{about}: is damaged ({error}); delete the folder and extract again"
            ) from error
        if layout != LAYOUT:
            raise StoreError(
                f"{about}: the store has layout {layout}, this version reads {LAYOUT}: "
                "delete the folder and extract again"
            )
        if identity is not None and dict(identity) != self.identity:
            lines = "\n".join(f"  {line}" for line in differences(self.identity, identity))
            raise StoreError(
                f"{self.root}: the features here were made with other encoders:\n{lines}\n"
                "Use those, or give another folder for the new features."
            )
        self._sources: dict[str, dict] = {}  # of clips whose header was read

    def __contains__(self, clip_id: object) -> bool:
        return self._file(str(clip_id)).exists()

    def __len__(self) -> int:
        return len(self.clip_ids())

    def clip_ids(self) -> list[str]:
        """All clips in the store, sorted."""
        return sorted(
            file.name.removesuffix(".safetensors") for file in self._clips.glob("*.safetensors")
        )

    def write(
        self,
        features: ClipFeatures,
        source: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> None:
        """Keep one clip, replacing an earlier version.

        source: what it was made from, {"video": sha256, ...}. exact: float32 at rest, for features
        that others made. Raises ValueError for values that fp16 (float32) cannot hold.
        """
        kind = np.float32 if exact else np.float16
        tensors: dict[str, np.ndarray] = {}
        for name in _SEQUENCES:
            if (sequence := getattr(features, name)) is not None:
                tensors[f"{name}.values"] = _kept(sequence.values, kind, features.clip_id, name)
                tensors[f"{name}.times"] = np.ascontiguousarray(sequence.times, np.float32)
        if features.pooled is not None:
            tensors["pooled"] = _kept(features.pooled, kind, features.clip_id, "pooled")
        about = {
            "clip_id": features.clip_id,
            "transcript": features.transcript,
            "absent": features.absent,
            "damaged": features.damaged,
            "notes": features.notes,
            "language": features.language,
            "words": [[word.text, word.start, word.end] for word in features.words],
            "identity": self.identity,
            "source": dict(source or {}),
        }
        self._sources.pop(features.clip_id, None)
        # safetensors wants one tensor at least; a clip with nothing at all still has its reasons to
        # tell.
        data = save(
            tensors or {"nothing": np.zeros(1, np.float16)},
            {"taemi": json.dumps(about, sort_keys=True)},
        )
        files.write_bytes(self._file(features.clip_id), data)

    def read(self, clip_id: str) -> ClipFeatures:
        """One clip; values as they were kept (fp16, imported ones float32), times float32 s. Raises
        StoreError naming a clip that is not there or is damaged."""
        about, file = self._open(clip_id)
        try:
            with file:
                there = set(file.keys())
                sequences = {
                    name: Sequence(
                        file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.times")
                    )
                    for name in _SEQUENCES
                    if f"{name}.values" in there
                }
                pooled = file.get_tensor("pooled") if "pooled" in there else None
            return ClipFeatures(
                clip_id,
                **sequences,
                pooled=pooled,
                transcript=about["transcript"],
                absent=about["absent"],
                damaged=about["damaged"],
                notes=about["notes"],
                language=about["language"],
                words=tuple(Word(*word) for word in about["words"]),
            )
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise self._damaged(clip_id, error) from error

    def shapes(self, clip_id: str) -> dict[str, tuple[int, int]]:
        """(T, D) of the modalities that are there, from the file's header alone: for grouping clips
        by length."""
        _, file = self._open(clip_id)
        with file:
            there = set(file.keys())
            return {
                modality: tuple(file.get_slice(f"{name}.values").get_shape())
                for name, modality in _SEQUENCES.items()
                if f"{name}.values" in there
            }

    def source(self, clip_id: str) -> dict[str, str]:
        """What the clip's features were made from, as `write` was told."""
        if clip_id not in self._sources:
            about, file = self._open(clip_id)
            with file:
                self._sources[clip_id] = about["source"]
        return self._sources[clip_id]

    def fingerprint(self, clip_ids: Iterable[str]) -> str:
        """16 hex digits that tell what these clips, in this order, were made from. Raises
        StoreError for a clip that is not there."""
        about = [[clip_id, self.source(clip_id)] for clip_id in clip_ids]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def report(self, kind: str = "absent") -> pd.DataFrame:
        """Every absent (or "damaged": there, but incomplete; or "notes": a choice was made)
        modality: columns clip_id, modality, reason."""
        rows = []
        for clip_id in self.clip_ids():
            about, file = self._open(clip_id)
            with file:
                rows += [(clip_id, modality, reason) for modality, reason in about[kind].items()]
        return pd.DataFrame(rows, columns=["clip_id", "modality", "reason"])

    def clean(self) -> None:
        """Remove what killed processes left half written. For the holder of the store's lock only
        (`files.locked`)."""
        for file in self._clips.glob(".*.tmp"):
            file.unlink(missing_ok=True)

    def _file(self, clip_id: str) -> Path:
        return self._clips / f"{clip_id}.safetensors"

    def _open(self, clip_id: str):
        try:
            file = safe_open(self._file(clip_id), framework="numpy")
            about = json.loads(file.metadata()["taemi"])
            if wrong := [key for key, kind in _TOLD.items() if not isinstance(about[key], kind)]:
                raise ValueError(f"{', '.join(wrong)} of another type")
            return about, file
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.root}: no features of clip {clip_id!r}; extract them first"
            ) from error
        except (SafetensorError, OSError, TypeError, KeyError, ValueError, RecursionError) as error:
            raise self._damaged(clip_id, error) from error

    def _damaged(self, clip_id: str, error: Exception) -> StoreError:
        return StoreError(
            f"{self._file(clip_id)}: is damaged ({error}); delete this file and extract again"
        )


def _kept(values: np.ndarray, kind: type[np.floating], clip_id: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(values, kind)
    if not np.isfinite(kept).all():
        largest = f"{np.finfo(kind).max:.6g}"
        raise ValueError(
            f"clip {clip_id}: {name} features are not finite numbers within +-{largest}; "
            "check the encoder"
        )
    return kept
