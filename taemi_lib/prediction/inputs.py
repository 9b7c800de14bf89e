"""What a user names (files, folders, tables) as clips to predict, each encoded once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from taemi_lib import features, profiles
from taemi_lib.data import read_csv
from taemi_lib.data.manifest import Clip, Manifest
from taemi_lib.errors import ChoiceError
from taemi_lib.features.extract import extract
from taemi_lib.features.store import Store
from taemi_lib.prediction.answer import Prediction
from taemi_lib.prediction.predictor import Predictor
from taemi_lib.support import naming

# what counts as a clip in a folder; a file that is named itself is always tried
MEDIA = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ts .mts .m2ts .3gp .ogv .gif "
    ".wav .mp3 .flac .ogg .oga .opus .m4a .aac .aif .aiff .wma".split()
)


@dataclass(frozen=True)
class Found:
    """Clips to predict.

    clips    as a table may have them, with words and a sound file of their own; their ids name
             files of a feature store, so that two files of one name stay apart
    names    id -> what to call the clip: its id in a table, else its file's name (naming.visible)
    skipped  files of folders that are no media by their names
    """

    clips: list[Clip] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    skipped: list[Path] = field(default_factory=list)

    def add(self, name: str, clip: Clip) -> None:
        """One more; what was named already is not predicted twice."""
        place = json.dumps([name, str(clip.video), str(clip.audio)])
        plain = naming.safe(Path(name).stem)[:80].strip(".-_ ") or "clip"
        clip_id = f"{plain}-{naming.mark(place)}"
        if clip_id not in self.names:
            self.names[clip_id] = naming.visible(name)
            self.clips.append(replace(clip, clip_id=clip_id))


def find(paths: Iterable[str | Path]) -> Found:
    """The clips of files, folders (searched all through, in order of their names) and CSV tables.

    Raises FileNotFoundError for what is not there, ManifestError for a table that breaks rules,
    ChoiceError when nothing is left to predict.
    """
    found = Found()
    for path in map(Path, paths):
        if path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                if file.suffix.lower() in MEDIA:
                    _add_file(found, file)
                else:
                    found.skipped.append(file)
        elif path.suffix.lower() == ".csv":
            if not path.exists():
                raise FileNotFoundError(f"no such table: {path}")
            for clip in read_csv(path):
                found.add(clip.clip_id, clip)
        elif path.is_file():
            _add_file(found, path)
        else:
            raise FileNotFoundError(f"no such clip: {path}")
    if not found.clips:
        raise ChoiceError(
            f"no clips in {', '.join(map(str, paths))}: name media files, folders with some "
            f"({', '.join(sorted(MEDIA)[:6])}, ...), or a CSV of clip_id, video"
        )
    return found


def _add_file(found: Found, file: Path) -> None:
    found.add(file.name, Clip("", "predict", file.absolute()))


def predict_all(
    predictor: Predictor,
    found: Found,
    features_root: str | Path,
    limits: profiles.Limits | None = None,
    progress: bool = True,
) -> Iterator[Prediction]:
    """A prediction for each clip, in their order.

    Clips are encoded in processes of their own, so that no file can stop the others, and kept in a
    store under `features_root`: what was encoded once is not encoded again, as long as its file
    stays as it is. Raises as `extract` and `Predictor.predict_features`.
    """
    made_by = naming.mark(json.dumps(features.identity(predictor.settings), sort_keys=True))
    folder = Path(features_root) / f"predicted-{made_by}"
    manifest = _Named(found.clips)
    extract(
        manifest,
        predictor.settings,
        folder,
        device=str(predictor.device),
        progress=progress,
        limits=limits,
    )
    store = Store(folder)
    for clip in found.clips:
        made = predictor.predict_features(store.read(clip.clip_id))
        yield replace(made, clip=found.names[clip.clip_id])


class _Named(Manifest):
    """Clips that users name: their files lie anywhere, and one that is missing by now is a reason
    in the report like every other."""

    def __init__(self, clips: list[Clip]):
        self._clips = {clip.clip_id: clip for clip in clips}
        self.root, self.source, self.labels, self.skipped = Path("/"), "the clips", "", []
        self.task = profiles.Task()  # labels are not asked for
        self.table = pd.DataFrame(index=pd.Index(list(self._clips), name="clip_id"))

    def __getitem__(self, clip_id: str) -> Clip:
        return self._clips[clip_id]
