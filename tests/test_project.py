"""What is around the package stays in step: pins, commands, packaging, and what is said about them."""

from __future__ import annotations

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sharp_maml_core.config import FIELDS

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = ("help", "env", "train", "results", "test", "lint", "book", "bench", "clean")


def _pins() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def _closure(start: list[str]) -> dict[str, str]:
    """All installed packages that the requirements lead to, with their versions."""
    found: dict[str, str] = {}
    queue = [(Requirement(text), "") for text in start]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name not in found:
            found[name] = metadata.version(name).partition("+")[0]
            queue += [(Requirement(text), "") for text in metadata.requires(name) or []]
        for wanted in requirement.extras:
            queue += [(Requirement(text), wanted) for text in metadata.requires(name) or [] if "extra" in text]
    return found


def _make(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell: nothing of a make that this runs in comes through."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=outside | environment, capture_output=True, text=True, timeout=60
    )


# ---- pins


def test_constraints_are_exact_and_sorted():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.lower().replace("_", "-"))
    for requirement in _pins().values():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), f"{requirement}: not one public version"


def test_every_package_of_every_extra_is_pinned():
    pins = _pins()
    for group in (PROJECT["dependencies"], *EXTRAS.values()):
        for requirement in map(Requirement, group):
            assert canonicalize_name(requirement.name) in pins, f"{requirement} is not in constraints.txt"


def test_installed_versions_are_the_pins():
    pins = _pins()
    everything = [*PROJECT["dependencies"], *(package for group in EXTRAS.values() for package in group)]
    for name, version in _closure(everything).items():
        if not name.startswith(("nvidia-", "cuda-", "triton")):  # torch pins these itself, where it has them
            assert name in pins, f"{name} {version} is installed but not pinned"
            assert str(pins[name].specifier) == f"=={version}", "constraints.txt and what is installed differ"


def test_conda_users_get_the_same():
    text = (ROOT / "environment.yml").read_text()
    environment = yaml.safe_load(text)
    assert environment["name"] == "sharp-maml"
    assert environment["channels"] == ["conda-forge"]
    python, pip, packages = environment["dependencies"]
    assert pip == "pip"
    assert packages == {"pip": ["-c constraints.txt", f"-e .[{','.join(EXTRAS)}]"]}
    assert python == f"python={PROJECT['requires-python'].removeprefix('>=')}.*"
    assert f"EXTRAS := {','.join(EXTRAS)}\n" in MAKEFILE
    torchmeta = str(_pins()["torchmeta"])
    assert f"pip install --no-deps {torchmeta}" in text
    assert f"TORCHMETA := {torchmeta}#" in MAKEFILE


# ---- make


def test_help_lists_every_target():
    assert re.search(r"^\.PHONY: " + " ".join(TARGETS), MAKEFILE, re.MULTILINE)
    shown = _make()
    assert shown.returncode == 0, shown.stderr
    assert re.findall(r"^  make (\w+)", shown.stdout, re.MULTILINE) == list(TARGETS)


def _train_command(*arguments: str, **environment: str) -> str:
    shown = _make("-n", "train", *arguments, **environment)
    assert shown.returncode == 0, shown.stderr
    (command,) = [line for line in shown.stdout.splitlines() if "papermill" in line]
    return command


def test_train_passes_its_parameters_on():
    command = _train_command("VARIANT=up", "DATASET=omniglot", "ITERATIONS=500")
    assert "papermill notebooks/train.ipynb 'runs/train-up.ipynb' -p variant 'up' " in command
    assert "-p dataset 'omniglot' -p iterations '500'" in command
    assert command.endswith("< /dev/null")


def test_train_passes_every_field_on_as_it_is():
    command = _train_command(*(f"{name.upper()}=it's $x" for name in FIELDS))
    for name in FIELDS:
        assert f"-p {name} 'it'\\''s $x'" in command.replace("$$", "$")


def test_train_takes_nothing_from_the_environment():
    command = _train_command(VARIANT="up", DATASET="omniglot", SEED="3")
    assert re.findall(r"-p \w+ \S+", command) == ["-p variant 'both'"]


def test_make_itself_is_no_parameter():
    command = _train_command("PYTHON=python3", "PYTEST=-x", "OMP_NUM_THREADS=1", "-j2")
    assert re.findall(r"-p \w+ \S+", command) == ["-p variant 'both'"]


@pytest.mark.parametrize(("arguments", "device"), [((), "auto"), (("DEVICE=cuda:1",), "cuda:1")])
def test_bench_takes_a_device_as_results_does(arguments: tuple[str, ...], device: str):
    shown = _make("-n", "bench", *arguments)
    assert shown.returncode == 0, shown.stderr
    assert f"-m benchmarks.speed --device '{device}'\n" in shown.stdout


def test_results_fetch_the_data_first_where_they_are_asked_to():
    for download in ("", "DOWNLOAD=false"):
        assert "fetch" not in _make("-n", "results", *download.split()).stdout
    shown = _make("-n", "results", "DOWNLOAD=true", "BUDGET=1m", "CELLS=a b")
    fetch, run = [line for line in shown.stdout.splitlines() if "-m experiments" in line]
    assert fetch.endswith("-m experiments fetch a b --device 'auto'")
    assert "-m experiments run a b" in run


def test_a_budget_is_not_for_a_cluster():
    shown = _make("-n", "results", "BUDGET=1m", "PROFILE=slurm")
    assert shown.returncode == 2
    assert "BUDGET is for the queue of this machine: leave it out with PROFILE=slurm" in shown.stderr


STUB = """#!/bin/sh
echo "$@" >> log
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && chmod +x .venv/bin/python ;;
  *"import sys"*) test ! -e old ;;
  *"import ensurepip"*) test ! -e bare ;;
  *"pip install"*) test ! -e broken ;;
esac
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout with a Python that only writes down what it is asked for."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return tmp_path


def _installs(folder: Path) -> int:
    made = _make("env", "PYTHON=./stub", folder=folder)
    assert made.returncode == 0, made.stderr
    log = folder / "log"
    count = log.read_text().count("pip install -q -c constraints.txt") if log.exists() else 0
    log.unlink(missing_ok=True)
    return count


def test_env_installs_once_and_again_when_the_pins_change(bare: Path):
    assert _installs(bare) == 1
    assert _installs(bare) == 0
    with (bare / "pyproject.toml").open("a") as file:
        file.write("\n[tool.other]\n")
    assert _installs(bare) == 0
    with (bare / "constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    assert _installs(bare) == 1
    assert _installs(bare) == 0
    shutil.copy(ROOT / "constraints.txt", bare)  # back again: what is installed is still the other
    assert _installs(bare) == 1


def test_env_does_not_trust_an_installation_that_failed(bare: Path):
    (bare / "broken").touch()
    assert _make("env", "PYTHON=./stub", folder=bare).returncode != 0
    (bare / "broken").unlink()
    (bare / "log").unlink()
    assert _installs(bare) == 1
    (bare / ".venv/bin/python").unlink()
    assert _installs(bare) == 1


@pytest.mark.parametrize(("lack", "said"), [("old", "Python 3.11 or newer is needed"), ("bare", "python3-venv")])
def test_env_says_what_is_missing(bare: Path, lack: str, said: str):
    (bare / lack).touch()
    made = _make("env", "PYTHON=./stub", folder=bare)
    assert made.returncode != 0
    assert said in made.stderr
    assert not (bare / ".venv").exists()


def test_continuous_integration_runs_what_the_readme_says():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^set -euo pipefail$", script.read_text(), re.MULTILINE)
    assert re.search(r"^make test\b", script.read_text(), re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"^make test\b", readme, re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    commands = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert {".ci/run", "make book"} <= set(commands)
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())


# ---- the package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sharp_maml_core", "tests", "benchmarks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_is_the_core_and_nothing_else(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"sharp_maml_core", f"sharp_maml_core-{PROJECT['version']}.dist-info"}
    in_wheel = {name for name in wheel.namelist() if name.endswith(".py")}
    assert in_wheel == {str(path.relative_to(ROOT)) for path in (ROOT / "sharp_maml_core").rglob("*.py")}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_wheel_asks_for_the_core_only(wheel: zipfile.ZipFile):
    name = f"sharp_maml_core-{PROJECT['version']}.dist-info/METADATA"
    about = email.message_from_bytes(wheel.read(name))
    wanted = [Requirement(text) for text in about.get_all("Requires-Dist") or []]
    plain = {requirement.name for requirement in wanted if requirement.marker is None}
    assert plain == {Requirement(text).name for text in PROJECT["dependencies"]}
    assert set(about.get_all("Provides-Extra") or []) == set(EXTRAS)


ALONE = """
import importlib, pkgutil, sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError("not a dependency of the core: " + name, name=name)
sys.meta_path.insert(0, Only())
import sharp_maml_core
from sharp_maml_core.__main__ import main
try:
    main(["--help"])
except SystemExit as leave:
    sys.exit(leave.code)
"""


def test_core_runs_without_what_only_the_extras_bring():
    core = set(_closure(PROJECT["dependencies"]))
    modules = {module for module, owners in metadata.packages_distributions().items()
               if not core & {canonicalize_name(owner) for owner in owners}}  # fmt: skip
    absent = modules - {"sharp_maml_core", "pip", "setuptools", "pkg_resources", "_distutils_hack"}
    assert {"papermill", "seaborn", "sphinx", "pytest"} <= absent
    command = [sys.executable, "-c", ALONE.format(absent=absent)]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    assert "evaluate" in alone.stdout


# ---- what is written


def test_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings
    assert headings[0] in ("Unreleased", version)


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license", "preferred-citation"} <= set(citation)
    paper = citation["preferred-citation"]
    assert (paper["type"], paper["year"], paper["volume"]) == ("conference-paper", 2022, 162)
    assert [author["family-names"] for author in paper["authors"]] == ["Abbas", "Xiao", "Chen", "Chen", "Chen"]


def test_linters_are_configured():
    assert PYPROJECT["tool"]["ruff"]["line-length"] == 120
    assert PYPROJECT["tool"]["mypy"]["disallow_untyped_defs"] is True
    assert PYPROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_readme_points_to_what_is_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
    for file, name in re.findall(r"\| `([\w/]+\.py)`: `(\w+)` \|", text):
        tree = ast.parse((ROOT / "sharp_maml_core" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}: {name}"
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(re.sub(r"^  ", "", block, flags=re.MULTILINE), "README.md", "exec")


def _files() -> list[Path]:
    """What is committed, or would be."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


# Written so that they do not find themselves.
ELSEWHERE = {
    "a path of one machine": r"(?<![\w.~$/*}-])/(?:work|root|home/\w+|Users/\w+)/",
    "a package registry": r"[p]ypi\.(?:org|python)|[p]ythonhosted\.|[d]ownload\.pytorch\.|[a]naconda\.(?:org|com)|"
    r"(?:index-url|find-links)[= ]+\w+:/",
    "a conflict": r"^<{7} |^>{7} ",
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_nothing_here_belongs_to_one_machine(what: str):
    pattern = re.compile(ELSEWHERE[what], re.MULTILINE)
    for path in _files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        match = pattern.search(text)
        assert match is None, f"{path.relative_to(ROOT)}: {what}: {match and match.group()}"


def test_nothing_that_is_built_is_committed():
    heavy = [path for path in _files() if path.stat().st_size > 2_000_000]
    assert not heavy
    built = [path for path in _files() if path.suffix in (".pyc", ".safetensors", ".hdf5", ".whl")]
    assert {path.parent.name for path in built} <= {"pretrained"}
    assert all(path.with_suffix(".json").is_file() for path in built)
    assert sum(path.stat().st_size for path in built) < 2_000_000
