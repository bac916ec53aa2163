"""The settings of instruction tuning."""

import pytest

from tinygrad_llm.finetuning.instruct_config import InstructConfig


@pytest.mark.parametrize("name", ["answered", "answer_tokens"])
def test_settings_must_not_be_negative(name):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} -1: must not be negative"):
        InstructConfig(**{name: -1})
    InstructConfig(**{name: 0})


def test_settings_are_kept(tmp_path):
    config = InstructConfig(template="chatml", packing=False, answered=7, answer_tokens=9)
    config.save(tmp_path / "config.toml")
    assert InstructConfig.load(tmp_path / "config.toml") == config
