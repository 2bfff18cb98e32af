import subprocess
import sys

from tasks.training.estimate import training_estimate, training_memory
from tasks.training.options import TrainOptions

MODEL = {"parameters": 10**9, "hidden": 2048, "layers": 16, "vocab_size": 32000}


def test_planning_needs_no_torch():
    code = "import tasks.training.estimate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_grows_with_the_batch_and_the_model():
    small = training_memory(TrainOptions(batch_size=1), MODEL, 1024)
    assert small is not None
    assert small > 16 * 10**9
    assert (training_memory(TrainOptions(batch_size=4), MODEL, 1024) or 0) > small
    assert training_memory(TrainOptions(), {}, 1024) is None


def test_steps_end_at_max_steps():
    options = TrainOptions(batch_size=8, accumulation=2, epochs=3.0)
    full = training_estimate(options, MODEL, samples=100, tokens=1000, sequence_length=10)
    assert (full.optimiser_steps, full.tokens) == (19, 3000)
    cut = training_estimate(
        options.model_copy(update={"max_steps": 10}), MODEL, samples=100, tokens=1000, sequence_length=10
    )
    assert cut.optimiser_steps == 10
    assert cut.tokens is not None
    assert 1000 < cut.tokens < 3000
