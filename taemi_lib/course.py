"""The end of the flow: run the notebooks in order, and the command line `taemi`.

The notebooks are the experiment; this file only starts them through papermill, one after the other,
each in its own kernel of this very Python environment, with the same parameters. What they computed
lies in runs/<profile>/ afterwards.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from taemi_lib import profiles
from taemi_lib.errors import CheckpointError, ChoiceError, CourseError, EncoderError
from taemi_lib.support import files

COMMON = (
    "profile",
    "data_root",
    "runs_root",
    "device",
    "seed",
)  # the parameters every notebook has
EVALUATION = "05_evaluation"  # the notebook that writes the scores, runs/<profile>/evaluation.json
DEMO_CHECKPOINT = Path("demo/systems/cue/taemi/seed0")  # below the runs folder
# errors of the library that say all there is to say: which file or name, what else there is, what
# to do
REFUSALS = (
    "ChoiceError",
    "ManifestError",
    "StoreError",
    "EncoderError",
    "CheckpointError",
    "RunError",
)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


# ----------------------------------------------------------------------------------------------
# which notebooks, how


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
        f"no notebook begins with {first!r}; there are: {', '.join(p.stem for p in paths)}"
    )


def accepted_parameters(path: Path) -> dict[str, object]:
    """Name -> default value of what the notebook's cell tagged `parameters` sets. Raises
    CourseError."""
    import papermill

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


# ------------------------------------------------------------------------------------------------------ one notebook


def prepare_kernels() -> None:
    """Set what kernels inherit: no progress bars from the library, "python3" meaning the Python
    that runs this, also where the environment was never activated or the user has registered
    another kernel of that name.

    Raises CourseError when it would still be another one.
    """
    from jupyter_client.kernelspec import KernelSpecManager

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


def tidy(path: Path) -> None:
    """Take run times, paths and versions out of a notebook's metadata, so that it says the same on
    every machine."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
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
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
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
            extra_arguments=[
                "--IPKernelApp.log_level=40"
            ],  # errors only: it warns about its own transport otherwise
        )
    except PapermillExecutionError as error:
        if error.ename in REFUSALS:
            raise CourseError(f"{path.stem}: {error.evalue}") from None
        trace = ANSI.sub("", "\n".join(error.traceback)) or f"{error.ename}: {error.evalue}"
        raise CourseError(
            f"{path.stem} stopped in cell [{error.exec_count}]:\n\n{error.source}\n\n{trace}\n\n"
            f"The notebook as far as it came: {shown(output)}"
        ) from None
    except DeadKernelError:
        raise CourseError(
            f"{path.stem}: its kernel died (often: out of memory); see {shown(output)}"
        ) from None
    finally:
        if output.exists():
            tidy(output)
    return time.perf_counter() - started


# -------------------------------------------------------------------------------------------------------- the course


@dataclass(frozen=True)
class Places:
    """Where a run of one profile leaves its results."""

    folder: Path  # runs/<profile>

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
    *,
    first: str | None = None,
    parameters: dict[str, object] | None = None,
    data_root: str = "data",
    runs_root: str = "runs",
    device: str = "auto",
    notebooks: Path = profiles.ROOT / "notebooks",
    figures: bool = False,
) -> dict:
    """Execute the course and return its summary, which is also written to
    <runs_root>/<profile>/summary.json.

    `first` starts at that notebook and keeps the earlier ones' times; `parameters` are the
    notebooks' own and `seed`; `figures` also rewrites the PNGs in figures/. Raises ChoiceError
    before anything runs, CourseError at the first failure.
    """
    from tqdm import tqdm

    profiles.profile(profile)
    if device != "auto":
        from taemi_lib.support.device import choose

        choose(device)
    given = dict(parameters or {})
    for name in COMMON[:4]:
        if name in given:
            raise ChoiceError(
                f"parameter {name!r} has an option of its own: --{name.replace('_', '-')}"
            )
    given |= {"profile": profile, "data_root": data_root, "runs_root": runs_root, "device": device}
    paths = start_at(notebooks_in(notebooks), first)
    accepted = {path: accepted_parameters(path) for path in paths}
    check_parameters(given, accepted)

    places = Places(profiles.resolve(runs_root) / profile)
    seconds = read_json(places.summary).get("seconds", {}) if first else {}
    if EVALUATION in [path.stem for path in paths]:
        places.evaluation.unlink(
            missing_ok=True
        )  # made anew by this run: old scores must not outlive a failure
    if figures:
        rewrite_figures()
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
            summary = {"profile": profile, **read_json(places.evaluation), "seconds": seconds}
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
    from taemi_lib import figures

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
    """The file's content, or {} where it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def shown(path: Path) -> Path:
    """A path as a reader wants it: inside the repository, relative to it."""
    return path.relative_to(profiles.ROOT) if path.is_relative_to(profiles.ROOT) else path


# --------------------------------------------------------------------------------------------------
# the command line


class Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one line."""

    def error(self, message: str):
        self.exit(2, f"taemi: {message} ({self.prog} --help)\n")


def build_parser() -> Parser:
    parser = Parser(
        prog="taemi", description="From video clips to six emotional mimicry intensities."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    command = commands.add_parser("run", help="run the notebooks in order and print the summary")
    command.add_argument(
        "--profile", default="demo", help=f"one of: {', '.join(profiles.PROFILES)} (default: demo)"
    )
    command.add_argument(
        "--from",
        dest="first",
        metavar="03",
        help="start at this notebook; earlier results are kept",
    )
    command.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook's own parameter, or seed; may be repeated",
    )
    command.add_argument(
        "--data-root", default="data", help="where the clips are, seen from the repository"
    )
    command.add_argument(
        "--runs-root", default="runs", help="where results go, seen from the repository"
    )
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    command.add_argument("--figures", action="store_true", help="also rewrite the PNGs in figures/")

    command = commands.add_parser("predict", help="six intensities for one clip")
    command.add_argument("clip", type=Path, help="a video (or sound) file")
    command.add_argument(
        "--checkpoint", type=Path, help="a run folder (default: the demo course's TAEMI, seed 0)"
    )
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")

    command = commands.add_parser(
        "compare",
        help="train systems under one protocol and say which differ from taemi",
        description=(
            "Each system, taemi too, is trained with three learning rates and two seeds first (the search); then with the best rate and all "
            "seeds. What is there already is not trained again."
        ),
    )
    command.add_argument(
        "systems",
        nargs="+",
        metavar="SYSTEM",
        help="names of systems; taemi itself is always there",
    )
    command.add_argument(
        "--regime",
        help="label sets of the generated clips, as in cue,fixed (default: the first, in which the search is)",
    )
    add_study_options(command)
    command.add_argument(
        "--results",
        help="also write runs.csv, comparisons.csv, ... into this folder, seen from the repository",
    )
    command.add_argument(
        "--text",
        help="another text encoder: a folder or a name on the hub (needs a --runs-root of its own)",
    )
    command.add_argument(
        "--text-pooling",
        default="mean",
        choices=("cls", "mean"),
        help="how that encoder sums up (default: mean)",
    )

    command = commands.add_parser(
        "grid", help="the whole study of the course: every system; writes results/ (hours)"
    )
    add_study_options(command)
    command.add_argument(
        "--results",
        help="where the tables go, seen from the repository (default: results for the demo, else "
        "results/ in the profile's folder of runs)",
    )
    command.add_argument(
        "--part",
        type=part,
        default=(1, 1),
        metavar="2/4",
        help="only this share of the runs, for several machines: "
        "give the command again when all parts are done, for the next of its three rounds",
    )

    commands.add_parser("notebooks", help="list the notebooks and their parameters")

    command = commands.add_parser(
        "render", help="(developers) execute the notebooks and store their outputs in place"
    )
    command.add_argument("--from", dest="first", metavar="03", help="start at this notebook")
    command.add_argument("--only", action="store_true", help="just that one")
    return parser


def add_study_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile", default="demo", help=f"one of: {', '.join(profiles.PROFILES)} (default: demo)"
    )
    command.add_argument(
        "--seeds", type=several, default=5, help="how many of each system, at least 2 (default: 5)"
    )
    command.add_argument(
        "--data-root", default="data", help="where the clips are, seen from the repository"
    )
    command.add_argument(
        "--runs-root", default="runs", help="where runs go, seen from the repository"
    )
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    command.add_argument(
        "--processes", type=positive, help="runs side by side (default: as many as there are cores)"
    )


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def several(text: str) -> int:
    """A number of seeds: a single one says nothing about others."""
    if positive(text) < 2:
        raise argparse.ArgumentTypeError(
            f"{text!r} seed cannot tell a difference from luck: give 2 or more"
        )
    return int(text)


def part(text: str) -> tuple[int, int]:
    """ "2/4" as (2, 4): the second of four."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 2/4")
    return int(number), int(count)


def print_study(options: argparse.Namespace) -> None:
    """`taemi compare` and `taemi grid`: make what is missing, print the comparisons, write the
    tables."""
    from taemi_lib import experiments

    profile = profiles.profile(options.profile)
    if getattr(options, "text", None):
        encoders = replace(profile.encoders, text=options.text, text_pooling=options.text_pooling)
        profile = replace(profile, encoders=encoders)
    places = {
        name: getattr(options, name) for name in ("data_root", "runs_root", "device", "processes")
    }
    places["seeds"] = tuple(range(options.seeds))
    if options.command == "grid":
        study = experiments.whole_grid(profile, **places, part=options.part)
    else:
        systems = dict.fromkeys(
            [experiments.REFERENCE, *options.systems]
        )  # each once, in this order
        if len(systems) == 1:
            raise ChoiceError(
                f"nothing to compare {experiments.REFERENCE} with: name at least one other system"
            )
        wanted = (options.regime or experiments.regimes(profile)[0]).split(",")
        study = experiments.Study(
            profile, {regime.strip(): tuple(systems) for regime in wanted}, **places
        )
    folder = options.results
    if options.command == "grid" and not folder:
        folder = (
            "results"
            if profile.name == "demo"
            else Path(options.runs_root) / profile.name / "results"
        )
    try:
        if folder:
            study.check_tables(folder)  # before hours of training, not after
        if not study.run() or (options.command == "grid" and not experiments.run_beside(study)):
            print(
                "this part of this round is done; when all parts are, in one folder of runs, give the same command again for the next "
                "(the search, the grid, what stands beside it)"
            )
            return
        print(experiments.summary(study))
        if folder:
            written = study.write(folder)
            if options.command == "grid":
                experiments.write_beside(study, written)
            print(f"\ntables: {shown(written)}")
    except ChoiceError:
        raise
    except (
        RuntimeError,
        ValueError,
    ) as error:  # a run that failed, or data and runs that do not fit what was asked for
        raise CourseError(error) from error


def print_notebooks() -> None:
    for path in notebooks_in(profiles.ROOT / "notebooks"):
        parameters = ", ".join(
            f"{name}={value!r}" for name, value in accepted_parameters(path).items()
        )
        print(f"{path.stem:28} {parameters}")


def print_prediction(clip: Path, checkpoint: Path | None, device: str, as_json: bool) -> None:
    if checkpoint is None:
        checkpoint = profiles.resolve("runs") / DEMO_CHECKPOINT
        if not checkpoint.exists():
            raise CourseError(
                f"no checkpoint at {shown(checkpoint)}: run `taemi run`, or give --checkpoint"
            )
    from taemi_lib.prediction import predict

    try:
        result = predict(clip, checkpoint, device=device)
    except (CheckpointError, EncoderError) as error:
        raise CourseError(error) from error
    print(json.dumps(result.as_dict(), indent=2) if as_json else result)


def main(arguments: list[str] | None = None) -> int:
    """The command `taemi`. Returns the exit code: 0, 1 (something failed), 2 (a wrong name or
    option), 130 (Ctrl-C)."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "run":
            given = {name: literal(value) for name, value in options.parameters}
            summary = run(
                options.profile,
                first=options.first,
                parameters=given,
                data_root=options.data_root,
                runs_root=options.runs_root,
                device=options.device,
                figures=options.figures,
            )
            print(f"\n{summary_table(summary)}")
        elif options.command == "predict":
            print_prediction(options.clip, options.checkpoint, options.device, options.json)
        elif options.command in ("compare", "grid"):
            print_study(options)
        elif options.command == "notebooks":
            print_notebooks()
        else:
            render(options.first, options.only)
    except ChoiceError as error:
        print(f"taemi: {error}", file=sys.stderr)
        return 2
    except (CourseError, OSError) as error:
        print(f"taemi: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("taemi: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
