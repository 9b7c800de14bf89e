"""Features that others made -> the store: read by `data.readers`, checked as a whole, and written
exactly, clip by clip.

Everything is looked at before anything is written, and all that is wrong is told at once. Beside
the store lie clips.csv (which clips, with which labels), task.toml (what is predicted) and
import.txt (what was assumed); they come last, so a folder with clips.csv is complete.
"""

from __future__ import annotations

import csv
import io
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import tomlkit

from taemi_lib.data import readers
from taemi_lib.data.manifest import LONGEST_ID
from taemi_lib.data.readers import FeatureClip, Options, Reader, Source
from taemi_lib.data.tables import hold_out
from taemi_lib.errors import ChoiceError, ManifestError, StoreError
from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.features.store import Store
from taemi_lib.profiles import MODALITIES, SPLITS
from taemi_lib.support import files

TABLE, TASK, REPORT = "clips.csv", "task.toml", "import.txt"
LABELLED = ("train", "selection", "test")


class Encoder(Protocol):
    """What encodes token ids, where a source has nothing else of its text."""

    identity: str
    dim: int  # of its vectors
    vocabulary: int  # how many ids it has

    def fits(self, ids: np.ndarray, transcript: str | None) -> str | None:
        """Why these ids (T,) are not of this encoder's vocabulary; None where they are."""
        ...

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """(T, D) float32."""
        ...


@dataclass(frozen=True)
class Imported:
    """What an import did: clips written now, clips found, what was assumed."""

    folder: Path
    format: str
    splits: dict[str, int]
    targets: tuple[str, ...]
    low: float
    high: float
    metrics: str
    widths: dict[str, int]
    done: int
    found: int
    assumed: list[str]
    absent: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        widths = ", ".join(f"{name} {width}" for name, width in self.widths.items())
        lines = [
            f"format {self.format}: {sum(self.splits.values())} clips ({counts})",
            f"  targets: {', '.join(self.targets)} ({self.low:g} to {self.high:g}, {self.metrics})",
            f"  widths: {widths}",
            f"  {self.done} clips written now, {self.found} found in the store",
        ]
        for modality, reasons in self.absent.items():
            lines += [f"  {modality} absent: {why} ({n} clips)" for why, n in reasons.items()]
        return "\n".join([*lines, *(f"  assumed: {line}" for line in self.assumed)])


def import_features(
    source: str | Path,
    folder: str | Path,
    format: str | None = None,
    options: Options | None = None,
    encoder: Callable[[], Encoder] | None = None,
    progress: bool = True,
) -> Imported:
    """Write the features at `source` to a store at `folder`; what is there already stays.

    format    a name of data.readers; None: recognised
    encoder   makes the text encoder of token ids; asked only where the source has no text features
    Raises ChoiceError for a place, format or option that is not there; ManifestError with
    everything that is wrong with the features: nothing is written then; StoreError where the folder
    holds something else.
    """
    started, options = time.perf_counter(), options or Options()
    place, folder = readers.exists(source), Path(folder).expanduser()
    _check_options(options)
    _refuse_foreign(folder)
    opened = Source(place, options, progress)
    reader = readers.find(opened, format)
    checked = _Checked(opened, reader, encoder)
    identity = checked.identity()
    with files.locked(folder):
        store = Store(folder, identity)
        store.clean()
        done = _write(store, opened, reader, checked)
        made = checked.made(folder, done, time.perf_counter() - started)
        files.write_bytes(folder / TASK, checked.task().encode())
        files.write_bytes(folder / REPORT, f"{made}\n".encode())
        files.write_bytes(folder / TABLE, checked.table().encode())
    return made


def _check_options(options: Options) -> None:
    for name, known in (("rate", options.rates), ("without", options.leave_out)):
        if unknown := sorted(set(known) - set(MODALITIES)):
            raise ChoiceError(
                f"--{name} {', '.join(unknown)}: no modality; they are: {', '.join(MODALITIES)}"
            )
    wrong = [f"{name}={rate:g}" for name, rate in options.rates.items() if not rate > 0]
    if wrong or not options.seconds > 0:
        raise ChoiceError(f"--rate and --seconds must be above 0: {', '.join(wrong) or 'seconds'}")


def _refuse_foreign(folder: Path) -> None:
    """Only an empty folder, or one that an import began, is written into."""
    if folder.exists() and not (folder / "store.json").exists():
        there = [path.name for path in folder.iterdir() if path.name != files.LOCK]
        if there:
            raise StoreError(
                f"{folder}: is no folder of imported features, it holds {there[0]}; "
                "give one that is empty or not there"
            )


def _write(store: Store, source: Source, reader: Reader, checked: _Checked) -> int:
    """Every clip that is not in the store; how many these were."""
    about, done = {"source": checked.digest}, 0
    for clip in source.clips(reader.read(source), len(checked.rows)):
        clip_id = usable_id(clip.clip_id)
        try:
            if clip_id in store and store.source(clip_id).get("source") == checked.digest:
                continue
        except StoreError:  # damaged: written anew
            pass
        store.write(checked.features(clip), about | {"id": clip.clip_id}, exact=True)
        done += 1
    return done


def usable_id(name: str) -> str:
    """A clip's name as a name of a file: MMSA's "video$_$7" is "video__7", other signs than
    letters, digits, ".", "-" and "_" become "_", and one that starts with a sign has "id" in front.
    """
    plain = re.sub(r"[^\w.\-]", "_", name.strip().replace("$_$", "__"))
    return plain if re.match(r"\w", plain) else f"id{plain}"


# --------------------------------------------------------------------------------------------------
# the whole of it, looked at once


class _Checked:
    """All clips, read once: the table, and what the features have in common.

    Raises ManifestError with all problems.
    """

    def __init__(self, source: Source, reader: Reader, encoder: Callable[[], Encoder] | None):
        self.source, self.format, self.options = source, reader.name, source.options
        self.rows: list[dict] = []
        self.absent: dict[str, dict[str, int]] = {name: {} for name in MODALITIES}
        self._widths: dict[str, dict[int, list[str]]] = {name: {} for name in MODALITIES}
        self._found: dict[str, list[str]] = defaultdict(list)  # what is wrong -> with which clips
        self._make = encoder
        self._encoder: Encoder | None = None
        self._fits = self._fits_not = 0
        self._misfit = ""
        for clip in source.clips(reader.read(source)):
            self._look(clip)
        self.digest = source.digest()
        self._judge()
        if source.problems:
            raise ManifestError(str(source.path), source.problems)

    # ------------------------------------------------------------------------------ clip by clip

    def _look(self, clip: FeatureClip) -> None:
        if clip.split not in SPLITS:
            self._found[f"split {clip.split!r} is none of {', '.join(SPLITS)}"].append(clip.clip_id)
        for name, value in clip.labels.items():
            if math.isinf(value):
                self._found[f"label {name} is infinite"].append(clip.clip_id)
        features = self._arrays(clip)
        for modality in MODALITIES:
            values = features.get(modality)
            if values is not None:
                self._sound(clip, modality, values)
                names = self._widths[modality].setdefault(values.shape[1], [])
                names.append(clip.clip_id)
        if clip.token_ids is not None and "text" not in self.options.leave_out:
            self._look_at_ids(clip)
        if clip.pooled is not None:
            self._sound(clip, "pooled", clip.pooled[None])
            width = features["text"].shape[1] if "text" in features else len(clip.pooled)
            if len(clip.pooled) != width:
                self._found["the pooled vector is not as wide as the text"].append(clip.clip_id)
            elif "text" not in features:
                self._widths["text"].setdefault(width, []).append(clip.clip_id)
        for modality, why in self._absent(clip, features).items():
            counts = self.absent[modality]
            counts[why] = counts.get(why, 0) + 1
        self.rows.append(
            {
                "clip_id": usable_id(clip.clip_id),
                "split": clip.split,
                "group": clip.group,
                "transcript": clip.transcript or "",
                "labels": dict(clip.labels),
                "source_id": clip.clip_id,
            }
        )

    def _arrays(self, clip: FeatureClip) -> dict[str, np.ndarray]:
        """{modality: (T, D) float32} of what is read of this clip."""
        found = {}
        for modality, values in clip.arrays.items():
            if modality in self.options.leave_out:
                continue
            if modality not in MODALITIES:
                self._found[f"{modality!r} is no modality"].append(clip.clip_id)
                continue
            try:
                steps = readers.base.steps(np.asarray(values))
                with np.errstate(over="ignore", invalid="ignore"):
                    found[modality] = np.ascontiguousarray(steps, np.float32)
            except (ValueError, TypeError) as error:
                self._found[f"{modality}: {error}"].append(clip.clip_id)
                continue
            if not found[modality].size:
                del found[modality]
                continue
            if np.asarray(values).dtype == np.float64:
                self.source.assume(f"{modality}: float64 becomes float32")
        return found

    def _sound(self, clip: FeatureClip, modality: str, values: np.ndarray) -> None:
        for what, wrong in (("NaN", np.isnan), ("infinite values", np.isinf)):
            if wrong(values).any():
                self._found[f"{modality} has {what}"].append(clip.clip_id)
        given = clip.times.get(modality)
        if given is not None:
            if np.shape(given) != values.shape[:1]:
                self._found[f"{modality} has other times than steps"].append(clip.clip_id)
            elif not np.isfinite(given).all() or (np.diff(given) < 0).any():
                self._found[f"{modality}: times are not increasing seconds"].append(clip.clip_id)

    def _absent(self, clip: FeatureClip, features: Mapping[str, object]) -> dict[str, str]:
        there = set(features)
        if clip.pooled is not None or (clip.token_ids is not None and self._make is not None):
            there.add("text")
        there -= set(self.options.leave_out)
        said = dict(clip.absent) | dict.fromkeys(self.options.leave_out, "left out of the import")
        missing = [name for name in MODALITIES if name not in there]
        return {name: said.get(name, "not in the source") for name in missing}

    def _look_at_ids(self, clip: FeatureClip) -> None:
        assert clip.token_ids is not None
        if self._make is None:
            self.source.problem(
                "the text is known as token ids only, and there is no text encoder to encode them: "
                "leave the text out (--without text)"
            )
            return
        if self._encoder is None:
            self._encoder = self._make()
            self._widths["text"][self._encoder.dim] = []
        if clip.token_ids.max() >= self._encoder.vocabulary:
            size = self._encoder.vocabulary
            self._found[f"token ids beyond the {size:,} of the text encoder"].append(clip.clip_id)
        why = self._encoder.fits(clip.token_ids, clip.transcript)
        if why is None:
            self._fits += 1
        else:
            self._fits_not += 1
            self._misfit = self._misfit or f"{clip.clip_id}: {why}"

    # ------------------------------------------------------------------------------- all of them

    def _judge(self) -> None:
        """Everything that is wrong, into the source's problems."""
        problem = self.source.problem
        if not self.rows:
            problem("there are no clips in it")
            return
        for what, clips in self._found.items():
            problem(f"{what}: {_few(clips)}")
        for modality, widths in self._widths.items():
            if len(widths) > 1:
                told = "; ".join(f"{width} wide: {_few(clips)}" for width, clips in widths.items())
                problem(f"{modality} has several widths: {told}")
        if not any(self._widths.values()) and not self._fits and not self._fits_not:
            problem("no clip has audio, vision or text")
        self._judge_ids()
        self._judge_labels()
        self._judge_splits()
        if self._fits_not > 0.1 * (self._fits + self._fits_not):
            assert self._encoder is not None
            problem(
                "the text is known as token ids only, and they are not of the vocabulary of "
                f"{self._encoder.identity} ({self._fits_not} clips, the first {self._misfit}); "
                "name the encoder that made them (--set encoders.text=FOLDER, for MOSI and MOSEI a "
                "bert-base-uncased), or leave the text out (--without text)"
            )

    def _judge_ids(self) -> None:
        places: dict[str, list[dict]] = defaultdict(list)
        for row in self.rows:
            places[row["clip_id"]].append(row)
        leaks = {n: rows for n, rows in places.items() if len({r["split"] for r in rows}) > 1}
        if leaks:
            told = [
                f"{rows[0]['source_id']} ({' and '.join(sorted({r['split'] for r in rows}))})"
                for rows in leaks.values()
            ]
            self.source.problem(
                f"{len(leaks)} clips stand in two splits, so that what is tested was learned: "
                f"{', '.join(told[:10])}{', ...' if len(told) > 10 else ''}"
            )
        twice = [rows[0] for n, rows in places.items() if len(rows) > 1 and n not in leaks]
        if twice:
            self.source.problem(
                f"ids that several clips have: {_few(r['source_id'] for r in twice)}"
            )
        unusable = [
            r["source_id"]
            for r in self.rows
            if not r["source_id"].strip() or len(r["clip_id"].encode()) > LONGEST_ID
        ]
        if unusable:
            self.source.problem(f"ids that are empty or too long: {_few(unusable)}")
        if any(r["clip_id"] != r["source_id"] for r in self.rows):
            example = next(r for r in self.rows if r["clip_id"] != r["source_id"])
            self.source.assume(
                f"ids became names of files: {example['source_id']} is {example['clip_id']} "
                "(column source_id)"
            )

    def _judge_labels(self) -> None:
        source, options = self.source, self.options
        there = list(dict.fromkeys(name for row in self.rows for name in row["labels"]))
        self.targets = tuple(options.targets or source.targets or there)
        if unknown := [name for name in self.targets if name not in there]:
            source.problem(
                f"no labels called {', '.join(unknown)}; there are {', '.join(there) or 'none'}"
            )
        values = np.array(
            [[row["labels"].get(name, np.nan) for name in self.targets] for row in self.rows]
        ).reshape(len(self.rows), -1)
        real = values[np.isfinite(values)]
        self._set_range(real)
        for column, name in enumerate(self.targets):
            outside = [
                f"{row['source_id']} ({value:g})"
                for row, value in zip(self.rows, values[:, column], strict=True)
                if not (np.isnan(value) or self.low <= value <= self.high)
            ]
            if outside:
                source.problem(
                    f"label {name} outside {self.low:g} to {self.high:g}: {_few(outside)}; "
                    "another range: --low and --high"
                )
        labelled = np.array([row["split"] in LABELLED for row in self.rows])
        none = np.isnan(values).all(axis=1) & labelled
        if none.any():
            clips = [row["source_id"] for row, wrong in zip(self.rows, none, strict=True) if wrong]
            source.problem(
                f"no label in a split that needs one: {_few(clips)}; such clips belong into predict"
            )
        self.missing = bool((np.isnan(values).any(axis=1) & labelled).any())
        if self.missing and not none.any():
            source.assume("some clips have some labels only: learned and scored is what is there")
        if 0 < len(np.unique(real)) <= 2:
            source.assume("labels have two values only: classes are out of scope, read as numbers")

    def _set_range(self, real: np.ndarray) -> None:
        source, options = self.source, self.options
        low, high = (
            given if given is not None else declared
            for given, declared in ((options.low, source.low), (options.high, source.high))
        )
        if (low is None or high is None) and len(real):
            source.assume("the range of the labels is the one that they have, rounded outwards")
        self.low = float(math.floor(real.min()) if len(real) else 0) if low is None else float(low)
        self.high = (
            float(math.ceil(real.max()) if len(real) else 1) if high is None else float(high)
        )
        if self.low == self.high and low is None:
            self.low -= 1  # all labels are alike: nothing to learn, but a range
        self.metrics = options.metrics or source.metrics
        if not self.low < self.high:
            source.problem(f"the range of the labels, {self.low:g} to {self.high:g}, is empty")
        elif len(real) and self.high > 1 and self.low < -1 and np.abs(real).max() <= 1:
            source.assume(
                f"no label lies outside -1 to 1, though {self.low:g} to {self.high:g} may be: for "
                "SIMS give --low -1 --high 1 --metrics sims"
            )

    def _judge_splits(self) -> None:
        counts = dict.fromkeys(SPLITS, 0)
        for row in self.rows:
            if row["split"] in counts:
                counts[row["split"]] += 1
        if not counts["train"]:
            self.source.problem("split 'train' has no clips")
            return
        if not counts["test"]:
            self.source.assume("there is no test split: nothing can be tested on these features")
        if not counts["selection"]:
            groups = {
                row["clip_id"]: row["group"] or row["clip_id"]
                for row in self.rows
                if row["split"] == "train"
            }
            chosen = hold_out(groups, self.options.share, self.options.seed)
            for row in self.rows:
                if row["clip_id"] in chosen and row["split"] == "train":
                    row["split"] = "selection"
            self.source.assume(
                f"there is no validation split: {len(chosen)} of {len(groups)} training clips are "
                f"the selection split (share {self.options.share:g}, seed {self.options.seed})"
            )
        self._judge_groups()

    def _judge_groups(self) -> None:
        seen: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            if row["group"] and row["split"] != "predict":
                seen[row["group"]].add(row["split"])
        several = sorted(group for group, splits in seen.items() if len(splits) > 1)
        if several:
            self.source.assume(
                f"{len(several)} of {len(seen)} groups (videos, speakers) have clips in several "
                f"splits, such as {several[0]}: the splits are those of the source"
            )

    # ----------------------------------------------------------------------------------- results

    @property
    def pooling(self) -> str:
        return self.options.pooled or self.source.pooled

    def identity(self) -> dict[str, str]:
        """What the store was made from, and how: {"source": "mmsa, sha256 1a2b...", ...}."""
        rates = ", ".join(f"{name} {rate:g}/s" for name, rate in sorted(self.options.rates.items()))
        text = f"pooled by {self.pooling}"
        if self._encoder is not None:
            text += f", encoded by {self._encoder.identity}"
        columns = ", ".join(f"{ours}={name}" for ours, name in sorted(self.options.columns.items()))
        return {
            "source": f"{self.format}, sha256 {self.digest}",
            "text": text,
            "times": f"{rates or 'no rates'}, else evenly over {self.options.seconds:g} s",
            "left out": ", ".join(sorted(self.options.leave_out)) or "nothing",
        } | ({"columns": columns} if columns else {})

    def features(self, clip: FeatureClip) -> ClipFeatures:
        """One clip as the store keeps it."""
        arrays = self._arrays(clip)
        pooled = clip.pooled if "text" not in self.options.leave_out else None
        if clip.token_ids is not None and self._encoder is not None and "text" not in arrays:
            if "text" not in self.options.leave_out:
                arrays["text"] = self._encoder.encode(clip.token_ids)
        if pooled is None and "text" in arrays:
            tokens = arrays["text"]
            pooled = tokens[0] if self.pooling == "cls" else tokens.mean(axis=0)
        sequences = {
            name: Sequence(values, self._times(clip, name, len(values)))
            for name, values in arrays.items()
        }
        there = dict(arrays) | ({} if pooled is None else {"text": pooled})
        return ClipFeatures(
            usable_id(clip.clip_id),
            audio=sequences.get("audio"),
            vision=sequences.get("vision"),
            tokens=sequences.get("text"),
            pooled=None if pooled is None else np.asarray(pooled, np.float32),
            transcript=clip.transcript,
            absent=self._absent(clip, there),
        )

    def _times(self, clip: FeatureClip, modality: str, steps: int) -> np.ndarray:
        """(steps,) float32 s; of text, the index of the token."""
        index = np.arange(steps)
        if (given := clip.times.get(modality)) is not None:
            return np.asarray(given, np.float32)
        if modality == "text":
            return index.astype(np.float32)
        rate = self.options.rates.get(modality, steps / self.options.seconds)
        return (index / rate).astype(np.float32)

    def made(self, folder: Path, done: int, seconds: float) -> Imported:
        """The report."""
        source = self.source
        for modality in ("audio", "vision"):
            if self._widths[modality]:
                rate = self.options.rates.get(modality)
                source.assume(
                    f"{modality}: times are "
                    + (
                        f"index / {rate:g} s"
                        if rate
                        else f"spread evenly over a clip of {self.options.seconds:g} s, where the "
                        f"source knows none (--rate {modality}=20, or --seconds)"
                    )
                )
        if self._widths["text"] or self._encoder is not None:
            how = "the first step" if self.pooling == "cls" else "the mean of its steps"
            source.assume(f"text: its one vector is {how}, where the source has none (--pooled)")
        counts = {split: sum(row["split"] == split for row in self.rows) for split in SPLITS}
        return Imported(
            folder,
            self.format,
            {split: count for split, count in counts.items() if count},
            self.targets,
            self.low,
            self.high,
            self.metrics,
            {name: next(iter(found)) for name, found in self._widths.items() if found},
            done,
            len(self.rows) - done,
            source.assumed,
            {name: reasons for name, reasons in self.absent.items() if reasons},
            seconds,
        )

    def task(self) -> str:
        """task.toml"""
        return tomlkit.dumps(
            {
                "targets": list(self.targets),
                "low": self.low,
                "high": self.high,
                "missing_labels": "mask" if self.missing else "refuse",
                "metrics": self.metrics,
                "selects": "rho" if self.metrics == "intensity" else "mae",
            }
        )

    def table(self) -> str:
        """clips.csv"""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["clip_id", "split", "group", "transcript", "source_id", *self.targets])
        for row in self.rows:
            labels = [row["labels"].get(name, math.nan) for name in self.targets]
            writer.writerow(
                [row[name] for name in ("clip_id", "split", "group", "transcript", "source_id")]
                + ["" if math.isnan(value) else repr(float(value)) for value in labels]
            )
        return out.getvalue().encode(errors="replace").decode()


def _few(names) -> str:
    """ "3 clips: a, b, c" """
    names = list(names)
    count = f"{len(names)} clip{'s' * (len(names) != 1)}"
    return f"{count} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
