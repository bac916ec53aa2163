"""Predict training steps from their pieces, measure them whole, and fail if a prediction is more than 25 % off.

    python benchmarks/predicted_step.py

One thread, and processor time rather than time, so that other programs do not count: a minute.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from tinygrad_llm.models import GPTConfig
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_own import predict_step
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup
from tinygrad_llm.study import calibration, machine
from tinygrad_llm.study.own_step import BATCH, TRAINED
from tinygrad_llm.threads import set_threads

CASES = (
    (TRAINED, BATCH),
    (TRAINED, BATCH // 2),
    (GPTConfig(vocab_size=65, context=64, channels=128, layers=4, heads=4), 12),
    (GPTConfig(vocab_size=65, context=256, channels=384, layers=6, heads=6), 8),
    (GPTConfig(vocab_size=50257, context=64, channels=768, layers=12, heads=12), 4),
)


def main() -> int:
    machine.time = SimpleNamespace(perf_counter=time.thread_time)
    set_threads(1)
    worst = 0.0
    for config, batch in CASES:
        pieces = calibration.measure_for(config, batch, 1)
        setup = Setup(config.context, batch_size=batch, precision=FLOAT32)
        predicted = sum(predict_step(ModelSizes.of(config), setup, pieces).values())
        measured, _ = calibration.measure_step(config, batch, 2.0)
        off = predicted / measured - 1
        worst = max(worst, abs(off))
        sizes = f"L={config.layers} C={config.channels} T={config.context} V={config.vocab_size} B={batch}"
        print(f"{sizes:<36} predicted {1e3 * predicted:8.1f} ms, measured {1e3 * measured:8.1f} ms: {100 * off:+.0f} %")
    return int(worst > 0.25)


if __name__ == "__main__":
    sys.exit(main())
