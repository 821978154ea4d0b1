"""The workflow, for real: on two cores of this machine, and on a SLURM of one node where there is one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import one_node
import pytest
import torch
from tiny import tiny

from experiments import cells, worker
from experiments.store import DIVERGED, Store, note_partial
from sharp_maml_core import published

# A dozen processes that each load PyTorch: on a busy machine that takes minutes.
pytestmark = pytest.mark.timeout(1200)

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())


def snakemake(
    folder: Path, store: Store, *options: str, device: str = "cpu", **environment: str
) -> subprocess.CompletedProcess[str]:
    places = [f"runs={store.runs}", f"results={store.results}", f"cells={store.cells}"]
    profile = "slurm" if "SLURM_CONF" in environment else "local"
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "-s", str(ROOT / "experiments" / "Snakefile"), *options),
            *("--profile", str(ROOT / "experiments" / "profiles" / profile)),
            *("--config", "names=g-maml", f"device={device}", *places),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=1000,
    )


def assert_done(store: Store, names: list[str]) -> None:
    assert sorted(path.stem for path in store.results.glob("*.json")) == names
    assert len(published.load(store.results)) == len(names)
    assert "## g (tiny)" in (store.runs / "tables.md").read_text()


def test_two_cores_do_what_is_missing_and_only_that(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's name"  # which a shell would take apart
    folder.mkdir()
    store, _ = tiny(folder)
    done = snakemake(tmp_path, store, "--cores", "2")
    assert done.returncode == 0, done.stderr
    assert_done(store, ["g-maml-seed0", "g-maml-seed1"])
    again = snakemake(tmp_path, store, "--cores", "2")
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stderr + again.stdout
    (store.results / "g-maml-seed1.json").unlink()  # as one is told to, to have it done again
    said = snakemake(tmp_path, store, "--cores", "2", "--dry-run", "--printshellcmds")
    assert ["seed1" in line for line in said.stdout.splitlines() if "sharp_maml_core train" in line] == [True]


@pytest.mark.parametrize(("device", "gpu"), [("cuda:99", "gpu=1"), ("auto", f"gpu={int(torch.cuda.is_available())}")])
def test_a_job_asks_for_the_gpu_that_it_uses_wherever_that_is(tmp_path: Path, device: str, gpu: str) -> None:
    store, _ = tiny(tmp_path)
    said = snakemake(tmp_path, store, "--dry-run", "--cores", "1", device=device)
    assert said.returncode == 0, said.stderr
    lines = [line for line in said.stdout.splitlines() if "resources:" in line and "gpu=" in line]
    assert len(lines) == 2
    assert all(gpu in line.replace(",", " ").split() for line in lines)


def test_training_and_collecting_have_the_threads_that_the_job_was_given(tmp_path: Path) -> None:
    store, _ = tiny(tmp_path)
    store.cells.write_text(store.cells.read_text().replace("seeds = [0, 1]", "seeds = [0]"))
    said = snakemake(tmp_path, store, "--dry-run", "--printshellcmds", "--cores", "1")
    assert said.returncode == 0, said.stderr
    (line,) = (line for line in said.stdout.splitlines() if "sharp_maml_core train" in line)
    command = line[re.search(r"(export )?OMP_NUM_THREADS", line).start() :]  # type: ignore[union-attr]
    ask = shlex.join(["-c", "import os; print(os.environ.get('OMP_NUM_THREADS'))"])
    asked = command.replace("-m sharp_maml_core", ask).replace("-m experiments", ask)
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    assert subprocess.check_output(["bash", "-c", asked], env=free, text=True).split() == ["1", "1"]


def test_a_damaged_result_stops_the_workflow_with_its_name(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    store.results.mkdir()
    store.path(runs["g-maml-seed0"]).write_text("{")
    said = snakemake(tmp_path, store, "--cores", "1")
    assert said.returncode == 1
    assert "g-maml-seed0.json is damaged: restore it, or delete it" in said.stderr
    assert store.path(runs["g-maml-seed0"]).read_text() == "{"


def test_a_run_that_diverges_is_noted_and_the_next_time_left_alone(tmp_path: Path) -> None:
    store, _ = tiny(tmp_path)
    given = store.cells.read_text().replace("seeds = [0, 1]", "seeds = [0]").replace("[{", "[{ inner_lr = 1e30,")
    store.cells.write_text(given)
    run = cells.find_run(cells.load(store.cells), "g-maml-seed0")
    once = snakemake(tmp_path, store, "--cores", "1", "--retries", "0")
    assert once.returncode == 1
    assert store.state(run) == DIVERGED
    again = snakemake(tmp_path, store, "--cores", "1", "--retries", "0")
    assert again.returncode == 0, again.stderr
    assert worker.left_alone(run, store) in again.stderr


def test_a_run_that_diverged_is_left_alone_and_the_tables_are_made_without_it(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    note_partial(runs["g-maml-seed0"], store, "cpu", diverged="iteration 7: not finite")
    said = snakemake(tmp_path, store, "--dry-run", "--printshellcmds", "--cores", "1")
    assert said.returncode == 0, said.stderr
    told = [line for line in said.stderr.splitlines() if line.startswith("diverged")]
    assert told == [worker.left_alone(runs["g-maml-seed0"], store)]
    (line,) = (line for line in said.stdout.splitlines() if "sharp_maml_core train" in line)
    assert "g-maml-seed1" in line  # and no other
    note_partial(runs["g-maml-seed1"], store, "cpu", diverged="iteration 7: not finite")
    done = snakemake(tmp_path, store, "--cores", "1")
    assert done.returncode == 0, done.stderr
    assert (store.runs / "tables.md").read_text() == "No results.\n"


@pytest.mark.skipif(bool(one_node.missing()), reason=one_node.missing())
def test_a_cluster_does_what_is_missing(tmp_path: Path) -> None:
    store, _ = tiny(tmp_path)
    store.cells.write_text(store.cells.read_text().replace("seeds = [0, 1]", "seeds = [0]"))
    folder = tmp_path / "slurm"
    folder.mkdir()
    soon = ["--seconds-between-status-checks", "1", "--slurm-init-seconds-before-status-checks", "1"]
    with one_node.one_node(folder) as environment:
        done = snakemake(tmp_path, store, *soon, **environment)
        show = ["scontrol", "-o", "show", "job"]
        jobs = subprocess.run(show, env=environment, capture_output=True, text=True).stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert_done(store, ["g-maml-seed0"])
    assert [line.split("JobState=")[1].split()[0] for line in jobs] == ["COMPLETED"]
