"""`python -m dit_tf.query`: image i is image 0 of `sample --seed=SEED+i`, in the files that sample writes."""

import json
import os

import grpc
import numpy as np
import pytest
from PIL import Image

import dit_tf
from dit_tf import flags, query, sample
from tests.commands import run_command
from tests.serving.faulty_servers import FAULTY, FINAL


@pytest.fixture
def ask(parse, server, tmp_path):
    """ask(flag, ...) -> the path of samples.npz, or of another name."""

    def asked(*more, protocol="grpc", address=None, name="samples.npz"):
        path = tmp_path / name
        server_flag = f"--server={address or server.addresses[protocol]}"
        query.main(parse(flags.define_query, server_flag, f"--output={path}", *more))
        return path

    return asked


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_npz_is_laid_out_as_the_evaluator_reads_it(ask, clients, server, protocol):
    path = ask("--labels=3,1", "--num_samples=5", "--cfg_scale=1.5", "--seed=7", "--batch_size=2", protocol=protocol)
    with np.load(path, allow_pickle=False) as arrays:
        images, labels, told = (arrays[name] for name in ("arr_0", "arr_1", "provenance"))
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and labels.tolist() == [3, 1, 3, 1, 3]
    # One grey level: here in one request, there in three.
    expected = clients[protocol].images(labels, range(7, 12), [1.5] * 5)
    assert np.abs(images.astype(int) - expected).max() <= 1
    facts = json.loads(bytes(told))
    assert facts.items() >= dict(
        dit_tf=dit_tf.__version__, server=server.addresses[protocol], model="dit", version=1, seed=7, cfg_scale=1.5,
        images=5, size=[8, 8, 1], label_policy="given",
    ).items()  # fmt: skip
    assert os.listdir(path.parent) == ["samples.npz"]


def test_image_i_is_image_0_of_a_sample_of_its_seed(ask, parse, trained, tmp_path):
    images = np.load(ask("--labels=3,1", "--seed=7", "--cfg_scale=1.5"))["arr_0"]
    path = tmp_path / "sample.npz"
    sampler = ["--sampler=ddim", "--num_steps=10", "--cfg_scale=1.5", "--labels=1", "--seed=8"]
    sample.main(parse(flags.define_sample, f"--workdir={trained}", *sampler, f"--output={path}"))
    assert np.abs(images[1].astype(int) - np.load(path)["arr_0"][0]).max() <= 1


def test_the_grid_shows_every_image_and_nothing_else_is_left(ask):
    path = ask("--labels=3,1,4", "--num_samples=6", name="grid.png", protocol="http")
    grid = np.asarray(Image.open(path).convert("L"))
    assert grid.shape[1] > grid.shape[0] > 2 * 48  # two rows of three
    assert os.listdir(path.parent) == ["grid.png"]


def test_labels_that_are_not_given_are_those_of_sample(ask):
    labels = np.load(ask("--num_samples=20", "--label_policy=balanced"))["arr_1"]
    assert labels.tolist() == [*range(10), *range(10)]


def test_an_interrupted_query_goes_on(ask, server, capsys):
    """Of requests for the description, two for classes and four for images, the last is refused; the same command asks
    for its images alone."""
    wanted = ["--labels=3", "--num_samples=8", "--batch_size=2"]
    faults = [None] * 6 + [FINAL["grpc"][0]]
    with FAULTY["grpc"](server.addresses["grpc"], faults) as (address, faulty):
        with pytest.raises(ValueError, match="failed"):
            ask(*wanted, address=address)
        assert faulty.attempts == 7
        path = ask(*wanted, address=address)
        assert faulty.attempts == 7 + 3 + 1
    assert "6 of 8 images are there already" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(path)["arr_0"], np.load(ask(*wanted, name="b.npz"))["arr_0"])
    assert sorted(os.listdir(path.parent)) == ["b.npz", "samples.npz"]


def test_a_query_waits_for_the_server(ask, server):
    with FAULTY["grpc"](server.addresses["grpc"], [grpc.StatusCode.UNAVAILABLE]) as (address, faulty):
        ask("--labels=3", address=address)
        assert faulty.attempts == 1 + 1 + 3


@pytest.mark.parametrize("flag, sentence", [
    ("--output=images.jpg", r"--output must be a file that ends in \.png or \.npz, got 'images\.jpg'\."),
    ("--server=", r"--server must be given: .*"),
    ("--server=localhost:8500", r"--server must be grpc://HOST:PORT, .*, got 'localhost:8500'\."),
    ("--model=", r"--model must be the name that the server has for the model, got ''\."),
    ("--model=dot", r"--server=\S+ failed: NOT_FOUND, Servable not found for request: dot\."),
    ("--model_version=0", r"--model_version must be at least 1, got 0\."),
    ("--model_version=2", r"--server=\S+ failed: NOT_FOUND, Servable not found for request: dit version 2\."),
    ("--batch_size=0", r"--batch_size must be at least 1, got 0\."),
    ("--seed=9223372036854775807", r"--seed must leave room for 2 seeds below 2\*\*63, got 9223372036854775807\."),
    ("--cfg_scale=101", r"--cfg_scale must be from 0 to 100, got 101\.0\."),
    ("--deadline=0", r"--deadline must be a number of seconds above 0, got 0\.0\."),
    ("--labels=3,eleven", r"--labels must be a number from 0 to 9 or a name, got 'eleven'; .*\."),
    ("--labels=", r"--labels or --num_samples must be given\."),
    ("--num_samples=0", r"--num_samples must be at least 1, got 0\."),
    ("--label_policy=mine", r"--label_policy must be one of random, balanced, got 'mine'\."),
])  # fmt: skip
def test_a_bad_flag_is_one_sentence_and_writes_nothing(ask, tmp_path, flag, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        ask("--labels=3,1", flag)
    assert not os.listdir(tmp_path)


def test_a_batch_that_is_larger_than_the_export_takes_is_asked_for_in_parts(ask):
    with np.load(ask("--labels=3", "--num_samples=65", "--batch_size=65")) as arrays:
        assert arrays["arr_0"].shape == (65, 8, 8, 1)


def test_a_failed_command_ends_with_one_sentence(server, tmp_path):
    address, output = server.addresses["grpc"], tmp_path / "samples.npz"
    process = run_command("dit_tf.query", f"--server={address}", "--labels=12", f"--output={output}")
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1] == "dit_tf.query: --labels must be from 0 to 9, got 12."
