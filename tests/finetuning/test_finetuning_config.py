"""Settings of fine-tuning, and what of a model is trained."""

import pytest

from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.running import freeze
from tinygrad_llm.models import GPT, Bert, BertConfig, GPTConfig, Recurrent, RecurrentConfig
from tinygrad_llm.nn import Linear

SIZES = GPTConfig(vocab_size=13, context=6, channels=8, layers=3, heads=2)


def test_steps_follow_from_the_examples():
    config = FinetuneConfig(epochs=2.5, batch_size=4, accumulate=2).counted(100, 768)
    assert config.steps == 32  # 25 batches have all of them once; 62.5 of them, two for an update
    assert config.validate_every == config.sample_every == config.checkpoint_every == 13
    assert FinetuneConfig(epochs=1, batch_size=16).counted(17, 768).steps == 2, "the last batch is a small one"
    given = FinetuneConfig(steps=7, validate_every=3).counted(100, 768)
    assert (given.steps, given.validate_every, given.sample_every) == (7, 3, 13)
    assert FinetuneConfig(epochs=0.1).counted(1, 768).steps == 1


def test_narrow_models_learn_faster_unless_a_rate_is_given():
    assert FinetuneConfig().counted(100, 96).learning_rate == pytest.approx(8 * 9e-5)
    assert FinetuneConfig(learning_rate=0.5).counted(100, 96).learning_rate == 0.5


def test_an_adapter_learns_faster_than_all_weights():
    assert FinetuneConfig().peak_rate() == pytest.approx(9e-5)
    assert FinetuneConfig(lora="r=8").peak_rate() == pytest.approx(4.5e-4)
    assert FinetuneConfig(learning_rate=0.5).peak_rate() == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "--steps -1: must be at least 0"),
        ({"epochs": 0.0}, "--epochs 0.0: must be positive"),
        ({"epochs": float("nan")}, "--epochs nan"),
        ({"validation_share": 1.0}, "--validation-share 1.0"),
        ({"context": 1}, "--context 1"),
        ({"blocks": -2}, "--blocks -2"),
        ({"blocks": 1, "lora": "r=4"}, "leave --blocks out"),
        ({"weights": "int8"}, "give --lora"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**settings)


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_of_a_recurrent_model_the_last_layers_are_trained():
    model = Recurrent(RecurrentConfig("gru", 7, 8, 4, 4, 2), seed=0)
    freeze(model, 1)
    assert trained(model) == {name for name in dict(model.named_parameters()) if name.startswith("recurrent.1.")}
    with pytest.raises(ValueError, match="--blocks 3: the model has 2"):
        freeze(model, 3)


def test_without_blocks_none_can_be_frozen():
    with pytest.raises(
        ValueError, match="--blocks 1: a Linear has no blocks of which some could be frozen; leave it out"
    ):
        freeze(Linear(2, 2), 1)


def test_of_a_decoder_the_last_blocks_and_what_follows_are_trained():
    model = GPT(SIZES)
    freeze(model, -1)
    assert trained(model) == set(dict(model.named_parameters()))
    freeze(model, 1)
    last = {name for name, _ in model.named_parameters() if name.startswith("blocks.2.")}
    assert trained(model) == last | {"final_norm.gain", "final_norm.bias"}
    freeze(model, 0)
    assert trained(model) == {"final_norm.gain", "final_norm.bias"}
    with pytest.raises(ValueError, match="--blocks 4: the model has 3"):
        freeze(model, 4)


def test_of_an_encoder_too():
    model = Bert(BertConfig(13, 6, 8, 2, 2, 16, head="classification"))
    freeze(model, 0)
    assert {name.split(".")[0] for name in trained(model)} == {"pooler", "classifier"}


def test_no_share_is_held_out_where_a_file_is():
    assert FinetuneConfig(validation_data="held-out.jsonl").validation_share == 0.1
    with pytest.raises(ValueError, match="--validation-share: nothing of --data is held out"):
        FinetuneConfig(validation_data="held-out.jsonl", validation_share=0.5)
