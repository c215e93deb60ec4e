"""TensorFlow Serving's gRPC, asked for one model."""

import tensorflow as tf

from dit_tf.serving.retries import Late, Refused, Unavailable
from dit_tf.serving.signatures import CLASSES, DEFAULT
from dit_tf.serving.warmup import INSTALL

_OPTIONS = {
    # The sizes of messages follow from the rows of a request, which the model bounds.
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    # The address is what a user has named, as by REST: a proxy for web pages, which most are, would refuse it.
    "grpc.enable_http_proxy": 0,
    # A server that is starting is found soon: gRPC would wait up to two minutes before it looks again.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
}


class GrpcProtocol:
    """Every question has so many seconds. Late, Unavailable or Refused where there is no answer."""

    def __init__(self, address, model, version=None):
        """address: HOST:PORT. ValueError where TensorFlow Serving's messages are not installed."""
        try:
            import grpc
            from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ValueError(f"--server=grpc://{address} needs `{INSTALL}`; http:// needs neither.") from error
        self._grpc, self._predict, self._metadata = grpc, predict_pb2, get_model_metadata_pb2
        self._model, self._version = model, version
        self._channel = grpc.insecure_channel(address, options=list(_OPTIONS.items()))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def images(self, inputs, seconds):
        """uint8 (N, H, W, C)."""
        return self._outputs(DEFAULT, inputs, seconds)["image"]

    def classes(self, inputs, seconds):
        """Names, ids and numbers of classes, lists of N."""
        outputs = self._outputs(CLASSES, inputs, seconds)
        names, ids = ([text.decode() for text in outputs[name].tolist()] for name in ("name", "id"))
        return names, ids, outputs["num_classes"].tolist()

    def description(self, seconds):
        """(version, shape of the images), of which the first number is -1."""
        request = self._metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        response = self._ask(self._stub.GetModelMetadata, request, seconds)
        found = self._metadata.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        shape = found.signature_def[DEFAULT].outputs["image"].tensor_shape
        return response.model_spec.version.value, [dim.size for dim in shape.dim]

    def _outputs(self, signature, inputs, seconds):
        request = self._predict.PredictRequest()
        request.model_spec.signature_name = signature
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        response = self._ask(self._stub.Predict, request, seconds)
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    def _ask(self, method, request, seconds):
        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version
        try:
            return method(request, timeout=seconds)
        except self._grpc.RpcError as error:
            code = error.code()
            if code == self._grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Late from error
            kind = Unavailable if code == self._grpc.StatusCode.UNAVAILABLE else Refused
            raise kind(f"{code.name}, {error.details()}") from error
