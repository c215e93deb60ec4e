"""Requests as other programs and networks send them: behind a proxy or a path, of other shapes, too many at once."""

import contextlib
import http.client
import http.server
import json
import re
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from dit_tf.serving.client import connect
from tests.commands import CLOSED_PROXY, run_command
from tests.serving.faulty_servers import FAULTY

_ROWS = dict(labels=[3, 1], seeds=[0, 1], cfg_scales=[1.5, 1.5])


@pytest.fixture(scope="module")
def images(clients):
    return clients["grpc"].images(**_ROWS)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_proxy_of_the_environment_is_not_asked(server, tmp_path, protocol):
    arguments = [f"--server={server.addresses[protocol]}", "--labels=3,1", f"--output={tmp_path}/s.npz"]
    done = run_command("dit_tf.query", *arguments, "--deadline=20", environment=CLOSED_PROXY)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def behind(address, prefix):
    """The address of a server that gives what lies below a path to another."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path.startswith(prefix + "/v1/")
            connection = http.client.HTTPConnection(address.removeprefix("http://"))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection.request(self.command, self.path.removeprefix(prefix), body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET, log_message = do_POST, lambda *_: None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}{prefix}"
        found.shutdown()


def test_a_server_may_be_behind_a_path(server, images):
    with behind(server.addresses["http"], "/models/of/ours") as address:
        for written in (address, f"{address}/"):
            served = connect(written, "dit")
            np.testing.assert_array_equal(served.images(**_ROWS), images)
            assert len(served.classes()[0]) == 10


@pytest.mark.parametrize("address, rule", [
    ("http://localhost/v1/models/dit", "--server must end before /v1/models, and --model name the model"),
    ("grpc://localhost:8500/dit", "--server=grpc://HOST:PORT has no path: a server behind one is asked by http"),
])  # fmt: skip
def test_other_paths_are_refused_with_the_way_out(address, rule):
    with pytest.raises(ValueError, match=rule):
        connect(address, "dit")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_more_rows_than_the_export_takes_are_asked_for_in_parts(server, protocol):
    """It takes 64: see tests/exported.py. One grey level: in another batch, sums are made in another order."""
    served, count = connect(server.addresses[protocol], "dit"), 70
    rows = dict(labels=np.arange(count) % 10, seeds=np.arange(count), cfg_scales=np.linspace(1.0, 4.0, count))
    found = served.images(**rows)
    halves = [{name: column[part] for name, column in rows.items()} for part in (slice(35), slice(35, None))]
    expected = np.concatenate([connect(server.addresses[protocol], "dit").images(**half) for half in halves])
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found[:-1].astype(int) - found[1:]).max(axis=(1, 2, 3)).min() > 10  # a wrong order would be seen


def test_after_that_no_request_is_larger_and_columns_are_still_checked(server):
    with FAULTY["grpc"](server.addresses["grpc"], []) as (address, faulty):
        served = connect(address, "dit")
        for asked in (3, 5):  # one that is refused and two parts; then two parts alone
            served.images([3] * 70, range(70), [1.0] * 70)
            assert faulty.attempts == asked
        with pytest.raises(ValueError, match=r"^seeds must be as many as the labels, 128, got 200\.$"):
            served.images([3] * 128, range(200), [1.0] * 128)
        with pytest.raises(ValueError, match=r"must have from 1 to 64 rows, got\] \[0\]"):
            served.images([], [], [])


def test_the_limit_is_learned_anew_where_another_version_takes_fewer(server):
    served = connect(server.addresses["grpc"], "dit")
    served._most = 100  # as if of the version before
    assert len(served.images([3] * 130, range(130), [1.0] * 130)) == 130


@pytest.mark.parametrize("columns, rule", [
    (dict(labels=[[3], [1]]), "labels must be a list of N numbers, got shape .2, 1."),
    (dict(labels=[3.5, 1.0]), "labels must be whole numbers, got float64"),
    (dict(seeds=["0", "1"]), "seeds must be whole numbers"),
    (dict(seeds=np.uint64([0, 2**63])), r"seeds must be below 2\*\*63, got 9223372036854775808\.$"),
    (dict(seeds=[0]), r"seeds must be as many as the labels, 2, got 1\.$"),
    (dict(cfg_scales=[1.5] * 3), r"cfg_scales must be as many as the labels, 2, got 3\.$"),
    (dict(cfg_scales=[[1.5, 1.5]]), "cfg_scales must be a list of N numbers, got shape .1, 2."),
])  # fmt: skip
def test_the_client_sends_no_other_types(clients, columns, rule):
    with pytest.raises(ValueError, match=rule):
        clients["grpc"].images(**_ROWS | columns)
    assert clients["grpc"].images(np.int32([3, 1]), np.uint8([0, 1]), [1, 2]).shape[0] == 2


@pytest.mark.parametrize("signature, changes, rule", [
    ("serving_default", dict(label=np.int64([[3], [1]])), r"label must have shape \(N,\), got\D*2 1"),
    ("serving_default", dict(seed=np.int64(3)), r"seed must have shape \(N,\), got"),
    ("png", dict(cfg_scale=np.float32([[1.5, 1.5]])), r"cfg_scale must have shape \(N,\), got\D*1 2"),
    ("denoise", dict(x=np.zeros((2, 8, 8), np.float32)), r"x must have shape \(N, 8, 8, 1\), got\D*2 8 8"),
    ("classes", dict(label=np.int64([[3]])), r"label must have shape \(N,\), got\D*1 1"),
])  # fmt: skip
def test_the_graph_refuses_other_shapes_in_our_words(server, signature, changes, rule):
    """A server of C++ does not hold them against the signature."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "dit", signature
    inputs = dict(label=np.int64([3, 1]), seed=np.int64([0, 1]), cfg_scale=np.float32([1.5, 1.5]))
    if signature == "denoise":
        inputs = dict(label=inputs["label"], t=np.float32([5, 5]))
    elif signature == "classes":
        inputs = {}
    for name, value in (inputs | changes).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    address = server.addresses["grpc"].removeprefix("grpc://")
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        with pytest.raises(grpc.RpcError) as error:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT and re.search(rule, error.value.details())


def test_a_column_of_another_shape_is_refused_in_our_words_by_rest(server):
    connection = http.client.HTTPConnection(server.addresses["http"].removeprefix("http://"))
    question = json.dumps(dict(inputs=dict(label=[[3]], seed=[0], cfg_scale=[1.5])))
    connection.request("POST", "/v1/models/dit:predict", question)
    answer = connection.getresponse()
    assert answer.status == 400 and "label must have shape (N,), got] [1 1]" in json.loads(answer.read())["error"]
