"""Time and memory of a whole meta-iteration, variant against variant and against the way the paper's code does it.

    python -m benchmarks.speed [--device cpu] [--rounds 7] [--quick]

Every figure of a table comes from one run: the systems take turns, round after round, so that a machine that slows
down slows all of them, and medians and ratios of medians are reported. Each allocator setting has a process of its own,
because glibc's cannot be taken back. Random images: the arithmetic does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from sharp_maml_core import Config, Conv4, Episode, build_learner
from sharp_maml_core.checks import at_least, check
from sharp_maml_core.config import FAMILY
from sharp_maml_core.errors import UserError
from sharp_maml_core.files import write_json, write_text
from sharp_maml_core.memory import keep_freed_memory
from sharp_maml_core.outer import OuterStep
from sharp_maml_core.params import Params, dot, norm
from sharp_maml_core.precision import full_precision
from sharp_maml_core.recorded import recorded
from sharp_maml_core.results import device_name, provenance
from sharp_maml_core.theory.paper_tables import TABLES
from sharp_maml_core.train import fresh_state

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Shape:
    """What a meta-iteration works on."""

    image: tuple[int, int, int]
    n_way: int
    n_tasks: int
    inner_steps: int
    inner_lr: float
    n_query: int = 15
    k_shot: int = 1


SHAPES = {
    "mini-ImageNet, 5-way 1-shot": Shape((3, 84, 84), 5, n_tasks=4, inner_steps=5, inner_lr=0.01),
    "Omniglot, 20-way 1-shot": Shape((1, 28, 28), 20, n_tasks=16, inner_steps=1, inner_lr=0.1),
}
QUICK = {"tiny": Shape((1, 16, 16), 5, n_tasks=2, inner_steps=2, inner_lr=0.1, n_query=2)}
# The paper's Table 3, and what we set out to reach
PAPER = {row.method: row.time for row in TABLES[3].rows}
TARGET = {"low": 1.15, "up": 2.1, "both": 2.2, "low-anil": 0.75, "e-low": 1.15, "e-low-anil": 0.75}


def episode_of(shape: Shape, device: str, dtype: torch.dtype = torch.float32) -> Episode:
    """Random images in the layout of `sample_episodes`."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape.image

    def images(per_class: int) -> torch.Tensor:
        size = (shape.n_tasks, shape.n_way * per_class, height, width, channels)
        return torch.rand(size, generator=generator).to(device, dtype).permute(0, 1, 4, 2, 3)

    labels = torch.arange(shape.n_way, device=device)
    return Episode(
        images(shape.k_shot),
        labels.repeat_interleave(shape.k_shot).expand(shape.n_tasks, -1),
        images(shape.n_query),
        labels.repeat_interleave(shape.n_query).expand(shape.n_tasks, -1),
    )


def config_of(shape: Shape, variant: str, device: str, **settings: Any) -> Config:
    return Config(
        variant=variant,
        n_way=shape.n_way,
        n_tasks=shape.n_tasks,
        n_query=shape.n_query,
        inner_lr=shape.inner_lr,
        inner_steps=shape.inner_steps,
        device=device,
        **settings,
    )


def ours(shape: Shape, variant: str, device: str, **settings: Any) -> Callable[[], None]:
    """A function that runs one meta-iteration: meta-gradient, then Adam."""
    config = config_of(shape, variant, device, **settings)
    learner = build_learner(config, Conv4(shape.image, shape.n_way))
    episode = episode_of(shape, device)
    state = fresh_state(learner, config)
    outer = OuterStep(config.outer_optimizer, state.params, state.moments)
    generator = torch.Generator().manual_seed(0)
    gradient = recorded(learner.gradient, config, learner)

    def iteration() -> None:
        grads, _ = gradient(outer.params, episode, generator)
        outer(grads, config.outer_lr)
        if device != "cpu":
            torch.cuda.synchronize()

    if gradient is not learner.gradient:
        iteration()  # the next one records
    return iteration


def peer(shape: Shape, variant: str) -> Callable[[], None]:
    from .peer import Peer

    alpha = 5e-4
    radii = {"maml": (0.0, 0.0), "low": (alpha, 0.0), "up": (0.0, alpha), "both": (alpha, alpha)}[variant]
    system = Peer(shape.image, shape.n_way, shape.inner_lr, shape.inner_steps, *radii)
    # The loaders of the released code give contiguous tensors.
    episode = Episode(*(value.contiguous() for value in episode_of(shape, "cpu")))
    return lambda: system.iteration(episode)


# -- processes that take turns -----------------------------------------------------------------------------------------


def _worker(connection: Any, keep_memory: bool) -> None:
    """Build systems and time single iterations of them, as asked."""
    if keep_memory:
        keep_freed_memory()
    full_precision()
    systems: dict[str, Callable[[], None]] = {}
    while True:
        what, *arguments = connection.recv()
        if what == "build":
            name, make, args, settings = arguments
            systems[name] = make(*args, **settings)
            systems[name]()  # warm-up
            connection.send(None)
        elif what == "time":
            start = time.perf_counter()
            systems[arguments[0]]()
            connection.send(time.perf_counter() - start)
        elif what == "call":
            function, args = arguments
            connection.send(function(*args))
        else:
            return


class Worker:
    def __init__(self, keep_memory: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_worker, args=(theirs, keep_memory), daemon=True)
        self._process.start()

    def ask(self, *message: Any) -> Any:
        self._ours.send(message)
        return self._ours.recv()

    def close(self) -> None:
        self._ours.send(("stop",))
        self._process.join()


def take_turns(systems: dict[str, tuple[Worker, Any, tuple[Any, ...], dict[str, Any]]], rounds: int) -> dict[str, Any]:
    """Median, fastest and slowest seconds of each system over the rounds."""
    for name, (worker, make, args, settings) in tqdm(systems.items(), desc="building", leave=False):
        worker.ask("build", name, make, args, settings)
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, (worker, *_rest) in systems.items():
            times[name].append(worker.ask("time", name))
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in times.items()
    }


# -- what is measured --------------------------------------------------------------------------------------------------


def time_systems(shape: Shape, rounds: int, device: str) -> dict[str, Any]:
    kept = Worker(keep_memory=True)
    systems: dict[str, Any] = {v: (kept, ours, (shape, v, device), {}) for v in FAMILY}
    other = {"bfloat16 query": {"query_precision": "bfloat16"}}
    if device != "cpu":
        other |= {"not recorded": {"record": False}, "loop": {"task_map": "loop"}, "vmap": {"task_map": "vmap"}}
    for name, settings in other.items():
        systems |= {f"{v}, {name}": (kept, ours, (shape, v, device), settings) for v in ("maml", "both")}
    if device == "cpu":
        plain = Worker(keep_memory=False)
        systems |= {f"Torchmeta {v}": (plain, peer, (shape, v), {}) for v in ("maml", "both")}
        systems |= {f"Torchmeta {v}, kept memory": (kept, peer, (shape, v), {}) for v in ("maml", "both")}
        systems |= {f"{v}, default allocator": (plain, ours, (shape, v, device), {}) for v in ("maml", "both")}
    figures = take_turns(systems, rounds)
    for worker in {worker for worker, *_ in systems.values()}:
        worker.close()
    return figures


def time_against_tasks(shape: Shape, rounds: int, device: str) -> dict[str, Any]:
    """Seconds for 1, 2, 4, 8 tasks: linear means the same seconds a task."""
    worker = Worker(keep_memory=True)
    systems = {
        str(n): (worker, ours, (Shape(**{**vars(shape), "n_tasks": n}), "maml", device), {}) for n in (1, 2, 4, 8)
    }
    figures = take_turns(systems, rounds)
    worker.close()
    return {n: figure["median"] for n, figure in figures.items()}


def peak_memory(shape: Shape, steps: int, device: str) -> dict[str, float]:
    """MiB of one iteration at its peak, in a fresh process, and of the process before it."""
    worker = Worker(keep_memory=True)
    figures = worker.ask("call", _peak, (Shape(**{**vars(shape), "inner_steps": steps}), device))
    worker.close()
    return figures


def most_resident() -> float:
    """MiB of memory that this process had at its most."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Not getrusage's ru_maxrss, which on Linux a child process inherits from its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _peak(shape: Shape, device: str) -> dict[str, float]:
    tiny = Shape((1, 16, 16), 2, n_tasks=1, inner_steps=1, inner_lr=0.1, n_query=1)
    ours(tiny, "maml", device)()  # loads the libraries
    before = most_resident()
    iteration = ours(shape, "maml", device)
    for _ in range(2):
        iteration()
    if device != "cpu":
        return {"before": 0.0, "peak": torch.cuda.max_memory_allocated() / 2**20}
    return {"before": before, "peak": most_resident()}


def gradient_errors(shape: Shape, device: str) -> dict[str, Any]:
    """Cosine similarity and relative error of the meta-gradient against float64, at initialisation."""

    def gradient(**settings: Any) -> Params:
        config = config_of(shape, "maml", device, **settings)
        learner = build_learner(config, Conv4(shape.image, shape.n_way))
        params = learner.init(torch.Generator().manual_seed(0))
        grads, _ = learner.gradient(params, episode_of(shape, device, config.torch_dtype))
        return {name: value.double() for name, value in grads.items()}

    exact = gradient(dtype="float64")
    figures = {}
    cases: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16 query": {"query_precision": "bfloat16"}}
    if device != "cpu":
        cases["TF32"] = {}
    for name, settings in cases.items():
        torch.backends.cudnn.allow_tf32 = name == "TF32"
        found = gradient(**settings)
        difference = {key: found[key] - exact[key] for key in exact}
        figures[name] = {
            "cosine": float(dot(found, exact) / norm(found) / norm(exact)),
            "relative_error": float(norm(difference) / norm(exact)),
        }
    full_precision()
    return figures


def arithmetic(shape: Shape, seconds: float, device: str, size: int = 4096) -> dict[str, float]:
    """Floating-point operations of one MAML iteration, their rate, and a square matrix product's beside it."""
    iteration = ours(shape, "maml", device, record=False)  # what is replayed passes no counter
    with FlopCounterMode(display=False) as counter:
        iteration()
    a = torch.rand(size, size, device=device)

    def product() -> float:
        start = time.perf_counter()
        _ = a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    product()
    peak = 2 * size**3 / statistics.median(product() for _ in range(5))
    rate = counter.get_total_flops() / seconds
    return {"flop": float(counter.get_total_flops()), "flop_per_second": rate, "matmul": peak, "fraction": rate / peak}


def measure(shape: Shape, rounds: int, device: str) -> dict[str, Any]:
    systems = time_systems(shape, rounds, device)
    return {
        "shape": vars(shape),
        "seconds": systems,
        "relative_to_maml": {v: systems[v]["median"] / systems["maml"]["median"] for v in FAMILY},
        "seconds_by_tasks": time_against_tasks(shape, rounds, device),
        "peak_mib_by_inner_steps": {str(n): peak_memory(shape, n, device) for n in (1, 10)},
        "gradient": gradient_errors(shape, device),
        "arithmetic": arithmetic(shape, systems["maml"]["median"], device),
    }


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    for title, figures in results.items():
        seconds, gradient = figures["seconds"], figures["gradient"]
        lines += [f"## {title}", "", "| system | median s | min - max | relative to maml | target | paper |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, value in seconds.items():
            ratio = value["median"] / seconds["maml"]["median"]
            target, paper = TARGET.get(name, ""), PAPER.get(name, "")
            spread = f"{value['min']:.3f} - {value['max']:.3f}"
            lines.append(f"| {name} | {value['median']:.3f} | {spread} | {ratio:.2f} | {target} | {paper} |")
        lines.append("")
        if "Torchmeta maml" in seconds:
            for mine, theirs in (("maml", "Torchmeta maml"), ("both", "Torchmeta both")):
                for suffix in ("", ", kept memory"):
                    base = seconds[theirs + suffix]["median"]
                    lower = base / seconds[f"{mine}, bfloat16 query"]["median"]
                    speed = base / seconds[mine]["median"]
                    lines.append(f"- {mine}: {speed:.2f}x faster than {theirs}{suffix}; {lower:.2f}x in bfloat16")
        for name, value in gradient.items():
            lines.append(
                f"- meta-gradient in {name}: cosine {value['cosine']:.6f} with float64, "
                f"relative error {value['relative_error']:.2e}"
            )
        one, ten = (figures["peak_mib_by_inner_steps"][n] for n in ("1", "10"))
        lines.append(
            f"- peak memory at 10 inner steps {ten['peak']:.0f} MiB, at 1 step {one['peak']:.0f} MiB: "
            f"{ten['peak'] / one['peak']:.2f}x (without the libraries' {one['before']:.0f} MiB: "
            f"{(ten['peak'] - ten['before']) / (one['peak'] - one['before']):.2f}x)"
        )
        by_tasks = ", ".join(f"{n}: {s / int(n):.3f}" for n, s in figures["seconds_by_tasks"].items())
        lines.append(f"- seconds a task by number of tasks: {by_tasks}")
        rate = figures["arithmetic"]
        lines.append(
            f"- {rate['flop'] / 1e9:.0f} GFLOP an iteration at {rate['flop_per_second'] / 1e9:.0f} GFLOP/s, "
            f"{100 * rate['fraction']:.0f}% of a 4096x4096 float32 matrix product's rate"
        )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument("--rounds", type=int, default=7, help="iterations of each system (default 7)")
    parser.add_argument("--quick", action="store_true", help="one tiny shape: whether it works, not how fast")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the table")
    options = parser.parse_args()
    try:
        device = Config(device=options.device).torch_device
        check("rounds", options.rounds, at_least(1))
    except UserError as error:
        parser.error(str(error))
    origin = provenance(device)  # now: the files may change while this runs
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    out = options.out.expanduser()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for title, shape in (QUICK if options.quick else SHAPES).items():
        print(title, file=sys.stderr)
        results[title] = measure(shape, options.rounds, str(device))
        # What is measured is kept, should the next shape be cut off.
        write_json(out / f"speed-{slug}.json", {"results": results, "rounds": options.rounds, **origin})
        write_text(out / f"speed-{slug}.md", f"# {device_name(device)}\n\n{report(results)}")
    print(report(results))
    print(json.dumps({"written": f"speed-{slug}.json"}))


if __name__ == "__main__":
    main()
