"""The command predict."""

import io
import json

import numpy as np
import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.finetuning.classify_config import ClassifyConfig
from tinygrad_llm.finetuning.predicting import with_beginning
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.models.classifier import make_classifier
from tinygrad_llm.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the cat and the dog sat on the mat"] * 3, 270)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 12, 16, 1, 2, init_std=0.3), seed=1)
    model = make_classifier(model, ("no", "yes", "so so"))
    model.score.weight.data = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    model.save_pretrained(path)
    with_beginning(TOKENIZER).save(path / "tokenizer.json")
    return path


def expected(folder, text, context=12):
    """Label to probability, the most probable first."""
    from tinygrad_llm.models import load_model

    ids = np.array([*TOKENIZER.start_ids, *TOKENIZER.encode(text, disallowed_special=())])[None, :context]
    logits = load_model(folder).eval()(ids).data[0].astype(float)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return sorted(zip(("no", "yes", "so so"), p.tolist(), strict=True), key=lambda pair: -pair[1])


TEXTS = ["the cat", "dog", "a mat <|endoftext|>", "on on on on on on on on on on on on on on"]


def test_texts_that_are_given(folder, capsys):
    assert main(["predict", str(folder), *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, text in zip(lines, TEXTS, strict=True):
        (label, probability), *_ = expected(folder, text)
        assert line == f"{label}\t{probability:.3f}\t{text}"


def test_several_classes_of_each(folder, capsys):
    assert main(["predict", str(folder), "--top", "5", "the \n cat"]) == 0
    fields = capsys.readouterr().out.rstrip("\n").split("\t")
    wanted = [field for label, p in expected(folder, "the \n cat") for field in (label, f"{p:.3f}")]
    assert fields == [*wanted, "the cat"]


def test_lines_of_json(folder, capsys):
    assert main(["predict", str(folder), "the\tcät", "--json", "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert "cät" in out
    value, wanted = json.loads(out), expected(folder, "the\tcät")
    assert value["text"] == "the\tcät"
    assert value["label"] == wanted[0][0]
    assert value["probability"] == pytest.approx(wanted[0][1], abs=1e-5)
    assert list(value["probabilities"].items()) == [(label, pytest.approx(p, abs=1e-5)) for label, p in wanted[:2]]


@pytest.mark.parametrize("batch", ["1", "3", "100"])
def test_lines_of_standard_input_as_they_come(folder, capsys, monkeypatch, batch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(["", *TEXTS, " ", "last"]) + "\n"))
    assert main(["predict", str(folder), "--batch-size", batch]) == 0
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == [*TEXTS, "last"]


class Pipe(io.StringIO):
    """Output of which the reader sees what was flushed."""

    seen = ""

    def flush(self):
        self.seen = self.getvalue()


class Typed:
    """Standard input whose lines come one after the other, and that remembers how many answers were there by then."""

    def __init__(self, output, terminal):
        self.output, self.terminal, self.answered = output, terminal, []

    def isatty(self):
        return self.terminal

    def __iter__(self):
        for text in TEXTS:
            self.answered.append(self.output.seen.count("\n"))
            yield text + "\n"


@pytest.mark.parametrize(("terminal", "options"), [(False, ["--batch-size", "1"]), (True, [])])
def test_each_line_is_answered_before_the_next_is_read(folder, monkeypatch, terminal, options):
    output = Pipe()
    typed = Typed(output, terminal)
    monkeypatch.setattr("sys.stdin", typed)
    monkeypatch.setattr("sys.stdout", output)
    assert main(["predict", str(folder), *options]) == 0
    assert typed.answered == [0, 1, 2, 3]


def test_a_file_with_a_column_of_texts_or_of_lines(folder, capsys, tmp_path):
    (tmp_path / "a.csv").write_text("mail,id\nthe cat,1\ndog,2\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("the cat\n\ndog\n", encoding="utf-8")
    assert main(["predict", str(folder), "--data", str(tmp_path / "a.csv"), "--text-column", "mail"]) == 0
    of_table = capsys.readouterr().out
    assert main(["predict", str(folder), "--data", str(tmp_path / "a.txt")]) == 0
    assert capsys.readouterr().out == of_table
    assert len(of_table.splitlines()) == 2


def test_a_run_reads_as_much_of_a_text_as_it_was_trained_to(folder, capsys):
    text = "the cat and the dog sat"
    assert len(TOKENIZER.encode(text)) > 3
    ClassifyConfig(model="m", data="d", context=3).save(folder / "config.toml")
    try:
        assert main(["predict", str(folder), "--json", text]) == 0
    finally:
        (folder / "config.toml").unlink()
    assert json.loads(capsys.readouterr().out)["probability"] == pytest.approx(
        expected(folder, text, 3)[0][1], abs=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "none.csv", "RUN"], 1, "none.csv: no such file"),
        (["--data", "none.csv", "RUN", "text"], 1, "give texts or --data"),
        (["RUN", "--top", "0"], 2, "Must be >= 1"),
        ([], 2, "RUN"),
        (["nowhere", "text"], 1, "nowhere: no such folder or file"),
    ],
)
def test_mistakes(folder, capsys, arguments, status, message):
    assert main(["predict", *(str(folder) if a == "RUN" else a for a in arguments)]) == status
    assert message in capsys.readouterr().err


def test_other_models_are_told_apart(folder, capsys, tmp_path):
    GPT(GPTConfig(TOKENIZER.vocab_size, 12, 16, 1, 2)).save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert main(["predict", str(tmp_path), "text"]) == 1
    assert "holds a GPT that is no classifier" in capsys.readouterr().err
    assert main(["generate", str(folder), "--prompt", "the"]) == 1
    assert (
        "holds a classifier into 3 classes, which writes no text; use tinygrad-llm predict" in capsys.readouterr().err
    )
