"""tinygrad-llm why: on a script, on the tiny GPT, and its mistakes."""

import pytest

from tinygrad_llm.cli.main import main

SCRIPT = """
import numpy as np
import tinygrad_llm as tg
from tinygrad_llm.nn import Linear

x = tg.Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
layer = Linear(2, 100)
big = tg.Tensor(np.ones((200, 200)), requires_grad=True)
y = x @ x
((y * y).sum() + big.exp().sum() + layer(x).sum()).backward()
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return str(path)


def test_on_a_script(script, capsys):
    assert main(["why", "x.grad[1, 0]", script]) == 0
    out = capsys.readouterr().out
    assert out.startswith("x[1, 0] = 3, gradient ")
    assert "through matmul, as its input y:" in out
    assert "difference" in out
    assert "tinygrad-llm derive matmul" in out


def test_graphs_of_a_script_are_remembered_however_large(script, capsys):
    assert main(["why", "big[150, 3]", script]) == 0
    assert "gradient 2.71828" in capsys.readouterr().out


def test_the_largest_entry_is_the_default(script, capsys):
    assert main(["why", script]) == 0
    assert capsys.readouterr().out.startswith("x[1, 1] = 4, ")


def test_on_the_tiny_gpt(capsys):
    assert main(["why", "blocks.0.mlp.up.weight.grad[3, 5]", "--depth", "1", "--terms", "2"]) == 0
    out = capsys.readouterr().out
    assert "a tiny GPT reads:     the cat sees" in out
    assert "blocks.0.mlp.up.weight[3, 5]" in out
    assert "smaller terms" in out


def test_list(script, capsys):
    assert main(["why", script, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shapes = {"x": "(2, 2)", "layer.weight": "(2, 100)", "layer.bias": "(100,)", "big": "(200, 200)", "y": "(2, 2)"}
    assert lines == [f"{name}.grad  {shape}" for name, shape in shapes.items()]


def test_html_and_an_existing_file(script, tmp_path, capsys):
    page = tmp_path / "why.html"
    assert main(["why", script, "--html", str(page)]) == 0
    before = page.read_text(encoding="utf-8")
    assert "through matmul" in before
    assert main(["why", "x[0, 0]", script, "--html", str(page)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == before
    assert main(["why", "x[0, 0]", script, "--html", str(page), "--force"]) == 0
    assert page.read_text(encoding="utf-8") != before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("xx[0, 0]", "no gradient is called 'xx'; did you mean x?"),
        ("qqqq[0]", "no gradient is called 'qqqq'; --list shows all"),
        ("x[0]", "not one entry of a Tensor of shape (2, 2)"),
        ("x[0, 9]", "index 9 is outside axis 1"),
        ("x[0, -]", "an index is a whole number"),
        ("x.grad[0, 0", "does not name an entry of a gradient"),
    ],
)
def test_mistakes(script, capsys, entry, message):
    assert main(["why", entry, script]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "does it call backward()?"),
        ("def f(:", "line 1: "),
    ],
)
def test_scripts_that_show_nothing(tmp_path, capsys, text, message):
    path = tmp_path / "empty.py"
    path.write_text(text, encoding="utf-8")
    assert main(["why", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_no_such_script(capsys):
    assert main(["why", "x[0]", "nowhere.py"]) == 1
    assert "nowhere.py: there is no such script" in capsys.readouterr().err
