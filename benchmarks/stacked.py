"""Several runs at once against one after the other: seconds of a meta-iteration of R runs, stacked and in a loop.

    python -m benchmarks.stacked [--device cpu] [--runs 1 2 4 8] [--rounds 5] [--quick]

Both ways are whole iterations of `sharp_maml_core`: tasks drawn, meta-gradient, outer step. They take turns, round
after round, so that a machine that slows down slows both, and medians are reported. Random images.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from sharp_maml_core import MLP, Config, Conv4, Learner, build_learner
from sharp_maml_core.checks import at_least, check
from sharp_maml_core.data import ImageSplit
from sharp_maml_core.errors import UserError
from sharp_maml_core.files import write_json, write_text
from sharp_maml_core.memory import keep_freed_memory
from sharp_maml_core.outer import OuterStep
from sharp_maml_core.params import norm
from sharp_maml_core.precision import full_precision
from sharp_maml_core.recorded import recorded
from sharp_maml_core.results import device_name, provenance
from sharp_maml_core.stacking import Run, Stack
from sharp_maml_core.train import draw_training_tasks, fresh_state

RESULTS = Path(__file__).parent / "results"
SIDE, N_WAY = 28, 5
ENDLESS = 10**9


def network(name: str, filters: int) -> nn.Module:
    if name == "MLP":
        return nn.Sequential(nn.Flatten(), MLP(SIDE * SIDE, N_WAY))
    return Conv4((1, SIDE, SIDE), N_WAY, filters)


# The network of the paper on a small task of Omniglot's shape, and two networks that are mostly overhead
CASES = {
    "Conv4, 64 filters": ("Conv4", 64, {"n_tasks": 4, "inner_steps": 1, "n_query": 15}),
    "Conv4, 8 filters": ("Conv4", 8, {"n_tasks": 4, "inner_steps": 1, "n_query": 15}),
    "MLP, 2 x 40 units": ("MLP", 0, {"n_tasks": 4, "inner_steps": 1, "n_query": 15}),
}
QUICK = {"MLP, 2 x 40 units": ("MLP", 0, {"n_tasks": 2, "inner_steps": 1, "n_query": 1})}


def systems(case: tuple[str, int, dict[str, Any]], n_runs: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """Functions that take one more iteration of all runs: "stacked", and "in turn" each by its own learner."""
    name, filters, settings = case
    # Iterations without end, so that no validation comes.
    config = Config("both", n_way=N_WAY, device=str(device), iterations=ENDLESS, eval_every=ENDLESS, **settings)
    configs = [config.replace(seed=i, alpha_low=0.05 / (i + 1), alpha_up=0.05 / (i + 1)) for i in range(n_runs)]
    images = torch.randint(0, 256, (20, 20, 1, SIDE, SIDE), dtype=torch.uint8)
    split = ImageSplit.from_images(images.to(device), tuple(map(str, range(20))), "random/train")

    def build(config: Config) -> Learner:
        return build_learner(config, network(name, filters))

    stack = Stack([Run(each, build(each), fresh_state(build(each), each)) for each in configs], build)
    alone = [one_run(each, build(each), split) for each in configs]

    def stacked() -> None:
        stack.iterate(split, split)
        if device.type != "cpu":
            torch.cuda.synchronize()

    def in_turn() -> None:
        for iterate in alone:
            iterate()

    return {"stacked": stacked, "in turn": in_turn}


def one_run(config: Config, learner: Learner, split: ImageSplit) -> Callable[[], None]:
    """A function that takes one more iteration, as `meta_train` does."""
    state, generator = fresh_state(learner, config), torch.Generator().manual_seed(config.seed)
    gradient = recorded(learner.gradient, config, learner)
    outer = OuterStep(config.outer_optimizer, state.params, state.moments)

    def iterate() -> None:
        episode = draw_training_tasks(config, split, generator)
        grads, metrics = gradient(outer.params, episode, generator)
        torch.stack([norm(grads), *metrics.values()]).tolist()  # the wait for the device that the record needs
        outer(grads, config.outer_lr)

    return iterate


def measure(cases: dict[str, Any], runs: Sequence[int], rounds: int, device: torch.device) -> dict[str, Any]:
    """Median, fastest and slowest seconds, and how many times faster the stack is, by case and number of runs."""
    results: dict[str, Any] = {}
    for title, case in cases.items():
        for n_runs in tqdm(runs, desc=title):
            both = systems(case, n_runs, device)
            times: dict[str, list[float]] = {name: [] for name in both}
            warm = 1 if device.type == "cpu" else 2  # on a GPU the second records
            for round in range(rounds + warm):
                for name, iterate in both.items():
                    start = time.perf_counter()
                    iterate()
                    if round >= warm:
                        times[name].append(time.perf_counter() - start)
            seconds = {
                name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
                for name, values in times.items()
            }
            speed_up = seconds["in turn"]["median"] / seconds["stacked"]["median"]
            results.setdefault(title, {})[str(n_runs)] = seconds | {"speed_up": speed_up}
    return results


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| network | runs | stacked, s | in turn, s | times faster |", "|---|---|---|---|---|"]
    for title, by_runs in results.items():
        for n_runs, figures in by_runs.items():
            stacked, in_turn = (figures[name]["median"] for name in ("stacked", "in turn"))
            lines.append(f"| {title} | {n_runs} | {stacked:.4f} | {in_turn:.4f} | {figures['speed_up']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stacked", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument(
        "--runs", type=int, nargs="+", default=[1, 2, 4, 8], help="sizes of the stack (default 1 2 4 8)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each (default 5)")
    parser.add_argument("--quick", action="store_true", help="one tiny case: whether it works, not how fast")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the table")
    options = parser.parse_args()
    try:
        device = Config(device=options.device).torch_device
        check("rounds", options.rounds, at_least(1))
        check("runs", min(options.runs), at_least(1))
    except UserError as error:
        parser.error(str(error))
    origin = provenance(device)  # now: the files may change while this runs
    keep_freed_memory()
    full_precision()
    results = measure(QUICK if options.quick else CASES, options.runs, options.rounds, device)
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    out = options.out.expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"stacked-{slug}.json", {"results": results, "rounds": options.rounds, **origin})
    write_text(out / f"stacked-{slug}.md", f"# {device_name(device)}\n\n{report(results)}")
    print(report(results))


if __name__ == "__main__":
    main()
