"""Our safetensors files in the package's hands, and the package's in ours."""

import numpy as np
import pytest

from tinygrad_llm.weights.safetensors_file import open_safetensors, open_with_metadata, write_safetensors

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed: pip install '.[peers]'")


def arrays():
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b.weight": rng.standard_normal((4, 2)).T,
        "half": rng.standard_normal(7).astype(np.float16),
        "none": np.zeros((0, 3), np.float32),
        "one": np.array(2.5),
    }


def test_the_package_reads_what_we_write(tmp_path):
    write_safetensors(tmp_path / "x", arrays(), {"format": "pt", "ü": "ä"})
    with safetensors.safe_open(tmp_path / "x", framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "ü": "ä"}
        assert set(file.keys()) == arrays().keys()
        for name, array in arrays().items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


def test_we_read_what_the_package_writes(tmp_path):
    from safetensors.numpy import save_file

    contiguous = {name: np.asarray(array, order="C") for name, array in arrays().items()}
    save_file(contiguous, tmp_path / "x", {"about": "this"})
    tensors, metadata = open_with_metadata(tmp_path / "x")
    assert metadata == {"about": "this"}
    for name, array in arrays().items():
        found = tensors[name].read()
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


def test_bfloat16_is_rounded_as_torch_does(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
    x = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    x[:4] = 0, 1 + 2**-8, 1 + 3 * 2**-8, 3e38  # ties go to the even one
    write_safetensors(tmp_path / "x", {"x": x}, {}, "bfloat16")
    with safetensors.safe_open(tmp_path / "x", framework="pt") as file:
        found = file.get_tensor("x")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.from_numpy(x).bfloat16())
    np.testing.assert_array_equal(open_safetensors(tmp_path / "x")["x"].read(), found.float().numpy())
