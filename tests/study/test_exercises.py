"""Exercises: that they hold everything but the answer, for every operation, and what wrong answers are told."""

import ast
import functools
import importlib.util
import inspect
import json
import re
import runpy
import textwrap

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.operation import Operation
from tinygrad_llm.study.exercises import course as exercises
from tinygrad_llm.study.exercises.attempt import check_sample
from tinygrad_llm.study.exercises.blanking import blanked
from tinygrad_llm.study.exercises.course import (
    check_exercise,
    exercise,
    exercise_list,
    exercise_source,
    hint_exercise,
    reveal_exercise,
)
from tinygrad_llm.study.exercises.progress import PATH, Progress
from tinygrad_llm.study.exercises.task import gradient_name, task
from tinygrad_llm.study.exercises.told import without_gradients
from tinygrad_llm.study.exercises.trial import Outcome, outcome_of, try_out
from tinygrad_llm.study.notation.prose import docstring_formulas

OPERATIONS = sorted(name for name, o in tg.registry.items() if o.__module__.startswith("tinygrad_llm."))
BLANK = re.compile(r"( *)def (\w+)\(\w+\):\n(?: +#.*\n)+ +raise NotImplementedError\(.*\)\n")
GRADIENT = re.compile(r"(?<![A-Za-z])(d([xyWvkqbsp]|gain|bias|weight|logits)|g[xy])(?![A-Za-z])")


@pytest.fixture
def here(monkeypatch):
    """Attempts are tried in this process, which is faster."""
    monkeypatch.setattr(exercises, "try_out", lambda o, path, hint=False, limit=0.0: outcome_of(o, path, hint))


def filled(source, *bodies):
    """An exercise with the body of each blank vjp written."""
    todo = list(bodies)

    def fill(match):
        body = textwrap.indent(textwrap.dedent(todo.pop(0)).strip("\n"), match[1] + "    ")
        return f"{match[1]}def {match[2]}(dy):\n{body}\n"

    text = BLANK.sub(fill, source)
    assert not todo
    return text


@functools.cache
def source_of(name):
    return exercise_source(tg.registry[name])


def blank(name, folder):
    """Write an exercise the fast way."""
    path = folder / f"{name}.py"
    path.write_text(source_of(name), encoding="utf-8")
    return path


def solve(path, *bodies):
    path.write_text(filled(source_of(path.stem), *bodies), encoding="utf-8")


def answers_pasted(operation):
    """The exercise with the library's lines in place of the blanks."""
    parts = blanked(operation)
    todo = list(parts.answers)
    text = BLANK.sub(lambda m: textwrap.indent(todo.pop(0), m[1]) + "\n", exercise_source(operation))
    assert not todo
    return text + "\n" + parts.answer_imports + "\n"


def code_without_docstrings(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Module) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


# ---- Every operation -------------------------------------------------------------------------------------------------


def test_the_path_has_every_operation_from_add_to_attention():
    names = [name for family in PATH.values() for name in family]
    assert sorted(names) == OPERATIONS == sorted(tg.ops.__all__)
    assert (names[0], names[-1]) == ("add", "self_attention")


def test_a_block_keeps_the_formulas_of_the_forward_pass():
    doc = without_gradients(tg.registry["gelu"].__doc__)
    assert "\n    y = x (1 + t) / 2     t = tanh(u)     u = sqrt(2/pi) (x + 0.044715 x^3)\n" in doc
    assert "It saves x and P::\n\n    y = x P     P = erfc(-x / sqrt(2)) / 2\n" in doc
    assert "sqrt(2 pi)" not in doc
    assert "density" not in doc


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_exercise_still_explains_the_arguments(name):
    """A sentence on an argument must not go because it mentions the gradient too."""
    operation = tg.registry[name]
    mine = without_gradients(operation.__doc__)
    for parameter in set(inspect.signature(operation.reference).parameters) - set(operation.derivations):
        explained = re.compile(rf"(?<!\w){parameter}(?!\w)")
        assert explained.search(mine) or not explained.search(operation.__doc__), parameter


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_exercise_is_blank(name, tmp_path):
    outcome = outcome_of(tg.registry[name], blank(name, tmp_path), hint=False)
    assert outcome.unwritten
    assert re.fullmatch(rf"not written yet: {name}\.py, line \d+, in vjp", outcome.text)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_in_an_exercise_tells_the_gradient(name):
    operation = tg.registry[name]
    source = source_of(name)
    tree = code_without_docstrings(source)
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in ("dy", "dys")]
    lines = set(ast.unparse(tree).splitlines())
    for answer in blanked(operation).answers:
        body = ast.parse(answer).body[0].body
        assert not {line.strip() for line in lines} & {ast.unparse(statement) for statement in body}
    docs = "\n".join(ast.get_docstring(n) or "" for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef))
    assert not GRADIENT.search(docs)
    assert not re.search("gradient|cotangent|backward|receives", docs, re.IGNORECASE)
    told = [f for f in docstring_formulas(operation.__doc__) if GRADIENT.search(f)]
    assert not [f for f in told if f in docs]


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_computed_is_still_said(name):
    formula = docstring_formulas(tg.registry[name].__doc__)[:1]
    assert all(f in without_gradients(tg.registry[name].__doc__) for f in formula)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_library_s_lines_pass(name, tmp_path):
    path = tmp_path / f"{name}.py"
    path.write_text(answers_pasted(tg.registry[name]), encoding="utf-8")
    outcome = outcome_of(tg.registry[name], path, hint=False)
    assert outcome == Outcome(passed=True, draws=2 * len(tg.registry[name].sample))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "layer_norm",
            "the tuple (dx, dgain, dbias): dx, of the shape of x (..., C); dgain, of the shape of gain (C,)",
        ),
        ("attention", "dv, of the shape of v (B, Hkv, S, D)."),
        ("where", "(None, gx, gy): gx, of the shape of x; gy,"),
        ("embedding", "Return dweight, of the shape of weight (V, C)."),
        ("stack", "Return a tuple: the gradient of each array in xs"),
        ("split", "a tuple: the cotangent of each output"),
        ("mul", "the tape sums it"),
        ("matmul", "gy, of the shape of y. Where"),
    ],
)
def test_the_comment_says_what_to_return(name, words):
    source = source_of(name)
    assert words in " ".join(re.sub(r"\n +# ", " ", source).split())


def test_only_where_inputs_broadcast_a_sum_by_the_tape_is_mentioned():
    assert {n for n in OPERATIONS if "the tape" in " ".join(task(tg.registry[n]))} == {
        *("add", "sub", "mul", "div", "power", "where", "matmul", "biased_attention"),
    }


OTHER_KINDS = '''
"""Operations whose vjp is written in other ways."""

import numpy as np

from tinygrad_llm.operation import Operation


def helper(x):
    return np.cos(x)


def one(x, y):
    """``z = sin x + y``. Gradient: ``gx = dy cos x``."""
    return np.sin(x) + y, lambda dy: (dy * helper(x), lambda: dy)


def two(x, double=False):
    """``y = x`` or ``2 x``, é."""
    é = (2 * x, lambda dy: 2 * dy) if double else (1 * x, lambda dy: 1 * dy)
    return é


def three(x):
    """``y = 3 x``"""
    def pull(dy): return 3 * dy
    return 3 * x, pull


def same(dy):  # outside
    # and told
    return dy


def four(x):
    """``y = x``"""
    return x + 0, same


class Pull:
    def __call__(self, dy):
        return dy


def five(x):
    """``y = x``"""
    return x + 0, Pull()


def six(x):
    """``y = x``"""
    def vjp(dy):
        # a comment that tells
        return dy
        # and another one that tells
    return x + 0, vjp


def seven(x, double=False):
    """``y = x`` or ``2 x``"""
    if double:
        def vjp(dy):
            twice = dy + dy
            twice = twice * 1
            twice = twice * 1
            return twice * 1 + 0
    else:
        def vjp(dy):
            return 1 * dy
    return (2 if double else 1) * x, vjp


def eight(x, double=False):
    """``y = x`` or ``2 x``"""
    if double:
        return 2 * x, lambda dy: 2 * dy
    return 1 * x, lambda dy: 1 * dy
'''


@pytest.fixture
def others(tmp_path, monkeypatch):
    file = tmp_path / "other_kinds.py"
    file.write_text(OTHER_KINDS, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("other_kinds", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "other_kinds", module)
    spec.loader.exec_module(module)
    found = {}
    for name in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        found[name] = Operation(getattr(module, name))
        for double in (True, False) if name in ("two", "seven", "eight") else (None,):

            @found[name].sample
            def _(rng, shape=(2, 3), inputs=1 + (name == "one"), options={} if double is None else {"double": double}):
                return tuple(rng.standard_normal((inputs, *shape))), options

    return found


@pytest.mark.parametrize(
    ("name", "blanks"), [("one", 1), ("two", 2), ("three", 1), ("four", 1), ("six", 1), ("seven", 2), ("eight", 2)]
)
def test_vjps_written_in_other_ways(others, name, blanks, tmp_path):
    operation, path = others[name], tmp_path / f"{name}.py"
    source = exercise_source(operation)
    assert source.count("NotImplementedError") == blanks
    assert "tell" not in source
    assert "told" not in source
    path.write_text(source, encoding="utf-8")
    assert outcome_of(operation, path, hint=False).unwritten
    path.write_text(answers_pasted(operation), encoding="utf-8")
    if name in ("two", "eight"):  # their lambdas have become vjp_1 and vjp_2
        path.write_text(filled(source, "return 2 * dy", "return 1 * dy"), encoding="utf-8")
    assert outcome_of(operation, path, hint=False).passed


def test_helpers_that_only_this_vjp_uses_are_part_of_the_answer(others):
    assert "helper" not in exercise_source(others["one"])
    assert blanked(others["one"]).answer_imports == "from other_kinds import helper"
    assert "scatter_rows" in exercise_source(tg.registry["embedding"])  # getitem uses it too
    assert "power_slope" not in exercise_source(tg.registry["power"])


def test_operations_of_which_no_exercise_can_be_made(others):
    with pytest.raises(ValueError, match="five: no exercise can be made of it, because its vjp is not a function"):
        exercise_source(others["five"])
    with pytest.raises(ValueError, match="no sample leads to its vjp"):
        exercise_source(Operation(others["one"].reference))
    typed = {"np": np}
    exec("def typed(x):\n    return x, lambda dy: dy", typed)
    operation = Operation(typed["typed"])
    operation.sample(lambda rng, shape=(2,): ((rng.standard_normal(shape),), {}))
    with pytest.raises(ValueError, match="source is not in a file"):
        exercise_source(operation)


def test_sentences_that_refer_to_what_is_gone_go_too():
    doc = """``y = f(x)``. Saves y. Gradient: ``dx = dy``.

    With ``g = dy gain``::

        dx = g + 1

    The two means are what is lost. A row is a row. Cost: 8 passes.

    Where there is::

        y = x

    it stays. Do go on.
    """
    assert without_gradients(doc) == (
        "``y = f(x)``. Saves y.\n\nCost: 8 passes.\n\nWhere there is::\n\n    y = x\n\nit stays. Do go on."
    )


# ---- Writing ---------------------------------------------------------------------------------------------------------


def test_the_student_s_work_is_not_overwritten(tmp_path):
    path, test = exercise("mul", tmp_path / "new" / "folder")
    exercise("mul", path.parent)  # nothing is lost by that
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"mul\.py exists already.*--force"):
        exercise("mul", path.parent)
    assert path.read_text(encoding="utf-8") == "mine"
    exercise("mul", path.parent, force=True)
    assert path.read_text(encoding="utf-8") == exercise_source(tg.registry["mul"])
    test.write_text("mine too", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"test_mul\.py"):
        exercise("mul", path.parent)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file; --dir needs a folder"):
        exercise("mul", tmp_path / "file")


def test_the_written_test_shows_the_diagnosis(tmp_path):
    path, test = exercise("softmax", tmp_path)
    check = runpy.run_path(str(test))["test_softmax"]
    with pytest.raises(NotImplementedError, match="write the vjp"):
        check(0, 0)
    solve(path, "return p * dy")
    with pytest.raises(AssertionError, match=r"likely cause: .*projection|likely cause: .*term along"):
        check(0, 0)
    solve(path, "return p * (dy - (dy * p).sum(axis=axis, keepdims=True))")
    check(0, 0)
    check(0, 1)


# ---- Wrong answers ---------------------------------------------------------------------------------------------------

WRONG = [
    ("neg", "return dy", "sign"),
    ("mul", "return -dy * y, dy * x", "sign"),
    ("mul", "return dy * x, dy * y", "is the gradient of|called with|wrong order"),
    ("mul", "return y, x", "does not depend on the cotangent"),
    ("mul", "return dy * y", "returned 1 gradient; expected 2: gx, gy"),
    ("mul", "return dy * y, dy * x, dy", "returned 3 gradients; expected 2: gx, gy"),
    ("mul", "return dy * y, None", r"gy is None; expected an array of shape \("),
    ("mul", "dy * y, dy * x", "returned nothing: is its return statement missing"),
    ("mul", "return dy * y, 'dy * x'", "gy is not an array of real numbers but str"),
    ("mul", "return dy * y, [[1.0], [2.0, 3.0]]", "gy is not an array of numbers"),
    (
        "mean",
        "return np.broadcast_to(restored(dy, axis, keepdims), shape)",
        "mean(?s:.*)sum|sum(?s:.*)mean|2 times|divide",
    ),
    ("softmax", "return p * dy", "missing"),
    ("sum", "return restored(dy, axis, keepdims)", r"expected \(.*each entry of the input needs its own value"),
    ("where", "return np.where(condition, dy, 0), np.where(condition, 0, dy)", "expected 3: None, gx, gy"),
    ("stack", "return dy", r"for \d inputs?: return one for each array in xs"),
    (
        "linear",
        "return (rows(dy) @ weight.T).reshape(x.shape), rows(dy).T @ rows(x), sum_rows(dy)",
        r"dweight has the shape \(4, 3\), expected \(3, 4\), that of its input: is it transposed\?",
    ),
    (
        "linear",
        "return lambda: (rows(dy) @ weight).reshape(x.shape), rows(x).T @ rows(dy), sum_rows(dy)",
        r"(?s)dx: linear\.py, line \d+, in <lambda>: ValueError.*the shapes dy \(2, 4\), weight \(3, 4\), x \(2, 3\)",
    ),
    (
        "linear",
        "return (rows(dy) @ weight.T).reshape(x.shape), rows(x).T @ rows(dy), dy.mean(0)",
        "mean",
    ),
    ("exp", "dy *= y\nreturn dy", "read-only(?s:.*)may be used again: do not write to them"),
    (
        "exp",
        "return dy * why",
        r"exp\.py, line \d+, in vjp: NameError: name 'why' is not defined\n    return dy \* why",
    ),
    (
        "exp",
        "def inner():\n    return why\nreturn inner()",
        r"exp\.py, line \d+, in inner: NameError.*\n    return why$",
    ),
    ("exp", "raise NotImplementedError('later')", "NotImplementedError: later"),
]


@pytest.mark.parametrize(("name", "body", "told"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)])
def test_wrong_answers_are_explained(name, body, told, tmp_path, here):
    path = blank(name, tmp_path)
    solve(path, body)
    verdict = check_exercise(path)
    assert not verdict
    assert str(verdict).startswith(f"{name}: not right yet\n")
    assert re.search(told, str(verdict)), verdict
    assert not Progress(tmp_path).state(name).done


def test_the_arguments_for_which_it_is_wrong_are_named(tmp_path, here):
    path = blank("gelu", tmp_path)
    tanh, _ = (textwrap.dedent("\n".join(a.splitlines()[1:])) for a in blanked(tg.registry["gelu"]).answers)
    solve(path, tanh, "return dy * cumulative")
    text = str(check_exercise(path))
    assert "called with x (2, 3), approximate=False\n" in text
    assert "the first of 1 kinds of arguments, out of 2," in text


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("e = np.exp(", "e = 2 + np.exp(", r"no longer computes what the library's softmax does.*x \(2, 3, 2\), axis="),
        ("return p, vjp", "return p", r"softmax must return \(value, vjp\).*it returned ndarray"),
        ("return p, vjp", "return p[..., :1], vjp", "no longer computes"),
        ("def softmax", "def hardmax", "no longer defines the function softmax"),
        ("import numpy", "import nompy", "line 8, in <module>: ModuleNotFoundError: No module named 'nompy'"),
        ("return p, vjp", "return p, vjp)", r"softmax\.py, line 26: unmatched '\)'\n    return p, vjp\)"),
        ("import numpy as np\n", "import numpy as np\nraise SystemExit(3)\n", "line 9, in <module>: SystemExit: 3"),
    ],
)
def test_files_that_do_not_run_are_explained(old, new, told, tmp_path, here):
    path = blank("softmax", tmp_path)
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")
    for verdict in (check_exercise(path), hint_exercise(path)):
        assert not verdict
        assert re.search(told, str(verdict)), verdict
        assert "Traceback" not in str(verdict)
        assert "tinygrad_llm/" not in str(verdict)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("exp", "return y,", "return y[None],"),
        ("split", "return pieces,", "return (pieces[0], *(2 * p for p in pieces[1:])),"),
        ("split", "return pieces,", "return pieces[:-1],"),
    ],
)
def test_a_value_of_another_shape_or_wrong_in_part(name, old, new, tmp_path, here):
    path = blank(name, tmp_path)
    path.write_text(source_of(name).replace(old, new), encoding="utf-8")
    assert f"{name} no longer computes what the library's {name} does" in str(check_exercise(path))


def test_the_value_may_be_nan_where_the_library_s_is(tmp_path):
    operation = Operation(lambda x: (np.where(x > 0, np.nan, x), lambda dy: dy), "gap")
    operation.sample(lambda rng, shape=(3,): ((np.array([-1.0, 2.0, -3.0]),), {}))
    path = tmp_path / "gap.py"
    path.write_text(
        "import numpy as np\ndef gap(x):\n    return np.where(x > 0, np.nan, x), lambda dy: None\n", "utf-8"
    )
    assert outcome_of(operation, path, hint=False).text.endswith("returned nothing: is its return statement missing?")


def test_a_file_that_is_no_exercise(tmp_path):
    for content, told in (
        ("x = 1\n", "is not an exercise"),
        ('"""Exercise: sofmax. """\n', "unknown operation 'sofmax'; did you mean softmax"),
    ):
        (tmp_path / "a.py").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=told):
            check_exercise(tmp_path / "a.py")
    (tmp_path / "a.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not an exercise"):
        check_exercise(tmp_path / "a.py")
    with pytest.raises(ValueError, match="does not exist; write an exercise first"):
        hint_exercise(tmp_path / "b.py")
    with pytest.raises(ValueError, match="is a folder; give the file"):
        reveal_exercise(tmp_path)


# ---- In a process of its own -----------------------------------------------------------------------------------------


def test_a_loop_without_end_is_stopped_and_its_line_named(tmp_path):
    path = blank("exp", tmp_path)
    solve(path, "while True:\n    pass")
    line = path.read_text(encoding="utf-8").splitlines().index("        while True:") + 1
    outcome = try_out(tg.registry["exp"], path, limit=1.0)
    named = re.fullmatch(r"stopped after 1 seconds: it was in line (\d+) of exp\.py, in vjp\. .*", outcome.text)
    assert int(named[1]) in (line, line + 1)


def test_a_process_that_ends_by_itself(tmp_path):
    path = blank("exp", tmp_path)
    solve(path, "import os\nos._exit(7)")
    assert try_out(tg.registry["exp"], path).text == "the process that ran exp.py ended by itself, with status 7"


def test_what_comes_back_from_the_process(tmp_path, capfd):
    path = blank("gelu", tmp_path)
    tanh, _ = (textwrap.dedent("\n".join(a.splitlines()[1:])) for a in blanked(tg.registry["gelu"]).answers)
    solve(path, tanh, "return np.nan * dy")
    outcome = try_out(tg.registry["gelu"], path, hint=True)
    (missing,) = outcome.missing
    assert (missing.input, missing.number, missing.shape) == ("x", 1, None)
    assert np.isnan(missing.mine).all()
    assert capfd.readouterr() == ("", "")


def test_what_the_student_prints_is_shown_once_for_each_draw(tmp_path, here, capsys):
    path = blank("exp", tmp_path)
    solve(path, "print('dy', dy.shape)\nreturn dy")
    check_exercise(path)
    assert capsys.readouterr().out == "dy (2, 3)\n"
    hint_exercise(path)
    assert capsys.readouterr().out == "dy (2, 3)\n"


def test_hints_too_are_given_read_only_arrays(tmp_path, here):
    path = blank("exp", tmp_path)
    solve(path, "dy *= y\nreturn dy")
    assert "Yours: exp.py, line 20, in vjp: ValueError: output array is read-only" in str(hint_exercise(path))


def test_hints_go_on_with_the_next_gradient(tmp_path, here):
    path = blank("mul", tmp_path)
    hints = [str(hint_exercise(path)) for _ in range(5)]
    assert [h[:20] for h in hints] == [f"g{v} of mul, step {n} of" for v, n in ("x1", "x2", "y1", "y2", "x2")]
    assert "last step of gx; --hint goes on with gy" in hints[1]
    assert "last step of gy; --reveal shows it" in hints[3]


# ---- Hints and progress ----------------------------------------------------------------------------------------------


def numbers(text):
    """The parts of a hint that show the example."""
    return re.search("An example.*?(?=On the way|What this step gives)", text, re.DOTALL)[0]


def test_hints_show_what_a_step_computes_on_the_way(tmp_path, here):
    path = blank("layer_norm", tmp_path)
    first, second, third = (str(hint_exercise(path)) for _ in range(3))
    between = [
        re.findall(r"^  (\w+) = ", h[h.index("\nOn the way:") : h.index("What this")], re.M) for h in (first, second)
    ]
    assert between == [["centred", "rstd", "xhat", "g", "delta", "dcentred", "dvar", "drstd", "dxhat"], ["inner"]]
    assert "  xhat = [[-0.33966 -1.01899  1.35865]\n" in first
    assert "On the way" not in third


def test_hints_give_one_step_more_each_time(tmp_path, here):
    path = blank("softmax", tmp_path)
    hints = [str(hint_exercise(path)) for _ in range(5)]
    assert [h.splitlines()[0] for h in hints] == [
        f"dx of softmax, step {n} of 4:" for n in (1, 2, 3, 4, 4)
    ]  # after the last it stays there
    assert "quotient rule" in hints[0]
    assert "both terms share the factor pⱼ" in hints[3]
    assert all("--hint gives the next step" in h for h in hints[:3])
    assert "that was the last step of dx; --reveal shows it." in hints[3]
    assert len({numbers(h) for h in hints}) == 1
    assert Progress(tmp_path).state("softmax").hints == {"x": 4}


def test_hints_show_the_student_s_numbers_beside_the_right_ones(tmp_path, here):
    path = blank("mul", tmp_path)
    assert "Yours: not written yet: mul.py" in str(hint_exercise(path))
    solve(path, "return 2 * dy * y, dy * x")
    text = str(hint_exercise(path))
    right, mine, difference = (
        np.array(ast.literal_eval(re.sub(r"(?<=[\d\]])\s+(?=[-\d\[])", ",", re.sub(r"\[\s+", "[", found))))
        for found in re.findall(r" = (\[\[[^=]*?\]\])\n", text[text.index("What this step gives") :])
    )
    np.testing.assert_allclose(mine, 2 * right)
    np.testing.assert_allclose(difference, right)
    assert "your gx = " in text
    assert "yours minus this = " in text


def test_hints_skip_what_is_right_and_count_by_gradient(tmp_path, here):
    path = blank("layer_norm", tmp_path)
    solve(path, "return None, sum_rows(dy * xhat), sum_rows(dy)")
    text = str(hint_exercise(path))
    assert text.startswith("dx of layer_norm, step 1 of 4:")
    assert "Yours: dx is None; expected an array of shape (2, 3)" in text
    right = "(dy * gain - mean_row(dy * gain) - xhat * mean_product(dy * gain, xhat)) * rstd"
    solve(path, f"return {right}, sum_rows(dy), sum_rows(dy)")
    assert str(hint_exercise(path)).startswith("dgain of layer_norm, step 1 of 2:")
    assert str(hint_exercise(path)).startswith("dgain of layer_norm, step 2 of 2:")
    assert Progress(tmp_path).state("layer_norm").hints == {"x": 1, "gain": 2}
    solve(path, f"return {right}, sum_rows(dy * xhat), sum_rows(dy)")
    verdict = hint_exercise(path)
    assert verdict
    assert "all gradients are right already" in str(verdict)


def test_hints_of_another_derivation_begin_anew(tmp_path, here):
    path = blank("gelu", tmp_path)
    hint_exercise(path)
    tanh, _ = (textwrap.dedent("\n".join(a.splitlines()[1:])) for a in blanked(tg.registry["gelu"]).answers)
    solve(path, tanh, "return dy")
    text = str(hint_exercise(path))
    assert text.startswith("dx of gelu, step 1 of 3:")
    assert "approximate=False" in text
    assert Progress(tmp_path).state("gelu").hints == {"x": 1, "x 1": 1}


def test_hints_of_another_sample_with_the_same_derivation_go_on(tmp_path, here):
    path = blank("cross_entropy", tmp_path)
    hint_exercise(path)
    solve(
        path,
        """
        p = np.exp(x - top[:, None]) / total[:, None]
        p[each, targets] -= 1
        w = kept * (dy.ravel() if reduction == "none" else dy * share)
        return (w[:, None] * p).reshape(logits.shape)
        """,
    )
    text = str(hint_exercise(path))
    assert "label_smoothing=0.2" in text
    assert "step 2 of 5" in text
    assert "x (1, 3, 4)" not in text
    assert Progress(tmp_path).state("cross_entropy").hints == {"logits": 2}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_exercise_has_hints(name, tmp_path, here):
    path = blank(name, tmp_path)
    text = str(hint_exercise(path))
    first = next(p for p in tg.registry[name].parameters if p in tg.registry[name].derivations)
    assert text.startswith(f"{gradient_name(tg.registry[name], first)} of {name}, step 1 of ")
    assert "An example: " in text
    assert re.search(r"\n  dy(\[0\])? = ", text)


def test_large_examples_are_shown_with_leading_axes_of_one(tmp_path, here):
    path = blank("attention", tmp_path)
    text = str(hint_exercise(path))
    assert text.count("q = [[[[") == 2  # the input and the gradient
    assert text[text.index("  q = ") : text.index("  k = ")].count("[") == 1 + 1 + 1 + 3


def test_a_pass_is_noted_and_the_next_exercise_named(tmp_path, here):
    path = blank("mul", tmp_path)
    solve(path, "return dy * y, dy * x")
    verdict = check_exercise(path)
    assert verdict
    assert str(verdict) == (
        "mul: passed. gx and gy are right in 2 random draws.\n"
        f"Next on the path: tinygrad-llm exercise div --dir {tmp_path}"
    )
    assert Progress(tmp_path).state("mul").done
    solve(path, "return dy, dy")
    assert not check_exercise(path)
    assert Progress(tmp_path).state("mul").done  # it was


def test_each_seed_draws_other_inputs():
    seen = []

    def exp(x):
        seen.append(np.asarray(x).real[0, 0])
        return tg.registry["exp"].reference(x)

    for seed in (0, 1):
        assert check_sample(tg.registry["exp"], exp, 0, seed)
        seen.append(None)
    assert abs(seen[0] - seen[seen.index(None) + 1]) > 1e-3


def test_an_answer_that_is_right_for_the_first_draw_only(tmp_path, here):
    path = blank("exp", tmp_path)
    (x,), _ = tg.registry["exp"].sample.draw(np.random.default_rng([1, 0]), 0)
    solve(path, f"return dy * y * (2 if abs(x[0, 0] - {x[0, 0]}) < 1e-3 else 1)")
    assert "likely cause" in str(check_exercise(path))


def test_a_sum_that_the_tape_did_is_remarked(tmp_path, here):
    path = blank("rms_norm", tmp_path)
    solve(path, "g = dy * gain\nreturn (g - xhat * mean_product(g, xhat)) * r, dy * xhat")
    verdict = check_exercise(path)
    assert verdict
    assert "dgain came in the shape (2, 3), and the tape summed it to (3,); the library's vjp" in str(verdict)
    assert str(verdict).count("came in the shape") == 1


def test_gradients_that_are_right_are_said_to_be(tmp_path, here):
    path = blank("linear", tmp_path)
    solve(path, "return (rows(dy) @ weight.T).reshape(x.shape), None, dy.T")
    text = str(check_exercise(path))
    assert "dweight is None" in text
    assert "dbias has the shape (4, 2), expected (4,)" in text
    assert "dx is right" in text
    solve(path, "return 2 * (rows(dy) @ weight.T).reshape(x.shape), None, dy.T")
    assert "is right" not in str(check_exercise(path))


def test_a_crash_for_special_arguments_does_not_hide_what_is_wrong_for_all(tmp_path, here):
    path = blank("attention", tmp_path)
    solve(
        path,
        "dp = dy @ v.swapaxes(-1, -2)\nds = p * dp\nreturn ds @ k, ds.swapaxes(-1, -2) @ qs, p.swapaxes(-1, -2) @ dy",
    )
    text = str(check_exercise(path))
    assert "called with q (2, 2, 3, 2), k (2, 2, 3, 2), v (2, 2, 3, 2)\ngradcheck of attention: FAILED" in text
    assert "the first of 8 kinds of arguments, out of 8," in text


def test_the_next_exercise_is_the_first_that_is_not_done(tmp_path):
    progress = Progress(tmp_path)
    assert progress.next() == "add"
    progress.update("neg", done=True)
    assert progress.next("sub") == "mul"
    assert progress.next("self_attention") == "add"
    for name in OPERATIONS:
        progress.update(name, done=True)
    assert progress.next() is None
    assert exercise_list(tmp_path).endswith(f"{len(OPERATIONS)} of {len(OPERATIONS)} done. That is all of them.")


def test_the_list_shows_how_far_one_is(tmp_path):
    progress = Progress(tmp_path)
    progress.update("add", done=True)
    progress.update("sub", done=True, hints={"x": 2, "y": 1})
    progress.update("neg", done=True, revealed=True)
    progress.update("mul", hints={"x": 1})
    progress.update("div", revealed=True)
    progress.update("power")
    lines = {line.split()[0]: line for line in exercise_list(tmp_path).splitlines() if line.startswith("  ")}
    assert list(lines) == [name for family in PATH.values() for name in family]
    marks = {name: lines[name][24:48].strip() for name in ("add", "sub", "neg", "mul", "div", "power", "exp")}
    assert marks == {
        "add": "done",
        "sub": "done with 3 hints",
        "neg": "done after revealing",
        "mul": "started, 1 hint",
        "div": "revealed",
        "power": "started",
        "exp": "open",
    }
    assert "y = eˣ" in lines["exp"]
    last = f"3 of {len(OPERATIONS)} done. Next: tinygrad-llm exercise mul --dir {tmp_path}"
    assert exercise_list(tmp_path).endswith(last)


def test_revealing_shows_the_library_s_lines(tmp_path, here):
    path = blank("power", tmp_path)
    text = reveal_exercise(path)
    assert text.startswith(
        "from tinygrad_llm.ops.arithmetic import power_log, power_slope\n\ndef vjp(dy):\n    return lambda:"
    )
    assert Progress(tmp_path).state("power").revealed
    Progress(tmp_path).update("power", done=True, revealed=False)
    reveal_exercise(path)
    assert not Progress(tmp_path).state("power").revealed  # it was done without


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"exercises": []}',
        '{"exercises": {"mul": {"done": 1}}}',
        '{"exercises": {"mul": {"hints": {"x": "a"}}}}',
        '{"exercises": {"mul": {"hints": {"x": -1}}}}',
        '{"exercises": {"mul": {"hints": 3}}}',
        '{"exercises": {"mul": {"done": true, "grade": 1}}}',
        '{"exercises": {"mul": null}}',
        b"\xff",
    ],
)
def test_a_corrupt_progress_file_is_left_alone(content, tmp_path):
    file = tmp_path / "progress.json"
    before = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(before)
    for use in (exercise_list, lambda folder: exercise("mul", folder)):
        with pytest.raises(ValueError, match=r"progress\.json does not hold the progress.*repair it, or move it away"):
            use(tmp_path)
    assert file.read_bytes() == before
    assert not (tmp_path / "mul.py").exists()


def test_two_checks_at_once_keep_the_progress_of_both(tmp_path):
    one, other = Progress(tmp_path), Progress(tmp_path)
    one.update("mul", done=True)
    other.update("exp", done=True)
    assert set(Progress(tmp_path).states) == {"mul", "exp"}
    assert other.next("neg") == "div"


def test_a_right_answer_passes_where_nothing_can_be_written(tmp_path, here, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    path = blank("exp", tmp_path)
    solve(path, "return dy * y")
    monkeypatch.setattr("tinygrad_llm.study.exercises.progress.atomic_write", refuse)
    verdict = check_exercise(path)
    assert verdict
    assert str(verdict).startswith("exp: passed.")
    assert "This could not be written down: [Errno 13] Permission denied" in str(verdict)


def test_progress_is_readable(tmp_path):
    Progress(tmp_path).update("mul", hints={"x": 2})
    assert json.loads((tmp_path / "progress.json").read_text(encoding="utf-8")) == {
        "exercises": {"mul": {"done": False, "revealed": False, "hints": {"x": 2}}}
    }
    assert Progress(tmp_path).update("mul", done=True).hints == {"x": 2}
