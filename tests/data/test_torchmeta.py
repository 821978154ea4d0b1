"""The bridge: it is the real Torchmeta, it leaves torchvision alone, and every part of Torchmeta works through it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

if importlib.util.find_spec("torchmeta") is None:
    pytest.skip("Torchmeta is not installed", allow_module_level=True)
from sharp_maml_core.data import _torchvision, torchmeta

REPOSITORY = Path(__file__).resolve().parents[2]


def run_python(code: str, *path: Path, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python of its own, with `path` before all else on its search path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, REPOSITORY]))}
    command = [sys.executable, "-W", warnings, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)


def succeeds(code: str, *path: Path, warnings: str = "error") -> str:
    done = run_python(code, *path, warnings=warnings)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# --- what the name stands for -------------------------------------------------------------------------------------


def test_it_is_the_library_itself_under_every_way_of_importing_it():
    assert not succeeds("""if True:
        import sys
        from sharp_maml_core.data import torchmeta
        import sharp_maml_core.data as package
        import sharp_maml_core.data.torchmeta as again
        from sharp_maml_core.data.torchmeta.datasets.omniglot import Omniglot
        import torchmeta as real
        assert torchmeta is real is again is package.torchmeta is sys.modules["sharp_maml_core.data.torchmeta"]
        assert torchmeta.__name__ == "torchmeta" and torchmeta.__version__ == "1.8.0"
        assert Omniglot is real.datasets.Omniglot and Omniglot.__module__ == "torchmeta.datasets.omniglot"
        assert real.datasets is sys.modules["torchmeta.datasets"]
    """)


def test_only_the_documented_things_are_changed():
    ours = set()
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("torchmeta."):
            continue
        for key, value in vars(module).items():
            if getattr(value, "__module__", "").startswith("sharp_maml_core") and key not in TORCHVISION_NAMES:
                ours.add(f"{name}.{key}")
            if isinstance(value, type) and value.__module__ == name:
                for attribute, method in vars(value).items():
                    if getattr(method, "__module__", "").startswith("sharp_maml_core"):
                        ours.add(f"{name}.{key}.{attribute}")
    datasets = "torchmeta.datasets"
    drive = ("cub", "doublemnist", "miniimagenet", "tieredimagenet", "triplemnist", "utils")
    assert ours == {
        "torchmeta.utils.data.task.SubsetTask.__getitems__",
        f"{datasets}.omniglot.OmniglotClassDataset.download",
        f"{datasets}.cifar100.base.CIFAR100ClassDataset.download",
        f"{datasets}.miniimagenet.MiniImagenetClassDataset.download",
        f"{datasets}.tieredimagenet.pickle",
        *(f"{datasets}.{name}.download_url" for name in ("omniglot", "cifar100.base", "pascal5i")),
        *(f"{datasets}.{name}.download_file_from_google_drive" for name in drive),
    }


TORCHVISION_NAMES = {name for names in _torchvision._NAMES.values() for name in names} - {"download_url"}


def test_the_core_is_importable_without_torchmeta_and_the_bridge_says_how_to_install_it():
    for absent in ("torchmeta", "h5py"):
        done = run_python(f"""if True:
            import sys
            sys.modules["{absent}"] = None
            import sharp_maml_core.data.benchmarks
            from sharp_maml_core.data import torchmeta
        """)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert f"MissingPackage: Torchmeta cannot be imported (import of {absent} halted" in last
        assert "`pip install --no-deps torchmeta==1.8.0`" in last  # both can be done without a checkout
        assert f"`pip install {' '.join(extra())}`" in last


def extra() -> list[str]:
    """The packages of the extra `torchmeta`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return project["optional-dependencies"]["torchmeta"]


def test_a_colab_gets_torchmeta_and_what_it_imports():
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        first = next(cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
        source = "".join(first["source"])
        assert '["--no-deps", REPOSITORY, "torchmeta==1.8.0"]' in source
        assert all(f'"{package}"' in source for package in extra())


def test_a_run_without_torchmeta_is_told_in_a_sentence(tmp_path: Path):
    done = run_python(f"""if True:
        import sys
        sys.modules["torchmeta"] = None
        from sharp_maml_core.__main__ import main
        sys.exit(main(["train", "--dataset", "sinusoid", "--run-dir", {str(tmp_path / "run")!r}]))
    """)
    assert done.returncode == 2
    assert done.stderr.startswith("sharp_maml_core: Torchmeta cannot be imported")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_version_is_refused(tmp_path: Path):
    (tmp_path / "torchmeta.py").write_text('__version__ = "1.7.0"')
    done = run_python("from sharp_maml_core.data import torchmeta", tmp_path)
    assert "MissingPackage: Torchmeta 1.7.0 is not what this bridge is for" in done.stderr


# --- torchvision is left alone ------------------------------------------------------------------------------------

SEE_NO_STAND_IN = """if True:
    import importlib.util, sys
    from sharp_maml_core.data import torchmeta
    assert importlib.util.find_spec("torchvision") is None
    assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]
    try:
        import torchvision
    except ModuleNotFoundError:
        print("not found, as before")
"""


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="a torchvision is installed")
def test_no_stand_in_is_left_behind():
    assert succeeds(SEE_NO_STAND_IN) == "not found, as before\n"


def fake_torchvision(folder: Path, start: str) -> Path:
    """A package `torchvision` with today's public names and without the two private ones; `start` begins it."""
    package = folder / "torchvision"
    for part in ("", "transforms", "datasets"):
        (package / part).mkdir()
        (package / part / "__init__.py").write_text(start if part == "" else "")
    names = "from sharp_maml_core.data._torchvision import {}\n"
    (package / "transforms/__init__.py").write_text(
        names.format("Resize, CenterCrop, ToTensor, Compose as _C") + "class Compose(_C): pass\n"
    )
    (package / "transforms/functional.py").write_text(names.format("rotate, hflip, vflip"))
    (package / "datasets/utils.py").write_text(names.format("list_dir, download_url, check_integrity"))
    return folder


def test_a_torchvision_that_works_is_used_and_left_as_it_was(tmp_path: Path):
    succeeds(
        """if True:
        from sharp_maml_core.data import torchmeta
        import torchvision.transforms, torchvision.datasets.utils as utils
        assert torchmeta.utils.data.dataset.Compose is torchvision.transforms.Compose
        assert torchvision.transforms.Compose.__module__ == "torchvision.transforms"
        assert not hasattr(utils, "_get_confirm_token") and not hasattr(utils, "_save_response_content")
        """,
        fake_torchvision(tmp_path, ""),
    )


def test_a_torchvision_that_does_not_work_is_not_used_and_fails_as_before(tmp_path: Path):
    start = "import torchvision.datasets\nraise RuntimeError('operator torchvision::nms does not exist')"
    succeeds(
        """if True:
        import sys
        from sharp_maml_core.data import torchmeta
        assert torchmeta.utils.data.dataset.Compose.__module__ == "sharp_maml_core.data._torchvision"
        assert not [name for name in sys.modules if name.startswith("torchvision")]
        try:
            import torchvision
        except RuntimeError as error:
            assert "nms" in str(error)
        else:
            raise AssertionError("the broken one was hidden")
        """,
        fake_torchvision(tmp_path, start),
    )


# --- Torchmeta's areas --------------------------------------------------------------------------------------------


def tiny_omniglot(root: Path, **options):
    return torchmeta.datasets.helpers.omniglot(str(root), shots=2, ways=2, test_shots=3, meta_train=True, **options)


def test_datasets_and_helpers(tiny_data_root: Path):
    helpers, root = torchmeta.datasets.helpers, str(tiny_data_root)
    shapes = {"omniglot": (1, 28, 28), "miniimagenet": (3, 84, 84), "cifar_fs": (3, 32, 32), "fc100": (3, 32, 32)}
    for name, shape in shapes.items():
        for split in ("train", "val", "test"):
            dataset = getattr(helpers, name)(root, shots=1, ways=2, test_shots=2, meta_split=split)
            task = dataset.sample_task()
            image, label = task["test"][0]
            assert (len(task["train"]), len(task["test"])) == (2, 4)
            assert image.shape == shape
            assert image.dtype == torch.float32
            assert label in (0, 1)
            dataset.dataset.close()
    with pytest.raises(RuntimeError, match="integrity check failed"):
        torchmeta.datasets.TieredImagenet(root, num_classes_per_task=2, meta_train=True)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("num_workers", [0, 2])
def test_samplers_and_batch_loader(tiny_data_root: Path, num_workers: int):
    dataset = tiny_omniglot(tiny_data_root)
    data = torchmeta.utils.data
    assert isinstance(data.MetaDataLoader(dataset).sampler, data.CombinationRandomSampler)
    loader = data.BatchMetaDataLoader(dataset, batch_size=4, num_workers=num_workers)
    batch = next(iter(loader))
    assert [tuple(x.shape) for x in batch["train"]] == [(4, 4, 1, 28, 28), (4, 4)]
    assert [tuple(x.shape) for x in batch["test"]] == [(4, 6, 1, 28, 28), (4, 6)]
    assert batch["test"][1].sort().values.tolist() == [[0, 0, 0, 1, 1, 1]] * 4


def test_spawned_workers(tiny_data_root: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(f"""if True:
    import multiprocessing
    from sharp_maml_core.data import torchmeta
    if __name__ == "__main__":
        multiprocessing.set_start_method("spawn")
        dataset = torchmeta.datasets.helpers.omniglot({str(tiny_data_root)!r}, shots=1, ways=2, meta_train=True)
        loader = torchmeta.utils.data.BatchMetaDataLoader(dataset, batch_size=2, num_workers=1)
        print(next(iter(loader))["train"][0].shape)
    """)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.stdout == "torch.Size([2, 2, 1, 28, 28])\n", done.stderr


def test_splits_of_a_task_are_disjoint_and_seeded(tiny_data_root: Path):
    task = tiny_omniglot(tiny_data_root, class_augmentations=None)[(0, 2)]
    assert isinstance(task, OrderedDict)
    assert list(task) == ["train", "test"]
    assert not set(task["train"].indices) & set(task["test"].indices)
    assert len({*task["train"].indices, *task["test"].indices}) == 10
    weighted = torchmeta.transforms.WeightedClassSplitter(shuffle=False, train_weights=0.5, test_weights=0.5)
    assert [len(part) for part in weighted(torchmeta.toy.Sinusoid(8, num_tasks=2)[0]).values()] == [4, 4]


def test_a_part_of_a_task_in_an_ordinary_loader(tiny_data_root: Path):
    part = tiny_omniglot(tiny_data_root)[(0, 1)]["test"]
    images, labels = next(iter(DataLoader(part, batch_size=len(part))))
    assert torch.equal(images, torch.stack([part[i][0] for i in range(6)]))
    assert labels.tolist() == [part[i][1] for i in range(6)]


def test_non_episodic_wrapper(tiny_data_root: Path):
    flat = torchmeta.utils.data.NonEpisodicWrapper(tiny_omniglot(tiny_data_root, class_augmentations=None))
    assert len(flat) == 3 * 6
    assert flat[0][0].shape == (1, 28, 28)


def test_transforms(tiny_data_root: Path):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)[:, :3].copy())
    array = np.asarray(picture)
    for k, turn in enumerate(torchmeta.transforms.Rotation([90, 180, 270]), start=1):
        assert np.array_equal(turn(picture), np.rot90(array, k))
    assert np.array_equal(torchmeta.transforms.HorizontalFlip()(picture), array[:, ::-1])
    assert np.array_equal(torchmeta.transforms.VerticalFlip()(picture), array[::-1])
    both = torchmeta.transforms.SegmentationPairTransform(6)(picture, picture)
    assert [tuple(x.shape) for x in both] == [(1, 6, 6)] * 2
    assert len(tiny_omniglot(tiny_data_root).dataset) == 3 * 4  # characters times turns


@pytest.mark.parametrize("name", ["Sinusoid", "Harmonic", "SinusoidAndLine"])
def test_toy_tasks(name: str):
    dataset = getattr(torchmeta.toy, name)(num_samples_per_task=6, num_tasks=8, noise_std=None)
    split = torchmeta.transforms.ClassSplitter(dataset, num_train_per_class=2, num_test_per_class=4)
    batch = next(iter(torchmeta.utils.data.BatchMetaDataLoader(split, batch_size=3)))
    assert batch["train"][0].shape == (3, 2, 1)
    assert batch["test"][1].shape == (3, 4, 1)


def test_meta_modules_and_gradient_update():
    modules = torchmeta.modules
    torch.manual_seed(0)
    model = modules.MetaSequential(
        modules.MetaConv2d(1, 3, 3),
        modules.MetaBatchNorm2d(3, track_running_stats=False),
        nn.ReLU(),
        nn.Flatten(),
        modules.MetaLinear(3 * 6 * 6, 2),
    ).double()
    x, y = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    loss = nn.functional.cross_entropy(model(x), y)
    fast = torchmeta.utils.gradient_update_parameters(model, loss, step_size=0.1)
    grads = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
        assert torch.allclose(fast[name], parameter - 0.1 * grad, rtol=1e-12)
    query_loss = nn.functional.cross_entropy(model(x, params=fast), y)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(query_loss, list(model.parameters())))


def test_the_example_in_the_book_runs():
    page = (REPOSITORY / "book" / "torchmeta.md").read_text()
    _, marker, rest = page.partition(":name: torchmeta-example\n")
    code, fence, _ = rest.partition("```")
    assert marker
    assert fence
    succeeds(code + "\nassert all(p.grad is not None for p in model.parameters())")


def test_torchmetas_own_tests_pass():
    code = """if True:
        import random, sys, types, numpy, pytest, torch
        for seed in (random.seed, numpy.random.seed, torch.manual_seed):
            seed(0)  # its tests draw freely, and a few fail now and then: what the package flaky is there for
        flaky = sys.modules["flaky"] = types.ModuleType("flaky")
        flaky.flaky = lambda function: function
        from sharp_maml_core.data import torchmeta
        options = ["--pyargs", "torchmeta.tests", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "-W", "error"]
        sys.exit(pytest.main(options))
    """
    assert "failed" not in succeeds(code)
