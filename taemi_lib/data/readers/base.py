"""What all readers share: the clip that they give, the source that they read from, and their
register."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from tqdm.auto import tqdm

from taemi_lib.data.tables import read_rows
from taemi_lib.errors import ManifestError
from taemi_lib.profiles import MODALITIES, Data
from taemi_lib.support import pickles

# what the fields call a split -> what it is here
SPLITS = {
    "train": "train",
    "valid": "selection",
    "val": "selection",
    "dev": "selection",
    "validation": "selection",
    "selection": "selection",
    "test": "test",
    "predict": "predict",
}
_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class FeatureClip:
    """One clip as a reader gives it: padding removed, nothing converted.

    clip_id     as the source spells it
    split       train, selection, test or predict (valid, val, dev are selection)
    labels      {target: value}, NaN where it is not known
    arrays      {audio, vision, text: (T, D) or (D,)}
    pooled      (D,) one text vector, or None: made of the text's steps
    token_ids   (T,) integers, where the text is known as ids of a text encoder only
    times       {modality: (T,) s}, where the format knows them
    group       clips of one group (a speaker, a video) stay together when splits are drawn
    absent      {modality: why it is not there}; what is neither here nor in `arrays` is "not in
                the source"
    """

    clip_id: str
    split: str
    labels: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    pooled: np.ndarray | None = None
    token_ids: np.ndarray | None = None
    times: Mapping[str, np.ndarray] = field(default_factory=dict)
    transcript: str | None = None
    group: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the user decides about an import; None leaves it to the format.

    pooled      how text steps become one vector: the first ("cls") or their mean
    rates       {modality: steps a second}, where the format knows no times
    seconds     how long a clip is taken to be where nothing else is known
    targets     which of the source's labels
    low, high   range of the labels
    metrics     how the field scores them
    columns     {our name: the source's}: feature folders (merbench), columns (hf, own)
    leave_out   modalities
    share, seed of the training clips that become selection where the source has none
    """

    pooled: Literal["cls", "mean"] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 10.0
    targets: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    metrics: Literal["intensity", "sentiment", "sims"] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    share: float = Data().selection_share
    seed: int = Data().seed


class Source:
    """A file or folder as readers see it. It hashes what they read, and collects what they assume
    and what they find wrong."""

    def __init__(self, path: Path, options: Options | None = None, progress: bool = False):
        self.path, self.options, self.progress = Path(path), options or Options(), progress
        self.problems: list[str] = []
        self._assumed: dict[str, set[str]] = {}
        self._hashes: dict[str, str] = {}
        self._pickle: Any = None
        # what the reader says of its task; None: as found
        self.targets: tuple[str, ...] | None = None
        self.low: float | None = None
        self.high: float | None = None
        self.metrics = "intensity"
        self.pooled: Literal["cls", "mean"] = "mean"

    def task(
        self,
        targets: Iterable[str] | None = None,
        low: float | None = None,
        high: float | None = None,
        metrics: str = "intensity",
    ) -> None:
        """What is predicted, and its range; None: all labels, and the range that they have."""
        self.targets = None if targets is None else tuple(targets)
        self.low, self.high, self.metrics = low, high, metrics

    def assume(self, what: str, clip_id: str | None = None) -> None:
        """For the report. Said of clips, it is told once, with how many they are."""
        self._assumed.setdefault(what, set()).update([] if clip_id is None else [clip_id])

    @property
    def assumed(self) -> list[str]:
        """Everything assumed, one line each."""
        lines = []
        for what, clips in self._assumed.items():
            some = f" ({len(clips)} clips, such as {min(clips)})" if clips else ""
            lines.append(what + some)
        return lines

    def problem(self, what: str) -> None:
        """Something that forbids the import. Reading goes on, so that all of it is told at once."""
        if what not in self.problems:
            self.problems.append(what)

    def stop(self, what: str) -> ManifestError:
        """To be raised: this, and what was found before it."""
        self.problem(what)
        return ManifestError(str(self.path), self.problems)

    def digest(self) -> str:
        """sha256 of the file, or of all files that were read, with their names."""
        if list(self._hashes) == [""]:
            return self._hashes[""]
        lines = "\n".join(f"{name} {self._hashes[name]}" for name in sorted(self._hashes))
        return hashlib.sha256(lines.encode()).hexdigest()

    def clips(self, found: Iterable, count: int | None = None) -> Iterable:
        """`found` with a progress bar."""
        return tqdm(found, total=count, desc="clips", unit="clip", disable=not self.progress)

    # ---------------------------------------------------------------------------------- reading

    def place(self, name: str = "") -> Path:
        return self.path / name if name else self.path

    def pickle(self, name: str = "") -> Any:
        """What a pickle, or a file of torch.save, holds (`pickles.load`). The source itself is read
        once only. Raises ManifestError."""
        if name == "" and self._pickle is not None:
            return self._pickle
        path = self.place(name)
        bar = tqdm(
            total=path.stat().st_size,
            desc=f"reading {path.name}",
            unit="B",
            unit_scale=True,
            disable=not self.progress or bool(name),
        )
        try:
            with bar:
                found, self._hashes[name] = pickles.load(path, bar.update)
        except pickles.NotData as error:
            raise self.stop(str(error)) from error
        if name == "":
            self._pickle = found
        return found

    def bytes(self, name: str) -> bytes:
        """A whole file."""
        path = self.place(name)
        try:
            pickles.check_memory(path)
        except pickles.NotData as error:
            raise self.stop(str(error)) from error
        content = path.read_bytes()
        self.read(name, hashlib.sha256(content).hexdigest())
        return content

    def read(self, name: str, sha256: str) -> None:
        """To be called for a file that was read in another way: it belongs to the identity."""
        self._hashes[name] = sha256

    def array(self, name: str) -> np.ndarray | None:
        """One array of a .npy, .safetensors (its only tensor), .pkl or .pt file; None, and a
        problem, where it holds none."""
        try:
            if name.endswith((".pkl", ".pickle", ".pt", ".pth")):
                return as_array(self.pickle(name))
            if name.endswith(".safetensors"):
                tensors = load_safetensors(self.bytes(name))
                if len(tensors) != 1:
                    raise ValueError(f"it holds {len(tensors)} tensors, expected one")
                return next(iter(tensors.values()))
            return npy(self.bytes(name))
        except (ValueError, SafetensorError) as error:
            if not isinstance(error, ManifestError):
                self.problem(f"{name}: no array of numbers ({error})")
            return None

    def table(self, name: str, required: tuple[str, ...]) -> list[dict[str, str]]:
        """Rows of a CSV. Raises ManifestError."""
        self.bytes(name)  # for the hash
        return read_rows(self.place(name), required)[0]


# --------------------------------------------------------------------------------------------------
# arrays


def as_array(value: Any) -> np.ndarray:
    """Numbers in an array, or in a list of arrays of one shape (a step each). Raises ValueError."""
    if isinstance(value, list | tuple) and value:
        value = np.stack([np.asarray(part) for part in value])
    array = np.asarray(value)
    if array.dtype.kind == "O" and array.size:  # numbers that were boxed one by one
        array = np.stack([np.asarray(part) for part in array.ravel()]).reshape(
            *array.shape, *np.shape(array.ravel()[0])
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.dtype} of shape {array.shape}")
    return array


def npy(content: bytes) -> np.ndarray:
    """The array in a .npy file, objects read as data only. Raises ValueError for a header that
    claims more than there is."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"a .npy of version {version}")
    shape, columns_first, dtype = read(file)
    rest = content[file.tell() :]
    if dtype.hasobject:
        found = np.asarray(pickles.loads(rest, "its objects"))
        if found.shape != shape:
            raise ValueError(f"its header says {shape}, its content {found.shape}")
        return found
    if prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"its header says {shape} of {dtype}, its content has {len(rest):,} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if columns_first else "C")


def npz(content: bytes) -> dict[str, np.ndarray]:
    """The arrays in a .npz file. Raises ValueError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            total = sum(part.file_size for part in archive.infolist())
            if total > 100 * len(content) + (64 << 20):
                raise ValueError(f"its {len(content):,} bytes claim to be {total:,}")
            return {
                part.filename.removesuffix(".npy"): npy(archive.read(part))
                for part in archive.infolist()
            }
    # RuntimeError: of a part that is encrypted, or packed in a way that Python does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"a damaged .npz ({error})") from error


def text_of(value: Any) -> str:
    """A cell of an array of names or words as text, bytes read as UTF-8."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def steps(array: np.ndarray) -> np.ndarray:
    """(T, D) of what is (T, D), (D,) or has leading axes of one. Raises ValueError."""
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise ValueError(f"shape {array.shape}, expected (T, D) or (D,)")
    return array


def natural(name: str) -> list:
    """To sort frame 10 behind frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# --------------------------------------------------------------------------------------------------
# the register


@dataclass(frozen=True)
class Reader:
    """A format: its name, how it looks, and the generator of its clips.

    `read` is run twice, to check everything before anything is written, and must give the same
    clips both times.
    """

    name: str
    about: str
    read: Callable[[Source], Iterable[FeatureClip]]
    recognises: Callable[[Source], bool]


READERS: dict[str, Reader] = {}


def reader(
    name: str,
    about: str = "a format of one's own",
    recognises: Callable[[Source], bool] = lambda source: False,
) -> Callable:
    """Register a generator function as the reader of a format.

    recognises: whether a source is of this format, asked when none was named; by default it has to
    be named.
    """

    def register(read: Callable[[Source], Iterable[FeatureClip]]) -> Callable:
        READERS[name] = Reader(name, about, read, recognises)
        return read

    return register


def of_modalities(found: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are modalities, in the usual order."""
    return {name: found[name] for name in MODALITIES if name in found}
