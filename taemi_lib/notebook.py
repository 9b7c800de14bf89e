"""The first cell of every notebook: its parameters, checked, as a `Workspace`.

papermill only warns about a parameter that it does not know. Here a misspelled one stops the
notebook at once, whether papermill's own command or `taemi run` gave it.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence

from taemi_lib import profiles
from taemi_lib.errors import ChoiceError
from taemi_lib.workspace import Workspace

# name -> what it must be; every notebook has these, its own ones come after them
COMMON: dict[str, tuple[type, ...]] = {
    "profile": (str,),
    "settings": (dict,),
    "data_root": (str,),
    "runs_root": (str,),
    "device": (str,),
    "seed": (int,),
}
INJECTED = "# Parameters"  # how papermill's cell begins


def from_notebook(variables: Mapping[str, object], own: Sequence[str] = ()) -> Workspace:
    """The workspace of a notebook's parameters: from_notebook(globals(), own=("resamples",)).

    own: the notebook's parameters beside the common ones. Raises ChoiceError naming the parameter
    or setting, its value, and what is allowed.
    """
    valid = (*COMMON, *own)
    cells = [cell for cell in variables.get("In", ()) if isinstance(cell, str)]  # type: ignore[attr-defined]
    defaults = _assigned(next((cell for cell in cells if _sets(cell, COMMON)), ""))
    for cell in cells:
        if cell.startswith(INJECTED):
            for name in _assigned(cell):
                _refuse_unknown(name, valid)
    for name in valid:
        _check_kind(name, variables[name], defaults)
    given = {name: variables[name] for name in ("data_root", "runs_root", "device")}
    profile = profiles.load(variables["profile"], variables["settings"], "parameter settings")  # type: ignore[arg-type]
    workspace = Workspace(profile, **given)  # type: ignore[arg-type]
    workspace.check()
    return workspace


def _assigned(cell: str) -> dict[str, object]:
    """{name: value} of a cell's plain assignments; a value that is no literal is None."""
    try:
        tree = ast.parse(cell)
    except SyntaxError:  # a cell with a magic command
        return {}
    found: dict[str, object] = {}
    for line in tree.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            try:
                found[line.targets[0].id] = ast.literal_eval(line.value)
            except ValueError:
                found[line.targets[0].id] = None
    return found


def _sets(cell: str, names: Mapping[str, object]) -> bool:
    return not cell.startswith(INJECTED) and set(names) <= set(_assigned(cell))


def _kinds(default: object) -> tuple[type, ...]:
    """What a parameter with this default may be; one without a default may be anything."""
    if default is None:
        return ()
    return (int, float) if type(default) is float else (type(default),)


def _check_kind(name: str, value: object, defaults: Mapping[str, object]) -> None:
    kinds = COMMON.get(name) or _kinds(defaults.get(name))
    number_as_flag = isinstance(value, bool) and bool not in kinds
    if kinds and (number_as_flag or not isinstance(value, kinds)):
        example = f", such as {defaults[name]!r}" if name in defaults else ""
        raise ChoiceError(
            f"parameter {name} = {value!r}: it must be of the type {kinds[-1].__name__}{example}"
        )


def _refuse_unknown(name: str, valid: Sequence[str]) -> None:
    if name not in valid:
        near = difflib.get_close_matches(name, valid, 3)
        raise ChoiceError(
            f"this notebook has no parameter {name!r}; "
            f"{'nearest: ' + ', '.join(near) + '; ' if near else ''}"
            f"its parameters are: {', '.join(valid)}"
        )
