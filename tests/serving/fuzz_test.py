"""Five hundred requests that are none: each is refused, and the server stays as it was."""

import base64
import http.client
import json
import urllib.parse

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from dit_tf.serving.client import connect

COUNT = 250  # of each protocol
MARGIN = 32  # MiB; four are seen. Requests have up to one: 128 KiB kept of each would be too much
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_ROWS = dict(label=[3, 1], seed=[0, 1], cfg_scale=[1.5, 4.0])
_DTYPES = dict(label=np.int64, seed=np.int64, cfg_scale=np.float32)
_DRAWING = ("serving_default", "serving_xla", "png")


def well_formed():
    return {name: np.array(values, _DTYPES[name]) for name, values in _ROWS.items()}


# Inputs that no signature that draws takes: functions of (inputs, the name of one, a generator).


def of_another_shape(inputs, name, rng):
    shape = [(), (1, 2), (2, 1), (0,), (3,), (2, 1, 1)][rng.integers(6)]
    return inputs | {name: np.ones(shape, _DTYPES[name])}


def missing(inputs, name, rng):
    return {other: inputs[other] for other in inputs if other != name}


def with_another(inputs, name, rng):
    return inputs | {f"{name}{'x' * rng.integers(1, 100)}": inputs[name]}


def of_a_scale_out_of_range(inputs, name, rng):
    scale = rng.choice([np.nan, np.inf, -np.inf, -1e-3, 100.1, 3e38])
    return inputs | dict(cfg_scale=np.array([1.5, scale], np.float32))


def of_a_label_out_of_range(inputs, name, rng):
    return inputs | dict(label=np.array([3, rng.choice([-1, 10, 2**31, 2**63 - 1, -(2**63)])]))


def of_a_seed_below_zero(inputs, name, rng):
    return inputs | dict(seed=np.array([0, -rng.integers(1, 2**62)]))


def of_no_rows(inputs, name, rng):
    return {name: values[:0] for name, values in inputs.items()}


def of_too_many_rows(inputs, name, rng):
    count = rng.choice([65, 1000, 30_000])
    return {name: np.resize(values, count) for name, values in inputs.items()}


INPUTS = (
    of_another_shape, missing, with_another, of_a_scale_out_of_range, of_a_label_out_of_range, of_a_seed_below_zero,
    of_no_rows, of_too_many_rows,
)  # fmt: skip


def message(inputs, signature="serving_default", model="dit"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


# The bytes of messages: functions of a generator.


def message_of_bad_inputs(rng):
    inputs = INPUTS[rng.integers(len(INPUTS))](well_formed(), rng.choice(list(_ROWS)), rng)
    return message(inputs, rng.choice(_DRAWING)).SerializeToString()


def message_of_another_type(rng):
    dtype = rng.choice([np.int32, np.float64, np.uint8, np.bool_, np.str_, np.complex64])
    name = rng.choice(list(_ROWS))
    return message(well_formed() | {name: well_formed()[name].astype(dtype)}).SerializeToString()


def message_cut_off(rng):
    whole = message(well_formed()).SerializeToString()
    return whole[: rng.integers(len(whole))]


def message_of_random_bytes(rng):
    return rng.bytes(rng.integers(1, 1000))


def message_to_nobody(rng):
    signature, model = [("nothing", "dit"), ("serving_default", "dot")][rng.integers(2)]
    return message(well_formed(), signature, model).SerializeToString()


def message_of_a_false_shape(rng):
    request = message(well_formed())
    shape = request.inputs[rng.choice(list(_ROWS))].tensor_shape
    shape.dim[0].size = rng.choice([3, 2**20 + 1, 2**40, -1])
    if rng.integers(2):
        shape.dim.add().size = 2**30
    return request.SerializeToString()


def message_of_an_unreadable_type(rng):
    request = message(well_formed())
    request.inputs[rng.choice(list(_ROWS))].dtype = int(rng.choice([0, 7, 20, 21, 23, 99, 101]))
    return request.SerializeToString()


def message_of_a_bad_step(rng):
    inputs = dict(x=np.zeros((2, 8, 8, 1), np.float32), t=np.zeros(2, np.float32), label=np.zeros(2, np.int64))
    name, value = [("x", np.nan), ("x", np.inf), ("t", -1), ("t", 1e9), ("t", np.nan), ("label", 11)][rng.integers(6)]
    inputs[name].flat[0] = value
    return message(inputs, "denoise").SerializeToString()


MESSAGES = (
    message_of_bad_inputs, message_of_another_type, message_cut_off, message_of_random_bytes, message_to_nobody,
    message_of_a_false_shape, message_of_an_unreadable_type, message_of_a_bad_step,
)  # fmt: skip

# (path, bytes of the body, headers besides): functions of a generator.
_PATH = "/v1/models/dit:predict"


def columns(inputs):
    return {name: np.asarray(values).tolist() for name, values in inputs.items()}


def posted(content, path=_PATH, **headers):
    return path, content if isinstance(content, bytes) else json.dumps(content).encode(), headers


def body_of_bad_inputs(rng):
    inputs = INPUTS[rng.integers(len(INPUTS))](well_formed(), rng.choice(list(_ROWS)), rng)
    return posted(dict(signature_name=str(rng.choice(_DRAWING)), inputs=columns(inputs)))


def body_of_another_type(rng):
    bad = ["3", None, True, 0.5, [], {}, [[1], 2], dict(b64="AAAA"), dict(b64="not base64!"), "x" * 10_000, 1e400]
    name = rng.choice(["label", "seed"])
    return posted(dict(inputs=_ROWS | {name: [3, bad[rng.integers(len(bad))]]}))


def body_of_bad_rows(rng):
    row = dict(label=3, seed=0, cfg_scale=1.5)
    bad = [[], {}, [row, 3], [row, {}], [dict(row, more=1)], [dict(row, label=0.5)], [3], "rows", None, [[row]]]
    return posted(dict(instances=bad[rng.integers(len(bad))]))


def body_cut_off(rng):
    whole = json.dumps(dict(inputs=_ROWS)).encode()
    return posted(whole[: rng.integers(len(whole))])


def body_of_random_bytes(rng):
    return posted(rng.bytes(rng.integers(0, 1000)))


def body_of_base64(rng):
    return posted(base64.b64encode(rng.bytes(99)))


def body_that_is_no_question(rng):
    row = [dict(label=3, seed=0, cfg_scale=1.5)]
    bad = [[], 3, "x", None, {}, dict(inputs=_ROWS, instances=row), dict(signature_name=3, inputs=_ROWS),
           dict(signature_name="nothing", inputs=_ROWS)]  # fmt: skip
    return posted(bad[rng.integers(len(bad))])


def body_of_many_levels(rng):
    return posted((b'{"inputs":' if rng.integers(2) else b"") + b"[" * int(rng.choice([100, 100_000])))


def body_that_is_announced_too_long(rng):
    return posted(dict(inputs=_ROWS), **{"Content-Length": str(rng.choice([2**27, 2**40, 10**30]))})


def body_to_nobody(rng):
    paths = ["/", "/v1", "/v1/models/", "/v1/models/dot:predict", "/v1/models/dit/versions/2:predict", "/%00",
             "/v1/models/dit/versions/x:predict", "/v1/models/dit:classify", f"/{'x' * 10_000}"]  # fmt: skip
    return posted(dict(inputs=_ROWS), paths[rng.integers(len(paths))])


BODIES = (
    body_of_bad_inputs, body_of_another_type, body_of_bad_rows, body_cut_off, body_of_random_bytes, body_of_base64,
    body_that_is_no_question, body_of_many_levels, body_that_is_announced_too_long, body_to_nobody,
)  # fmt: skip


@pytest.fixture(scope="module")
def server(servers):
    """The one that nobody else asks, so that its memory is a matter of these requests."""
    return servers[1]


@pytest.fixture
def send(server):
    """{protocol: a function that sends what was made: the code or status of the answer}."""
    options = [("grpc.max_send_message_length", -1)]
    channel = grpc.insecure_channel(server.addresses["grpc"].removeprefix("grpc://"), options=options)
    predict = channel.unary_unary(_PREDICT)  # of bytes

    def sent(request):
        try:
            predict(request, timeout=30)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def posted(request):
        path, body, headers = request
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.addresses["http"]).netloc, timeout=30)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read()
        connection.close()
        assert "error" in json.loads(text)
        return status

    with channel:
        yield dict(grpc=sent, http=posted)


REFUSALS = {"grpc": {"INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"}, "http": {400, 404}}
MAKERS = {"grpc": MESSAGES, "http": BODIES}


@pytest.mark.parametrize("protocol", MAKERS)
def test_malformed_requests_are_refused_and_leave_nothing_behind(server, send, rng, protocol):
    makers, client = MAKERS[protocol], connect(server.addresses[protocol], "dit")
    image = client.images([3], [0], [1.5])
    for maker in makers:  # once each beforehand: pools of threads and memory are filled
        assert send[protocol](maker(rng)) in REFUSALS[protocol], maker.__name__
    before = server.process.memory_info().rss
    for i in range(COUNT):
        maker = makers[i % len(makers)]
        request = maker(rng)
        assert send[protocol](request) in REFUSALS[protocol], (maker.__name__, request[:1000])
    np.testing.assert_array_equal(client.images([3], [0], [1.5]), image)
    grown = (server.process.memory_info().rss - before) / 2**20
    assert grown < MARGIN, f"{grown:.1f} MiB"
