"""The client of a serving address: what a model that TensorFlow Serving serves draws, from Python.

    served = connect("grpc://localhost:8500", "dit")
    images = served.images(labels=[3, 1], seeds=[0, 1], cfg_scales=[1.5, 4.0])

Image i follows from row i alone: it is image 0 of `dit_tf.sample` with that label, seed and scale.
"""

import re
import urllib.parse

import numpy as np

from dit_tf.serving.grpc_protocol import GrpcProtocol
from dit_tf.serving.rest_protocol import RestProtocol
from dit_tf.serving.retries import Refused, answer_of

# What our rule says, and TensorFlow Serving where it makes batches itself.
_MOST_ROWS = re.compile(r"(?:must have from 1 to|larger than maximum input batch size) (\d+)")
_PORTS = {"grpc": 8500, "http": 8501, "https": 8501}  # TensorFlow Serving's own


def connect(server, model, version=None, deadline=120.0):
    """A `ServedImages`. server: grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT, the last two with the path
    that the server is behind, if it is; version: a number, or None for what the server has as the newest; deadline:
    seconds that one request may take, with all its tries.

    Nothing is asked yet. ValueError where the address is none, or gRPC is not installed.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urllib.parse.urlsplit(""), None, None
    prefix = parts.path.rstrip("/")
    if parts.scheme not in _PORTS or not host or parts.username or parts.query or parts.fragment:
        raise ValueError(f"--server must be grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT, got {server!r}.")
    if "/v1/models" in prefix:
        raise ValueError(f"--server must end before /v1/models, and --model name the model, got {server!r}.")
    if prefix and parts.scheme == "grpc":
        way_out = "a server behind one is asked by http"
        raise ValueError(f"--server=grpc://HOST:PORT has no path: {way_out}, got {server!r}.")
    host = f"[{host}]" if ":" in host else host
    address = f"{host}:{_PORTS[parts.scheme] if port is None else port}"
    if parts.scheme == "grpc":
        return ServedImages(GrpcProtocol(address, model, version), server, deadline)
    return ServedImages(RestProtocol(parts.scheme, address, model, version, prefix), server, deadline)


class ServedImages:
    """ValueError, in one sentence with the server's own words, where it does not answer as `signatures` says. While the
    server is unavailable, it is asked again until the deadline."""

    def __init__(self, protocol, server, deadline):
        self._protocol, self._server, self._deadline = protocol, server, deadline
        self._most = None  # rows of a request, once the server has said so

    def images(self, labels, seeds, cfg_scales):
        """uint8 (N, H, W, C): image i is that of labels[i], seeds[i] and cfg_scales[i], N each. In one request, or in
        as many as the server's export asks for. ValueError for columns that are not (N,) each, and for labels and seeds
        that are no whole numbers below 2**63."""
        rows = dict(
            label=_rows("labels", labels, np.int64), seed=_rows("seeds", seeds, np.int64),
            cfg_scale=_rows("cfg_scales", cfg_scales, np.float32),
        )  # fmt: skip
        count = len(rows["label"])
        for name, column in rows.items():
            if len(column) != count:
                raise ValueError(f"{name}s must be as many as the labels, {count}, got {len(column)}.")
        parts, first = [], 0
        while first < count or not parts:
            part = {name: column[first : first + (self._most or count)] for name, column in rows.items()}
            try:
                parts.append(self._images(part))
                first += len(part["label"])
            except Refused as error:
                found = _MOST_ROWS.search(str(error))
                if not found or not 1 <= int(found[1]) < len(part["label"]):
                    raise
                self._most = int(found[1])  # also where another version, which came meanwhile, takes fewer
        return np.concatenate(parts)

    def _images(self, rows):
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
        labels = _rows("labels", labels, np.int64)
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


def _rows(name, values, dtype):
    """(N,) of the type that the signature has; ValueError where a number would become another."""
    column = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if column.ndim != 1:
        raise ValueError(f"{name} must be a list of N numbers, got shape {column.shape}.")
    if column.size and column.dtype.kind not in ("iu" if dtype is np.int64 else "iuf"):
        kind = "whole numbers" if dtype is np.int64 else "numbers"
        raise ValueError(f"{name} must be {kind}, got {column.dtype}.")
    if dtype is np.int64 and column.dtype == np.uint64 and column.size and column.max() > np.iinfo(dtype).max:
        raise ValueError(f"{name} must be below 2**63, got {column.max()}.")
    return column.astype(dtype)
