"""What notebooks share: their parameters, checked, as a `Workspace`; whose tables they show; how
they print.

papermill only warns about a parameter that it does not know. Here a misspelled one stops the
notebook at once, whether papermill's own command or `taemi run` gave it.
"""

from __future__ import annotations

import ast
import difflib
import html
import json
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, display

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


# --------------------------------------------------------------------------------------------------
# tables that a notebook shows


@dataclass(frozen=True)
class Tables:
    """The tables that a notebook shows, and whose they are.

    folder       where they lie
    whose        "demo": the committed ones, and the notebook has the demo's settings; "borrowed":
                 the committed ones, beside other data; "own": those of this data; "given": those
                 of `results_root`
    computed_by  the command that makes this data's own
    """

    folder: Path
    whose: str
    computed_by: str

    @property
    def borrowed(self) -> bool:
        return self.whose == "borrowed"

    @property
    def committed(self) -> bool:
        return self.whose in ("demo", "borrowed")

    def warn(self) -> None:
        """Before results: whose they are, where they are not this data's."""
        if self.borrowed:
            print("(OF THE DEMO, not of this data)")


def find_tables(
    variables: Mapping[str, Any],
    workspace: Workspace,
    own: Path,
    needed: Iterable[str],
    command: str,
    inside: str = ".",
) -> Tables:
    """The tables for a notebook's parameters: find_tables(globals(), workspace, ...). Says whose.

    own       the folder of the tables that `command` makes of this data
    needed    names of those without which it has none
    inside    where in `results_root` the committed ones are
    The own ones are taken where they are there, but for the demo, whose are committed; after
    `recompute`, the own ones in any case.
    """
    root = profiles.resolve(variables["results_root"])
    demo = workspace.settings_folder.name == "demo"  # whichever seeds and labels: they have all
    has_own = all((own / f"{name}.csv").exists() for name in needed)
    if variables.get("recompute"):
        whose = "own"
    elif root != profiles.resolve("results"):
        whose = "given"
    elif demo:
        whose = "demo"
    else:
        whose = "own" if has_own else "borrowed"
    options = [
        *("--profile", variables["profile"]),
        *("--data-root", variables["data_root"], "--runs-root", variables["runs_root"]),
    ]
    for name, value in variables["settings"].items():
        options += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    computed_by = shlex.join([*command.split(), *options])
    found = Tables(own if whose == "own" else root / inside, whose, computed_by)
    told = {
        "own": "tables: made from their own runs",
        "given": f"tables: those of results_root = {variables['results_root']!r}",
        "demo": "tables: the committed ones, made with these settings",
        "borrowed": f"its tables are not computed yet: `{computed_by}` computes them. All tables,"
        " figures and verdicts below are the committed ones OF THE DEMO: they say nothing about"
        " this data.",
    }
    say(f"settings {workspace.label}; {told[whose]}", 0)
    return found


def say(text: str, indent: int = 4) -> None:
    """Print in lines of at most 110 characters, all but the first indented; a no-break space holds
    what is around it together."""
    lines: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    filled = textwrap.fill(text, 110, subsequent_indent=" " * indent, **lines)
    print(filled.replace("\u00a0", " "))


def show_table(frame: pd.DataFrame, caption: str) -> None:
    """Display a table as HTML, its caption above it."""
    head = f'<caption style="caption-side: top; text-align: left">{html.escape(caption)}</caption>'
    if frame.index.nlevels == 1:  # its name beside the columns', not in a row of its own
        frame = frame.rename_axis(index=None, columns=frame.index.name)
    with pd.option_context("display.max_colwidth", None):
        text = frame.to_html(na_rep="-")
    display(HTML(text.replace("<thead>", f"{head}\n  <thead>", 1)))
