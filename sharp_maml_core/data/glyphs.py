"""The embedded data set: letters of the world's scripts, drawn on first use from the fonts inside matplotlib.

28x28 grey, ink 255 on 0 as in Torchmeta's Omniglot, 20 instances of each letter: a random face among those that have
it, rotated by up to 12 degrees, sheared by up to 0.15, scaled to 85-110% in each direction and shifted by up to 2
pixels. Which letters there are and in which split (by script) is said in `scripts`; the seed changes the drawings only.

    python -m sharp_maml_core.data.glyphs sheet.png      # look at it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont, features
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ..errors import invalid
from ..files import atomic
from . import roots
from .scripts import Letter, choose_letters, render
from .split import SPLITS, ImageSplit, check_name

# Part of the cache's file name: raise it with any change that changes a pixel, a letter or a split.
VERSION = 1
INSTANCES = 20
SIZE = 28
_INK = 19  # pixels on a letter's longer side at scale 1: the largest deformation of a square still fits into 28
_GRID = 4096

_log = logging.getLogger(__name__)


def load_glyphs(split: str, *, data_root: Path, seed: int = 0) -> ImageSplit:
    """One split of the embedded data set: uint8 [letters, 20, 1, 28, 28], on the CPU.

    The first call draws all three splits (some seconds) and keeps them in `data_root/glyphs/`. A kept file that is
    damaged is drawn anew; where nothing can be written the letters are drawn in memory by each process.

    Args:
        split: "train", "val" or "test".
        data_root: the data folder, see `roots.data_root`.
        seed: of faces and deformations, at least 0. Letters and splits do not depend on it.

    Raises:
        UserError: an unknown split or a negative seed.
    """
    check_name(split)
    if seed < 0:
        raise invalid("seed", seed, "an integer of at least 0")
    path = cache_path(data_root, seed)
    kept = _read(path, split)
    if kept is not None:
        return kept
    drawn = draw_glyphs(seed)
    try:
        _write(path, drawn)
    except OSError as error:
        _log.warning("glyphs: %s cannot be written (%s); drawn in memory instead", path, error.strerror or error)
    return drawn[split]


def cache_path(data_root: Path, seed: int) -> Path:
    """Where the drawings of this seed are kept: named after all that their pixels depend on."""
    fonts, pillow = metadata.version("matplotlib"), metadata.version("pillow")
    pins = f"matplotlib{fonts}-pillow{pillow}-freetype{features.version('freetype2')}"
    return Path(data_root) / "glyphs" / f"v{VERSION}-seed{seed}-{pins}.safetensors"


@lru_cache(maxsize=1)  # where nothing can be written, train, val and test still share one drawing
def draw_glyphs(seed: int) -> dict[str, ImageSplit]:
    """Draw the whole data set: for each split its images and class names."""
    letters = choose_letters()
    total = sum(map(len, letters.values()))
    drawn = {}
    with tqdm(total=total, desc="drawing glyphs", unit="letter", leave=False) as bar:
        for split in SPLITS:
            images = np.empty((len(letters[split]), INSTANCES, 1, SIZE, SIZE), dtype=np.uint8)
            for i, letter in enumerate(letters[split]):
                images[i, :, 0] = _draw_letter(letter, seed)
                bar.update()
            names = tuple(letter.class_name for letter in letters[split])
            drawn[split] = ImageSplit.from_images(torch.from_numpy(images), names, f"glyphs/{split}")
    return drawn


def _draw_letter(letter: Letter, seed: int) -> npt.NDArray[np.uint8]:
    """The instances of one letter, uint8 [20, 28, 28]; each letter has its own random stream.

    Raw 64-bit draws, reduced by hand: NumPy promises the bit stream of PCG64 for ever, but not that of `integers`.
    """
    draws = np.random.PCG64([seed, letter.code]).random_raw((INSTANCES, 7)).tolist()
    inks = {face: image for face in letter.faces if (image := render(chr(letter.code), face)) is not None}
    faces = tuple(inks)
    return np.stack([_deform(inks[faces[face % len(faces)]], *rest) for face, *rest in draws])


def _deform(image: Image.Image, turn: int, lean: int, wide: int, high: int, right: int, down: int) -> npt.NDArray:
    """One instance [28, 28] of a rendered letter. The arguments after `image` are 64-bit random integers.

    The map from letter to image is A = rotation @ shear @ scale about the letter's centre, then a shift; Pillow wants
    its inverse. The drawing is made at 56x56 and halved, so that edges are smooth.

    Same bytes everywhere: no sine or cosine (the parameter is tan(angle / 2)), and the inverse's entries are rounded
    to a grid of 1/4096. Then positions, bilinear weights and weighted sums fit into a double exactly, so neither the
    order of operations nor fused multiply-add can change a pixel.
    """
    t = (turn % 211 - 105) / 1000  # tan of half the angle: within 12 degrees
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    shear = (lean % 31 - 15) / 100
    scale_x, scale_y = (85 + wide % 26) / 100, (85 + high % 26) / 100
    width, height = image.size
    enlarge = max(width, height) / _INK  # rendered pixels per pixel of the final image

    # How far the letter's box reaches from its centre; a shift is cut where it would push ink over the border.
    reach_x = (abs(cos * scale_x) * width + abs(cos * shear - sin) * scale_y * height) / enlarge / 2
    reach_y = (abs(sin * scale_x) * width + abs(sin * shear + cos) * scale_y * height) / enlarge / 2
    centre_x = SIZE + _limited(right % 9 - 4, SIZE - 2 * reach_x)  # in the 56x56 image, half pixels of the final one
    centre_y = SIZE + _limited(down % 9 - 4, SIZE - 2 * reach_y)

    a = _on_grid((cos + shear * sin) / scale_x * enlarge / 2)
    b = _on_grid((sin - shear * cos) / scale_x * enlarge / 2)
    c = _on_grid(-sin / scale_y * enlarge / 2)
    d = _on_grid(cos / scale_y * enlarge / 2)
    matrix = (a, b, width / 2 - a * centre_x - b * centre_y, c, d, height / 2 - c * centre_x - d * centre_y)
    doubled = image.transform((2 * SIZE,) * 2, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=0)
    return np.asarray(doubled.reduce(2))


def _limited(shift: int, room: float) -> int:
    most = max(int(room), 0)
    return min(max(shift, -most), most)


def _on_grid(value: float) -> float:
    return round(value * _GRID) / _GRID


def _read(path: Path, split: str) -> ImageSplit | None:
    """The split as it was kept, or None if it is not there, cut short or altered."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["splits"])[split]
            images: Tensor = file.get_tensor(split).clone()  # a copy: the file's pages may change under a mapped one
        kept = ImageSplit.from_images(images, tuple(record["names"]), f"glyphs/{split}")
        return kept if record["digest"] == _digest(kept) else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write(path: Path, drawn: dict[str, ImageSplit]) -> None:
    """Keep all splits in one file, whole or not at all: processes at work together do no harm."""
    records = {split: {"names": s.class_names, "digest": _digest(s)} for split, s in drawn.items()}
    # one entry of metadata only: several would be written in any order
    content = save({split: s.images for split, s in drawn.items()}, metadata={"splits": json.dumps(records)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def _digest(split: ImageSplit) -> str:
    return hashlib.sha256(json.dumps([split.identity, split.class_names]).encode()).hexdigest()


def contact_sheet(splits: dict[str, ImageSplit], letters_per_script: int = 3) -> Image.Image:
    """A picture of some letters of each script, one per row, with all instances, the script and the split."""
    rows: list[tuple[str, Tensor]] = []
    for name, split in splits.items():
        for script, n_letters in Counter(_script(c) for c in split.class_names).items():
            of_script = [i for i, c in enumerate(split.class_names) if _script(c) == script]
            n_rows = min(letters_per_script, n_letters)
            for k in range(n_rows):
                i = of_script[(2 * k + 1) * n_letters // (2 * n_rows)]
                rows.append((f"{name:5} {split.class_names[i]}", split.images[i, :, 0]))
    cell, margin = SIZE + 2, 400
    sheet = Image.new("L", (margin + INSTANCES * cell, len(rows) * cell), 60)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for y, (label, images) in enumerate(rows):
        pen.text((4, y * cell + 8), label[:64], fill=255, font=font)
        for x, image in enumerate(images):
            sheet.paste(Image.fromarray(image.numpy()), (margin + x * cell, y * cell))
    return sheet


def _script(class_name: str) -> str:
    return class_name.split("/")[0]


def main(arguments: list[str] | None = None) -> None:
    """Draw the contact sheet and print how many letters each script has."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of the embedded data set.")
    parser.add_argument("sheet", type=Path, help="the picture to write, e.g. sheet.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--letters", type=int, default=3, help="letters per script (default 3)")
    options = parser.parse_args(arguments)
    root = roots.data_root(options.data_root)
    splits = {split: load_glyphs(split, data_root=root, seed=options.seed) for split in SPLITS}
    contact_sheet(splits, options.letters).save(options.sheet)
    for name, split in splits.items():
        for script, n_letters in Counter(_script(c) for c in split.class_names).items():
            print(f"{name:5}  {script:20} {n_letters:5}")
        print(f"{name:5}  {'all':20} {len(split.class_names):5}  {split.identity}")


if __name__ == "__main__":
    main()
