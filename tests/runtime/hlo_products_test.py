"""FLOPs and types of products, from lines as the TPU compiler writes them."""

import pytest

from dit_tf.runtime.hlo_products import products, share_of


def program(result, factors, attributes, opcode="convolution"):
    a, b = factors
    return (
        f"HloModule m\nENTRY %main (a: {a}, b: {b}) -> {result} {{\n  %a = {a} parameter(0)\n  %b = {b} parameter(1)\n"
        f'  ROOT %c = {result} {opcode}(%a, %b), {attributes}, metadata={{op_name="jit(f)/dit_1/MatMul"}}\n}}\n'
    )


@pytest.mark.parametrize(
    "result, factors, attributes, macs",
    [
        # (16, 64) x (64, 192), in two forms, and with tokens as an axis of the window.
        ("f32[16,192]", ("f32[16,64]", "f32[64,192]"), "dim_labels=bf_io->bf", 16 * 64 * 192),
        ("f32[16,192]", ("f32[16,64]", "f32[192,64]"), "dim_labels=bf_oi->bf", 16 * 64 * 192),
        ("f32[16,4,192]", ("f32[16,4,64]", "f32[64,192,1]"),
         "window={size=1}, dim_labels=b0f_io0->b0f", 16 * 4 * 64 * 192),
        # The gradient of weights: examples are the window, so their sum is contracted.
        ("f32[384,1152,1]", ("bf16[8,256,384]", "bf16[8,256,1152]"),
         "window={size=8}, dim_labels=0fb_0io->bf0", 8 * 256 * 384 * 1152),
        # Q K^T of 16 examples and 2 heads: 32 pairs of (4, 32) x (32, 4).
        ("f32[16,2,4,4]", ("bf16[16,4,2,32]", "bf16[16,4,2,32]"),
         "window={size=16x2 stride=15x1 lhs_dilate=16x2}, dim_labels=0b1f_0o1i->01bf", 16 * 2 * 4 * 4 * 32),
        # 3 x 3 over 5 x 5 pixels, padded: 13 of 15 places along each axis meet a pixel.
        ("f32[2,5,5,8]", ("f32[2,5,5,4]", "f32[3,3,4,8]"),
         "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f", 2 * 13 * 13 * 4 * 8),
        # The same with stride 2 and without padding: two places along each axis, all three steps of the window.
        ("f32[2,2,2,8]", ("f32[2,5,5,4]", "f32[3,3,4,8]"),
         "window={size=3x3 stride=2x2}, dim_labels=b01f_01io->b01f", 2 * 6 * 6 * 4 * 8),
    ],
)  # fmt: skip
def test_multiply_adds_are_those_that_meet_no_padding(result, factors, attributes, macs):
    (product,) = products(program(result, factors, attributes))
    assert (product.flops, product.place) == (2 * macs, "dit/MatMul")


def test_pairs_made_by_padding_are_counted_once():
    """Six heads on one axis, as wide a window over them reversed: each result meets one head."""
    attributes = "window={size=6 pad=5_5 rhs_reversal=1}, dim_labels=0bf_0oi->0bf"
    (product,) = products(program("f32[6,3,5]", ("bf16[1,3,7]", "bf16[6,5,7]"), attributes))
    assert product.flops == 2 * 6 * 3 * 5 * 7


def test_a_dot_contracts_what_it_says():
    attributes = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}"
    (product,) = products(program("f32[3,4,5]", ("f32[3,4,7]", "f32[3,7,5]"), attributes, "dot"))
    assert product.flops == 2 * 3 * 4 * 5 * 7


@pytest.mark.parametrize(
    "types, more, kind",
    [
        (("bf16", "bf16"), "", "bfloat16"),
        (("f32", "bf16"), "", "rounded"),
        (("f32", "f32"), "", "rounded"),
        (("f32", "f32"), ", operand_precision={default,default}", "rounded"),
        (("f32", "f32"), ", operand_precision={highest,highest}", "float32"),
        (("bf16", "bf16"), ", operand_precision={highest,highest}", "bfloat16"),
    ],
)
def test_what_a_product_is_computed_in(types, more, kind):
    first, second = types
    (product,) = products(program("f32[2,4]", (f"{first}[2,3]", f"{second}[3,4]"), "dim_labels=bf_io->bf" + more))
    assert product.kind == kind


def test_shares_are_of_flops():
    text = program("f32[2,4]", ("bf16[2,3]", "bf16[3,4]"), "dim_labels=bf_io->bf")
    large = products(program("f32[2,12]", ("f32[2,3]", "f32[3,12]"), "dim_labels=bf_io->bf"))
    assert share_of("bfloat16", products(text) + large) == 0.25
    assert share_of("bfloat16", []) == 0.0
