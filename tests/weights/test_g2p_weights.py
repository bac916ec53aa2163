"""The .npz of g2p-en: read where it is whole, refused where it is not; nothing in it is ever unpickled."""

import zipfile

import numpy as np
import pytest

from tinygrad_llm.models import RecurrentEncoderDecoder, load_model
from tinygrad_llm.weights.g2p import SHAPES, read_g2p


def arrays():
    rng = np.random.default_rng(0)
    return {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def test_the_arrays_become_the_parameters_of_their_kind(tmp_path):
    given = arrays()
    np.savez(tmp_path / "model.npz", **given)
    model = load_model(tmp_path / "model.npz")
    assert isinstance(model, RecurrentEncoderDecoder)
    assert model.parameter_count() == 834_890
    found = {name: p.data for name, p in model.named_parameters()}
    expected = {"lm_head.weight": given["fc_w"].T, "lm_head.bias": given["fc_b"]}
    for half, stack in (("enc", "encoder"), ("dec", "decoder")):
        layer = f"{stack}.layers.0"
        expected[f"{stack}.token_embedding.weight"] = given[f"{half}_emb"]
        expected[f"{layer}.weight_x"], expected[f"{layer}.weight_h"] = given[f"{half}_w_ih"].T, given[f"{half}_w_hh"].T
        expected[f"{layer}.bias"], expected[f"{layer}.state_bias"] = given[f"{half}_b_ih"], given[f"{half}_b_hh"]
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    config = model.config
    assert (config.pad_id, config.start_id, config.end_id) == (0, 2, 3)


class Alarm:
    """Whoever unpickles it runs a program."""

    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def pickled():
    value = np.empty((29, 256), object)
    value[0, 0] = Alarm()
    return value


def without(name):
    return {other: array for other, array in arrays().items() if other != name}


def spoiled(value):
    given = arrays()
    given["dec_b_ih"][5] = value
    return given


DAMAGED = {
    "a pickle": (lambda: arrays() | {"enc_emb": pickled()}, r"enc_emb should be float32 \(29, 256\), and is object"),
    "another pickle": (lambda: arrays() | {"extra": pickled()}, r"missing or unexpected: extra.npy"),
    "one missing": (lambda: without("fc_b"), "missing or unexpected: fc_b.npy"),
    "another shape": (lambda: arrays() | {"fc_b": np.zeros(75, np.float32)}, r"fc_b should be float32 \(74,\)"),
    "transposed": (lambda: arrays() | {"fc_w": np.zeros((256, 74), np.float32)}, r"and is float32 \(256, 74\)"),
    "by columns": (lambda: arrays() | {"fc_w": np.asfortranarray(arrays()["fc_w"])}, r"fc_w should be float32"),
    "float64": (lambda: arrays() | {"fc_b": np.zeros(74)}, r"and is float64 \(74,\)"),
    "integers": (lambda: arrays() | {"fc_b": np.zeros(74, np.int32)}, r"and is int32 \(74,\)"),
    "big-endian": (lambda: arrays() | {"fc_b": np.zeros(74, ">f4")}, r"and is >f4 \(74,\)"),
    "NaN": (lambda: spoiled(np.nan), "dec_b_ih holds numbers that are not finite"),
    "infinity": (lambda: spoiled(-np.inf), "dec_b_ih holds numbers that are not finite"),
}


@pytest.mark.parametrize(("make", "message"), DAMAGED.values(), ids=list(DAMAGED))
def test_other_arrays_are_refused(tmp_path, make, message):
    path = tmp_path / "model.npz"
    np.savez(path, **make())
    with pytest.raises(ValueError, match=f"model.npz: not the weights of g2p-en 2.1.0 .*{message}"):
        read_g2p(path)


def replaced(path, name, change):
    """The archive with one member's bytes changed."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in members.items():
            archive.writestr(each, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:40], "EOF"),
        (lambda content: content[:-8], "expected 296 bytes got 288"),
        (lambda content: b"", "EOF"),
        (lambda content: b"text" * 100, "magic string is not correct"),
        (lambda content: content.replace(b"NUMPY\x01", b"NUMPY\x03"), "fc_b is in another version of NumPy's format"),
        (
            lambda content: content.replace(b"(74,)", b"(99,)"),
            r"fc_b should be float32 \(74,\), and is float32 \(99,\)",
        ),
    ],
)
def test_a_damaged_array_is_refused(tmp_path, change, message):
    path = tmp_path / "model.npz"
    np.savez(path, **arrays())
    replaced(path, "fc_b.npy", change)
    with pytest.raises(ValueError, match=f"not the weights of g2p-en 2.1.0 .*{message}"):
        read_g2p(path)


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (b"", b"PK", whole[: len(whole) // 2], whole[1000:], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not the weights of g2p-en"):
            read_g2p(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_g2p(tmp_path / "none.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, **arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("fc_b.npy", b"")
    with pytest.raises(ValueError, match="an array stands twice in it"):
        read_g2p(path)
