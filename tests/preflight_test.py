"""preflight: what it counts, what it makes of a compiled program, what it refuses, and one tiny program compiled."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import pytest

from dit_tf import build, flags
from dit_tf.config import RunConfig
from dit_tf.models.costs import abstract, count_macs, count_parameters
from dit_tf.preflight import __main__ as preflight
from dit_tf.preflight.analysis import analysis, analytic_flops, configuration, row_of
from dit_tf.preflight.programs import Program, missing_compiler
from dit_tf.preflight.report import lines_of, pace_of, remedies, too_large_record
from dit_tf.preflight.table import PUBLISHED, count_table
from dit_tf.runtime.tpu_chips import GIB, parse_topology
from dit_tf.runtime.tpu_compiler import Report, TooLarge, _too_large

_S2 = "launch/flags/dit-s-2-imagenet256.flags"


@pytest.fixture
def run(parse, tmp_path, capsys):
    """run("--name=value", ...) -> (report.json, what was printed)."""

    def call(*arguments):
        preflight.main(parse(flags.define_preflight, *arguments, f"--output={tmp_path}/report.json"))
        return json.loads((tmp_path / "report.json").read_text()), capsys.readouterr().out

    return call


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(preflight, "missing_compiler", lambda: ["jax", "libtpu"])


def test_the_command_of_the_design_means_imagenets_latents(parse):
    """Its counts are the paper's: 675 M parameters with the position table, 118.64 G multiply-adds."""
    options = parse(flags.define_preflight, "--model=DiT-XL/2", "--topology=v4:2x2x1", "--global_batch_size=256")
    config, encodes = configuration(options)
    assert (config.codec, config.image_size, config.num_classes, encodes) == ("vae", 256, 1000, False)


def test_a_report_without_a_topology_has_the_counts_alone(run):
    report, printed = run("--model=DiT-S/8", "--global_batch_size=64")
    assert (report["parameters"], report["parameters_frozen"]) == (33_142_016, 6144)
    assert report["flops_analytic"] == 6 * 64 * report["macs"] == 6 * 64 * 357_974_016
    assert report["state_bytes"] == 16 * report["parameters"]
    assert "fits" not in report and "--topology" in printed and "are assumed" in printed


def test_training_from_images_counts_the_encoder_forward_only(run):
    """A sixteenth of the multiply-adds of 256 pixels for 64, but of attention's two products a 256th."""
    images = ["--dataset=imagenet2012", "--vae=sd-vae-ft-ema", "--model=DiT-Mi/4", "--global_batch_size=8"]
    report, _ = run(*images, "--image_size=64", "--ema_decays=0.99", "--ema_stds=0.05,0.1")
    assert report["encoder_macs"] == (136_361_082_880 - 2 * 1024**2 * 512) // 16 + 2 * 64**2 * 512
    assert report["flops_analytic"] == 2 * 8 * (3 * report["macs"] + report["encoder_macs"])
    assert report["state_bytes"] == (4 + 3) * 4 * report["parameters"]  # three averages beside the usual one


def test_a_flag_file_of_train_is_taken_as_it_is(parse):
    config, encodes = configuration(parse(flags.define_preflight, f"--flagfile={_S2}"))
    assert encodes and (config.model, config.codec, config.global_batch_size) == ("DiT-S/2", "vae", 256)
    stored = parse(flags.define_preflight, f"--flagfile={_S2}", "--dataset=latents:nowhere", "--precision=bfloat16")
    config, encodes = configuration(stored)
    assert not encodes and (config.codec, config.num_classes, config.precision) == ("vae", 1000, "bfloat16")


def test_without_the_compiler_it_says_how_to_get_it(run, without_compiler):
    report, printed = run("--dataset=digits", "--model=DiT-Mi/4", "--topology=v3:2x2")
    assert "fits" not in report and report["parameters"] == 182_176
    assert "jax and libtpu" in printed and "pip install '.[preflight]'" in printed and "8 cores" in printed


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--topology=v7:2x2"], r"--topology must be .*v2, v3, v4, v5e, v5p, v6e, such as .*got 'v7:2x2'\."),
        (["--topology=v3:2x2", "--global_batch_size=100"], r"divisible by the 8 cores of .*got 100: take 96\."),
        (["--topology=v3:2x2", "--accumulation_steps=3"], r"must divide .* of a replica \(32 of .*\), got 3\."),
        (["--topology=v3:2x2", "--global_batch_size=3"], r"divisible by the 8 cores of .*got 3: take 8\."),
        (["--model=DiT-XXL/2"], r"--model must be .*'DiT-XXL/2'; near: "),
        (["--model=all", "--topology=v3:2x2", "--suggest_batch"], r"--model=all goes with --program=train and without"),
        (["--model=all", "--topology=v3:2x2", "--program=vae"], r"got --program=vae: name one model"),
        (["--program=encode"], r"--program must be one of train, sample, vae, inception, all, got 'encode'\."),
        (["--program=sample"], r"--program needs a slice to compile for: add --topology"),
        (["--suggest_batch"], r"--suggest_batch needs a slice"),
        (["--suggest_batch", "--topology=v3:2x2", "--program=vae"], r"--suggest_batch goes with --program=train"),
        (["--dataset=digits", "--topology=v3:2x2", "--program=vae"], r"--program=vae goes with a model of latents"),
        (["--topology=v3:2x2", "--program=inception"], r"--program=inception needs --inception=FILE"),
        (["--images_per_core=0"], r"--images_per_core must be at least 1, got 0\."),
        (["--image_size=252"], r"--image_size must be divisible by"),
        (["--dataset=digits", "--vae=x"], r"--vae needs images of 3 channels"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_compiled(run, arguments, sentence, monkeypatch):
    monkeypatch.setattr(preflight, "compile_alone", lambda *_: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=sentence) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


def test_of_loops_the_count_is_that_of_one_turn():
    """As the compiler counts; a forward pass more comes with --scan_blocks."""
    whole, one = (
        analysis(RunConfig(model=f"DiT-64x{depth}x2/4", global_batch_size=64), encodes=False) for depth in (5, 1)
    )
    program = Program(
        "train", RunConfig(model="DiT-64x5x2/4", global_batch_size=64), 64, scan_blocks=True, accumulation_steps=2
    )
    flops, note = analytic_flops(parse_topology("v3:2x2"), program, whole)
    assert flops == one["flops_analytic"] / 8 / 2
    assert note.startswith(" of one part of 2 and one block of 5, since a loop's body is counted once, to which --scan")
    flops, note = analytic_flops(parse_topology("v3:2x2"), dataclasses.replace(program, scan_blocks=False), whole)
    assert flops == whole["flops_analytic"] / 8 / 2 and "block" not in note


@pytest.mark.parametrize("block", ["adaln_zero", "in_context"])
def test_rows_of_all_models_follow_from_one_block_and_two(block):
    whole = abstract(lambda: build.make_model(RunConfig(model="DiT-Ti/2", block=block)))  # four blocks
    row = row_of("Ti", 2, block, dict(image_size=8))
    assert (row["model"], row["block"], row["image_size"]) == ("DiT-Ti/2", block, 8)
    assert (row["parameters"], row["macs"]) == (count_parameters(whole)[0], count_macs(whole))
    assert row["flops"] == 2 * row["macs"]
    assert list(row) == ["model", "block", "image_size", "parameters", "macs", "flops"]


def test_the_table_of_all_models_is_the_one_in_the_docs():
    """Each published size and block, and 512 pixels, and the ladder; some of its rows anew."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "preflight.md").read_text()
    latents = dict(codec="vae", channels=3, num_classes=1000)
    rows = [
        row_of("S", 4, "cross_attention", dict(latents, image_size=256)),
        row_of("S", 8, "in_context", dict(latents, image_size=512)),
        row_of("XL", 2, "adaln_zero", dict(latents, image_size=512)),
        row_of("Mi", 1, "adaln_zero", dict(image_size=8)),
    ]
    table = page.split("## All models")[1]
    assert all(f"{line}\n" in table for line in "\n".join(count_table(rows)).splitlines())
    assert table.count("\n| DiT-") == 12 * 4 * 2 + 12


def test_the_table_of_a_slice_goes_on_where_it_stopped(run, tmp_path, monkeypatch):
    """One compilation a size, each written when it is there; what a broken run left is not compiled again."""
    compiled = []

    def compile_alone(program, topology, title):
        compiled.append(program.config.model)
        if program.config.model == "DiT-XL/8":
            raise TooLarge(20 * GIB, 15 * GIB)
        if len(compiled) == 5:
            raise KeyboardInterrupt
        return Report(topology, 8, 1.0, 1e12, 1e10, GIB, 2 * GIB, GIB, GIB, GIB, 1, 0), "ENTRY %main () -> () {\n}\n"

    monkeypatch.setattr(preflight, "compile_alone", compile_alone)
    monkeypatch.setattr(preflight, "missing_compiler", list)
    counts = dict(flops_analytic=8e12, state_bytes=GIB)  # counting XL/2 takes seconds
    monkeypatch.setattr(preflight, "analysis", lambda config, encodes: counts | dict(model=config.model))
    command = ["--model=all", "--precision=bfloat16", "--topology=v3:2x2", "--global_batch_size=64"]
    with pytest.raises(KeyboardInterrupt):
        run(*command)
    assert [row["model"] for row in json.loads((tmp_path / "report.json").read_text())] == PUBLISHED[:4]
    rows, printed = run(*command)
    assert compiled == PUBLISHED[:5] + PUBLISHED[4:] and [row["model"] for row in rows] == PUBLISHED
    assert "| DiT-S/8 | v3:2x2 | 8 | 1.00 | 1.00 | 3.00 of 15.48 | 1e+12 |" in printed
    assert "| 20.00 of 15.00: too large |" in printed
    rows, _ = run(*command, "--remat")  # another program
    assert len(rows) == 2 * len(PUBLISHED) and len(compiled) == 13 + 12


@pytest.mark.parametrize("largest", [0, 1, 2, 8, 64, 512, 1024, 4096])
def test_the_largest_power_of_two_is_found_in_few_trials(largest):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= largest

    assert preflight.largest_power_of_two(fits, 1024) == min(largest, 1024)
    assert len(tried) == len(set(tried)) <= 4 and set(tried) <= {2**k for k in range(11)}


def test_the_suggested_batch_asks_the_compiler_for_what_is_not_known(monkeypatch, capsys):
    """256 fit; 32, the first to be tried, is known. A state that is too large asks for nothing."""
    where, asked = parse_topology("v3:2x2"), []

    def compile_alone(program, topology, title):
        asked.append(program.batch_size // where.cores)
        if asked[-1] > 256:
            raise TooLarge(20 * GIB, where.chip.usable_bytes)
        return SimpleNamespace(total_bytes=GIB), ""

    monkeypatch.setattr(preflight, "compile_alone", compile_alone)
    program = Program("train", RunConfig(), batch_size=256)
    known = {"batch_per_core": 32, "fits": True}
    assert preflight.suggest_batch(where, program, known, state_bytes=GIB) == 256
    assert asked == [256, 512] and "--global_batch_size=2048" in capsys.readouterr().out
    assert preflight.suggest_batch(where, program, known, state_bytes=16 * GIB) == 0
    assert asked == [256, 512] and "Not even one" in capsys.readouterr().out


def test_a_program_that_is_refused_for_its_size_is_reported_with_what_helps(monkeypatch, run):
    """The compiler's own sentence, as libtpu 0.0.51 has it."""
    told = _too_large(
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (25.79G) exceeds available HBM (15.48G). HLO module: jit_one_replica."
    )
    assert (told.needed_bytes, told.limit_bytes) == (round(25.79 * GIB), round(15.48 * GIB))
    assert told.limit_bytes == parse_topology("v3:2x2").chip.usable_bytes
    assert _too_large("INTERNAL: something else") is None

    def refuse(*_):
        raise TooLarge(told.needed_bytes, told.limit_bytes)

    monkeypatch.setattr(preflight, "missing_compiler", list)
    monkeypatch.setattr(preflight, "compile_alone", refuse)
    report, printed = run("--dataset=digits", "--model=DiT-Mi/4", "--topology=v3:2x2")
    assert (report["fits"], report["flops"], report["hbm_bytes"]) == (False, None, told.needed_bytes)
    assert "does NOT fit: 25.79 GiB of 15.48 GiB" in printed
    flags_that_help = "--suggest_batch", "--precision=bfloat16", "--remat", "--accumulation_steps=2"
    assert all(flag in printed for flag in flags_that_help)


def test_no_batch_helps_where_the_state_is_too_large():
    where = parse_topology("v2:2x2")
    record = too_large_record(where, "train", 1.0, TooLarge(12 * GIB, where.chip.usable_bytes), seconds=60.0)
    assert list(lines_of(record))[1] == "  refused by the compiler after 60 s"
    (sentence,) = remedies(Program("train", RunConfig(), 16), 10 * GIB, record, batch_per_core=4)
    assert "10.00 GiB on every core, whatever the batch" in sentence
    saved = Program("train", RunConfig(precision="bfloat16"), 4, remat=True)
    one = remedies(saved, 1 * GIB, record, batch_per_core=1)
    assert one == ["A chip with more memory per core."]


def test_days_are_steps_times_the_slower_of_flops_and_bytes():
    fields, line = pace_of({"seconds_at_least": 0.0864, "bound_by": "FLOPs"}, 2_000_000)
    assert fields == {"train_steps": 2_000_000, "expected_days": pytest.approx(2.0, rel=1e-12)}
    assert "86.4 ms" in line and "2000000 steps in 2 days" in line


def test_a_tiny_step_is_compiled_as_it_trains(run):
    if missing_compiler():
        pytest.skip("the TPU compiler comes for Linux x86-64 only")
    tiny = ["--dataset=digits", "--model=DiT-64x1x2/4", "--global_batch_size=128"]
    report, printed = run(*tiny, "--topology=v3:2x2")
    assert (report["cores"], report["batch_per_core"], report["all_reduces"], report["host_transfers"]) == (8, 16, 1, 0)
    assert report["flops_analytic_per_core"] * 8 == report["flops_analytic"] == 6 * 128 * report["macs"]
    # Neither the patches (4 of 16 pixels) nor the timestep's 256 sinusoids need a gradient.
    assert report["products_flops"] == report["flops_analytic_per_core"] - 2 * 16 * (4 * 16 * 64 + 256 * 64)
    assert report["flops"] > report["products_flops"]  # elementwise operations are a tenth of so small a network
    assert report["fits"] and report["state_bytes"] < report["hbm_bytes"] < 0.01 * report["hbm_limit_bytes"]
    # float32 factors, which the chip rounds; what is bfloat16 is what the compiler rounded once for several readers.
    assert report["share_in_bfloat16"] < 0.5 and report["share_in_float32"] == 0
    assert any(name.startswith("dit/block*/mlp/expand") for name in report["not_in_bfloat16"])
    bounds = report["flops"] / 61.5e12, report["bytes_accessed"] / 450e9
    assert report["seconds_at_least"] == max(bounds) and report["bound_by"] == "bytes"
    assert report["expected_days"] == report["seconds_at_least"] * 400_000 / 86400
    assert report["programs"]["train"]["flops"] == report["flops"]
    for said in ("train on v3:2x2 fits", "of the analytic count", "steps in", "rounds to bfloat16"):
        assert said in printed


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology", ["v3:2x2", "v4:2x2x1", "v5e:2x2", "v6e:2x2"])
def test_s2_fits_every_chip_with_its_products_in_bfloat16(run, topology):
    cores = parse_topology(topology).cores
    batch = f"--global_batch_size={8 * cores}"
    report, _ = run("--model=DiT-S/2", "--precision=bfloat16", f"--topology={topology}", batch)
    assert report["fits"] and report["host_transfers"] == 0
    assert report["flops"] <= 1.05 * report["flops_analytic_per_core"]
    # Neither the patches (256 of 16 numbers) nor the timestep's 256 sinusoids need a gradient.
    assert report["products_flops"] == report["flops_analytic_per_core"] - 2 * 8 * (256 * 16 * 384 + 256 * 384)
    assert report["share_in_bfloat16"] == 1 and report["not_in_bfloat16"] == []
    # What the text explains is most of what the compiler set aside, and not more than it by the arrays that it joins.
    assert 0.7 < report["temporaries_explained_bytes"] / report["temporary_bytes"] < 1.1


@pytest.mark.tpu_compile
@pytest.mark.parametrize("program, names", [("sample", ["sample"]), ("vae", ["encode", "decode"])])
def test_the_other_programs_fit_v4(run, program, names):
    report, _ = run("--model=DiT-S/2", f"--program={program}", "--topology=v4:2x2x1", "--images_per_core=1")
    assert list(report["programs"]) == names
    for record in report["programs"].values():
        assert record["fits"] and (record["host_transfers"], record["all_reduces"]) == (0, 0)
        if program == "vae":  # the count has what falls on padding, the compiler not
            assert 0.9 < record["flops"] / record["flops_analytic_per_core"] < 1.1


@pytest.mark.tpu_compile
def test_the_inception_network_fits_v4_in_float32(run, inception_file):
    """At a sixteenth of its width; tests/evaluation/inception_test.py compiles the published size."""
    report, _ = run(
        "--program=inception", f"--inception={inception_file}", "--topology=v4:2x2x1", "--image_size=64",
        "--images_per_core=2",
    )  # fmt: skip
    assert report["fits"] and report["host_transfers"] == 0
    assert report["share_in_float32"] == 1 and report["share_in_bfloat16"] == 0
