"""Settings: what is refused, and the file they are kept in."""

import pytest

from tinygrad_llm.training import TrainConfig
from tinygrad_llm.training.architectures import model_config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"context": 1}, "--context 1: must be at least 2"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0: must not be negative"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"clip": -1.0}, "--clip -1.0: must not be negative"),
        ({"validation_share": 1.0}, "--validation-share 1.0"),
        ({"heads": 3}, "not a multiple of heads=3"),
        ({"dropout": 1.5}, "dropout=1.5"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"channels": 128, **wrong})


def test_settings_come_back_from_their_file(tmp_path):
    config = TrainConfig(data='C:\\a "b" ü.txt', steps=7, learning_rate=1e-4, pattern=r"\p{L}+|.")
    config.save(tmp_path / "c.toml")
    assert TrainConfig.load(tmp_path / "c.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = [", "not valid TOML"),
        ("steps = 5", "a run of format None; this version of tinygrad_llm reads format 1"),
        ("format = 2", "a run of format 2"),
        ("format = 1\nstep = 5", "unknown setting step"),
        ("format = 1\nsteps = 0", "--steps 0"),
        ('format = 1\nsteps = "many"', "steps = 'many' should be of type int"),
        ("format = 1\nsteps = 30.5", "steps = 30.5 should be of type int"),
        ('format = 1\noptimizer = "adamW"', "--optimizer adamW: must be one of adamw"),
        ('format = 1\nschedule = "sine"', "--schedule sine: must be one of constant"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"c\.toml") as caught:
        TrainConfig.load(file)
    assert message in str(caught.value)


def test_a_resumed_run_may_become_longer_but_not_another():
    saved = TrainConfig(steps=50, seed=3)
    assert saved.resumed_with(TrainConfig()) == saved
    assert saved.resumed_with(TrainConfig(steps=60, seed=3)) == TrainConfig(steps=60, seed=3)
    with pytest.raises(ValueError, match=r"other settings: --data is , not a.txt, --seed is 3, not 4; leave"):
        saved.resumed_with(TrainConfig(seed=4, data="a.txt"))
    # a value that was asked for counts although it is the default
    assert saved.resumed_with(TrainConfig(), given={"steps"}).steps == TrainConfig.steps
    with pytest.raises(ValueError, match="--seed is 3, not 0"):
        saved.resumed_with(TrainConfig(), given={"seed"})


def test_rates_and_heads_that_are_not_given_suit_the_optimiser_and_the_width():
    assert [TrainConfig(optimizer=o, warmup=0).rate(0) for o in ("muon", "adamw")] == [0.02, 0.003]
    assert TrainConfig(learning_rate=0.5, warmup=0).rate(0) == 0.5
    assert TrainConfig(model="bert", warmup=0).rate(0) == TrainConfig(warmup=0).rate(0) / 4
    assert TrainConfig(steps=20, warmup=50, schedule="constant").rate(4) > TrainConfig(steps=20).rate(3)
    assert TrainConfig(steps=20, warmup=50, schedule="constant", learning_rate=1.0).rate(4) == 1.0
    heads = {channels: model_config(TrainConfig(channels=channels), 300).heads for channels in (96, 64, 100, 8, 50)}
    assert heads == {96: 3, 64: 2, 100: 2, 8: 1, 50: 1}
