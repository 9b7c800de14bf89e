"""Guards over everything committed: no notebook passes nbval vacuously, nothing holds a path of
somebody's machine.

`problems` says what is wrong with one notebook. The tests at the end doctor a sound notebook in
every way that the guard is there for, because a guard that cannot fail guards nothing.
"""

import ast
import copy
import json
import os
import re
import subprocess

import nbformat
import pytest

from taemi_lib import notebook
from taemi_lib.profiles import ROOT

MAIN = [
    "00_start_here",
    "01_data_preparation",
    "02_feature_extraction",
    "03_model_building",
    "04_training",
    "05_evaluation",
    "06_ablations",
    "07_systems_compared",
    "08_missing_and_noisy",
    "09_your_own_clips",
]
COURSE = [*MAIN, "appendix/A1_micro_backbones", "appendix/A2_your_own_features"]
COMMON = list(notebook.COMMON)
LARGEST = 2_000_000  # bytes of a notebook
COMPARED = 0.6  # least share of the code cells whose outputs nbval compares
SKIPS = {"nbval-skip", "nbval-raises-exception", "nbval-ignore-output", "nbval-variable-output"}
# Written in pieces, so that this file does not find itself.
PLACES = "|".join(["root", "home", "tmp", "work", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w.\-])/(?:{PLACES})/\w|\b[A-Z]:\\Users\b")
PICTURE = re.compile(r'\s*"image/png": "[A-Za-z0-9+/=\\]+",?$')
BINARY = (".png", ".safetensors", ".mp4", ".wav", ".parquet", ".npz", ".ico")


def problems(notebook, name, folder):
    """Everything wrong with a notebook called `name` that lies in `folder`, as a list of
    sentences."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    text = "\n\n".join(prose)

    counts = [cell.execution_count for cell in code]
    if not code or counts != list(range(1, len(code) + 1)):
        found.append(
            f"execution counts are {counts}, not 1 to {len(code)}: "
            "restart the kernel and run all cells"
        )
    for cell in code:
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            found.append(f"cell [{cell.execution_count}] has a stored error")

    found += [f"parameters: {problem}" for problem in parameter_problems(code)]

    marked = [cell for cell in code if SKIPS & set(cell.metadata.get("tags", []))]
    for cell in marked:
        label, tags = f"cell [{cell.execution_count}]", SKIPS & set(cell.metadata["tags"])
        if tags != {"nbval-ignore-output"}:
            found.append(
                f"{label} is tagged {', '.join(sorted(tags))}: only nbval-ignore-output is allowed"
            )
        elif "widgets." not in cell.source and "# not compared:" not in cell.source:
            found.append(
                f"{label} ignores its output but is no widget and gives no '# not compared: reason'"
            )
    if any("NBVAL_" in cell.source for cell in code):
        found.append("an NBVAL comment stands in a cell: use tags, which this guard counts")
    if len(code) - len(marked) < COMPARED * len(code):
        found.append(
            f"only {len(code) - len(marked)} of {len(code)} code cells are compared, "
            f"needed: {COMPARED:.0%}"
        )

    headings = [line for source in prose for line in source.splitlines() if line.startswith("# ")]
    if len(headings) != 1:
        found.append(f"{len(headings)} headings of level 1, expected one")
    for wanted, pattern in (
        ("learning goals", r"learning goals|you will be able to"),
        ("'Try it yourself'", r"try it yourself"),
        ("a section on limits", r"limit"),
    ):
        if not re.search(pattern, text, re.IGNORECASE):
            found.append(f"{wanted}: missing")
    for formula in re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", text, flags=re.DOTALL):
        if re.search(
            r"\\\\[A-Za-z]", formula
        ):  # a line break (two backslashes) is followed by a space or a new line
            found.append(
                f"a formula with doubled backslashes, shown as plain letters: {formula[:60]!r}"
            )
    links = re.findall(r"\]\(([^)#\s]+)", text)
    for choices in neighbours(name):
        if not set(choices) & set(links):
            found.append(f"no link to {' or '.join(choices)}")
    for link in links:
        if not re.match(r"[a-z]+:", link) and not (folder / link).exists():
            found.append(f"the link {link} leads nowhere")

    raw = nbformat.writes(notebook)
    if match := MACHINE_PATH.search(raw):
        found.append(f"a path of some machine: {raw[match.start() : match.start() + 60]!r}")
    if len(raw.encode()) >= LARGEST:
        found.append(f"{len(raw.encode()) / 1e6:.1f} MB, the limit is {LARGEST / 1e6:.0f} MB")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("its kernel is not python3")
    return found


def parameter_problems(code):
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged 'parameters', expected one"]
    found, names = [], []
    for statement in ast.parse(tagged[0].source).body:
        plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1
        if not plain or not isinstance(statement.targets[0], ast.Name):
            found.append(f"'{ast.unparse(statement)}' is not NAME = literal")
            continue
        names.append(statement.targets[0].id)
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            found.append(
                f"'{ast.unparse(statement)}' is computed: papermill could not override it safely"
            )
    if names[: len(COMMON)] != COMMON:
        found.append(f"they begin with {names[: len(COMMON)]}, expected {COMMON}")
    return found


def neighbours(name):
    """Links a notebook has to hold: to the one before and the one after; from an appendix, to any
    of the course."""
    if name not in MAIN:
        return [[f"../{main}.ipynb" for main in MAIN]]
    place = MAIN.index(name)
    return [[f"{MAIN[i]}.ipynb"] for i in (place - 1, place + 1) if 0 <= i < len(MAIN)]


# ------------------------------------------------------------------------------------------------
# the repository


def found_notebooks():
    folder = ROOT / "notebooks"
    paths = [path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)


def committed_files():
    """What git tracks or would add. Only files that are there: one may be deleted and not yet
    committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


@pytest.mark.parametrize("name", sorted({*COURSE, *found_notebooks()}))
def test_notebook_is_sound(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    assert path.exists(), f"notebooks/{name}.ipynb is missing"
    listed = problems(nbformat.read(path, as_version=4), name, path.parent)
    assert not listed, "\n".join([f"notebooks/{name}.ipynb:", *listed])


def test_no_committed_file_holds_a_path_of_some_machine_or_a_local_build_tag():
    tag = "+" + "cpu"
    found = []
    for name in committed_files():
        if name.endswith(BINARY):
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            if PICTURE.match(line):  # base64, in which any four letters come up now and then
                continue
            if (match := MACHINE_PATH.search(line)) or (match := re.search(re.escape(tag), line)):
                found.append(
                    f"{name}:{number}: {line[max(0, match.start() - 20) : match.start() + 40]!r}"
                )
    assert not found, "\n".join(found)


def test_every_notebook_is_on_both_maps():
    start = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    shown = {
        "README.md": (ROOT / "README.md").read_text(),
        "00": "\n".join(cell.source for cell in start.cells),
    }
    assert all(f"notebooks/{name}.ipynb)" in shown["README.md"] for name in COURSE)
    assert all(f"]({name}.ipynb)" in shown["00"] for name in COURSE[1:])


def test_links_in_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    broken = [
        link for link in links if not re.match(r"[a-z]+:", link) and not (ROOT / link).exists()
    ]
    assert links and not broken, broken


# --------------------------------------------------------------------------------------- can the
# guard fail at all?


@pytest.fixture
def sound(tmp_path):
    """A notebook that every guard accepts, as 01_data_preparation."""
    for name in ("00_start_here", "01_data_preparation", "02_feature_extraction"):
        (tmp_path / f"{name}.ipynb").touch()
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    parameters = code("\n".join(f"{name} = 0" for name in COMMON) + "\nclips = [1, 2]")
    parameters.metadata["tags"] = ["parameters"]
    widget = code("widgets.clip_browser(clips)")
    widget.metadata["tags"] = ["nbval-ignore-output"]
    notebook = nbformat.v4.new_notebook(
        cells=[
            markdown(
                "# Title\nLearning goals: see.\n\n"
                "[back](00_start_here.ipynb) [on](02_feature_extraction.ipynb)"
            ),
            parameters,
            code("1 + 1"),
            code("2 + 2"),
            widget,
            markdown("## Try it yourself\n\n## Limits\nMany."),
        ]
    )
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    return notebook


def test_a_sound_notebook_passes(sound, tmp_path):
    assert problems(sound, "01_data_preparation", tmp_path) == []


def stripped(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []


def failed(notebook):
    notebook.cells[2].outputs = [
        nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[])
    ]


def first_cell(text):
    return lambda notebook: notebook.cells[0].update(source=text)


def parameters_cell(old, new):
    return lambda notebook: notebook.cells[1].update(
        source=notebook.cells[1].source.replace(old, new)
    )


def tagged(*tags):
    return lambda notebook: notebook.cells[2].metadata.update(tags=list(tags))


def printing(text):
    stream = nbformat.v4.new_output("stream", name="stdout", text=text)
    return lambda notebook: notebook.cells[2].update(outputs=[stream])


HOME = os.sep + "home" + os.sep
GOALS = "# Title\nLearning goals\n"
BACK, ON = "[a](00_start_here.ipynb)", "[b](02_feature_extraction.ipynb)"


@pytest.mark.parametrize(
    ("doctor", "caught"),
    [
        (stripped, "execution counts"),
        (lambda notebook: notebook.cells[3].update(execution_count=7), "execution counts"),
        (failed, "stored error"),
        (parameters_cell("seed = 0", "seed = 2 + 2 * len('a')"), "computed"),
        (parameters_cell("seed = 0", "import os"), "not NAME = literal"),
        (parameters_cell("device", "devise"), "they begin with"),
        (lambda notebook: notebook.cells[1].metadata.update(tags=[]), "0 cells are tagged"),
        (tagged("nbval-skip"), "tagged nbval-skip"),
        (tagged("nbval-ignore-output"), "gives no '# not compared"),
        (lambda notebook: notebook.cells[2].update(source="# NBVAL_SKIP\n1"), "NBVAL comment"),
        (
            lambda notebook: [
                tagged("nbval-ignore-output")(notebook),
                notebook.cells[2].update(source="1  # not compared: time"),
            ],
            "only 2 of 4 code cells",
        ),
        (first_cell(f"No title. Learning goals {BACK} {ON}"), "0 headings"),
        (first_cell(f"{GOALS}\n# Another\n{BACK} {ON}"), "2 headings"),
        (first_cell(f"# Title\n{BACK} {ON}"), "learning goals"),
        (first_cell(GOALS + BACK + ON + r" $\\hat y$"), "doubled backslashes"),
        (first_cell(f"{GOALS} {BACK}"), "no link to 02_feature_extraction.ipynb"),
        (first_cell(f"{GOALS} {BACK} {ON} [c](nothing_here.md)"), "leads nowhere"),
        (lambda notebook: notebook.cells[-1].update(source="## Limits"), "Try it yourself"),
        (lambda notebook: notebook.cells[-1].update(source="## Try it yourself"), "limits"),
        (printing(f"wrote {HOME}ada/x.png"), "path of some machine"),
        (
            lambda notebook: notebook.metadata.update(
                papermill={"input_path": f"{HOME}ada/x.ipynb"}
            ),
            "path of some machine",
        ),
        (printing("x" * LARGEST), "MB"),
        (lambda notebook: notebook.metadata.update(kernelspec={"name": "my-env"}), "kernel"),
    ],
)
def test_a_doctored_notebook_is_caught(sound, tmp_path, doctor, caught):
    notebook = copy.deepcopy(sound)
    doctor(notebook)
    listed = problems(notebook, "01_data_preparation", tmp_path)
    assert any(caught in problem for problem in listed), listed


def test_the_path_guard_knows_paths_from_addresses_and_words():
    for text in (f"{HOME}ada/x", f'"{HOME}ada"', json.dumps({"a": f"{HOME}ada"}), "C:\\Users\\Ada"):
        assert MACHINE_PATH.search(text), text
    for text in ("https://example.org/home/ada", "in/home/x", "~/work", "runs/tmp/x", "/homely/x"):
        assert not MACHINE_PATH.search(text), text
