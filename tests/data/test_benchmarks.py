"""Benchmarks as tensors: equal to what Torchmeta's own loaders give, and clear words where something is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

if importlib.util.find_spec("torchmeta") is None:
    pytest.skip("Torchmeta is not installed", allow_module_level=True)
import h5py

from sharp_maml_core import files
from sharp_maml_core.data import _cache, benchmarks, torchmeta
from sharp_maml_core.data.benchmarks import (
    BENCHMARKS,
    SPLITS,
    completeness_note,
    expected_classes,
    load_benchmark,
    load_sinusoid,
)
from sharp_maml_core.data.split import ImageSplit
from sharp_maml_core.errors import MissingData, UserError

HELPERS = {"omniglot": "omniglot", "miniimagenet": "miniimagenet", "cifar-fs": "cifar_fs", "fc100": "fc100"}
SHAPES = {"omniglot": (20, 1, 28, 28), "miniimagenet": (600, 3, 84, 84), "cifar-fs": (600, 3, 32, 32)}
SHAPES["fc100"] = SHAPES["cifar-fs"]


def helper_dataset(name: str, root: Path, split: str, **options):
    """Torchmeta's own meta-dataset with its default transforms, and without turned classes."""
    helper = getattr(torchmeta.datasets.helpers, HELPERS[name])
    return helper(str(root), meta_split=split, class_augmentations=None, **options)


def assert_tasks_equal(data: ImageSplit, root: Path, ways: int, shots: int, test_shots: int, n_tasks: int) -> None:
    """Given classes in file order, through BatchMetaDataLoader: every pixel of every image is ours / 255."""
    name, split = data.name.split("/")
    dataset = helper_dataset(name, root, split, ways=ways, shots=shots, test_shots=test_shots, shuffle=False)
    rng = np.random.default_rng(0)
    tasks = [tuple(rng.choice(len(data.images), ways, replace=False).tolist()) for _ in range(n_tasks)]
    loader = torchmeta.utils.data.BatchMetaDataLoader(dataset, batch_size=1, shuffle=False, sampler=tasks)
    for classes, batch in zip(tasks, loader, strict=True):
        images = data.images[list(classes)].float() / 255  # [ways, I, channels, H, W]
        assert torch.equal(batch["train"][0][0], images[:, :shots].flatten(0, 1))
        assert torch.equal(batch["test"][0][0], images[:, shots : shots + test_shots].flatten(0, 1))
    dataset.dataset.close()


# --- real data ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_split(real_data_root: Path):
    return lambda name, split: load_benchmark(name, split, data_root=real_data_root)


@pytest.mark.real_data
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_real_pixels_and_classes_equal_torchmetas(name: str, split: str, real_split, real_data_root: Path):
    data = real_split(name, split)
    n_classes = 57 if (name, split) == ("miniimagenet", "train") else expected_classes(name, split)
    assert len(data.images) == n_classes or not completeness_note(data)
    assert data.images.shape[1:] == SHAPES[name]
    assert data.images.dtype == torch.uint8
    assert set(data.counts.tolist()) == {SHAPES[name][0]}
    dataset = helper_dataset(name, real_data_root, split, ways=5, shots=1)
    labels = [label if isinstance(label, str) else "/".join(label[-2:]) for label in dataset.dataset.labels]
    assert list(data.class_names) == labels
    assert len(set(labels)) == len(labels) == len(dataset.dataset)
    per_task = min(SHAPES[name][0], 40)
    assert_tasks_equal(data, real_data_root, ways=5, shots=1, test_shots=per_task - 1, n_tasks=3)
    assert_random_tasks_are_ours(data, real_data_root)


def assert_random_tasks_are_ours(data: ImageSplit, root: Path) -> None:
    """Torchmeta's shuffled tasks: each image is one of ours, and images share a label where they share a class."""
    name, split = data.name.split("/")
    dataset = helper_dataset(name, root, split, ways=5, shots=1, test_shots=3, seed=1)
    batch = next(iter(torchmeta.utils.data.BatchMetaDataLoader(dataset, batch_size=2)))
    middle = data.shape[1] // 2
    rows = data.images[..., middle, :]  # [C, I, channels, W], narrows the search
    for task in range(2):
        images = torch.cat([batch[part][0][task] for part in ("train", "test")])
        labels = torch.cat([batch[part][1][task] for part in ("train", "test")]).tolist()
        classes: dict[int, set[int]] = {}
        for image, label in zip(images, labels, strict=True):
            found = [
                c
                for c, i in (rows == (image[:, middle] * 255).round().byte()).flatten(2).all(2).nonzero().tolist()
                if torch.equal(data.images[c, i].float() / 255, image)
            ]
            assert found, "an image that is not among ours"
            classes[label] = classes.get(label, set(found)) & set(found)
        assert all(classes.values())
        assert len(set().union(*classes.values())) >= 5
    dataset.dataset.close()


@pytest.mark.real_data
@pytest.mark.parametrize("name", BENCHMARKS)
def test_real_splits_are_disjoint_and_torchmetas(name: str, real_split):
    names = [set(real_split(name, split).class_names) for split in SPLITS if (name, split) != ("miniimagenet", "train")]
    assert not set.intersection(*names)
    assert len(set().union(*names)) == sum(map(len, names))
    asset = torchmeta.datasets.utils.get_asset
    if name == "omniglot":
        for split, ours in zip(SPLITS, names, strict=True):
            groups = asset("omniglot", f"{split}.json").values()
            assert ours == {f"{alphabet}/{c}" for group in groups for alphabet, cs in group.items() for c in cs}
    if name == "cifar-fs":
        for split, ours in zip(SPLITS, names, strict=True):
            assert ours == {"/".join(label) for label in asset("cifar100", "cifar-fs", f"{split}.json")}
    if name == "fc100":
        for split, ours in zip(SPLITS, names, strict=True):
            assert {label.split("/")[0] for label in ours} == set(asset("cifar100", "fc100", f"{split}.json"))


@pytest.mark.real_data
def test_real_turns_are_torch_rot90_counter_clockwise(real_split, real_data_root: Path):
    data = real_split("omniglot", "val")
    helper = torchmeta.datasets.helpers.omniglot
    dataset = helper(str(real_data_root), shots=20, test_shots=0, ways=1, meta_split="val", shuffle=False)
    n = len(data.images)
    for k in range(4):
        theirs = torch.stack([image for c in range(0, n, 20) for image, _ in dataset[(c + k * n,)]["train"]]) * 255
        ours = torch.rot90(data.images[::20], k, (-2, -1)).flatten(0, 1).float()
        difference = (theirs - ours).abs().round()
        # Torchmeta turns before it scales, and Pillow rounds between its two passes: half turns are equal.
        assert difference.max() <= (k % 2)
        assert difference.mean() < 0.03
    dataset.dataset.close()


# --- tiny data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_pixels_equal_torchmetas(name: str, split: str, tiny_data_root: Path):
    data = load_benchmark(name, split, data_root=tiny_data_root)
    assert data.name == f"{name}/{split}"
    assert_tasks_equal(data, tiny_data_root, ways=2, shots=2, test_shots=3, n_tasks=3)


def test_classes_of_different_sizes_are_padded(tiny_data_root: Path):
    data = load_benchmark("fc100", "train", data_root=tiny_data_root)
    assert data.counts.tolist() == [6, 6, 5]
    assert data.images[2, 5].sum() == 0
    assert data.images[2, 4].sum() > 0
    assert data.class_names == ("coarse_train/fine_0", "coarse_train/fine_1", "coarse_train/fine_2")


def test_incomplete_data_carry_a_note(tiny_data_root: Path):
    assert completeness_note(load_benchmark("miniimagenet", "train", data_root=tiny_data_root)) == "3 of 64 classes"
    assert [expected_classes("omniglot", split) for split in SPLITS] == [1028, 172, 423]
    whole = ImageSplit.from_images(torch.zeros(20, 1, 1, 1, 1, dtype=torch.uint8), ("",) * 20, "fc100/test")
    assert completeness_note(whole) == ""


def test_unknown_names_and_splits():
    with pytest.raises(UserError, match="dataset='mnist' is not allowed: it must be one of omniglot, miniimagenet"):
        load_benchmark("mnist", "train", data_root=Path("."))
    with pytest.raises(UserError, match="split='valid' is not allowed: it must be one of train, val, test"):
        load_benchmark("omniglot", "valid", data_root=Path("."))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_data_say_what_where_and_how(name: str, tmp_path: Path):
    with pytest.raises(MissingData) as caught:
        load_benchmark(name, "val", data_root=tmp_path)
    message = str(caught.value)
    folder = tmp_path / benchmarks._BENCHMARKS[name].folder
    assert str(folder) in message
    assert "hdf5" in message
    assert "SHARP_MAML_DATA" in message
    assert f'load_split("{name}", "val", download=True)' in message
    assert "-p download True" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_side_file_is_named(tiny_data_root: Path):
    (tiny_data_root / "cifar100/fine_names.json").unlink()
    with pytest.raises(MissingData, match=r"looked for \S*/cifar100/fine_names\.json\. "):
        load_benchmark("fc100", "train", data_root=tiny_data_root)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20_000])


def remove_class(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["datasets/n00000001"]


def other_pixels(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["datasets/n00000001"]
        file["datasets/n00000001"] = np.zeros((6, 84, 84, 3), np.float32)


@pytest.mark.parametrize("damage", [cut, remove_class, other_pixels, lambda path: path.write_bytes(b"")])
def test_damaged_data_are_named(tiny_data_root: Path, damage):
    path = tiny_data_root / "miniimagenet/train_data.hdf5"
    damage(path)
    with pytest.raises(UserError, match=rf"^{path} is cut or damaged \(.+\): delete it and fetch it again"):
        load_benchmark("miniimagenet", "train", data_root=tiny_data_root)


def test_a_damaged_list_of_classes_is_named(tiny_data_root: Path):
    path = tiny_data_root / "miniimagenet/train_labels.json"
    path.write_text(path.read_text()[:-4])
    with pytest.raises(UserError, match=rf"^{path} is cut or damaged"):
        load_benchmark("miniimagenet", "train", data_root=tiny_data_root)


# --- the cache of scaled characters -------------------------------------------------------------------------------


@pytest.fixture
def cache_file(tiny_data_root: Path) -> Path:
    load_benchmark("omniglot", "train", data_root=tiny_data_root)
    return tiny_data_root / _cache.FOLDER / "omniglot-train-28.safetensors"


def test_the_cache_is_used(cache_file: Path, tiny_data_root: Path, monkeypatch: pytest.MonkeyPatch):
    first = load_benchmark("omniglot", "train", data_root=tiny_data_root)
    monkeypatch.setattr(benchmarks, "_read", None)  # reading again would be a TypeError
    second = load_benchmark("omniglot", "train", data_root=tiny_data_root)
    assert torch.equal(first.images, second.images)
    assert first.identity == second.identity
    assert [path.name for path in cache_file.parent.iterdir()] == [cache_file.name]


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_a_damaged_cache_is_made_again(cache_file: Path, tiny_data_root: Path, keep: float):
    content = cache_file.read_bytes()
    broken = bytearray(content[: int(keep * len(content))])
    if keep == 1:
        broken[-1000] ^= 1  # whole, but one bit is wrong
    cache_file.write_bytes(broken)
    data = load_benchmark("omniglot", "train", data_root=tiny_data_root)
    assert_tasks_equal(data, tiny_data_root, ways=2, shots=2, test_shots=3, n_tasks=2)
    assert cache_file.read_bytes() == content


def test_a_cache_of_other_data_is_made_again(cache_file: Path, tiny_data_root: Path):
    before = load_benchmark("omniglot", "train", data_root=tiny_data_root)
    with h5py.File(tiny_data_root / "omniglot/data.hdf5", "a") as file:
        file["images_background/Alphabet_of_train/character00"][:] = 7  # the file's size stays as it is
    after = load_benchmark("omniglot", "train", data_root=tiny_data_root)
    assert before.identity != after.identity
    assert (after.images[0] == 7).all()
    labels = tiny_data_root / "omniglot/vinyals_train_labels.json"
    labels.write_text(json.dumps(json.loads(labels.read_text())[1:]))
    assert len(load_benchmark("omniglot", "train", data_root=tiny_data_root).images) == 2


def test_a_data_root_that_cannot_be_written(tiny_data_root: Path, monkeypatch: pytest.MonkeyPatch):
    writable = load_benchmark("omniglot", "val", data_root=tiny_data_root)
    for path in (tiny_data_root / _cache.FOLDER).iterdir():
        path.unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")  # a mode would not stop a test run as root

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    data = load_benchmark("omniglot", "val", data_root=tiny_data_root)
    assert data.identity == writable.identity
    assert os.listdir(tiny_data_root / _cache.FOLDER) == []


# --- sinusoids ----------------------------------------------------------------------------------------------------


def test_sinusoids_are_torchmetas():
    data = load_sinusoid("train", seed=3, n_functions=50, n_points=40)
    assert data.inputs.shape == data.targets.shape == (50, 40, 1)
    assert data.inputs.dtype == torch.float32
    assert data.name == "sinusoid/train"
    assert data.inputs.abs().max() <= 5
    assert data.targets.abs().max() <= 5
    tasks = torchmeta.toy.Sinusoid(num_samples_per_task=40, num_tasks=50)
    tasks.seed(int(np.random.SeedSequence([3, 0]).generate_state(1)[0]))
    x, y = tasks[0][5]
    assert data.inputs[0, 5] == torch.tensor(x, dtype=torch.float32)
    assert data.targets[0, 5] == torch.tensor(y, dtype=torch.float32)
    for x, y, a, b in zip(data.inputs, data.targets, tasks.amplitudes, tasks.phases, strict=True):
        assert torch.allclose(y, a * torch.sin(x - b), atol=1e-5)


def test_sinusoids_are_seeded_and_splits_differ():
    identity = {
        (split, seed): load_sinusoid(split, seed=seed, n_functions=5, n_points=4).identity
        for split in SPLITS
        for seed in (0, 1)
    }
    assert len(set(identity.values())) == 6
    assert identity["val", 1] == load_sinusoid("val", seed=1, n_functions=5, n_points=4).identity


@pytest.mark.parametrize("wrong", [{"n_functions": 0}, {"n_points": 0}, {"seed": -1}])
def test_sinusoids_name_what_is_wrong(wrong: dict[str, int]):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}=.* is not allowed: it must be at least"):
        load_sinusoid("train", **wrong)
    with pytest.raises(UserError, match="split='all' is not allowed"):
        load_sinusoid("all")
