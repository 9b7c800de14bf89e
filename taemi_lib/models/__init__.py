"""All systems by name: `create("taemi", audio_dim=131, ...)`, `names()`, `load(folder)`. One
readable file a system: a `System` with a `name` is known as soon as its file is imported, those in
systems/ are imported here, and one's own by `import_systems`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path

from safetensors import SafetensorError

from taemi_lib.batches import Batch, ClipDataset, LengthGroupedBatches, collate
from taemi_lib.errors import CheckpointError, ChoiceError
from taemi_lib.models import systems
from taemi_lib.models.base import REGISTERED, Output, System
from taemi_lib.models.taemi import TAEMI
from taemi_lib.support import files

for _module in pkgutil.iter_modules(systems.__path__, f"{systems.__name__}."):
    importlib.import_module(_module.name)

USER = "taemi_user_"  # how the modules of files with own systems begin

__all__ = [
    "TAEMI",
    "USER",
    "Batch",
    "ClipDataset",
    "LengthGroupedBatches",
    "Output",
    "System",
    "collate",
    "create",
    "find",
    "import_systems",
    "load",
    "names",
]


def names() -> list[str]:
    """The names of all systems that are known by now."""
    return list(REGISTERED)


def find(system: str | type[System]) -> type[System]:
    """The class of a system, from its name or itself. Raises ChoiceError with the valid names."""
    if inspect.isclass(system) and issubclass(system, System):
        if "name" not in vars(system):
            raise ChoiceError(f'{system.__qualname__} has no name: give the class `name = "..."`')
        return system
    if system not in REGISTERED:
        raise ChoiceError(
            f"unknown system {system!r}; the systems are: {', '.join(REGISTERED)}; "
            "for one of your own, --import FILE (in Python models.import_systems)"
        )
    return REGISTERED[str(system)]


def create(system: str | type[System], **sizes) -> System:
    """A fresh system. Sizes: audio_dim, vision_dim, text_dim and those of profiles.Model.

    Raises ChoiceError for an unknown system or size, with the valid ones, and for a size that is
    not allowed.
    """
    found = find(system)
    known = list(inspect.signature(found).parameters)
    if unknown := set(sizes) - set(known):
        raise ChoiceError(
            f"{found.name} has no size {', '.join(sorted(unknown))}; "
            f"its sizes are: {', '.join(known)}"
        )
    return found(**sizes)


def import_systems(path: str | Path) -> list[str]:
    """Import a Python file with own systems, as the module taemi_user_<its name>; the names that it
    registers. A file that is imported already is not run again.

    Raises ChoiceError naming the file when it is missing, fails, defines no system, or is called
    like one that was imported from another folder.
    """
    path = Path(path).expanduser().resolve()
    name = USER + path.stem
    if not path.is_file():
        raise ChoiceError(f"--import {path}: no such file")
    there = sys.modules.get(name)
    if there is None:
        _run(name, path)
    elif there.__file__ != str(path):
        raise ChoiceError(
            f"--import {path}: a file of the same name is imported already, {there.__file__}: "
            "rename one of them"
        )
    found = [key for key, system in REGISTERED.items() if system.__module__ == name]
    if not found:
        del sys.modules[name]  # so that it is run again when it is changed
        raise ChoiceError(
            f"--import {path}: it defines no system: a subclass of taemi_lib.models.System "
            "with a `name`"
        )
    return found


def _run(name: str, path: Path) -> None:
    """Run the file as a module of this name. When it fails, nothing of it stays registered."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ChoiceError(f"--import {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    before = dict(REGISTERED)
    sys.modules[name] = module  # classes are pickled by the name of their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        REGISTERED.clear()
        REGISTERED.update(before)
        said = str(error) if isinstance(error, ChoiceError) else f"{type(error).__name__}: {error}"
        raise ChoiceError(f"--import {path}: {said}") from error


def load(folder: str | Path) -> System:
    """The system saved in a folder by `save_pretrained` (or by training), whichever it is, ready to
    predict.

    Raises FileNotFoundError when the folder holds none, ChoiceError when its system is not
    registered, CheckpointError when a file is damaged, or weights and sizes do not fit.
    """
    config = Path(folder) / "config.json"
    if not config.exists():
        raise FileNotFoundError(f"no checkpoint in {folder}: config.json is missing")
    try:
        saved = files.read_json(config)
    except ValueError as error:
        raise CheckpointError(f"{config} is damaged ({error}): copy the folder anew") from error
    if "system" not in saved:
        raise CheckpointError(
            f"{config} does not name its system: it was not written by this project's "
            "save_pretrained"
        )
    if str(saved["system"]) not in REGISTERED:
        raise ChoiceError(
            f"{folder} holds a {saved['system']!r}, which is none of the package's own systems: "
            "name the file that defines it with --import FILE (in Python models.import_systems)"
        )
    try:
        return find(saved["system"]).from_pretrained(folder)
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(
            f"the checkpoint in {folder} is damaged ({said}): copy the folder anew"
        ) from error
