"""docs/architecture.md is the house: every room exists, every arrow is allowed, nothing runs in a
circle, and a newcomer finds cross-attention in two clicks."""

import ast
import re
from pathlib import Path

import pytest

from taemi_lib.profiles import ROOT

PACKAGE = ROOT / "taemi_lib"
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `(\w+)` \|", MAP.partition("## Imports")[0], re.MULTILINE)
LATE = set(re.findall(r"^\| `([\w/.]+)` \|", MAP.partition("## Imports")[2], re.MULTILINE))
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def room(name: str) -> str:
    return (name.split(".") + [""])[1]


def imports(path: Path) -> list[tuple[ast.stmt, str]]:
    """(statement, module of this package) for every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}, line {node.lineno}: a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        else:
            continue
        found += [(node, name) for name in names if name.split(".")[0] == "taemi_lib"]
    return found


def test_every_room_exists_and_every_file_is_in_one():
    parts = [path.relative_to(PACKAGE).with_suffix("").parts for path in FILES]
    there = {part[0] for part in parts}
    assert there - {"__init__", "__main__"} == set(ROOMS) and len(ROOMS) == len(set(ROOMS))


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_imports_only_from_rooms_before_its_own(path):
    if path.parent == PACKAGE and path.stem in ("__init__", "__main__"):
        return
    own = ROOMS.index(room(module(path)))
    for _, name in imports(path):
        assert name != "taemi_lib", f"{module(path)} imports a shortcut: name the room that has it"
        assert ROOMS.index(room(name)) <= own, f"{module(path)} -> {name}"


def test_what_a_room_hands_on_is_defined_in_it():
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", MAP.partition("## Imports")[0], re.MULTILINE)
    handed = {name: re.findall(r"`(\w+)`", cell) for name, cell in rows}
    assert list(handed) == ROOMS and sum(map(bool, handed.values())) > 10
    defined = {
        (room(module(path)), node.name)
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    passed_on = {("training", "Run"), ("notebook", "Workspace")}  # defined in rooms before them
    wanted = {(name, kind) for name, kinds in handed.items() for kind in kinds}
    assert wanted - passed_on <= defined


def test_no_files_import_each_other_in_a_circle():
    """Imports in functions and for types only count, too. A package's own __init__ gathers its
    files: what they import from it is what stands in it."""
    edges = {
        module(path): {name for _, name in imports(path) if name != module(path)} for path in FILES
    }
    edges = {
        name: {to for to in found if not name.startswith(f"{to}.")} for name, found in edges.items()
    }

    def reaches(start, goal, seen):
        for to in edges.get(start, ()):
            if to == goal or (to not in seen and reaches(to, goal, seen | {to})):
                return True
            seen = seen | {to}
        return False

    circles = [name for name in edges if name != "taemi_lib" and reaches(name, name, frozenset())]
    assert not circles


def late_imports(path: Path) -> list[int]:
    """Lines of a file in which a function imports."""
    return [
        node.lineno
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module")
    ]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_stand_at_the_top_of_files_or_the_map_says_why_not(path):
    name, late = str(path.relative_to(PACKAGE)), late_imports(path)
    if name in LATE:
        assert late, f"docs/architecture.md: nothing is imported late in {name}"
    elif not name.startswith("cli/"):
        assert not late, f"{name}: imports inside functions in lines {late}"


def test_the_reading_order_of_the_readme_is_that_of_the_rooms():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    order = re.findall(r"\[(\w+)\]\(taemi_lib/", readme.partition("Reading order")[2])
    assert order == [name for name in ROOMS if name not in ("errors", "support")]


def links(path: Path) -> set[Path]:
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    return {(path.parent / target).resolve() for target in targets if "://" not in target}


def test_from_the_readme_to_cross_attention_it_takes_two_clicks():
    first = links(ROOT / "README.md")
    second = set().union(*(links(page) for page in first if page.suffix == ".md"))
    goal = PACKAGE / "models" / "attention.py"
    assert goal in first | second and "cross-attention" in goal.read_text(encoding="utf-8")
