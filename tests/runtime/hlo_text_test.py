"""The text of a program as records: arrays with their padding, instructions, computations, names."""

import pytest

from dit_tf.runtime.hlo_text import arrays_of, computations, place_of


@pytest.mark.parametrize(
    "text, size",
    [
        ("f32[]", 4),
        ("pred[3]", 3),
        ("bf16[2,3]", 12),
        ("f32[16,64]{1,0:T(8,128)}", 16 * 128 * 4),  # 64 columns are padded to 128
        ("f32[16,4]{0,1:T(4,128)}", 4 * 128 * 4),  # the first axis is the fastest
        ("f32[16,4,64]{2,0,1:T(8,128)}", 4 * 16 * 128 * 4),
        ("f32[5,3,128]{2,1,0:T(8,128)}", 5 * 8 * 128 * 4),
        ("bf16[8,6,256,256]{3,2,1,0:T(8,128)(2,1)}", 8 * 6 * 256 * 256 * 2),
        ("s32[1000]{0:T(1024)}", 4096),
        ("f8e4m3[7]{0}", 7),
        ("s4[16]{0}", 8),
    ],
)
def test_an_array_takes_its_tiles(text, size):
    (array,) = arrays_of(text)
    assert array.bytes == size


def test_memory_spaces_other_than_hbm_are_told_apart():
    arrays = arrays_of("(f32[8]{0:T(256)}, f32[8]{0:T(256)S(1)}, /*index=2*/s32[]{:T(256)S(6)}, f32[2]{0:T(256)S(0)})")
    assert [array.in_hbm for array in arrays] == [True, False, False, True]
    assert [str(array) for array in arrays] == ["f32[8]", "f32[8]", "s32[]", "f32[2]"]


_TEXT = """HloModule jit_f, is_scheduled=true

%fused (p: f32[2,3]) -> f32[2,3] {
  %p = f32[2,3]{1,0:T(8,128)} parameter(0)
  ROOT %negate.1 = f32[2,3]{1,0:T(8,128)} negate(%p), metadata={op_name="jit(f)/neg"}
}

ENTRY %main (x: f32[2,3], y: s32[]) -> (f32[2,3], s32[]) {
  %x = f32[2,3]{1,0:T(8,128)} parameter(0)
  %y = s32[]{:T(256)} parameter(1)
  %start = ((f32[2,3]{1,0:T(8,128)}), f32[2,3]{1,0:T(8,128)S(1)}, s32[]{:T(256)S(2)}) slice-start(%x), slice={[0:2], [0:3]}
  %fusion = f32[2,3]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/call_tf/PartitionedCall/dit_1/block0_1/mlp_1/MatMul;other"}
  ROOT %out = (f32[2,3]{1,0:T(8,128)}, /*index=1*/s32[]{:T(256)}) tuple(%fusion, %y)
}
"""  # noqa: E501


def test_a_program_is_read_line_by_line():
    found, entry = computations(_TEXT)
    assert (list(found), entry) == (["%fused", "%main"], "%main")
    assert [i.opcode for i in found["%main"]] == ["parameter", "parameter", "slice-start", "fusion", "tuple"]
    start, fusion, out = found["%main"][2:]
    assert [str(a) for a in start.arrays] == ["f32[2,3]", "f32[2,3]", "s32[]"]
    assert (fusion.operands, fusion.place, fusion.is_root) == (["%x"], "dit/block0/mlp/MatMul", False)
    assert (out.operands, out.is_root, len(out.arrays)) == (["%fusion", "%y"], True, 2)
    assert start.place == ""


@pytest.mark.parametrize(
    "op_name, place",
    [
        ("jit(f)/shard_map/call_tf/PartitionedCall/gradient_tape/dit_1/block1_1/mul_1/Sum",
         "gradient_tape/dit/block1/mul/Sum"),
        ("jit(f)/shard_map/psum", "psum"),
        ("call_tf/StatefulPartitionedCall/dit_1/decoder_1/MatMul_1", "dit/decoder/MatMul_1"),
    ],
)  # fmt: skip
def test_names_lose_what_tracing_put_around_them(op_name, place):
    assert place_of(op_name) == place


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no line begins with ENTRY"):
        computations("HloModule empty\n")
