"""Running the notebooks in order.

The notebooks are the experiment; this file only starts them through papermill, one after the other,
each in its own kernel of this very Python environment, with the same parameters. What they computed
lies in the workspace's folder afterwards, runs/<settings>/.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from taemi_lib import errors, figures, profiles
from taemi_lib.errors import ChoiceError, CourseError, TaemiError
from taemi_lib.notebook import COMMON
from taemi_lib.support import files
from taemi_lib.workspace import Workspace, shown

EVALUATION = "05_evaluation"  # the notebook that writes the scores, evaluation.json
# errors of the library that say all there is to say: which file or name, what else there is, what
# to do
REFUSALS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, TaemiError)
}
# options of a run that are notebook parameters, too
OPTIONS = {
    "profile": "--profile NAME",
    "settings": "--set NAME=VALUE",
    "data_root": "--data-root FOLDER",
    "runs_root": "--runs-root FOLDER",
    "device": "--device cpu",
}
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


# --- which notebooks, how


def notebooks_in(folder: Path) -> list[Path]:
    """The course in its order: the numbered notebooks, then the appendix. Raises CourseError when
    there are none."""
    found = sorted(folder.glob("[0-9]*.ipynb")) + sorted((folder / "appendix").glob("*.ipynb"))
    if not found:
        raise CourseError(
            f"no notebooks in {folder}: run the course from a clone installed with pip install -e ."
        )
    return found


def start_at(paths: list[Path], first: str | None) -> list[Path]:
    """The notebooks from the one whose name begins with `first` ("03", "A1") on. Raises
    ChoiceError."""
    if first is None:
        return paths
    for index, path in enumerate(paths):
        if path.stem.startswith(first):
            return paths[index:]
    raise ChoiceError(
        f"no notebook begins with {first!r}; they are: {', '.join(p.stem for p in paths)}"
    )


def accepted_parameters(path: Path) -> dict[str, object]:
    """Name -> default value of what the notebook's cell tagged `parameters` sets. Raises
    CourseError."""
    found = {
        name: ast.literal_eval(entry["default"])
        for name, entry in papermill.inspect_notebook(path).items()
    }
    missing = [name for name in COMMON if name not in found]
    if missing:
        raise CourseError(
            f"{path.name}: its cell tagged 'parameters' does not set {', '.join(missing)}"
        )
    return found


def check_parameters(given: dict[str, object], accepted: dict[Path, dict[str, object]]) -> None:
    """papermill only warns about a name it does not know; here a misspelled one stops everything.

    Raises ChoiceError listing the valid names.
    """
    valid = {
        name: default for parameters in accepted.values() for name, default in parameters.items()
    }
    for name, value in given.items():
        if name in profiles.names():
            raise ChoiceError(f"-p {name}: a setting, not a parameter: --set {name}={value}")
        if name not in valid:
            raise ChoiceError(
                f"no notebook has a parameter {name!r}; the parameters are: {', '.join(valid)}"
            )
        default = valid[name]
        numbers = type(default) is float and type(value) is int
        if default is not None and type(value) is not type(default) and not numbers:
            kind = type(default).__name__
            raise ChoiceError(f"parameter {name!r} is a {kind} such as {default!r}, not {value!r}")


def literal(text: str) -> object:
    """A value from the command line: a Python or JSON literal where it is one, else the text
    itself."""
    words = {"true": True, "false": False, "null": None}
    try:
        return words[text] if text in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


# --- one notebook


def prepare_kernels() -> None:
    """Set what kernels inherit: no progress bars from the library, "python3" meaning the Python
    that runs this, also where the environment was never activated or the user has registered
    another kernel of that name.

    Raises CourseError when it would still be another one.
    """
    own = str(Path(sys.prefix) / "share" / "jupyter")
    others = [
        path
        for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep)
        if path and path != own
    ]
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, *others])
    os.environ["TQDM_DISABLE"] = "1"
    command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    # jupyter_client replaces a bare "python" by sys.executable
    if command not in ("python", "python3", sys.executable):
        raise CourseError(
            f"the kernel 'python3' is {command}, not this Python: pip install ipykernel here"
        )


class KernelManager(AsyncKernelManager):
    """Ends a kernel by asking it to end, and after 2.5 s by a signal. The usual one interrupts it
    first, and a kernel that is idle by then prints that as an error.

    What a kernel writes past its notebook (a C library's message, say) is passed on when its work
    is over. What it writes while it ends is not: its threads close sockets before one another, and
    a traceback about that, now and then, says nothing about the notebook.
    """

    _written: IO[bytes] | None = None  # the kernel's standard error

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        self._written = tempfile.TemporaryFile()
        await super()._async_launch_kernel(kernel_cmd, **kw | {"stderr": self._written})

    async def _async_interrupt_kernel(self) -> None:
        if self.shutting_down:  # asked for first, whichever way the kernel is ended
            self._pass_on()
        else:
            await super()._async_interrupt_kernel()

    async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
        self._pass_on()  # a kernel that died by itself was never asked to end
        await super()._async_cleanup_resources(restart)

    def _pass_on(self) -> None:
        if self._written is not None:
            self._written.seek(0)
            sys.stderr.write(self._written.read().decode(errors="replace"))
            self._written.close()
            self._written = None


def tidy(path: Path) -> None:
    """Take run times and paths out of a notebook's metadata, so that it says the same on every
    machine with the same Python."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    # language_info stays as the kernel gives it: JupyterLab stores the same, and would mark a
    # notebook without it as changed as soon as it is opened
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill adds empty lists
    temporary = path.with_name(f".{path.name}.tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


def execute(path: Path, output: Path, parameters: dict[str, object]) -> float:
    """Run one notebook in its own folder and keep it, with its outputs, at `output`, also when it
    fails.

    Returns the seconds it took. Raises CourseError with the notebook and what it refused, or the
    cell and its traceback.
    """
    # what it logs (a kernel that died), it raises, too, and that is what is said here
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    prepare_kernels()
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            path,
            output,
            parameters=parameters,
            cwd=path.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=300,
            iopub_timeout=60,
            kernel_manager_class=KernelManager,
            # errors only: it warns about its own transport otherwise
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
    except PapermillExecutionError as error:
        if error.ename in REFUSALS:
            raise CourseError(f"{path.stem}: {error.evalue}") from None
        trace = ANSI.sub("", "\n".join(error.traceback)) or f"{error.ename}: {error.evalue}"
        raise CourseError(
            f"{path.stem} stopped in cell [{error.exec_count}]:\n\n{error.source}\n\n{trace}\n\n"
            f"The notebook as far as it came: {shown(output)}"
        ) from None
    except KeyboardInterrupt:
        # the cell's reply never comes: the loop that waited for it would say so at the very end
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except DeadKernelError:
        raise CourseError(
            f"{path.stem}: its kernel died (often: out of memory); see {shown(output)}"
        ) from None
    finally:
        if output.exists():
            tidy(output)
    return time.perf_counter() - started


# --- the course


@dataclass(frozen=True)
class Places:
    """Where a run of the course leaves its results."""

    folder: Path  # Workspace.folder

    @property
    def notebooks(self) -> Path:
        return self.folder / "notebooks"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"


def run(
    profile: str = "demo",
    settings: dict[str, object] | None = None,
    *,
    first: str | None = None,
    parameters: dict[str, object] | None = None,
    data_root: str = "data",
    runs_root: str = "runs",
    device: str = "auto",
    notebooks: Path = profiles.ROOT / "notebooks",
    rewrite: bool = False,
) -> dict:
    """Execute the course and return its summary, which is also written to the workspace's
    summary.json.

    `first` starts at that notebook and keeps the earlier ones' times; `parameters` are the
    notebooks' own and `seed`; `rewrite` also rewrites the PNGs in figures/. Raises ChoiceError
    before anything runs, CourseError at the first failure.
    """
    asked = profiles.load(profile, settings, "--set")
    workspace = Workspace(asked, data_root, runs_root, device)
    _refuse_features(workspace)
    workspace.check()
    if not workspace.generated:
        workspace.clips()  # a table or folder that breaks rules is refused before anything runs
    given = dict(parameters or {})
    for name, option in OPTIONS.items():
        if name in given:
            raise ChoiceError(f"parameter {name!r} has an option of its own: {option}")
    given |= {
        "profile": profile if profile in profiles.PROFILES else str(_located(profile)),
        "settings": dict(settings or {}),
        "data_root": str(workspace.data_root),
        "runs_root": str(workspace.runs_root),
        "device": device,
    }
    paths = start_at(notebooks_in(notebooks), first)
    accepted = {path: accepted_parameters(path) for path in paths}
    check_parameters(given, accepted)
    if rewrite:
        rewrite_figures()
    return _execute_all(paths, accepted, given, Places(workspace.open_folder()), bool(first))


def _refuse_features(workspace: Workspace) -> None:
    """Most notebooks listen to clips and look at them: features alone are nothing to them."""
    if workspace.profile.data.source == "features":
        raise ChoiceError(
            f"profile {workspace.profile.name!r} has imported features, and the course reads clips:"
            " `taemi train`, `taemi compare` and `taemi evaluate` take them, and notebook A2 takes "
            "their file: taemi run --from A2 -p features_file FILE"
        )


def _located(profile: str) -> Path:
    """A TOML file's path as a notebook finds it, which runs in another folder: the file in the
    current folder where there is one, else the one in the repository."""
    path = Path(profile)
    return path.absolute() if path.exists() else profiles.resolve(path)


def _execute_all(
    paths: list[Path], accepted: dict, given: dict, places: Places, continues: bool
) -> dict:
    """Every notebook with the parameters that it has; the summary grows with each."""
    seconds = read_json(places.summary).get("seconds", {}) if continues else {}
    if EVALUATION in [path.stem for path in paths]:
        # made anew by this run: old scores must not outlive a failure
        places.evaluation.unlink(missing_ok=True)
    summary: dict = {}
    with tqdm(paths, unit="notebook", disable=None) as bar:
        for path in bar:
            bar.set_description(path.stem)
            own = {name: value for name, value in given.items() if name in accepted[path]}
            seconds[path.stem] = round(execute(path, places.notebooks / path.name, own), 1)
            tqdm.write(f"{path.stem:28} {seconds[path.stem]:7.1f} s")
            if path.stem == EVALUATION and not places.evaluation.exists():
                raise CourseError(
                    f"{EVALUATION} ran through but did not write {shown(places.evaluation)}"
                )
            summary = {
                "profile": places.folder.name,
                **read_json(places.evaluation),
                "seconds": seconds,
            }
            files.write_json(places.summary, summary)
    return summary


def render(
    first: str | None = None, only: bool = False, notebooks: Path = profiles.ROOT / "notebooks"
) -> None:
    """Execute the notebooks with their own defaults and store the outputs in place: what is
    committed and tested.

    A notebook that fails keeps its old outputs; the failed one lies in runs/render/.
    """
    paths = start_at(notebooks_in(notebooks), first)
    for path in paths[:1] if only else paths:
        output = profiles.resolve("runs/render") / path.name
        seconds = execute(path, output, {})
        os.replace(output, path)
        print(f"{path.stem:28} {seconds:7.1f} s")


def rewrite_figures() -> None:
    """Draw the README's figure and tell the notebooks' kernels, which inherit this, to rewrite
    theirs."""
    os.environ[figures.REWRITE] = "1"
    figures.save(figures.pipeline_diagram(), "taemi")


def summary_table(summary: dict) -> str:
    """The summary as a text table."""
    lines = []
    if "mean_rho" in summary:
        lines += ["system                    mean rho (test)"]
        lines += [f"  {name:24} {value:.3f}" for name, value in summary["mean_rho"].items()]
    if "attention_over_decoy" in summary:
        lines += ["attention, event that counts : decoy"]
        lines += [
            f"  {name:24} {value:.2f} : 1"
            for name, value in summary["attention_over_decoy"].items()
        ]
    if "clips" in summary:
        lines += [f"clips{summary['clips']:>27}"]
    lines += ["notebook                  seconds"]
    lines += [f"  {name:24} {value:.1f}" for name, value in summary["seconds"].items()]
    lines += [f"  {'all':24} {sum(summary['seconds'].values()):.1f}"]
    return "\n".join(lines)


def read_json(path: Path) -> dict:
    """The file's content, or {} where it does not exist. Raises CourseError for no JSON object."""
    try:
        return files.read_json(path) if path.exists() else {}
    except ValueError as error:
        raise CourseError(f"{path} is damaged ({error}): delete it and run again") from error
