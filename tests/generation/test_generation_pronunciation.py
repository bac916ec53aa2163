"""How words are spoken: the letters and phonemes, the model of g2p-en, the command."""

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.generation import loading
from tinygrad_llm.generation.pronunciation import LETTERS, PHONEMES, pronounce, spelled
from tinygrad_llm.models import RecurrentEncoderDecoder, RecurrentEncoderDecoderConfig, load_model
from tinygrad_llm.weights.g2p import LETTER_COUNT, PHONEME_COUNT

LISTED = "AE2 K T IH0 V EY1 SH AH0 N IH0 S T"


@pytest.fixture(scope="module")
def path():
    try:
        return loading.find_model("g2p")
    except (FileNotFoundError, PackageNotFoundError):
        pytest.skip("g2p-en is not installed: pip install --no-deps g2p-en==2.1.0")


def test_letters_and_phonemes():
    assert (len(LETTERS), len(PHONEMES)) == (LETTER_COUNT, PHONEME_COUNT) == (29, 74)
    assert (LETTERS[3], LETTERS[28], LETTERS.index("</s>")) == ("a", "z", 2)
    assert PHONEMES[2:6] == ("<s>", "</s>", "AA0", "AA1")
    assert PHONEMES[-1] == "ZH"
    place = PHONEMES.index("UW")
    assert PHONEMES[place - 1 : place + 3] == ("UH2", "UW", "UW0", "UW1")
    bare = {phoneme.rstrip("012") for phoneme in PHONEMES[4:]}
    assert len(bare) == 39
    assert len(set(PHONEMES)) == 74


@pytest.mark.parametrize(
    ("word", "ids"),
    [
        ("cab", [5, 3, 4, 2]),
        ("CAB", [5, 3, 4, 2]),
        ("càb", [5, 3, 4, 2]),
        ("z'x", [28, 1, 26, 2]),
        ("3ß", [1, 1, 2]),
        ("", [2]),
    ],
)
def test_a_word_is_its_letters_and_an_end(word, ids):
    assert spelled(word).tolist() == ids


def test_the_listed_word_is_spoken_as_listed(path):
    model = load_model(path)
    words = ["hello", "activationist", "a", "Hello"]
    together = pronounce(model, words)
    assert " ".join(together[1]) == LISTED
    assert together[0] == together[3] == ["HH", "EH1", "L", "OW0"]
    assert [pronounce(model, [word])[0] for word in words] == together
    assert pronounce(model, words, beams=1) == together
    assert [len(one) for one in pronounce(model, words, max_phonemes=3)] == [3, 3, 1, 3]


def test_the_command_prints_the_listed_result(path, capsys):
    assert main(["generate", "g2p", "--prompt", "activationist"]) == 0
    assert capsys.readouterr() == (LISTED + "\n", "")
    assert main(["generate", "g2p", "--prompt", "hello activationist", "--prompt", "Hello", "--beams", "1"]) == 0
    assert capsys.readouterr().out == f"HH EH1 L OW0  {LISTED}\nHH EH1 L OW0\n"
    assert main(["generate", "g2p"]) == 1
    assert "there are no words to speak; give some with --prompt" in capsys.readouterr().err


def test_only_generate_takes_it(path, capsys, tmp_path):
    assert main(["chat", "g2p"]) == 1
    assert "tinygrad-llm generate g2p --prompt WORD" in capsys.readouterr().err
    assert main(["convert", "g2p", str(tmp_path / "folder")]) == 0
    first, again = load_model(path), load_model(tmp_path / "folder")
    np.testing.assert_array_equal(first.lm_head.weight.data, again.lm_head.weight.data)
    assert first.config == again.config


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(loading.PACKAGES, "g2p", loading.PACKAGES["g2p"]._replace(name="no-such-package-at-all"))
    assert main(["generate", "g2p", "--prompt", "word"]) == 1
    assert "\n  pip install --no-deps no-such-package-at-all==2.1.0\n" in capsys.readouterr().err


def test_another_model_is_refused():
    model = RecurrentEncoderDecoder(RecurrentEncoderDecoderConfig("gru", 27, 74, 4, 4))
    with pytest.raises(ValueError, match="the model turns 27 tokens into 74, not letters into phonemes"):
        pronounce(model, ["word"])


def test_it_computes_what_torch_computes_with_its_arrays(path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
    with np.load(path, allow_pickle=False) as file:
        theirs = {name: torch.from_numpy(file[name]).double() for name in file.files}

    def cell(half):
        layer = torch.nn.GRUCell(256, 256, dtype=torch.float64)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        arrays = (theirs[f"{half}_{part}"] for part in ("w_ih", "w_hh", "b_ih", "b_hh"))
        layer.load_state_dict(dict(zip(names, arrays, strict=True)))
        return layer

    encoder, decoder, model = cell("enc"), cell("dec"), load_model(path).astype(np.float64)
    for word in ("transformer", "gradient", "numpy"):
        h = torch.zeros(1, 256, dtype=torch.float64)
        for letter in spelled(word):
            h = encoder(theirs["enc_emb"][letter][None], h)
        state, token = model.start([spelled(word)]), 2
        for _ in range(4):
            h = decoder(theirs["dec_emb"][token][None], h)
            expected = (h @ theirs["fc_w"].T + theirs["fc_b"]).detach().numpy()
            np.testing.assert_allclose(model.step(np.array([token]), state), expected, rtol=1e-10, atol=1e-12)
            token = int(expected.argmax())
