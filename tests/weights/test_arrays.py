"""The file of named arrays."""

import os
from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm import files
from tinygrad_llm.weights import load_arrays, save_arrays


def test_arrays_and_their_document_come_back(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3).T, "a": np.array(3), "empty": np.zeros((0, 2), np.float32)}
    save_arrays(tmp_path / "x.safetensors", arrays, {"size": 1, "name": "ü"})
    loaded, about = load_arrays(tmp_path / "x.safetensors")
    assert about == {"size": 1, "name": "ü"}
    assert loaded.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(loaded[name], arrays[name])
        assert loaded[name].dtype == arrays[name].dtype


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("x", "y"):
        save_arrays(tmp_path / name, {"a": np.ones(3), "b": np.zeros(2)}, {"p": 1, "q": 2})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_file_that_may_not_be_read_is_not_called_truncated(tmp_path, monkeypatch):
    file = tmp_path / "x"
    save_arrays(file, {"a": np.ones(3)}, {})
    real = Path.open

    def refusing(path, *arguments, **options):
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(PermissionError, match="Permission denied"):
        load_arrays(file)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "f"
    files.atomic_write(file, b"old")

    def half(path: Path) -> None:
        path.write_bytes(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        files.atomic_write(file, half)
    assert str(tmp_path) in str(caught.value.filename)
    assert file.read_bytes() == b"old"
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.atomic_write(file, b"new")
    assert os.listdir(tmp_path) == ["f"]
