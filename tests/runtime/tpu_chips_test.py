"""What is known of TPU chips, and the names of slices."""

import pytest

from dit_tf.runtime.tpu_chips import CHIPS, GIB, parse_topology


@pytest.mark.parametrize(
    "topology, cores",
    [("v2:2x2", 8), ("v3:8x16", 256), ("v3:16x16", 512), ("v4:2x2x4", 16), ("v5e:4x4", 16), ("v5p:2x2x1", 4)],
)  # fmt: skip
def test_cores_are_chips_times_those_of_a_chip(topology, cores):
    where = parse_topology(topology)
    assert (where.topology, where.cores) == (topology, cores)


def test_figures_of_a_core_are_those_of_the_chip_divided():
    v3, v4 = CHIPS["v3"], CHIPS["v4"]
    assert (v3.peak_flops, v3.bandwidth, v3.hbm_bytes) == (61.5e12, 450e9, 16 * GIB)
    assert (v4.peak_flops, v4.bandwidth, v4.hbm_bytes) == (275e12, 1228e9, 32 * GIB)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_figures_are_plausible(chip):
    """A program gets nearly all of the memory; a chip does a hundred FLOPs or more in the time of a byte; the example
    is one."""
    assert 0.9 < chip.usable_bytes / chip.hbm_bytes <= 1
    assert 50 < chip.peak_flops / chip.bandwidth < 1000
    assert parse_topology(chip.example).chip is chip


@pytest.mark.parametrize(
    "topology", ["", "v4", "v4:", "v7:2x2", "v4:2", "v4:0x2", "v4:2x2x2x2", "v4:2x2x", "tpu v4:2x2", "v3:2X2"]
)
def test_what_is_no_slice_is_refused_with_the_kinds(topology):
    with pytest.raises(
        ValueError, match=r"--topology must be .* v2, v3, v4, v5e, v5p, v6e, such as .*v3:8x16"
    ) as error:
        parse_topology(topology)
    assert repr(topology) in str(error.value)
