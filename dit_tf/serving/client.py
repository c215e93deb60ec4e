"""The client of a serving address: what a model that TensorFlow Serving serves draws, from Python.

    served = connect("grpc://localhost:8500", "dit")
    images = served.images(labels=[3, 1], seeds=[0, 1], cfg_scales=[1.5, 4.0])

Image i follows from row i alone: it is image 0 of `dit_tf.sample` with that label, seed and scale.
"""

import urllib.parse

import numpy as np

from dit_tf.serving.grpc_protocol import GrpcProtocol
from dit_tf.serving.rest_protocol import RestProtocol
from dit_tf.serving.retries import Refused, answer_of

_PORTS = {"grpc": 8500, "http": 8501, "https": 8501}  # TensorFlow Serving's own


def connect(server, model, version=None, deadline=120.0):
    """A `ServedImages`. server: grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT; version: a number, or None for
    what the server has as the newest; deadline: seconds that one request may take, with all its tries.

    Nothing is asked yet. ValueError where the address is none, or gRPC is not installed.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urllib.parse.urlsplit(""), None, None
    if parts.scheme not in _PORTS or not host or parts.username or parts.path.strip("/") or parts.query:
        raise ValueError(f"--server must be grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT, got {server!r}.")
    host = f"[{host}]" if ":" in host else host
    address = f"{host}:{_PORTS[parts.scheme] if port is None else port}"
    if parts.scheme == "grpc":
        return ServedImages(GrpcProtocol(address, model, version), server, deadline)
    return ServedImages(RestProtocol(parts.scheme, address, model, version), server, deadline)


class ServedImages:
    """ValueError, in one sentence with the server's own words, where it does not answer as `signatures` says. While the
    server is unavailable, it is asked again until the deadline."""

    def __init__(self, protocol, server, deadline):
        self._protocol, self._server, self._deadline = protocol, server, deadline

    def images(self, labels, seeds, cfg_scales):
        """uint8 (N, H, W, C): image i is that of labels[i], seeds[i] and cfg_scales[i], N each, in one request."""
        rows = dict(label=_rows(labels, np.int64), seed=_rows(seeds, np.int64), cfg_scale=_rows(cfg_scales, np.float32))
        images = self._answer(self._protocol.images, rows)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(rows["label"]):
            raise self._stranger(f"images of {images.dtype} {images.shape} for {len(rows['label'])} rows")
        return images

    def classes(self):
        """(names, ids): of the class of label i, two tuples; ids is empty where the classes have none."""
        _, _, (count,) = self._describe([0])
        names, ids, part = [], [], count
        while len(names) < count:
            try:
                more_names, more_ids, _ = self._describe(range(len(names), min(len(names) + part, count)))
            except Refused:
                if part == 1:
                    raise
                part = -(-part // 2)  # it was more than a request may have, which only the server knows
            else:
                names += more_names
                ids += more_ids
        return tuple(names), tuple(ids) if any(ids) else ()

    def description(self):
        """(version, (H, W, C)): the version that answers now, and the shape of its images."""
        version, shape = self._answer(self._protocol.description)
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise self._stranger(f"images of shape {shape}")
        return version, tuple(shape[1:])

    def _describe(self, labels):
        """Names, ids and numbers of classes: lists as long as that of the labels."""
        labels = _rows(labels, np.int64)
        answer = self._answer(self._protocol.classes, dict(label=labels))
        sizes = [len(values) for values in answer]
        if sizes != [len(labels)] * 3:
            raise self._stranger(f"{sizes} names, ids and numbers for {len(labels)} classes")
        return answer

    def _answer(self, question, *inputs):
        def asked(seconds):
            try:
                return question(*inputs, seconds)
            except Refused:
                raise
            except (LookupError, TypeError, AttributeError, ValueError, OSError, SyntaxError) as error:  # PIL's too
                raise self._stranger(f"an answer of another form ({type(error).__name__})") from error

        return answer_of(asked, self._server, self._deadline)

    def _stranger(self, got):
        return ValueError(f"--server={self._server} must serve a model of dit_tf.export, got {got}.")


def _rows(values, dtype):
    return np.asarray(list(values), dtype)
