"""The documents hold together: what the code cites is there, links lead somewhere, and the files
that other tools read can be read."""

import re
import tomllib

import pytest
import yaml

from taemi_lib.profiles import ROOT

CITING = ("taemi_lib/**/*.py", "tests/**/*.py", "benchmarks/**/*.py", "notebooks/**/*.ipynb")
NUMBER = r"\d+[a-z]?"
# "docs/paper.md row 9c", "rows 3, 4 and 11", "rows 6 to 8"; a line may end within a citation
ROWS = re.compile(rf"docs/paper\.md\)?,? rows? ({NUMBER}(?:(?:,| and| to|, and) {NUMBER})*)")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAPER = ROOT / "docs" / "paper.md"


def citing_files():
    return [
        ROOT / "README.md",
        *(path for pattern in CITING for path in sorted(ROOT.glob(pattern))),
    ]


def text_of(path):
    """The file's text on one line: no comment signs, no quotes of a notebook's source lines."""
    text = re.sub(r'\\n",\n\s*"', " ", path.read_text(encoding="utf-8"))
    return re.sub(r"\s*\n\s*(?:# ?)?", " ", text)


def cited(text):
    """The numbers in a citation: "6 to 8" is 6, 7, 8."""
    found = set()
    for rows in ROWS.findall(text):
        numbers = re.findall(NUMBER, rows)
        for first, last in re.findall(rf"({NUMBER}) to ({NUMBER})", rows):
            numbers += [str(row) for row in range(int(first), int(last) + 1)]
        found.update(numbers)
    return found


def rows_of_the_paper():
    return re.findall(rf"^\| ({NUMBER}) \|", PAPER.read_text(encoding="utf-8"), re.MULTILINE)


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def test_citations_are_read_in_every_form():
    said = "(docs/paper.md rows 3, 4 and 9c) docs/paper.md row 12; docs/paper.md rows 6 to 8."
    assert cited(said) == {"3", "4", "9c", "12", "6", "7", "8"}


def test_every_row_of_the_paper_that_is_cited_is_there():
    rows = rows_of_the_paper()
    assert len(rows) == len(set(rows))
    found = {path.relative_to(ROOT).as_posix(): cited(text_of(path)) for path in citing_files()}
    found.pop("tests/test_docs.py")
    assert sum(map(len, found.values())) > 20
    assert {name: lost for name, numbers in found.items() if (lost := numbers - set(rows))} == {}


def test_every_heading_of_the_paper_that_is_cited_is_there():
    quoted = re.compile(r'docs/paper\.md, "([^"\\]+)\\?"')
    known = PAPER.read_text(encoding="utf-8")
    parts = re.findall(r"^\| (\w+) \|", known, re.MULTILINE)
    found = {
        name
        for path in citing_files()
        if path.name != "test_docs.py"
        for name in quoted.findall(text_of(path))
    }
    assert "The data's real layout" in found
    assert found - {*headings(PAPER), *parts} == set()
    assert "Tables 2 to 4" in headings(PAPER)  # cited by experiments/plan.py


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists():
            broken.append(link)
        elif anchor and anchor not in map(slug, headings(target)):
            broken.append(link)
    assert broken == []


def test_the_citation_names_this_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"title", "message", "authors", "version", "license"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    page = " ".join(PAPER.read_text(encoding="utf-8").replace("\n> ", " ").split())
    assert f"*{paper['title']}*" in page.replace(".*", "*")
    for author in paper["authors"]:
        assert f"{author['given-names']} {author['family-names']}" in page


def test_pre_commit_runs_the_ruff_of_the_constraints():
    file = ROOT / ".pre-commit-config.yaml"
    hooks = {
        hook["id"]: {**repository, **hook}
        for repository in yaml.safe_load(file.read_text(encoding="utf-8"))["repos"]
        for hook in repository["hooks"]
    }
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    for name in ("ruff-check", "ruff-format"):
        hook = hooks[name]  # of ruff's own repository, or a local one that installs ruff
        assert (hook.get("rev"), hook.get("additional_dependencies")) in (
            (f"v{pinned}", None),
            (None, [f"ruff=={pinned}"]),
        )
    assert len(hooks) > 2  # the third one tidies notebooks


def test_the_example_of_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(code, {})
    assert "'audio': (4, 8, 599)" in capsys.readouterr().out


def test_every_public_name_of_the_package_is_there():
    import taemi_lib

    assert all(getattr(taemi_lib, name) is not None for name in taemi_lib.__all__)
