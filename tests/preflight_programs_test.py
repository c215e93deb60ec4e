"""A program is compiled in a process of its own, whose refusal is raised here."""

import pytest

from dit_tf.config import RunConfig
from dit_tf.preflight.programs import Program, compile_alone, missing_compiler
from dit_tf.runtime.tpu_chips import parse_topology
from dit_tf.runtime.tpu_compiler import TooLarge


def test_what_does_not_fit_is_told_by_the_compiler_itself():
    """Attention among 1024 tokens, for 1024 images a core, of the smallest chip; from the process that compiles."""
    if missing_compiler():
        pytest.skip("the TPU compiler comes for Linux x86-64 only")
    config = RunConfig(model="DiT-64x1x1/2", image_size=64)
    with pytest.raises(TooLarge) as error:
        compile_alone(Program("train", config, 8 * 1024), "v2:2x2", "compiling")
    assert error.value.limit_bytes == parse_topology("v2:2x2").chip.usable_bytes < error.value.needed_bytes
