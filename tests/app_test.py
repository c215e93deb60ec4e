"""What is behind the page of `python -m dit_tf.app`: the image of its command line, and the way to it."""

import itertools
import os
import shlex
import shutil
import socket
import sys
import time
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, flags, sample
from dit_tf.app import __main__ as app
from dit_tf.app.checkpoint import Checkpoint, captions_of
from dit_tf.app.request import IMAGE, Request, checked, class_flag
from dit_tf.config import RunConfig
from dit_tf.data.class_names import UNLABELLED, ClassTable, imagenet
from dit_tf.inference.states import states_of, stepwise
from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers.loop import run_steps
from dit_tf.samplers.options import SAMPLERS_OF, SamplerOptions

_REQUEST = Request(label=7, seed=5, cfg_scale=2.0, sampler="ddim", num_steps=6)


@pytest.fixture(scope="module")
def checkpoint(parse, trained):
    return Checkpoint(parse(flags.define_app, f"--workdir={trained}"))


@pytest.fixture(scope="module")
def pictures(checkpoint):
    return list(checkpoint.draw(_REQUEST))[-1].pictures


@pytest.fixture(scope="module")
def untrained(parse, tmp_path_factory):
    """untrained(classes, field=value, ...) -> the `Checkpoint` of a .keras file with fresh weights."""

    def made(classes, **fields):
        path = str(tmp_path_factory.mktemp("untrained") / "model.keras")
        config = RunConfig(model="DiT-Mi/4", num_classes=len(classes), **fields)
        build.save_model(path, config, classes, build.weights_of(build.make_model(config)))
        return Checkpoint(parse(flags.define_app, f"--weights={path}"))

    return made


def drawn_by_command(parse, command, path):
    """The image of the command line that the page shows, with another --output."""
    python, module, name, *arguments = shlex.split(command)
    assert (python, module, name, arguments.pop()) == ("python", "-m", "dit_tf.sample", "--output=image.png")
    sample.main(parse(flags.define_sample, *arguments, f"--output={path}"))
    with np.load(path) as arrays:
        return arrays["arr_0"][0]


def test_the_image_is_that_of_the_command(checkpoint, pictures, parse, tmp_path):
    drawn = drawn_by_command(parse, checkpoint.command(_REQUEST), tmp_path / "samples.npz")
    np.testing.assert_array_equal(pictures[IMAGE], drawn)


def test_the_way_leads_from_the_noise_of_the_seed_to_the_image(checkpoint, pictures, trained):
    assert list(pictures) == ["noise", "step 3", "step 4", "step 5", IMAGE]  # step 5 is nearest to two of the moments
    noise = RowSeeds(tf.constant(5, tf.int64), tf.constant([0])).normal(Stream.START, (8, 8, 1))[0]
    np.testing.assert_array_equal(pictures["noise"], np.clip(127.5 * noise + 128, 0, 255).astype(np.uint8))
    network = tf.function(build.call_of(build.load_model(str(trained))))
    options = SamplerOptions("ddim", 6, cfg_scale=2.0)
    end = stepwise(checkpoint._model, options, [7], 5, network).images[0].numpy()
    # One grey level: outside of the program the same sums are made in another order.
    assert np.abs(end.astype(int) - pictures[IMAGE]).max() <= 1


def test_another_seed_class_or_scale_needs_no_compilation(checkpoint, pictures, monkeypatch):
    for maker in ("make_sampler", "call_with"):  # a program that is made or traced now fails
        monkeypatch.setattr(build, maker, None)
    *_, last = checkpoint.draw(_REQUEST._replace(label=2, seed=6, cfg_scale=1.5))
    assert np.abs(last.pictures[IMAGE].astype(int) - pictures[IMAGE]).max() > 10


def test_states_are_those_of_the_loop():
    """x <- x + network(x) with the identity doubles x: 3, 6, 12, 24."""
    start = tf.fill([1, 2, 2, 1], 3.0)
    states = states_of(
        lambda call: run_steps(lambda k, x: x + call((), x, k, None), start, 4), lambda params, x, t, y: x
    )
    assert [float(x[0, 1, 1, 0]) for x in states] == [3.0, 6.0, 12.0, 24.0]


def test_a_failure_of_the_loop_is_raised_where_its_states_are_read():
    def draw(call):
        call((), tf.zeros([1, 1, 1, 1]), 0, None)
        raise ValueError("out of steps")

    states = states_of(draw, lambda params, x, t, y: x)
    next(states)
    with pytest.raises(ValueError, match="out of steps"):
        next(states)


def test_a_loop_that_nobody_reads_ends():
    calls = itertools.count()

    def draw(call):
        while True:
            call((), tf.zeros([1, 1, 1, 1]), next(calls), None)
            time.sleep(0.001)

    states = states_of(draw, lambda params, x, t, y: x)
    next(states)
    states.close()
    time.sleep(0.2)
    ended = next(calls)
    time.sleep(0.2)
    assert next(calls) == ended + 1


@pytest.mark.parametrize("objective", SAMPLERS_OF)
def test_the_moments_are_at_whole_steps_of_every_sampler(objective):
    config = RunConfig(model="DiT-Mi/4", objective=objective, learn_sigma=objective == "ddpm")
    model = build.make_model(config)
    for name in SAMPLERS_OF[objective]:
        sampler = build.make_sampler(config, model, SamplerOptions(name, 20))
        per_step = 2 if sampler.options.solver == "heun" else 1  # evaluations
        expected = {per_step * step: f"step {step}" for step in (10, 14, 17, 19)}
        assert captions_of(sampler) == {0: "noise"} | expected


def test_a_flow_model_without_classes_has_its_samplers_and_no_labels(untrained, checkpoint, parse, tmp_path):
    flow = untrained(UNLABELLED, objective="flow", learn_sigma=False, class_dropout_prob=0.0)
    assert flow.samplers == ("ode", "sde") and checkpoint.samplers == ("ddpm", "ddim", "dpmpp", "ode")
    assert checkpoint.guided and not flow.guided
    request = Request(0, 3, 1.0, "ode", 2)
    *_, last = flow.draw(request)
    assert list(last.pictures) == ["noise", "step 1", IMAGE]
    drawn = drawn_by_command(parse, flow.command(request), tmp_path / "samples.npz")
    np.testing.assert_array_equal(last.pictures[IMAGE], drawn)


@pytest.mark.parametrize(
    "classes, label, flag",
    [
        (imagenet(), 207, "--labels=207"),
        (ClassTable(("3", "7", "1")), 2, "--labels=1"),  # numbers are names here
        (ClassTable(("1", "crane, bird", "crane, machine"), ("a", "b", "c")), 2, "--labels=c"),
        (UNLABELLED, 0, "--num_samples=1"),
    ],
)
def test_a_class_is_asked_for_as_the_command_understands_it(classes, label, flag):
    assert class_flag(classes, label) == flag


@pytest.mark.parametrize(
    "changed, sentence",
    [
        (dict(num_steps=0), "--num_steps must be from 1 to 1000, got 0"),
        (dict(num_steps=None), "--num_steps must be a whole number"),
        (dict(seed=None), "--seed must be a whole number"),
        (dict(seed="-1"), "--seed must be a whole number from 0 to 9223372036854775807, got '-1'"),
        (dict(seed="9223372036854775808"), "--seed must be a whole number"),
        (dict(seed="1.5"), "--seed must be a whole number"),
        (dict(label=None), "Choose a class"),
        (dict(sampler="sde"), "--sampler must be one of ddpm, ddim, dpmpp, ode"),
    ],
)
def test_a_request_that_does_not_fit_is_one_sentence(checkpoint, changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        next(checkpoint.draw(checked(*_REQUEST._replace(**changed))))


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--workdir=a", "--weights=b"], "One of --workdir, --weights and --server .* got --workdir=a and --weights=b"),
        (["--workdir=a", "--server=grpc://b:8500"], "got --workdir=a and --server=grpc://b:8500"),
        (["--server=grpc://b:8500", "--vae=c"], "--vae goes with --workdir and --weights"),
        (["--server=b:8500"], "--server must be"),
        (["--workdir=nothing"], "holds no checkpoint"),
        (["--port=0"], "--port must be from 1 to 65535, got 0"),
        ([], "run launch/demo.sh, or give --workdir"),
    ],
)
def test_flags_that_do_not_agree_are_one_sentence(parse, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        app.source(parse(flags.define_app, *arguments))


def test_without_a_model_the_newest_demo_that_ended_is_shown(parse, trained, tmp_path, monkeypatch):
    for time_of_day, file in (("091500", "model.keras"), ("101500", "model.keras"), ("111500", "flags.txt")):
        workdir = tmp_path / "runs" / f"digits-demo-20250101-{time_of_day}"
        workdir.mkdir(parents=True)
        shutil.copy(trained / file, workdir)
    monkeypatch.chdir(tmp_path)
    options = app.with_demo(parse(flags.define_app))
    assert options.workdir == "runs/digits-demo-20250101-101500"


def test_without_gradio_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "dit_tf.app.page", raising=False)
    with pytest.raises(ValueError, match=r"pip install '\.\[app\]'"):
        app.import_page()


@pytest.mark.parametrize("given", [{}, {"no_proxy": "a.test"}, {"NO_PROXY": "b.test,*.c"}])
def test_the_proxies_of_the_environment_are_unknown_only_while_the_page_opens(monkeypatch, given):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (given | {"all_proxy": "socks5://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(OSError), app.without_proxies():
        assert urllib.request.proxy_bypass("127.0.0.1") and urllib.request.proxy_bypass("d.test")
        raise OSError
    assert dict(os.environ) == before


def test_a_port_that_is_taken_is_one_sentence(parse, trained):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port must be free.*:{port} cannot be opened"):
            app.main(parse(flags.define_app, f"--workdir={trained}", f"--port={port}"))
