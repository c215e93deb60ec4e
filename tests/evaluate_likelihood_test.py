"""`python -m dit_tf.evaluate --likelihood`: bits per dimension of either objective, with what they are of."""

import functools
import json

import numpy as np
import pytest

from dit_tf import build, evaluate, flags
from dit_tf.inference import likelihood


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """What is compiled for a configuration and a method, which is a function of the weights, serves all tests."""
    make, made = build.make_likelihood, {}

    def kept(config, model, strategy, vae, **method):
        key = config, *sorted(method.items())
        if key not in made:
            made[key] = make(config, model, strategy, vae, **method)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_likelihood", kept)
        yield


@pytest.fixture(scope="module")
def run_in(parse, tiny_flags):
    """run_in(directory, workdir, flag, ...) -> the metrics.json that the command writes there."""

    def evaluated(directory, workdir, *more):
        path = directory / "metrics.json"
        data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir"))
        arguments = [f"--workdir={workdir}", "--likelihood", data_dir, f"--output={path}", "--batch_size=8", *more]
        evaluate.main(parse(flags.define_evaluate, *arguments))
        return json.loads(path.read_text())

    return evaluated


@pytest.fixture
def run(run_in, tmp_path):
    return functools.partial(run_in, tmp_path)


@pytest.fixture(scope="module")
def adaptive(run_in, trained_flow, tmp_path_factory):
    """What the command writes of 20 images of the flow model, by its default, dopri5."""
    return run_in(tmp_path_factory.mktemp("adaptive"), trained_flow, "--num_examples=20")


def test_a_flow_model_has_the_density_of_its_probability_flow(run, trained_flow, adaptive):
    """Two solvers agree; the probe's sign, from the seed, changes little beside the bits."""
    fixed = run(trained_flow, "--num_examples=20", "--solver=heun", "--num_steps=60")
    assert adaptive["bits_per_dim"] == pytest.approx(fixed["bits_per_dim"], abs=0.02)
    assert 4.0 < adaptive["bits_per_dim"] < 8.0  # 8 bits are uniform noise
    assert fixed["provenance"]["function_evaluations"] == 120
    assert 20 <= adaptive["provenance"]["function_evaluations"] < 120  # fewer than what agrees with it
    assert adaptive["bits_per_dim_standard_error"] > 0
    assert adaptive["provenance"]["objective"] == "flow" and adaptive["provenance"]["split"] == "test"
    other_seed = run(trained_flow, "--num_examples=20", "--seed=1")
    assert 0 < abs(other_seed["bits_per_dim"] - adaptive["bits_per_dim"]) < 0.3


def test_a_ddpm_model_has_its_variational_bound(run, trained):
    whole, short = (run(trained, "--num_examples=8", f"--num_steps={n}") for n in (1000, 20))
    assert whole["provenance"]["num_steps"] == whole["provenance"]["function_evaluations"] == 1000
    assert 4.0 < whole["bits_per_dim"] < short["bits_per_dim"]  # fewer steps, a looser bound


def test_an_interrupted_evaluation_goes_on(run, trained_flow, adaptive, monkeypatch, tmp_path):
    calls, real = [], likelihood.evaluated

    def interrupted(*arguments):
        calls.append(arguments[6])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(likelihood, "evaluated", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(trained_flow, "--num_examples=20")
    assert (tmp_path / "metrics.json.partial").exists() and not (tmp_path / "metrics.json").exists()
    assert run(trained_flow, "--num_examples=20") == adaptive
    assert calls == [0, 8, 8, 16]  # the first batch is not evaluated again
    assert not (tmp_path / "metrics.json.partial").exists()


def test_the_batch_size_changes_nothing_but_rounding(trained_flow, adaptive, run):
    large = run(trained_flow, "--num_examples=20", "--batch_size=10")
    assert adaptive["bits_per_dim"] == pytest.approx(large["bits_per_dim"], abs=1e-3)


def test_the_digest_tells_weights_apart(trained, trained_flow):
    digests = {build.weights_digest(build.weights_of(build.load_model(path))) for path in (trained, trained_flow)}
    assert len(digests) == 2 and all(len(digest) == 64 for digest in digests)
    assert build.weights_digest(build.weights_of(build.load_model(trained))) in digests


@pytest.mark.parametrize(
    "objective, more, words",
    [
        ("flow", ["--make_reference"], ["--likelihood and --make_reference", "one of them"]),
        ("flow", ["--solver=rk4"], ["--solver", "dopri5, heun, euler", "rk4"]),
        ("flow", ["--num_steps=5"], ["--num_steps goes with --solver=heun or euler", "got 5"]),
        ("flow", ["--solver=heun", "--num_steps=0"], ["--num_steps", "at least 1", "got 0"]),
        ("flow", ["--rtol=0"], ["--atol and --rtol must be positive"]),
        ("flow", ["--num_examples=0"], ["--num_examples", "from 1 to", "got 0"]),
        ("flow", ["--split=dev"], ["--split", "train, test", "'dev'"]),
        ("flow", ["--output=metrics.txt"], ["--output", ".json", "metrics.txt"]),
        ("flow", ["--batch_size=0"], ["--batch_size", "positive multiple", "0"]),
        ("flow", ["--weights=model.keras"], ["Exactly one of --workdir and --weights"]),
        ("ddpm", ["--solver=heun"], ["--solver goes with", "--objective=flow", "heun"]),
        ("ddpm", ["--num_steps=1001"], ["--num_steps", "from 1 to 1000", "1001"]),
    ],
)
def test_bad_values_name_the_flag_the_rule_and_the_value(run, trained, trained_flow, objective, more, words):
    with pytest.raises(ValueError) as error:
        run(trained_flow if objective == "flow" else trained, *more)
    assert all(word in str(error.value) for word in words), error.value


def test_images_come_in_their_order_and_whole(tiny_flags, trained_flow):
    del trained_flow  # has prepared the data
    from dit_tf.data import pipeline

    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir")).split("=")[1]
    digits = pipeline.open_dataset("digits", data_dir)
    batches = list(pipeline.examples_in_order(digits, "test", image_size=8, batch_size=100))
    images, labels = pipeline.real_images(digits, "test")
    np.testing.assert_array_equal(np.concatenate([image for image, _, _ in batches]), images)
    np.testing.assert_array_equal(np.concatenate([label for _, label, _ in batches]), labels)
