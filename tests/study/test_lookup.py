"""Finding operations by name, and refusing to write over files."""

import os

import pytest

import tinygrad_llm as tg
from tinygrad_llm.operation import Operation
from tinygrad_llm.study import lookup
from tinygrad_llm.study.lookup import UnknownOperation, find_operation, refuse_existing


def test_an_operation_is_found_by_its_name():
    assert find_operation("softmax") is tg.ops.softmax


def test_an_operation_is_itself_even_if_it_is_not_registered():
    own = Operation(lambda x: (x, lambda dy: dy), "private")
    assert find_operation(own) is own


@pytest.mark.parametrize(("wrong", "near"), [("sofmax", "softmax"), ("layernorm", "layer_norm"), ("GELU", "gelu")])
def test_the_nearest_name_is_suggested(wrong, near):
    with pytest.raises(UnknownOperation, match=rf"unknown operation '{wrong}'; did you mean .*\b{near}\b"):
        find_operation(wrong)


def test_a_name_near_nothing_gets_the_list():
    with pytest.raises(ValueError, match=r"known are .*\babs, .*\bwhere\b"):
        find_operation("qqqqqqqq")


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="not int: 3"):
        find_operation(3)


def test_a_new_file_may_be_written(tmp_path):
    assert refuse_existing(tmp_path / "new.png") == tmp_path / "new.png"


def test_an_existing_file_is_refused_unless_forced(tmp_path):
    path = tmp_path / "old.png"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match=r"old\.png exists already; .*--force"):
        refuse_existing(path)
    assert refuse_existing(str(path), force=True) == path


@pytest.mark.parametrize("force", [False, True])
def test_folders_are_no_files(tmp_path, force):
    with pytest.raises(ValueError, match="is a folder"):
        refuse_existing(tmp_path, force)
    with pytest.raises(ValueError, match="missing does not exist"):
        refuse_existing(tmp_path / "missing" / "new.png", force)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch, force):
    """This user may write everywhere, if it is root."""
    monkeypatch.setattr(lookup.os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(PermissionError, match=r"Permission denied: '.*new.png'"):
        refuse_existing(tmp_path / "new.png", force)
