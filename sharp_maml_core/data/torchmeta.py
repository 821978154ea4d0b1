"""Torchmeta 1.8 on today's PyTorch: `from sharp_maml_core.data import torchmeta` is the library itself.

    from sharp_maml_core.data import torchmeta
    dataset = torchmeta.datasets.helpers.omniglot("data", shots=1, ways=5, meta_train=True, download=True)
    batches = torchmeta.utils.data.BatchMetaDataLoader(dataset, batch_size=16)

Torchmeta pins torch<1.10 and an old torchvision, so `pip install torchmeta` takes PyTorch back by years, and newer
ones cannot import it. Its code needs little to work: this module imports it with the few names of torchvision that it
asks for (see `_torchvision`; a real torchvision that works is used) and then mends, on its objects, what follows:

- `SubsetTask.__getitems__`, without which current PyTorch refuses any subclass of `Subset` that has a `__getitem__`;
- `download_url` and `download_file_from_google_drive` in its data set modules: checked before they are used;
- `download` of Omniglot, CIFAR-100 (CIFAR-FS, FC100) and mini-ImageNet: nothing is untarred, pickles are read by an
  unpickler for arrays only, and files appear whole or not at all; the pickles of tiered-ImageNet likewise.

All else is Torchmeta's own code. Importing this module gives the library: it puts `torchmeta` in its own place, and
Torchmeta's modules also under its name, so that `from sharp_maml_core.data.torchmeta.datasets import Omniglot` finds
the same classes as `from torchmeta.datasets import Omniglot`, which works too once this was imported.

Loader workers that are spawned rather than forked (macOS, Windows, Python 3.14) import Torchmeta anew: keep the import
of this module at the top of the main script, where they read it first.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sharp_maml_core.data import _fetch, _torchvision
from sharp_maml_core.data._downloads import download_file_from_google_drive, download_url, load_arrays
from sharp_maml_core.errors import MissingPackage

_VERSION = "1.8.0"
_INSTALL = f"`pip install --no-deps torchmeta=={_VERSION}` and `pip install h5py ordered-set requests`"


def _load() -> ModuleType:
    """Torchmeta, imported and mended.

    Raises
    ------
    MissingPackage
        Torchmeta, or something that it imports, is not installed, or it is another version.
    """
    try:
        with _torchvision.provided():
            library = importlib.import_module("torchmeta")
    except ImportError as error:
        raise MissingPackage(f"Torchmeta cannot be imported ({error}): {_INSTALL} install it.") from error
    if library.__version__ != _VERSION:
        raise MissingPackage(f"Torchmeta {library.__version__} is not what this bridge is for: {_INSTALL} install it.")
    _mend(library)
    return library


def _mend(library: ModuleType) -> None:
    library.utils.data.SubsetTask.__getitems__ = _getitems
    ours = {"download_url": download_url, "download_file_from_google_drive": download_file_from_google_drive}
    for name, module in list(sys.modules.items()):
        if name.startswith("torchmeta.datasets."):
            for function in ours.keys() & vars(module).keys():
                setattr(module, function, ours[function])
    datasets = library.datasets
    datasets.omniglot.OmniglotClassDataset.download = _fetch.omniglot
    datasets.cifar100.base.CIFAR100ClassDataset.download = _fetch.cifar100
    datasets.miniimagenet.MiniImagenetClassDataset.download = _fetch.miniimagenet
    datasets.tieredimagenet.pickle = _ArraysOnlyPickle


def _getitems(self: Any, indices: list[int]) -> list[Any]:
    return [self[index] for index in indices]


class _ArraysOnlyPickle:
    """What tiered-ImageNet uses of the module `pickle`."""

    @staticmethod
    def load(file: Any, encoding: str = "ASCII") -> Any:
        return load_arrays(file, file.name, encoding)


def _take_the_place(library: ModuleType) -> None:
    sys.modules[__name__] = library
    for name, module in list(sys.modules.items()):
        if name.startswith("torchmeta."):
            sys.modules[f"{__name__}{name.removeprefix('torchmeta')}"] = module


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...

else:
    _take_the_place(_load())
