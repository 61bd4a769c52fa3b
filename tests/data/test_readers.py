"""`read`: every format gives the same pixels, and every broken file one sentence that names it."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data import read

Image = pytest.importorskip("PIL.Image")

LEVELS = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4) * 5
EXPECTED = torch.from_numpy(LEVELS.astype(np.float32) / 255)
LABELS = np.array([2, 0, 1], dtype=np.uint8)


def idx(array: np.ndarray[Any, Any], code: int = 0x08) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_images(folder: Path) -> dict[str, Path]:
    """The same three images in every format."""
    np.save(folder / "a.npy", LEVELS)
    np.save(folder / "flat.npy", LEVELS.reshape(3, 16).astype(np.float64) / 255)
    np.save(folder / "long.npy", LEVELS.reshape(3, 16).astype(np.int64))
    np.savez(folder / "a.npz", images=LEVELS, labels=LABELS)
    np.savez_compressed(folder / "x.npz", x=LEVELS / np.float32(255), y=LABELS.astype(float))
    (folder / "t-images-idx3-ubyte").write_bytes(idx(LEVELS))
    (folder / "t-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (folder / "z-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(LEVELS)))
    (folder / "z-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    (folder / "f.idx").write_bytes(idx((LEVELS / 255).astype(">f4"), 0x0D))
    rows = [",".join(map(str, image.ravel())) for image in LEVELS]
    (folder / "bare.csv").write_text("\n".join(rows) + "\n")
    names = ",".join(f"p{i}" for i in range(16))
    table = [f"Label,{names}", *(f"{y},{row}" for y, row in zip(LABELS, rows, strict=True))]
    (folder / "table.csv").write_text("\n".join(table))
    (folder / "flat").mkdir()
    (folder / "classes").mkdir()
    for i, image in enumerate(LEVELS):
        Image.fromarray(image).save(folder / "flat" / f"{i}.png")
        home = folder / "classes" / str(LABELS[i])
        home.mkdir()
        Image.fromarray(image).save(home / f"{i}.pgm")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("a.npy", None),
        ("flat.npy", None),
        ("long.npy", None),
        ("a.npz", [2, 0, 1]),
        ("x.npz", [2, 0, 1]),
        ("t-images-idx3-ubyte", [2, 0, 1]),
        ("z-images-idx3-ubyte.gz", [2, 0, 1]),
        ("f.idx", None),
        ("bare.csv", None),
        ("table.csv", [2, 0, 1]),
        ("flat", None),
    ],
)
def test_every_format_gives_the_same_images(
    tmp_path: Path, name: str, labels: list[int] | None
) -> None:
    images = read(write_images(tmp_path)[name])
    assert images.images.dtype == torch.float32
    assert torch.allclose(images.images, EXPECTED, atol=1e-7)
    assert (None if images.labels is None else images.labels.tolist()) == labels
    assert name in images.source


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = read(write_images(tmp_path)["classes"])
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 2]
    assert torch.equal(images.images, EXPECTED[[1, 2, 0]])


def test_named_sub_folders_are_numbered_alphabetically(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.fromarray(LEVELS[0]).save(tmp_path / name / "1.png")
    images = read(tmp_path)
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]
    assert "classes 0 = cat, 1 = dog" in images.source


def test_labels_may_be_given_beside(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    for labels in ("t-labels-idx1-ubyte", "z-labels-idx1-ubyte.gz"):
        found = read(files["a.npy"], files[labels]).labels
        assert found is not None
        assert found.tolist() == [2, 0, 1]
    np.save(tmp_path / "y.npy", LABELS)
    assert read(files["flat"], tmp_path / "y.npy").classes == (0, 1, 2)


def test_vectors_take_a_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", LEVELS.reshape(3, 16))
    assert read(tmp_path / "v.npy", shape=(2, 8)).images.shape == (3, 2, 8)


def test_booleans_are_black_and_white(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", LEVELS > 100)
    assert read(tmp_path / "b.npy").images.unique().tolist() == [0.0, 1.0]


def test_floats_written_in_a_csv_are_not_divided(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("0.5,1.0,0.0,0.25\n1,1,0,0\n")
    assert read(tmp_path / "f.csv").images[0].tolist() == [[0.5, 1.0], [0.0, 0.25]]


def test_colour_and_depth_become_grey(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (255, 255, 255)).save(tmp_path / "white.png")
    assert torch.equal(read(tmp_path / "white.png").images, torch.ones(1, 2, 3))
    deep = np.array([[0, 32768], [65535, 1]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = torch.from_numpy(deep.astype(np.float32) / 65535)
    assert torch.allclose(read(tmp_path / "deep.png").images[0], expected)


def broken_files(folder: Path) -> dict[str, Path]:
    np.save(folder / "cube.npy", np.zeros((2, 3, 4, 4)))
    np.save(folder / "line.npy", np.zeros(16))
    np.save(folder / "none.npy", np.zeros((0, 4, 4)))
    np.save(folder / "oblong.npy", np.zeros((3, 15)))
    np.save(folder / "complex.npy", np.zeros((3, 4, 4), dtype=complex))
    np.save(folder / "byte.npy", np.full((3, 4, 4), 255.0))
    np.save(folder / "negative.npy", np.full((3, 4, 4), -1))
    np.save(folder / "binary.npy", np.eye(4, dtype=np.uint8)[None])
    np.save(folder / "above.npy", np.full((1, 2, 2), 1.0 + 1e-9))
    hole = np.zeros((3, 4, 4))
    hole[2, 1, 3] = hole[2, 2, 0] = np.nan
    np.save(folder / "nan.npy", hole)
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "pickle.npy").write_bytes(pickle.dumps([1, 2, 3]))
    np.savez(folder / "object.npz", images=np.array([{}], dtype=object))
    whole = (folder / "byte.npy").read_bytes()
    (folder / "short.npy").write_bytes(whole[:-10])
    (folder / "void.npy").write_bytes(b"")
    np.savez(folder / "keys.npz", pictures=LEVELS)
    np.savez(folder / "two.npz", images=LEVELS, x=LEVELS)
    np.savez(folder / "labels.npz", images=LEVELS, labels=LABELS[:2])
    np.savez(folder / "half.npz", images=LEVELS, labels=np.array([0, 0.5, 1]))
    np.savez(folder / "text.npz", images=LEVELS, labels=np.array(["a", "b", "c"]))
    (folder / "short.npz").write_bytes((folder / "two.npz").read_bytes()[:200])
    (folder / "magic-idx3-ubyte").write_bytes(b"\x89PNG....")
    (folder / "header-idx3-ubyte").write_bytes(idx(LEVELS)[:9])
    (folder / "short-idx3-ubyte").write_bytes(idx(LEVELS)[:-1])
    (folder / "more-idx3-ubyte").write_bytes(idx(LEVELS) + b"\0")
    (folder / "void-idx3-ubyte").write_bytes(b"")
    (folder / "labels-idx1-ubyte").write_bytes(idx(LABELS))
    (folder / "short-idx3-ubyte.gz").write_bytes(gzip.compress(idx(LEVELS))[:-12])
    damaged = bytearray(gzip.compress(idx(LEVELS)))
    damaged[20] ^= 0xFF
    (folder / "damaged-idx3-ubyte.gz").write_bytes(bytes(damaged))
    (folder / "plain-idx3-ubyte.gz").write_bytes(idx(LEVELS))
    (folder / "m-images-idx3-ubyte").write_bytes(idx(LEVELS))
    (folder / "m-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    (folder / "void.csv").write_text("\n")
    (folder / "header.csv").write_text("label,a\n")
    (folder / "ragged.csv").write_text("1,2,3,4\n1,2,3\n")
    (folder / "word.csv").write_text("1,2,3,4\n1,2,x,4\n")
    (folder / "extra.csv").write_text("7,1,2,3,4\n")
    (folder / "labels.csv").write_text("label,y,a\n1,2,3\n")
    (folder / "nan.csv").write_text("0.5,nan,0,0\n")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "data.parquet").write_text("")
    (folder / "suffixless").write_text("")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(folder / "float.tif")
    for name in ("empty", "sizes", "mixed", "mixed/0", "twice", "twice/1", "twice/01"):
        (folder / name).mkdir()
    Image.new("L", (4, 4)).save(folder / "sizes" / "a.png")
    Image.new("L", (4, 5)).save(folder / "sizes" / "b.png")
    for place in ("mixed", "mixed/0", "twice/1", "twice/01"):
        Image.new("L", (4, 4)).save(folder / place / "a.png")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cube.npy", r"has the shape \(2, 3, 4, 4\): images have 3 dimensions"),
        ("line.npy", r"has the shape \(16,\)"),
        ("none.npy", "is empty"),
        ("oblong.npy", "vectors of 15 pixels, which is not a square: give the images' shape"),
        ("complex.npy", "holds complex128, images are made of real numbers"),
        (
            "byte.npy",
            r"from 255 to 255, but floats must lie in \[0, 1\]: divide them by 255",
        ),
        ("negative.npy", "integers from -1 to -1, but grey levels are 0 to 255"),
        ("binary.npy", "holds the integers 0 and 1 only, which may mean"),
        ("above.npy", r"values from 1\.000000001 to 1\.000000001, but floats"),
        ("nan.npy", "has 2 NaN or infinite values, the first at image 2, row 1, column 3"),
        ("object.npy", "holds pickled objects .* never loaded: save a plain array"),
        ("pickle.npy", "holds pickled objects .* never loaded"),
        ("object.npz", "holds pickled objects .* never loaded"),
        ("short.npy", "is truncated or corrupt"),
        ("void.npy", "is truncated or corrupt"),
        ("keys.npz", "has the arrays pictures: exactly one must be named images, x or data"),
        ("two.npz", "has the arrays images, x: exactly one must be named"),
        ("labels.npz", r"labels of shape \(2,\) for 3 images"),
        ("half.npz", "label 1 is 0.5, but labels must be whole numbers"),
        ("text.npz", "labels must be whole numbers, not <U1"),
        ("short.npz", "is truncated or corrupt"),
        ("magic-idx3-ubyte", "is not an idx file: it starts with bytes 89 50 4e 47"),
        ("header-idx3-ubyte", "is truncated: its header of 3 dimensions is not complete"),
        ("short-idx3-ubyte", "is truncated: .* 3 x 4 x 4 values, which is 64 bytes, .* are 63"),
        ("more-idx3-ubyte", "has bytes left over: .* 64 bytes, but there are 65"),
        ("void-idx3-ubyte", "is not an idx file: it starts with bytes none"),
        ("labels-idx1-ubyte", "holds 3 single numbers, labels perhaps: give images"),
        ("short-idx3-ubyte.gz", r"is truncated or corrupt \(gzip"),
        ("damaged-idx3-ubyte.gz", r"is truncated or corrupt \(gzip"),
        ("plain-idx3-ubyte.gz", "is named .gz but is not gzipped"),
        ("m-images-idx3-ubyte", r"m-labels-idx1-ubyte: labels of shape \(2,\) for 3 images"),
        ("void.csv", "is empty: no row of pixels"),
        ("header.csv", "is empty: a header, but no row of pixels"),
        ("ragged.csv", "row 2 has 3 entries, the first has 4"),
        ("word.csv", "row 2, column 3 is 'x', which is not a number"),
        ("extra.csv", "has 5 columns, one more than a square image: if one holds labels"),
        ("labels.csv", "has 2 label columns: keep one"),
        ("nan.csv", "has 1 NaN or infinite values, the first at image 0, row 0, column 1"),
        ("binary.csv", "is not a text file"),
        ("data.parquet", r"has the unknown suffix '\.parquet': known are \.npy"),
        ("suffixless", r"has the unknown suffix '\(none\)'"),
        ("broken.png", "is not a readable image"),
        ("float.tif", "has 32-bit values without a range"),
        ("empty", "holds no image: looked for .bmp, .gif"),
        ("sizes", r"b.png is 5x4 but .*a.png is 4x4 \(height x width\)"),
        ("mixed", r"holds images both directly \(a.png\) and in sub-folders \(0\)"),
        ("twice", "the sub-folders 01, 1 name one class twice"),
        ("missing.npy", "does not exist: check the path of the data"),
    ],
)
def test_a_broken_file_gets_one_sentence_that_names_it(
    tmp_path: Path, name: str, sentence: str
) -> None:
    broken_files(tmp_path)
    with pytest.raises(InvalidInput, match=sentence) as caught:
        read(tmp_path / name)
    said = str(caught.value)
    assert str(tmp_path) in said
    assert "\n" not in said


def test_shapes_and_labels_that_do_not_fit_get_one_sentence(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    with pytest.raises(InvalidInput, match="not images of the given shape 3x5"):
        read(files["flat.npy"], shape=(3, 5))
    with pytest.raises(InvalidInput, match="images of 4x4, not of the given shape 2x8"):
        read(files["a.npy"], shape=(2, 8))
    with pytest.raises(InvalidInput, match="check the path of the labels"):
        read(files["a.npy"], tmp_path / "none.npy")
    with pytest.raises(InvalidInput, match=r"labels of shape \(3, 4, 4\) for 3 images"):
        read(files["a.npy"], files["a.npy"])


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "trap.npy").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "trap.npz", images=np.array([Trap()], dtype=object))
    for name in ("trap.npy", "trap.npz"):
        with pytest.raises(InvalidInput):
            read(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
