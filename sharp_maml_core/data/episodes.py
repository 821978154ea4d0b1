"""The episode sampler: all tasks of a batch at once, on the device where the images are.

Only the random indices are drawn on the generator's device. With a CPU generator the tasks are therefore the same on
every machine, and the generator's state is all there is to save and restore.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import at_least, check, check_whole, count, one_of, switch
from ..episode import Episode
from ..errors import invalid
from .distort import distorted
from .split import ImageSplit, RegressionSplit, Split

QUARTER_TURNS = 4
TURNED = one_of("classes", "tasks")


def sample_episodes(
    split: Split,
    *,
    n_way: int,
    k_shot: int,
    n_query: int,
    n_tasks: int,
    generator: torch.Generator,
    rotations: bool = False,
    rotations_of: str = "classes",
    distortion: float = 0.0,
    labels: str = "task",
    dtype: torch.dtype = torch.float32,
) -> Episode:
    """Draw tasks: distinct classes of each task, then distinct instances of each class, all uniform.

    rotations     take each class four times, turned by 0, 90, 180 and 270 degrees
    rotations_of  "classes": the four are four classes, of which a task has any; "tasks": a task is turned as a whole
    distortion    how far each image is distorted, see `distort.distorted`; 0: not, and nothing is drawn
    labels        "task": the classes of a task are 0 to N-1, in random order; "split": class c of the C of the split,
                  with t quarter turns, is c + C * t in every task, below `n_classes`

    Pixels are divided by 255. On CPU images lie in memory channels last, which convolutions like best there. For a
    RegressionSplit a task is one function, with k_shot support and n_query query points; n_way is not used.

    Raises UserError if the split has too few classes, instances or points, or is of functions, which neither turn nor
    distort; and for numbers below 1.
    """
    rotations = switch("rotations", rotations)
    check_whole("n_tasks", n_tasks, count(1))
    check_split(
        split,
        n_way=n_way,
        k_shot=k_shot,
        n_query=n_query,
        rotations=rotations,
        rotations_of=rotations_of,
        distortion=distortion,
    )
    check("labels", labels, one_of("task", "split"))
    if isinstance(split, RegressionSplit):
        return _regression(split, k_shot, n_query, n_tasks, generator, dtype)
    drawn = _distinct((n_tasks,), n_classes(split, rotations and rotations_of == "classes"), n_way, generator)  # [T, N]
    if rotations and rotations_of == "tasks":
        turn = torch.randint(QUARTER_TURNS, (n_tasks, 1), generator=generator, device=generator.device)
        drawn = drawn + len(split.images) * turn
    classes, turns = drawn % len(split.images), drawn // len(split.images)
    instances = _distinct(
        (n_tasks, n_way), split.images.shape[1], k_shot + n_query, generator, split.counts[classes.cpu()]
    )  # [T, N, K+Q]
    device = split.images.device
    classes, instances, turns = classes.to(device), instances.to(device), turns.to(device)
    images = split.images.permute(0, 1, 3, 4, 2)[classes[..., None], instances]  # [T, N, K+Q, H, W, C] uint8
    if rotations:
        images = _turned(images, turns)
    images = images.contiguous().to(dtype) / 255
    if distortion > 0:
        images = distorted(images, distortion, generator)
    named = drawn.to(device) if labels == "split" else torch.arange(n_way, device=device).expand(n_tasks, -1)  # [T, N]
    return Episode(
        _flat(images[:, :, :k_shot]),
        named.repeat_interleave(k_shot, 1),
        _flat(images[:, :, k_shot:]),
        named.repeat_interleave(n_query, 1),
    )


def n_classes(split: ImageSplit, rotations: bool = False) -> int:
    """How many classes tasks are drawn from: of the split, or of the split and its quarter turns."""
    return len(split.images) * (QUARTER_TURNS if rotations else 1)


def check_split(
    split: Split,
    *,
    n_way: int,
    k_shot: int,
    n_query: int,
    rotations: bool = False,
    rotations_of: str = "classes",
    distortion: float = 0.0,
    way_is: str = "n_way",
) -> None:
    """Raise UserError if tasks of this kind cannot be drawn from the split.

    way_is  what the setting is called that says how many classes a task has
    """
    rotations = switch("rotations", rotations)
    check("distortion", distortion, at_least(0))
    for name, number in {"k_shot": k_shot, "n_query": n_query}.items():
        check_whole(name, number, at_least(1))
    if isinstance(split, RegressionSplit):
        if distortion > 0:
            raise invalid("distortion", distortion, f"0 for {split.name}, whose tasks are not of images")
        if rotations:
            raise invalid("rotations", True, f"false for {split.name}, whose tasks are not of images")
        n_points = split.inputs.shape[1]
        if k_shot + n_query > n_points:
            raise invalid("k_shot + n_query", k_shot + n_query, f"at most {n_points}, the points of a task")
        return
    check_whole(way_is, n_way, at_least(1))
    check("rotations_of", rotations_of, TURNED)
    most = n_classes(split, rotations and rotations_of == "classes")
    if n_way > most:
        raise invalid(way_is, n_way, f"at most {most}, the classes of {split.name}")
    fewest = int(split.counts.min())
    if k_shot + n_query > fewest:
        poorest = split.class_names[int(split.counts.argmin())]
        raise invalid(
            "k_shot + n_query", k_shot + n_query, f"at most {fewest}, the images of class {poorest!r} of {split.name}"
        )
    if rotations and split.shape[1] != split.shape[2]:
        raise invalid("rotations", True, f"false for images that are not square, as those of {split.name}")


def _distinct(
    shape: tuple[int, ...], n: int, k: int, generator: torch.Generator, limits: Tensor | None = None
) -> Tensor:
    """Draw k distinct integers below n (below `limits`, if given) in random order, for each element of `shape`."""
    keys = torch.rand((*shape, n), generator=generator, device=generator.device, dtype=torch.float64)
    if limits is not None:
        limits = limits.to(keys.device)
        keys = keys.masked_fill(torch.arange(n, device=keys.device) >= limits[..., None], -1.0)
    return keys.topk(k).indices


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images [T, N, I, H, W, C] turned by turns [T, N] * 90 degrees counter-clockwise, as PIL and Torchmeta do."""
    turned = images
    for turn in range(1, QUARTER_TURNS):
        chosen = (turns == turn)[:, :, None, None, None, None]
        turned = torch.where(chosen, torch.rot90(images, turn, dims=(3, 4)), turned)
    return turned


def _flat(images: Tensor) -> Tensor:
    """[T, N, I, H, W, C] to [T, N*I, C, H, W], in memory as convolutions of float32 like it best."""
    images = images.flatten(1, 2).contiguous().permute(0, 1, 4, 2, 3)
    return images if images.device.type == "cpu" else images.contiguous()


def _regression(
    split: RegressionSplit, k_shot: int, n_query: int, n_tasks: int, generator: torch.Generator, dtype: torch.dtype
) -> Episode:
    n_functions, n_points = split.inputs.shape[:2]
    tasks = torch.randint(n_functions, (n_tasks, 1), generator=generator, device=generator.device)
    points = _distinct((n_tasks,), n_points, k_shot + n_query, generator)
    tasks, points = tasks.to(split.inputs.device), points.to(split.inputs.device)
    x, y = split.inputs[tasks, points].to(dtype), split.targets[tasks, points].to(dtype)
    return Episode(x[:, :k_shot], y[:, :k_shot], x[:, k_shot:], y[:, k_shot:])
