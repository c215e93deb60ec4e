"""The fullest moment of small programs whose temporaries are counted by hand."""

from dit_tf.runtime.hlo_memory import largest_temporaries

_KB = "f32[256]{0:T(256)}"  # 1024 bytes


def program(*lines, others=""):
    body = "\n".join(f"  {line.replace('KB', _KB)}" for line in lines)
    others = others.replace("KB", _KB)
    return f"HloModule m, is_scheduled=true\n{others}\nENTRY %main (x: f32[256]) -> f32[256] {{\n{body}\n}}\n"


def peak(*lines, others=""):
    return largest_temporaries(program(*lines, others=others))[0]


def test_arguments_constants_and_results_are_no_temporaries():
    assert peak("%x = KB parameter(0)", "%c = KB constant({...})", "ROOT %y = KB add(%x, %c)") == 0


def test_an_array_lives_until_the_last_line_that_names_it():
    lines = ["%x = KB parameter(0)", "%a = KB negate(%x)", "%b = KB negate(%a)", "%c = KB negate(%b)"]
    assert peak(*lines, "ROOT %y = KB negate(%c)") == 2 * 1024  # each with the one before
    assert peak(*lines, "ROOT %y = KB add(%c, %a)") == 3 * 1024  # a outlives b


def test_what_nobody_reads_still_takes_its_moment():
    assert peak("%x = KB parameter(0)", "%a = KB negate(%x)", "ROOT %y = KB negate(%x)") == 1024


def test_names_of_the_same_memory_count_once():
    lines = [
        "%x = KB parameter(0)",
        "%pair = (KB, KB) fusion(%x), kind=kLoop, calls=%f",
        "%a = KB get-tuple-element(%pair), index=0",
        "%view = f32[16,16]{1,0} bitcast(%a)",
        "%z = KB negate(%x)",
        "ROOT %y = KB add(%view, %z)",
    ]
    # The second result ends with the line that makes it. At its fullest: both; later the first and z.
    assert peak(*lines) == 2 * 1024


def test_a_copy_to_the_chips_own_memory_takes_no_hbm_and_keeps_the_original():
    """a and b until the copy of a is there, then b and c."""
    first = ["%x = KB parameter(0)", "%a = KB negate(%x)", "%b = KB negate(%x)"]
    last = ["%c = KB negate(%x)", "ROOT %y = KB fusion(%done, %b, %c)"]
    copied = [
        "%start = (f32[256]{0:T(256)S(1)}, KB, u32[]{:S(2)}) copy-start(%a)",
        "%done = f32[256]{0:T(256)S(1)} copy-done(%start)",
    ]
    sliced = [
        "%start = ((KB), f32[256]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:256]}",
        "%done = f32[256]{0:T(256)S(1)} slice-done(%start)",
    ]
    for lines in (copied, sliced):
        assert peak(*first, *lines, *last) == 2 * 1024
        assert peak(*first, lines[0], last[0], lines[1], last[1]) == 3 * 1024


def test_the_body_of_a_loop_comes_on_top_of_what_waits_for_it():
    body = (
        "%body (p: (f32[256])) -> (f32[256]) {\n  %p = (KB) parameter(0)\n  %v = KB get-tuple-element(%p), index=0\n"
        "  %t = KB negate(%v)\n  %u = KB negate(%t)\n  %w = KB add(%t, %u)\n  ROOT %r = (KB) tuple(%w)\n}\n"
    )
    lines = [
        "%x = KB parameter(0)",
        "%a = KB negate(%x)",
        "%b = KB negate(%x)",
        "%init = (KB) tuple(%a)",
        "%loop = (KB) while(%init), condition=%cond, body=%body",
        "%last = KB get-tuple-element(%loop), index=0",
        "ROOT %y = KB add(%last, %b)",
    ]
    assert peak(*lines) == 2 * 1024
    assert peak(*lines, others=body) == 4 * 1024


def test_the_blocks_are_taken_together_and_the_largest_come_first():
    lines = ["%x = KB parameter(0)"]
    lines += [
        f'%a{i} = KB negate(%x), metadata={{op_name="jit(f)/call_tf/dit_1/block{i}_1/mlp_1/MatMul"}}' for i in range(3)
    ]
    lines += ["%big = f32[1024]{0:T(256)} broadcast(%x)", "ROOT %y = KB fusion(%a0, %a1, %a2, %big)"]
    total, found = largest_temporaries(program(*lines))
    assert total == 7 * 1024
    assert [tuple(t) for t in found] == [
        (4096, 1, "f32[1024]", "big"),
        (3072, 3, "f32[256]", "dit/block*/mlp/MatMul"),
    ]
    assert len(largest_temporaries(program(*lines), count=1)[1]) == 1
