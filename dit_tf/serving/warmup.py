"""Requests that TensorFlow Serving sends itself before a model takes others (assets.extra/tf_serving_warmup_requests):

one of each signature for each number of rows that it will make batches of, so that nobody waits for what the first
request of a shape costs.
"""

import importlib.util
import os

import numpy as np
import tensorflow as tf

from dit_tf.serving.signatures import CLASSES, DENOISE

PLACE = os.path.join("assets.extra", "tf_serving_warmup_requests")
INSTALL = "pip install grpcio && pip install --no-deps tensorflow-serving-api"  # which asks for another TensorFlow


def missing_protocol():
    """Whether TensorFlow Serving's messages are not installed."""
    return importlib.util.find_spec("tensorflow_serving") is None


def write_warmup(directory, signatures, input_shape, batch_sizes, cfg_scale):
    """signatures: names of those that the SavedModel in the directory has; input_shape: (h, w, c) of the network."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    os.makedirs(os.path.join(directory, os.path.dirname(PLACE)), exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(directory, PLACE)) as file:
        for name in signatures:
            for rows in batch_sizes:
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = name
                for key, value in _inputs(name, rows, input_shape, cfg_scale).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                file.write(log.SerializeToString(deterministic=True))


def _inputs(signature, rows, input_shape, cfg_scale):
    label = np.zeros(rows, np.int64)
    if signature == CLASSES:
        return dict(label=label)
    if signature == DENOISE:
        return dict(x=np.zeros((rows, *input_shape), np.float32), t=np.zeros(rows, np.float32), label=label)
    return dict(label=label, seed=np.arange(rows), cfg_scale=np.full(rows, cfg_scale, np.float32))
