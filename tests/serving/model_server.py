"""A server of one SavedModel on loopback, for the tests: TensorFlow Serving's gRPC and REST, of TensorFlow alone.

    python -I model_server.py DIRECTORY/VERSION NAME PID COUNT

It runs the model in a session, as TensorFlow Serving does, in COUNT processes that end with the process PID. Each
prints one line when it is ready: its ports and its own PID in JSON.
"""

import base64
import concurrent.futures
import http.server
import json
import math
import os
import pathlib
import re
import sys
import threading
import time

# What was exported must not need what exported it: from here on these cannot be imported.
sys.modules["dit_tf"] = sys.modules["keras"] = None

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from tensorflow.core.protobuf import config_pb2  # noqa: E402
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc  # noqa: E402

_SIGNATURES = "signature_def"
_LARGEST_TENSOR = 2**24  # elements
_LARGEST_BODY = 2**26  # bytes
_HTTP = {"OK": 200, "INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503}


class Failure(Exception):
    """code: a name of gRPC's."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Model:
    """The signatures of a SavedModel, called with arrays; Failure with TensorFlow's own code where one refuses."""

    def __init__(self, directory, name):
        self.name, self.version = name, int(pathlib.Path(directory).name)
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], directory)
        self._programs = {}  # {id of a signature: its outputs as a function of its inputs}
        self.signatures = {name: s for name, s in loaded.signature_def.items() if not name.startswith("__")}

    def _program(self, signature):
        """As C++ runs it: what is fed is not held against the shapes of placeholders, as Python's run does."""
        if id(signature) in self._programs:
            return self._programs[id(signature)]
        feed, fetch = ([info.name for info in infos.values()] for infos in (signature.inputs, signature.outputs))
        options = config_pb2.CallableOptions(feed=feed, fetch=fetch)
        return self._programs.setdefault(id(signature), self._session._make_callable_from_options(options))

    def check(self, name, version):
        """version: None is the newest."""
        if name != self.name or version not in (None, self.version):
            which = f"{name}" if version is None else f"{name} version {version}"
            raise Failure("NOT_FOUND", f"Servable not found for request: {which}")

    def signature(self, name):
        if name not in self.signatures:
            raise Failure("INVALID_ARGUMENT", f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def run(self, signature, inputs):
        """{output: array} of {input: array}."""
        if sorted(inputs) != sorted(signature.inputs):
            raise Failure("INVALID_ARGUMENT", f"inputs must be {sorted(signature.inputs)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            if array.dtype != tf.as_dtype(signature.inputs[name].dtype):
                raise Failure("INVALID_ARGUMENT", f"{name} has another dtype, got {array.dtype}")
        try:
            return dict(zip(signature.outputs, self._program(signature)(*(inputs[name] for name in signature.inputs))))
        except tf.errors.OpError as error:
            code = grpc_code(error.error_code).name
            raise Failure(code, error.message.removeprefix("Graph execution error:").strip()) from error
        except (ValueError, TypeError) as error:  # a shape that cannot be fed
            raise Failure("INVALID_ARGUMENT", str(error)) from error


def grpc_code(number):
    return next(code for code in grpc.StatusCode if code.value[0] == number)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model):
        self._model = model

    def Predict(self, request, context):
        response = predict_pb2.PredictResponse()
        try:
            self._find(request.model_spec)
            signature = self._model.signature(request.model_spec.signature_name or "serving_default")
            outputs = self._model.run(signature, {name: array_of(proto) for name, proto in request.inputs.items()})
        except Failure as failure:
            context.abort(grpc.StatusCode[failure.code], str(failure))
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = self._model.version
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    def GetModelMetadata(self, request, context):
        try:
            self._find(request.model_spec)
            if list(request.metadata_field) != [_SIGNATURES]:
                raise Failure("INVALID_ARGUMENT", f"Metadata field {list(request.metadata_field)} is not supported")
        except Failure as failure:
            context.abort(grpc.StatusCode[failure.code], str(failure))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = self._model.name, self._model.version
        response.metadata[_SIGNATURES].Pack(signature_map(self._model))
        return response

    def _find(self, spec):
        self._model.check(spec.name, spec.version.value if spec.HasField("version") else None)


def signature_map(model):
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in model.signatures.items():
        found.signature_def[name].CopyFrom(signature)
    return found


def array_of(proto):
    """TensorFlow itself reads the tensor, once its size is seen to be bearable: a few bytes can announce any shape."""
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    if min(sizes, default=1) < 0 or math.prod(sizes) > _LARGEST_TENSOR or proto.tensor_shape.unknown_rank:
        raise Failure("INVALID_ARGUMENT", f"a tensor of shape {sizes} is not served")
    try:
        return tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise Failure("INVALID_ARGUMENT", f"no tensor: {error}") from error


class RestApi(http.server.BaseHTTPRequestHandler):
    """model: the `Model`, which a class of this kind has."""

    model, protocol_version, timeout = None, "HTTP/1.1", 10

    def do_GET(self):
        model, self.close_connection = self.model, True
        try:
            name, version, rest = parsed(self.path)
            model.check(name, version)
            if rest == "/metadata":
                spec = dict(name=name, signature_name="", version=str(model.version))
                options = dict(always_print_fields_with_no_presence=True, preserving_proto_field_name=True)
                signatures = json_format.MessageToDict(signature_map(model), **options)
                self._answer(200, dict(model_spec=spec, metadata={_SIGNATURES: signatures}))
            elif not rest:
                status = dict(version=str(model.version), state="AVAILABLE", status=dict(error_code="OK"))
                self._answer(200, dict(model_version_status=[status]))
            else:
                raise Failure("NOT_FOUND", f"Malformed request: GET {self.path}")
        except Failure as failure:
            self._refuse(failure)

    def do_POST(self):
        self.close_connection = True
        try:
            name, version, rest = parsed(self.path)
            if rest not in ("", ":predict"):
                raise Failure("NOT_FOUND", f"Malformed request: POST {self.path}")
            self.model.check(name, version)
            question = self._question()
            signature = self.model.signature(question.get("signature_name", "serving_default"))
            rows, columns = question.get("instances"), question.get("inputs")
            if (rows is None) == (columns is None):
                raise Failure("INVALID_ARGUMENT", "the request must have either instances or inputs")
            if rows is not None:
                columns = columns_of(rows, signature)
            outputs = self.model.run(signature, arrays_of(columns, signature))
        except Failure as failure:
            return self._refuse(failure)
        values = {name: values_of(name, array) for name, array in outputs.items()}
        if rows is None:
            self._answer(200, dict(outputs=only_or_all(values)))
        else:
            each = [dict(zip(values, row)) for row in zip(*values.values())]
            self._answer(200, dict(predictions=[only_or_all(row) for row in each]))

    def _question(self):
        size = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,18}", size) or int(size) > _LARGEST_BODY:
            raise Failure("INVALID_ARGUMENT", f"a body of {size or 'unknown'} bytes is not served")
        try:
            question = json.loads(self.rfile.read(int(size)))
        except (ValueError, RecursionError) as error:
            raise Failure("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
        if not isinstance(question, dict) or not isinstance(question.get("signature_name", ""), str):
            raise Failure("INVALID_ARGUMENT", "the request must be an object, its signature_name a string")
        return question

    def _refuse(self, failure):
        self._answer(_HTTP.get(failure.code, 500), dict(error=str(failure)))

    def _answer(self, status, answer):
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Nothing."""


def parsed(path):
    """(name, version or None, what follows) of /v1/models/NAME[/versions/N]..."""
    found = re.fullmatch(r"/v1/models/([^/:]+)(?:/versions/(\d{1,18}))?(/metadata|:\w+)?", path)
    if not found:
        raise Failure("NOT_FOUND", f"Malformed request: {path}")
    name, version, rest = found.groups()
    return name, None if version is None else int(version), rest or ""


def only_or_all(values):
    """One value goes without its name."""
    return next(iter(values.values())) if len(values) == 1 else values


def columns_of(rows, signature):
    """{input: list of its rows}. A signature of one input may have rows without its name."""
    if not isinstance(rows, list) or not rows:
        raise Failure("INVALID_ARGUMENT", "instances must be a list of one or more")
    if len(signature.inputs) == 1 and not any(isinstance(row, dict) for row in rows):
        rows = [{name: row} for row in rows for name in signature.inputs]
    if not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        raise Failure("INVALID_ARGUMENT", "instances must be objects with the same keys")
    return {name: [row[name] for row in rows] for name in rows[0]}


def arrays_of(columns, signature):
    """{input: array} of JSON's values, in the dtypes of the signature."""
    if not isinstance(columns, dict):
        (columns,) = [{name: columns} for name in signature.inputs] if len(signature.inputs) == 1 else [{}]
    arrays = {}
    for name, values in columns.items():
        if name not in signature.inputs:
            raise Failure("INVALID_ARGUMENT", f"there is no input {name}")
        dtype = tf.as_dtype(signature.inputs[name].dtype).as_numpy_dtype
        try:
            found = np.array(values, object)
            if not {type(value) for value in found.flat} <= ({int} if dtype == np.int64 else {int, float}):
                raise ValueError("it must be numbers of this type, in lists of the same length")
            arrays[name] = found.astype(dtype)
        except (ValueError, OverflowError) as error:
            raise Failure("INVALID_ARGUMENT", f"{name} is not a tensor of {np.dtype(dtype)}: {error}") from error
    return arrays


def values_of(name, array):
    """What JSON has of an output: text, and in base64 what says by its name that it is bytes."""
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return [dict(b64=base64.b64encode(value).decode()) for value in array]
    return [value.decode() for value in array]


def end_with(pid):
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.5)
    os._exit(0)


def main(directory, name, pid, count):
    for _ in range(int(count) - 1):
        if not os.fork():  # TensorFlow is imported once, and has computed nothing yet
            break
    threading.Thread(target=end_with, args=(pid,), daemon=True).start()
    model = Model(directory, name)
    assert sys.modules["dit_tf"] is sys.modules["keras"] is None
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]  # TensorFlow Serving's
    grpc_server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(model), grpc_server)
    ports = dict(grpc=grpc_server.add_insecure_port("127.0.0.1:0"))
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Rest", (RestApi,), dict(model=model)))
    ports |= dict(http=rest.server_port, pid=os.getpid())
    grpc_server.start()
    print(json.dumps(ports), flush=True)
    rest.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
