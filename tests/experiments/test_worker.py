"""The queue: what it takes, and that whatever happens to a run, nothing is lost and the others are done."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import tiny

from experiments import cells, cost, worker
from experiments.__main__ import duration
from experiments.cells import Run
from experiments.store import PARTIAL, Store, note_partial, progress
from experiments.worker import Queue
from sharp_maml_core import UserError, files, operations, published, run_experiment, rundir

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
Script = Callable[[Run], str]


def queue(store: Store, runs: list[Run], **options: object) -> tuple[Queue, list[str]]:
    said: list[str] = []
    made = Queue(runs, store, device="cpu", say=said.append, **options)  # type: ignore[arg-type]
    return made, said


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Put a short script in the place of a training, and of its collecting one that touches the result file."""

    def replace(script: Script) -> None:
        def commands(run: Run, store: Store, device: str) -> list[list[str]]:
            settings = json.dumps({"config": run.cell.config(run.seed).to_dict()})
            keep = f"import pathlib; p = pathlib.Path({str(store.path(run))!r}); p.parent.mkdir(exist_ok=True)"
            return [["-c", script(run)], ["-c", f"{keep}; p.write_text({settings!r})"]]

        monkeypatch.setattr(worker, "commands", commands)
        monkeypatch.setattr(worker, "LOOK", 0.01)

    return replace


def once(folder: Path, run: Run, bad: str) -> str:
    """Do something bad the first time, nothing the next."""
    mark = folder / f"{run.name}.mark"
    return f"import os, pathlib, signal; p = pathlib.Path({str(mark)!r})\nif not p.exists(): p.touch(); {bad}"


def test_runs_share_the_cores_also_where_a_process_is_not_confined_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS has none
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert worker.environment(2, "cpu")["OMP_NUM_THREADS"] == "4"


def test_runs_are_done_in_their_order(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "")
    working, said = queue(store, list(runs.values()))
    working.work()
    assert working.done == ["g-maml-seed0", "g-both-seed0", "g-maml-seed1", "g-both-seed1", "long-maml-seed0"]
    assert [line.split()[0] for line in said] == ["begun", "done"] * 5
    again, said = queue(store, list(runs.values()))
    again.work()
    assert said == []


def test_two_jobs_work_at_a_time(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    # Each waits for the other to have begun: one after the other they would never end.
    wait = "import pathlib, time; pathlib.Path({!r}).touch()\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)"
    marks = {"g-maml-seed0": ("a", "b"), "g-both-seed0": ("b", "a")}
    scripts(lambda run: wait.format(*(str(tmp_path / mark) for mark in marks[run.name])))
    working, _ = queue(store, [runs[name] for name in marks], jobs=2)
    working.work()
    assert sorted(working.done) == sorted(marks)


def test_the_results_are_read_again_when_a_process_has_ended_and_not_before(
    tmp_path: Path, scripts: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "import time; time.sleep(0.3)")  # thirty looks
    plain, asked = Queue._next, []

    def following(self: Queue) -> Run | None:
        asked.append(plain(self))
        return asked[-1]

    monkeypatch.setattr(Queue, "_next", following)
    working, _ = queue(store, [runs["g-maml-seed0"]], jobs=2)
    working.work()
    assert working.done == ["g-maml-seed0"]
    assert asked == [runs["g-maml-seed0"], None, None, None]  # at first; after the training, and the collecting


@pytest.mark.parametrize("bad", ["os.kill(os.getpid(), signal.SIGKILL)", "print('GPU lost'); os._exit(75)"])
def test_a_run_that_breaks_is_tried_again(tmp_path: Path, scripts: Callable[[Script], None], bad: str) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: once(tmp_path, run, bad.replace("print(", "print(flush=True, *(").replace("'); ", "',)); ")))
    working, said = queue(store, [runs["g-maml-seed0"]])
    working.work()
    assert working.done == ["g-maml-seed0"]
    assert ("killed by SIGKILL" in said[1]) or ("GPU lost" in said[1])
    assert "It goes on from iteration 0." in said[1]


def test_what_the_user_has_to_mend_is_said_once_and_the_rest_is_done(
    tmp_path: Path, scripts: Callable[[Script], None]
) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "import sys; print('no such data'); sys.exit(2)" if run.name == "g-maml-seed0" else "")
    working, said = queue(store, list(runs.values())[:3])
    working.work()
    assert (working.failed, working.done) == (["g-maml-seed0"], ["g-both-seed0", "g-maml-seed1"])
    assert "failed   g-maml-seed0, kept up to iteration 0: no such data" in said


def test_runs_that_diverge_do_not_keep_the_queue_from_the_others(
    tmp_path: Path, scripts: Callable[[Script], None]
) -> None:
    """They would again: the next time they are left alone, and what comes after them is done in this one already."""
    store, runs = tiny(tmp_path)
    some = list(runs.values())
    assert len(some) > worker.FAILURES
    scripts(lambda run: "" if run == some[-1] else "import sys; print('iteration 7: not finite'); sys.exit(3)")
    working, said = queue(store, some)
    working.work()
    assert working.done == [some[-1].name]
    assert working.failed == [run.name for run in some[:-1]]
    assert f"diverged {some[0].name}, kept up to iteration 0: iteration 7: not finite" in said
    again, said = queue(store, some)
    again.work()
    assert (again.done, again.failed) == ([], [])
    assert [line.split(":")[0] for line in said] == [f"diverged {run.name}" for run in some[:-1]]
    assert str(store.partial_path(some[0])) in said[0]


def test_when_everything_fails_the_queue_stops(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "import sys; print('could not be written (No space left on device)'); sys.exit(2)")
    working, said = queue(store, list(runs.values()))
    working.work()
    assert len(working.failed) == worker.FAILURES < len(runs)
    assert "the rest is left alone" in said[-1]


def test_a_run_that_another_process_has_is_left_to_it(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "")
    folder = store.folder(runs["g-maml-seed0"])
    folder.mkdir(parents=True)
    with (folder / rundir.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        working, said = queue(store, list(runs.values())[:2])
        working.work()
    assert (working.done, working.failed) == (["g-both-seed0"], [])
    assert said[0] == f"in use   g-maml-seed0: another has {folder} locked; going on with another run"


def test_a_damaged_result_is_named_and_left_as_it_is(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "")
    store.results.mkdir()
    store.path(runs["g-maml-seed0"]).write_text('{"config": ')
    working, said = queue(store, list(runs.values())[:2])
    working.work()
    assert (working.done, working.failed) == (["g-both-seed0"], ["g-maml-seed0"])
    assert "g-maml-seed0.json is damaged: left as it is." in said[0]
    assert store.path(runs["g-maml-seed0"]).read_text() == '{"config": '


def test_a_budget_takes_the_first_that_fit(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    takes = {name: cost.seconds(run, store, "cpu") for name, run in runs.items()}
    assert takes["long-maml-seed0"] > 20 * takes["g-maml-seed0"]
    scripts(lambda run: "")
    order = [runs["long-maml-seed0"], runs["g-maml-seed0"]]
    working, _ = queue(store, order, budget=10 * takes["g-maml-seed0"])
    working.work()
    assert working.done == ["g-maml-seed0", "long-maml-seed0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_queue_stops_its_runs(
    tmp_path: Path, scripts: Callable[[Script], None], number: signal.Signals
) -> None:
    store, runs = tiny(tmp_path)
    mark = tmp_path / "begun"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as from a terminal, though the tests may run under nohup
    scripts(lambda run: f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(600)")

    def interrupt() -> None:
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    working, said = queue(store, [runs["g-maml-seed0"], runs["g-both-seed0"]])
    with pytest.raises(KeyboardInterrupt):
        working.work()
    thread.join()
    signal.signal(signal.SIGHUP, before)
    assert [line.split()[0] for line in said] == ["begun", "stopped"]


def checkpointed(store: Store, run: Run) -> None:
    """Of a run that was ended while it was tested."""
    run_experiment(run.cell.config(run.seed, "cpu"), store.folder(run), progress=False)
    (store.folder(run) / rundir.RESULT).unlink()


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_a_note_and_not_the_queue(
    tmp_path: Path, scripts: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = tiny(tmp_path)
    broken, other = runs["g-maml-seed0"], runs["g-both-seed0"]
    checkpointed(store, broken)
    monkeypatch.setattr(files.os, "fsync", full)
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'failed')!r}).exists(): time.sleep(0.01)"
    scripts(lambda run: "import sys; sys.exit(2)" if run == broken else wait)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("failed"):
            (tmp_path / "failed").touch()

    working = Queue([broken, other], store, device="cpu", jobs=2, say=say)
    working.work()
    assert (working.failed, working.done) == ([broken.name], [other.name])
    assert said[2] == f"unnoted  {broken.name}: [Errno {errno.ENOSPC}] No space left on device"
    empty = f"nothing was said in {store.runs / broken.name}.log, where "
    assert said[3].startswith(f"failed   {broken.name}, kept up to iteration 6: {empty}")
    assert said[3].endswith(" MiB are free.")


def test_a_checkpoint_that_could_not_be_kept_is_not_said_to_be(
    tmp_path: Path, scripts: Callable[[Script], None]
) -> None:
    store, runs = tiny(tmp_path)
    run = runs["g-maml-seed0"]
    checkpointed(store, run)
    mark = tmp_path / "mark"
    ends = "signal.signal(signal.SIGTERM, lambda *_: sys.exit('x could not be written'))"
    begun = f"pathlib.Path({str(mark)!r}).touch()"
    scripts(lambda run: f"import signal, sys, time, pathlib; {ends}; {begun}; time.sleep(60)")
    working, said = queue(store, [run], budget=60)
    working._fill()
    while not mark.exists():
        time.sleep(0.01)
    working._stop_all()
    assert said[1:] == [
        f"stopped  {run.name}: iteration 6 of 6; the next time goes on from there",
        f"unkept   {run.name}: what it did since: x could not be written",
    ]


def test_a_folder_with_a_run_of_other_settings_is_left_alone_and_its_iterations_are_nobodys(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    run = runs["g-maml-seed0"]
    checkpointed(store, run)
    store.cells.write_text(store.cells.read_text().replace("filters = 2", "filters = 4"))
    changed = cells.find_run(cells.load(store.cells), run.name)
    working, said = queue(store, [changed])
    working.work()
    assert working.failed == [run.name]
    other = "holds a run of other settings (filters 2 is now 4): move it away, or delete it."
    assert said == [f"{store.folder(run)} {other}"]
    assert note_partial(changed, store, "cpu") == 0
    assert not store.partial_path(changed).exists()


def test_a_run_that_cannot_be_started_has_failed(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "")
    (store.runs / "g-maml-seed0.log").mkdir(parents=True)
    working, said = queue(store, list(runs.values())[:2])
    working.work()
    assert (working.failed, working.done) == (["g-maml-seed0"], ["g-both-seed0"])
    assert said[1].startswith("failed   g-maml-seed0, kept up to iteration 0: it could not be started ([Errno 21]")


def test_where_nothing_can_be_started_the_queue_stops(
    tmp_path: Path, scripts: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = tiny(tmp_path)
    scripts(lambda run: "")
    monkeypatch.setattr(worker.subprocess, "Popen", full)
    working, said = queue(store, list(runs.values()), jobs=2)
    working.work()
    assert len(working.failed) == worker.FAILURES < len(runs)
    assert "the rest is left alone" in said[-1]


def test_an_error_of_the_queue_leaves_no_trainer_behind(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    broken, other = runs["g-maml-seed0"], runs["g-both-seed0"]
    mark = tmp_path / "pid"
    long = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).symlink_to(str(os.getpid())); time.sleep(600)"
    wait = f"import os, sys, time\nwhile not os.path.islink({str(mark)!r}): time.sleep(0.01)\nsys.exit(2)"
    scripts(lambda run: wait if run == broken else long)

    def say(line: str) -> None:
        if line.startswith("failed"):  # as to a log on the same disk
            full()

    with pytest.raises(OSError, match="No space left"):
        Queue([broken, other], store, device="cpu", jobs=2, say=say).work()
    with pytest.raises(ProcessLookupError):
        os.kill(int(os.readlink(mark)), 0)


def test_measured_runs_make_the_estimate(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    run = runs["g-maml-seed0"]
    config = run.cell.config(0, "cpu")
    device = cost.device_name(config.torch_device)
    own = {"cell": {"name": "g-maml"}, "seconds_per_iteration": 2.0, "device": device, "config": config.to_dict()}
    guess = cost.seconds(run, store, "cpu", [])
    assert cost.seconds(run, store, "cpu", [own | {"device": "another"}]) == guess
    tests = config.eval_tasks + config.val_tasks * 2
    iterations = 6 + tests * operations.of_test_task(config) / operations.of_iteration(config)
    assert cost.seconds(run, store, "cpu", [own]) == pytest.approx(cost.START + 2 * iterations)
    # Another cell's count is scaled by what this one took against its own.
    config = runs["g-both-seed0"].cell.config(0, "cpu")
    maml, both = (cost.rough(runs[f"g-{name}-seed0"].cell.config(0), "cpu") for name in ("maml", "both"))
    iterations = 6 + tests * operations.of_test_task(config) / operations.of_iteration(config)
    expected = cost.START + 2 * both / maml * iterations
    assert cost.seconds(runs["g-both-seed0"], store, "cpu", [own]) == pytest.approx(expected)


def test_a_checkpoint_tells_what_its_own_device_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, runs = tiny(tmp_path)
    run = runs["long-maml-seed0"]
    guess = cost.seconds(run, store, "cpu", [])
    run_experiment(run.cell.config(0, "cpu").replace(iterations=6), store.folder(run), progress=False)
    done, spent = progress(store.folder(run))
    assert done == 6
    config = run.cell.config(0, "cpu")
    tests = config.eval_tasks + config.val_tasks * (config.iterations - done) / config.eval_every
    iterations = config.iterations - done + tests * operations.of_test_task(config) / operations.of_iteration(config)
    own = cost.START + spent / done * iterations
    assert cost.seconds(run, store, "cpu", []) == cost.seconds(run, store, "cuda:99", []) == pytest.approx(own)
    monkeypatch.setattr(cost, "device_name", lambda device: "another")
    assert cost.seconds(run, store, "cpu", []) == pytest.approx(guess, rel=1e-3)


def test_what_a_device_of_another_machine_takes_is_counted(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    run = runs["g-maml-seed0"]
    config = run.cell.config(0)
    tests = config.eval_tasks + config.val_tasks * 2
    iterations = 6 + tests * operations.of_test_task(config) / operations.of_iteration(config)
    own = {"cell": {"name": "g-maml"}, "seconds_per_iteration": 2.0, "device": "a GPU", "config": config.to_dict()}
    expected = cost.START + cost.rough(config, "cuda") * iterations
    assert cost.seconds(run, store, "cuda:99", [own]) == pytest.approx(expected)


def test_a_gpu_that_is_lost_costs_a_note_and_not_the_queue(tmp_path: Path, scripts: Callable[[Script], None]) -> None:
    store, runs = tiny(tmp_path)
    checkpointed(store, runs["g-maml-seed0"])
    scripts(lambda run: "import sys; sys.exit(2)" if run == runs["g-maml-seed0"] else "")
    said: list[str] = []
    working = Queue(list(runs.values())[:2], store, device="cuda:99", say=said.append)
    working.work()
    assert (working.failed, working.done) == (["g-maml-seed0"], ["g-both-seed0"])
    assert said[1].startswith("unnoted  g-maml-seed0: device='cuda:99' is not allowed")


def test_an_image_costs_what_its_convolutions_multiply():
    """By hand: 3x3 weights from each channel to each filter, at every position that a layer gives."""
    pool = cells.Config(dataset="omniglot", filters=8)
    assert operations.of_image(pool) * 1e9 == pytest.approx(9 * 8 * (28**2 + 8 * (14**2 + 7**2 + 3**2)))
    assert operations.of_image(pool.replace(downsampling="stride")) * 1e9 == pytest.approx(
        9 * 8 * (14**2 + 8 * (7**2 + 4**2 + 2**2))
    )


def test_work_is_counted_in_forward_passes(tmp_path: Path) -> None:
    """One step of three images and a query pass of six, times two tasks: 9 passes of the former, 3 to perturb."""
    _, runs = tiny(tmp_path)
    maml, both = (runs[f"g-{name}-seed0"].cell.config(0) for name in ("maml", "both"))
    image = (28**2 * 9 * 2 + 14**2 * 9 * 4 + 7**2 * 9 * 4 + 3**2 * 9 * 4) / 1e9
    assert operations.of_image(maml) == pytest.approx(image)
    assert operations.of_iteration(maml) == pytest.approx(2 * (9 * 3 + 3 * 6) * image)
    assert operations.of_iteration(both) == pytest.approx(2 * (2 * (9 * 3 + 3 * 6) + 3 * 3) * image)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["20", "m", "-5m", "5 minutes", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="budget"):
        duration(text)


def test_a_killed_run_goes_on_as_if_it_never_stopped(tmp_path: Path) -> None:
    """For real: the trainer is killed after its first checkpoint, and the queue starts it again."""
    store, _ = tiny(tmp_path)
    store.cells.write_text(store.cells.read_text().replace("iterations = 6,", "iterations = 60,"))
    run = cells.find_run(cells.load(store.cells), "g-maml-seed0")
    whole = run_experiment(run.cell.config(0, "cpu"), tmp_path / "whole", progress=False)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            killer.start()

    def kill() -> None:
        while not (store.folder(run) / rundir.CHECKPOINT).exists():
            time.sleep(0.005)
        (pid,) = (int(path.name) for path in Path("/proc").iterdir() if _trains(path, store.folder(run)))
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    working = Queue([run], store, device="cpu", say=say)
    working.work()
    killer.join()
    assert [line.split()[0] for line in said] == ["begun", "again", "done"]
    assert "killed by SIGKILL. It goes on from iteration 0" not in said[1]
    assert not list((store.results / PARTIAL).glob("*.json"))
    (result,) = published.load(store.results)
    assert (result["best"], result["last"]) == (whole["best"], whole["last"])
    ours, theirs = (load_file(folder / rundir.MODEL) for folder in (store.folder(run), tmp_path / "whole"))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def _trains(process: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
