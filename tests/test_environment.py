"""The three ways to install say the same: pyproject.toml has the ranges, constraints.txt the tested
versions, and environment.yml installs through both. What goes with a release agrees with them."""

import re
import tomllib
from glob import glob
from importlib.metadata import PackageNotFoundError, metadata, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from taemi_lib import course
from taemi_lib.profiles import MICRO, PACKAGE, ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
PINS = {
    canonicalize_name(Requirement(line).name): Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
NEEDED = [
    Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
]


@pytest.fixture(scope="module")
def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_constraints_are_exact_versions_that_fit_everywhere():
    for name, pin in PINS.items():
        (only,) = pin.specifier
        assert only.operator == "==" and "*" not in only.version, (
            f"constraints.txt: {pin} is not an exact version"
        )
        assert Version(only.version).local is None, (
            f"constraints.txt: {name} carries a local build tag"
        )


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: needed.name)
def test_every_dependency_has_a_range_and_a_tested_version_inside_it(needed):
    pin = PINS.get(canonicalize_name(needed.name))
    assert pin is not None, f"constraints.txt does not pin {needed.name}"
    assert needed.specifier, f"pyproject.toml: {needed.name} has no lower bound"
    assert needed.specifier.contains(next(iter(pin.specifier)).version), (
        f"{pin} is outside {needed}"
    )


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: needed.name)
def test_what_is_installed_fits_the_ranges(needed):
    try:
        installed = version(needed.name)
    except PackageNotFoundError:
        pytest.fail(f"{needed.name} is not installed: pip install -c constraints.txt -e .[test]")
    assert needed.specifier.contains(installed, prereleases=True), (
        f"{needed} is needed, {installed} is installed"
    )


@pytest.mark.parametrize("pin", PINS.values(), ids=lambda pin: pin.name)
def test_the_oldest_python_that_is_accepted_can_install_every_pin(pin):
    """Where one cannot, pip tries other versions of everything for minutes, before it gives up."""
    try:
        installed = version(pin.name)
    except PackageNotFoundError:
        pytest.skip("not installed on this system")
    if not pin.specifier.contains(installed):
        pytest.skip(f"{installed} is installed")
    (oldest,) = SpecifierSet(PROJECT["requires-python"])
    needed = SpecifierSet(metadata(pin.name)["Requires-Python"] or "")
    assert needed.contains(Version(f"{oldest.version}.0")), f"{pin} needs Python {needed}"


def test_torch_resolves_to_the_one_version_that_has_a_cpu_build():
    assert str(PINS["torch"].specifier) == "==2.13.0"


def test_conda_brings_a_python_that_the_project_accepts_and_pip_brings_the_rest(conda):
    assert conda["name"] == PROJECT["name"] and conda["channels"] == ["conda-forge"]
    specs = [spec for spec in conda["dependencies"] if isinstance(spec, str)]
    assert [spec.partition("=")[0] for spec in specs] == ["python", "pip"], (
        "other packages belong into pyproject.toml"
    )
    python = specs[0].partition("=")[2]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")


def test_the_pip_section_installs_this_project_under_its_constraints(conda):
    (pip,) = (spec["pip"] for spec in conda["dependencies"] if isinstance(spec, dict))
    assert pip == ["-c constraints.txt", "-e .[test]"]
    assert "test" in PROJECT["optional-dependencies"]


def test_the_makefile_the_readme_and_ci_install_and_test_the_same_way():
    install = "-c constraints.txt -e '.[test]'"
    assert (
        install in (ROOT / "Makefile").read_text() and install in (ROOT / "README.md").read_text()
    )
    ci = [
        line
        for line in (ROOT / ".ci/run").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(ci) == 1 and ci[0].endswith("exec make test")
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_package_brings_its_encoders_and_the_mark_of_its_types():
    wanted = SETTINGS["tool"]["setuptools"]["package-data"]["taemi_lib"]
    assert "py.typed" in wanted and (PACKAGE / "py.typed").is_file()
    # as setuptools reads the patterns
    packed = {name for pattern in wanted for name in glob(str(PACKAGE / pattern), recursive=True)}
    encoders = {str(path) for path in MICRO.rglob("*") if path.suffix in (".safetensors", ".json")}
    assert packed >= encoders and len(encoders) > 10


def test_the_changelog_and_the_citation_are_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([\d.]+)\]", text, re.MULTILINE)[0] == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_the_hook_for_notebooks_calls_what_rendering_calls():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (hook,) = [hook for hook in repository["hooks"] if hook["id"] == "tidy-notebooks"]
    code = hook["entry"].split('"')[3]  # python -c "..."
    compile(code, "hook", "exec")
    (function,) = re.findall(r"from taemi_lib\.course import (\w+)", code)
    assert callable(getattr(course, function))
