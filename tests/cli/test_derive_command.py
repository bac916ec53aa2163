"""tinygrad-llm derive: what it prints and writes, and its mistakes."""

import pytest

import tinygrad_llm as tg
from tinygrad_llm.cli.main import main

OPERATIONS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))


def test_the_example_of_attention(capsys):
    assert main(["derive", "attention", "--shape", "1,3,2"]) == 0
    out = capsys.readouterr().out
    assert "the shape (1, 3, 2) is read as (1, 1, 3, 2)" in out
    assert "y = softmax(scale q kᵀ) v" in out
    for name in "qkv":
        assert f"The gradient of {name}\n1. d{name}_" in out
    assert "∂pₜₛ/∂scoresₜᵣ" in out
    assert out.count("equal to the step before") == 13
    assert "differs" not in out
    assert out.rstrip().endswith("return dq, dk, dv")


def test_one_input_of_one_sample(capsys):
    assert main(["derive", "gelu", "--sample", "2", "--input", "x", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "sample 2 of 2, seed 5" in out
    assert "density = " in out, "the vjp of the second form"


def test_list(capsys):
    assert main(["derive", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Softmaxes" in lines
    assert "softmax pᵢ = e^(xᵢ) / Σₖ e^(xₖ)" in [" ".join(line.split()) for line in lines]
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= set(OPERATIONS)


def test_check(capsys):
    assert main(["derive", "--check", "--draws", "1"]) == 0
    out = capsys.readouterr().out
    assert any(line.split()[:4] == ["attention", "k", "6", "8"] for line in out.splitlines())
    assert out.splitlines()[-1].endswith(": all agree")


def test_check_of_one_operation_that_is_wrong(capsys, monkeypatch):
    layer_norm = tg.registry["layer_norm"]
    original = layer_norm.derivations["gain"]

    def wrong(*inputs, **options):
        for number, (why, value) in enumerate(original(*inputs, **options)):
            yield why, value * (1 + 1e-9 * (number == 1))

    monkeypatch.setitem(layer_norm.derivations, "gain", wrong)
    assert main(["derive", "layer_norm", "--check", "--draws", "3"]) == 1
    out = capsys.readouterr().out
    assert "layer_norm, gain: step 2 (only i = j is left; every row uses the same gain" in out
    assert out.splitlines()[-1] == "3 gradients, 11 steps: 1 of 3 are faulty"


def test_a_page_is_not_replaced_unasked(tmp_path, capsys):
    page = tmp_path / "relu.html"
    assert main(["derive", "relu", "--html", str(page)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    first = page.read_text(encoding="utf-8")
    assert "<h1>relu</h1>" in first
    assert main(["derive", "relu", "--shape", "4", "--html", str(page)]) == 1
    assert "exists already; choose another name, or replace it with --force" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == first
    assert main(["derive", "relu", "--shape", "4", "--html", str(page), "--force"]) == 0
    assert page.read_text(encoding="utf-8") != first


def test_the_book(tmp_path, capsys, monkeypatch):
    for name in OPERATIONS[2:]:
        monkeypatch.delitem(tg.registry, name)
    book = tmp_path / "book"
    assert main(["derive", "--all", "--html", str(book)]) == 0
    assert f"wrote 3 pages: {book / 'index.html'}" in capsys.readouterr().out
    assert main(["derive", "--all", "--html", str(book)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["derive", "--all", "--html", str(book), "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["sofmax"], 2, "unknown operation 'sofmax'; did you mean softmax"),
        ([], 2, "name an operation, as in tinygrad-llm derive softmax; --list shows all"),
        (["softmax", "--input", "y"], 2, "softmax: no input is called 'y'; choose from x"),
        (["softmax", "--shape", "2x3"], 2, "a shape is whole numbers"),
        (["softmax", "--seed", "-1"], 2, "--seed"),
        (["softmax", "--list"], 2, "--list shows every operation; leave out 'softmax'"),
        (["softmax", "--all", "--html", "x"], 2, "--all shows every operation; leave out 'softmax'"),
        (["--all"], 2, "--all needs --html FOLDER"),
        (["--list", "--check"], 2, "--list and --check do not go together"),
        (["--check", "--shape", "2"], 2, "--shape does not go together with --check"),
        (["--check", "--input", "x"], 2, "--input does not go together with --check"),
        (["--list", "--html", "x"], 2, "--list writes no page; leave out --html"),
        (["--check", "--draws", "0"], 2, "--draws"),
        (["softmax", "--shape", "1000,1000"], 1, "softmax: the dense Jacobian for an input of shape (1000, 1000)"),
        (["attention", "--shape", "1,1,1,1,1"], 1, "attention: the shape (1, 1, 1, 1, 1) does not fit"),
        (["softmax", "--sample", "9"], 1, "there is no sample 9"),
        (["softmax", "--html", "."], 1, "is a folder"),
    ],
)
def test_mistakes_are_one_line(arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["derive", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(tmp_path.iterdir())
