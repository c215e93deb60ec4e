"""What a server answers without dit_tf is what `sample` draws, row by row, through either protocol; and a client waits
for a server that is not there yet, and for nothing else."""

import socket
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build
from dit_tf.samplers.options import SamplerOptions
from dit_tf.serving.client import connect
from tests.serving.faulty_servers import FAULTY, FINAL, RESET, SILENCE, TRICKLE, UNAVAILABLE

PROTOCOLS = ("grpc", "http")


def difference(images, others):
    """The most grey levels that two sets of images are apart."""
    return np.abs(images.astype(int) - others).max()


@pytest.fixture(scope="module")
def sampled(trained):
    """sampled(label, seed, scale) -> the image 0 of `sample --seed=SEED --labels=LABEL --cfg_scale=SCALE`."""
    model, options = build.load_model(str(trained)), SamplerOptions(sampler="ddim", num_steps=10)
    config, params = build.load_config(str(trained)), build.weights_of(model)
    free = build.make_sampler(config, model, options)
    guided = build.make_sampler(config, model, SamplerOptions(sampler="ddim", num_steps=10, cfg_scale=2.0))

    def image(label, seed, scale):
        asked = SamplerOptions(sampler="ddim", num_steps=10, cfg_scale=scale)
        sampler = (free if scale == 1.0 else guided).with_options(asked)
        return sampler(params, tf.constant([label]), tf.constant(seed, tf.int64), tf.constant([0])).images.numpy()[0]

    return image


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_process_without_dit_tf_draws_the_images_of_sample(clients, sampled, protocol):
    """One grey level: the server runs operations one by one, sample compiles them, and sums round differently."""
    rows = [(3, 0, 1.0), (1, 0, 1.5), (4, 5, 4.0), (4, 6, 1.0), (9, 2**40 + 7, 0.0), (0, 2**63 - 1, 1.5)]
    images = clients[protocol].images(*zip(*rows))
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8
    assert difference(images, np.stack([sampled(*row) for row in rows])) <= 1
    assert difference(images[1], images[2]) > 10


def test_an_image_follows_from_its_row_in_whatever_request_it_comes(clients, rng):
    """A thousand rows, twice: in order and in full requests, shuffled and in requests of several sizes. One grey level:
    sums over another number of rows may be in another order."""
    count = 1000
    labels, seeds = rng.integers(0, 10, count), rng.integers(0, 2**63, count)
    scales = rng.choice([0.0, 1.0, 1.5, 4.0, 7.3], count).astype(np.float32)

    def drawn(order, sizes):
        ends = np.cumsum(sizes)
        parts = np.split(order, ends[ends < count])
        return np.concatenate([clients["grpc"].images(labels[i], seeds[i], scales[i]) for i in parts])

    in_order = drawn(np.arange(count), np.full(count, 64))
    shuffled = rng.permutation(count)
    assert difference(drawn(shuffled, rng.choice([1, 3, 8, 30, 64], count)), in_order[shuffled]) <= 1
    assert len(np.unique(in_order, axis=0)) == count


def test_rest_gives_the_images_of_grpc_to_the_bit(clients, rng):
    for rows in (1, 5, 64):
        request = rng.integers(0, 10, rows), rng.integers(0, 2**63, rows), rng.uniform(0.0, 10.0, rows)
        np.testing.assert_array_equal(*(client.images(*request) for client in clients.values()))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_version_and_shape_are_the_models(clients, trained, protocol):
    table = build.load_classes(str(trained))
    assert clients[protocol].classes() == (table.names, table.ids)
    assert clients[protocol].description() == (1, (8, 8, 1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_are_asked_for_in_parts_where_a_request_may_have_no_more(server, clients, protocol):
    """Of ten classes at once the server says no; of five it says yes, twice."""
    with FAULTY[protocol](server.addresses[protocol], [None, FINAL[protocol][0]]) as (address, faulty):
        assert connect(address, "dit").classes() == clients[protocol].classes()
        assert faulty.attempts == 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_is_unavailable_is_asked_again(server, clients, protocol):
    faults = [UNAVAILABLE[protocol]] * 3 + ([RESET] if protocol == "http" else [])
    with FAULTY[protocol](server.addresses[protocol], faults) as (address, faulty):
        images = connect(address, "dit").images([3], [0], [1.5])
        assert faulty.attempts == len(faults) + 1
    np.testing.assert_array_equal(images, clients[protocol].images([3], [0], [1.5]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_other_failure_ends_at_once_with_the_servers_words(server, protocol):
    for fault in FINAL[protocol]:
        with FAULTY[protocol](server.addresses[protocol], [fault]) as (address, faulty):
            with pytest.raises(ValueError, match=rf"^--server={address} failed: .*told to say \S+\.$"):
                connect(address, "dit").images([3], [0], [1.5])
            assert faulty.attempts == 1, fault


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_may_start_after_its_client(server, protocol):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    client = connect(f"{protocol}://127.0.0.1:{port}", "dit", deadline=30.0)
    thread = threading.Thread(target=lambda: found.append(client.classes()))
    thread.start()
    time.sleep(0.3)  # refused meanwhile
    with FAULTY[protocol](server.addresses[protocol], [], port):
        thread.join()
    assert len(found[0][0]) == 10


@pytest.mark.parametrize("protocol, fault, sentence", [
    ("grpc", SILENCE, "gave no answer within --deadline=0.5 seconds"),
    ("http", SILENCE, "gave no answer within --deadline=0.5 seconds"),
    ("http", TRICKLE, "gave no answer within --deadline=0.5 seconds"),
    ("grpc", grpc.StatusCode.UNAVAILABLE, "was unavailable for --deadline=0.5 seconds: UNAVAILABLE, told to say"),
    ("http", 503, "was unavailable for --deadline=0.5 seconds: 503 Service Unavailable, told to say"),
    ("http", RESET, "was unavailable for --deadline=0.5 seconds: Remote end closed connection"),
])  # fmt: skip
def test_the_deadline_is_kept(server, protocol, fault, sentence):
    with FAULTY[protocol](server.addresses[protocol], [fault] * 100) as (address, faulty):
        begin = time.monotonic()
        with pytest.raises(ValueError, match=f"^--server={address} {sentence}"):
            connect(address, "dit", deadline=0.5).images([3], [0], [1.5])
        assert time.monotonic() - begin < 2.5  # and what a busy machine adds
        # At 0, 0.1 and 0.3 seconds; the next would be at 0.7.
        assert faulty.attempts <= (1 if sentence.startswith("gave") else 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rows, words", [
    (([3, 10], [0, 1], [1.5, 1.5]), r"label must be from 0 to 9, got\] \[3 10\]"),
    (([3], [-1], [1.5]), r"seed must not be negative, got\] \[-1\]"),
    (([3], [0], [float("nan")]), r"cfg_scale must be from 0 to 100, got\] \[nan\]"),
])  # fmt: skip
def test_what_the_model_refuses_is_one_sentence(clients, protocol, rows, words):
    with pytest.raises(ValueError, match=words) as caught:
        clients[protocol].images(*rows)
    assert "\n" not in str(caught.value) and "{{node" not in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name, version", [("dot", None), ("dit", 2)])
def test_an_unknown_model_or_version_is_one_sentence(server, protocol, name, version):
    code = "NOT_FOUND" if protocol == "grpc" else "404 Not Found"
    sentence = f"^--server={server.addresses[protocol]} failed: {code}, Servable not found for request: {name}"
    with pytest.raises(ValueError, match=sentence):
        connect(server.addresses[protocol], name, version).images([3], [0], [1.5])


@pytest.mark.parametrize("answer", [
    b"{}", b'{"outputs": 3}', b'{"outputs": []}', b'{"outputs": [{"b64": "AAAA"}]}', b'{"outputs": [["b64"]]}',
    b"<html>", b'{"outputs": [{"b64": "' + b"iVBORw0KGgo=" + b'"}]}',
])  # fmt: skip
def test_an_answer_of_something_else_is_one_sentence(server, answer):
    with FAULTY["http"](server.addresses["http"], [answer]) as (address, _):
        with pytest.raises(ValueError, match=rf"^--server={address} (must serve a model of dit_tf.export|failed:)"):
            connect(address, "dit").images([3], [0], [1.5])


def test_a_server_without_tls_is_one_sentence(server):
    address = server.addresses["http"].replace("http", "https")
    with pytest.raises(ValueError, match=rf"^--server={address} failed: \[SSL: "):
        connect(address, "dit").images([3], [0], [1.5])


def test_grpc_without_its_messages_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ValueError, match=r"^--server=grpc://localhost:8500 needs `pip install grpcio .*`; http:"):
        connect("grpc://localhost", "dit")
    connect("http://localhost", "dit")


@pytest.mark.parametrize("address", [
    "", "localhost:8500", "ftp://localhost", "grpc://", "grpc://localhost:port", "http://localhost:99999",
    "http://me@localhost", "http://localhost/?x=1", "grpc://[::1",
])  # fmt: skip
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match=r"^--server must be grpc://HOST:PORT, .*, got "):
        connect(address, "dit")
