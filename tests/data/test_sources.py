"""`load`: sets by name, their splits, and the sentences for what is not there."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from driftwell.core.errors import InvalidInput, MissingExtra
from driftwell.data import load


def write_mnist_like(folder: Path, train: int = 6, test: int = 4) -> None:
    folder.mkdir(parents=True)
    for prefix, n in (("train", train), ("t10k", test)):
        pixels = np.full((n, 2, 2), 200 if prefix == "train" else 100, dtype=np.uint8)
        images = bytes([0, 0, 8, 3]) + struct.pack(">3I", n, 2, 2) + pixels.tobytes()
        labels = bytes([0, 0, 8, 1]) + struct.pack(">I", n) + bytes(range(n))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


def test_digits_have_a_split_that_never_changes() -> None:
    pytest.importorskip("sklearn")
    train, test, whole = (load("digits", split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(whole)) == (1438, 359, 1797)
    assert whole.images.shape == (1797, 8, 8)
    assert whole.classes == tuple(range(10))
    assert whole.images.unique().tolist() == [level / 16 for level in range(17)]
    assert train.fingerprint.startswith("8e284b32")
    assert test.fingerprint.startswith("f8a6ccb9")


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'driftwell\[demo\]'"):
        load("digits")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("fashion", "fashion-mnist")])
def test_named_sets_are_read_from_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    write_mnist_like(tmp_path / folder)
    monkeypatch.setenv("DRIFTWELL_DATA", str(tmp_path))
    train, test, whole = (load(name, split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(whole)) == (6, 4, 10)
    assert torch.equal(whole.images, torch.cat([train.images, test.images]))
    assert whole.labels is not None
    assert whole.labels.tolist() == [*range(6), *range(4)]
    assert train.name == name


def test_a_folder_in_the_layout_of_mnist_has_its_splits(tmp_path: Path) -> None:
    write_mnist_like(tmp_path / "mine")
    assert float(load(tmp_path / "mine", "test").images.max()) == pytest.approx(100 / 255)
    (tmp_path / "mine" / "t10k-labels-idx1-ubyte").unlink()
    assert len(load(tmp_path / "mine", "train")) == 6
    with pytest.raises(InvalidInput, match=r"lacks t10k-labels-idx1-ubyte \(or .gz\), the test"):
        load(tmp_path / "mine", "test")


def test_a_path_without_official_split_gets_the_fixed_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.linspace(0, 1, 40).reshape(10, 2, 2))
    parts = load(tmp_path / "a.npy", "train"), load(str(tmp_path / "a.npy"), "test")
    assert (len(parts[0]), len(parts[1])) == (8, 2)
    whole = load(tmp_path / "a.npy", "all").images
    together = torch.cat([parts[0].images, parts[1].images])
    assert torch.equal(together.flatten().sort().values, whole.flatten())


def test_what_is_not_there_gets_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRIFTWELL_DATA", raising=False)
    with pytest.raises(InvalidInput, match=r"nothing is downloaded: set DRIFTWELL_DATA .*t10k"):
        load("mnist")
    monkeypatch.setenv("DRIFTWELL_DATA", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"is not under DRIFTWELL_DATA .*train-images"):
        load("mnist")
    with pytest.raises(InvalidInput, match=r"no data at 'minst': .* did you mean mnist"):
        load("minst")
    with pytest.raises(InvalidInput, match=r"no data at '/no/such/file\.npy'"):
        load("/no/such/file.npy")
    with pytest.raises(InvalidInput, match="the split is train, test or all, not 'valid'"):
        load("digits", "valid")  # type: ignore[arg-type]


def test_the_real_mnist_is_the_published_one(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class counts and mean of the test part; those of the training part are commonly quoted."""
    monkeypatch.setenv("DRIFTWELL_DATA", str(data_folder))
    test = load("mnist", "test")
    assert test.images.shape == (10000, 28, 28)
    assert test.labels is not None
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.labels.bincount().tolist() == counts
    assert float(test.images.mean()) == pytest.approx(0.13251, abs=5e-6)
    assert load("fashion", "test").images.shape == (10000, 28, 28)
