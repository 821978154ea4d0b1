"""Which letters the embedded data set has, and in which split: the world's scripts as matplotlib's fonts know them.

Splits are made by script, and then cleaned by what the letters *look* like: names say that Latin O and Armenian Օ are
two letters, pixels say that a learner trained on one has seen the other.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from .split import SPLITS

Rows = npt.NDArray[np.float64]
Table = npt.NDArray[np.bool_]

# First words of the Unicode name -> (script, split). The large scripts, and the family around Latin whose members
# share many letters, are for training; so the cleaning below has little to remove.
SCRIPTS: Mapping[str, tuple[str, str]] = {
    "LATIN": ("Latin", "train"),
    "CYRILLIC": ("Cyrillic", "train"),
    "GREEK": ("Greek", "train"),
    "COPTIC": ("Coptic", "train"),
    "OLD ITALIC": ("Old Italic", "train"),
    "LISU": ("Lisu", "train"),
    "CANADIAN SYLLABICS": ("Canadian Syllabics", "train"),
    "NKO": ("NKo", "train"),
    "ARABIC": ("Arabic", "val"),
    "OGHAM": ("Ogham", "val"),
    "ARMENIAN": ("Armenian", "test"),
    "GEORGIAN": ("Georgian", "test"),
    "HEBREW": ("Hebrew", "test"),
    "LAO": ("Lao", "test"),
    "TIFINAGH": ("Tifinagh", "test"),
}

# One face per design. Other bold and oblique faces are weights and slants of these: they draw no other letter.
DESIGNS = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralItalic",
)
FACES = (
    *DESIGNS,
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
)

# Cosine distances between drawn shapes (see `_shape`). The yardstick: a letter in DejaVu Sans is this far from itself
# in DejaVu Sans Bold: 5% of the letters nearer than 0.098, a quarter nearer than 0.13, the median 0.158.
# Across splits: what is nearer than almost any letter is to its own bold counts as the same letter; and the bold face
# is compared too, for a small letter enlarged is a bold one.
ACROSS_SPLITS = 0.10
_COMPARED = (*DESIGNS, "DejaVuSans-Bold")
# Within a split a near twin leaks nothing, so only what 28x28 pixels cannot show is removed: equal outlines (distances
# up to 0.01: Latin A and Cyrillic A), capitals that are enlarged small letters, K beside K with a hook of one pixel.
WITHIN_SPLIT = 0.04

_SHAPE = 16  # pixels on each side of a normalised shape; a letter fills 15 of them
_INK = 76  # pixels on the longer side of a letter as it is rendered, before it is deformed or compared


@dataclass(frozen=True)
class Letter:
    """One class of the data set: a character, and the faces (of FACES, in that order) that have it."""

    code: int
    name: str  # the Unicode name
    script: str
    split: str
    faces: tuple[str, ...]

    @property
    def class_name(self) -> str:
        """For example `Greek/GREEK SMALL LETTER XI`."""
        return f"{self.script}/{self.name}"


def choose_letters() -> dict[str, tuple[Letter, ...]]:
    """The letters of each split, without look-alikes; it depends on nothing but the fonts.

    Letters are taken in turn, test scripts first, then validation, then training, each script in code order. One is
    left out if it looks like a letter that was taken: by WITHIN_SPLIT in its own split (each design compared with
    itself), by ACROSS_SPLITS in another split (any compared face with any). So the test scripts stay as whole as they
    can be, and the training scripts, which have letters to spare, give up theirs.
    """
    letters = _candidates()
    letters.sort(key=lambda letter: (-SPLITS.index(letter.split), _script_order(letter), letter.code))
    shapes = _shapes(letters)
    held_out = sum(letter.split != "train" for letter in letters)  # these come first
    twins = np.zeros((len(letters), len(letters)), dtype=bool)
    for face in DESIGNS:
        twins |= _look_alike(shapes[face], shapes[face], WITHIN_SPLIT)
    strangers = np.zeros((len(letters), held_out), dtype=bool)
    for face, other in product(_COMPARED, _COMPARED):
        strangers |= _look_alike(shapes[face], shapes[other].first(held_out), ACROSS_SPLITS)
    split_of = np.array([letter.split for letter in letters])
    taken = np.zeros(len(letters), dtype=bool)
    for i, letter in enumerate(letters):
        same = split_of == letter.split
        taken[i] = not ((twins[i] & taken & same).any() or (strangers[i] & (taken & ~same)[:held_out]).any())
    return {split: tuple(letters[i] for i in np.flatnonzero(taken & (split_of == split))) for split in SPLITS}


def render(character: str, face: str) -> Image.Image | None:
    """The character in white on black, cropped to its ink, whose longer side is about 76 pixels; None if it is blank.

    Pillow's own FreeType and its basic layout: the same pixels whether or not Raqm is installed.
    """
    left, top, right, bottom = _font(face, 64).getbbox(character)
    longer = int(max(right - left, bottom - top))
    if longer <= 0:
        return None
    size = min(max((128 * _INK + longer) // (2 * longer), 16), 512)  # 64 * _INK / longer, rounded
    mask = _font(face, size).getmask(character, mode="L")
    image = Image.frombytes("L", mask.size, bytes(mask))
    box = image.getbbox()
    return image.crop(box) if box else None


def _candidates() -> list[Letter]:
    """Every letter of SCRIPTS that DejaVu Sans has.

    A character that Unicode decomposes is left out: accents on a letter (the mark is a pixel or two at 28x28),
    ligatures, the letters of mathematics. But Arabic's initial, medial and final forms are kept: they are the letters
    as they are written in words, and often other shapes.
    """
    has = {face: _coverage(face) for face in FACES}
    letters = []
    for code in sorted(has["DejaVuSans"]):
        character = chr(code)
        parts = unicodedata.decomposition(character).split()
        positional = len(parts) == 2 and parts[0] in ("<initial>", "<medial>", "<final>")
        if unicodedata.category(character) not in ("Lu", "Ll", "Lo") or (parts and not positional):
            continue
        name = unicodedata.name(character, "")
        for prefix, (script, split) in SCRIPTS.items():
            if name.startswith(prefix + " "):
                faces = tuple(face for face in FACES if code in has[face])
                letters.append(Letter(code, name, script, split, faces))
    return letters


def _script_order(letter: Letter) -> int:
    return [script for script, _ in SCRIPTS.values()].index(letter.script)


@dataclass(frozen=True)
class _Shapes:
    """The letters in one face, a row each; zeros where the face lacks the letter."""

    plain: Rows  # [letters, 256], see `_shape`
    stretched: Rows  # [letters, 256], scaled in both directions to fill the same box
    sizes: Rows  # [letters, 2], width and height of the ink

    def first(self, n: int) -> _Shapes:
        return _Shapes(self.plain[:n], self.stretched[:n], self.sizes[:n])


def _shapes(letters: list[Letter]) -> dict[str, _Shapes]:
    return {face: _shapes_in(face, letters) for face in _COMPARED}


def _shapes_in(face: str, letters: list[Letter]) -> _Shapes:
    shapes = _Shapes(*(np.zeros((len(letters), columns)) for columns in (_SHAPE * _SHAPE, _SHAPE * _SHAPE, 2)))
    for i, letter in enumerate(letters):
        if face in letter.faces and (image := render(chr(letter.code), face)):
            width, height = image.size
            shapes.plain[i] = _shape(image, max(width, height), max(width, height))
            # not beyond three times: else every thin stroke would become the same full box
            shapes.stretched[i] = _shape(image, max(width, height / 3), max(height, width / 3))
            shapes.sizes[i] = image.size
    return shapes


def _shape(image: Image.Image, width: float, height: float) -> npt.NDArray[np.uint8]:
    """The ink centred, a box of width x height scaled to 15 of 16 pixels: [256], blurred by the reduction."""
    x, y = (round(length * 4096 / (2 * _SHAPE - 2)) / 4096 for length in (width, height))  # grid: see glyphs._deform
    matrix = (x, 0, image.width / 2 - x * _SHAPE, 0, y, image.height / 2 - y * _SHAPE)
    wide = image.transform((2 * _SHAPE,) * 2, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=0)
    return np.asarray(wide.reduce(2)).reshape(-1)


def _look_alike(a: _Shapes, b: _Shapes, distance: float) -> Table:
    """Which letters of a and b are nearer than `distance`, as they are or stretched to one box: bool [a, b].

    Stretching counts up to the difference in proportions that the drawings' own scaling makes, 1.10 / 0.85 = 13 / 10.
    """
    left, right = np.outer(a.sizes[:, 0], b.sizes[:, 1]), np.outer(a.sizes[:, 1], b.sizes[:, 0])  # of w/h and w'/h'
    in_proportion = (10 * left <= 13 * right) & (10 * right <= 13 * left)
    return _nearer(a.plain, b.plain, distance) | (_nearer(a.stretched, b.stretched, distance) & in_proportion)


def _nearer(a: Rows, b: Rows, distance: float) -> Table:
    """Which rows of a [n, 256] and b [m, 256] are nearer than `distance`: bool [n, m]; rows of zeros are near nothing.

    The entries are integers up to 255, so the product of float64 matrices is exact in any order of summation: every
    BLAS on every machine decides alike.
    """
    dots = a @ b.T
    squares = (a * a).sum(1)[:, None] * (b * b).sum(1)
    return dots * dots > (1 - distance) ** 2 * squares  # cosine > 1 - distance


def _font_path(face: str) -> Path:
    import matplotlib  # only when letters are drawn: a cached data set does not pay for this import

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@lru_cache(maxsize=1024)
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_path(face)), size, layout_engine=ImageFont.Layout.BASIC)


def _coverage(face: str) -> set[int]:
    """The characters that a face has a glyph for; glyph 0 is the box that stands for a missing one."""
    from matplotlib.ft2font import FT2Font

    charmap: Mapping[int, int] = FT2Font(str(_font_path(face))).get_charmap()
    return {int(code) for code, glyph in charmap.items() if glyph}
