"""TensorFlow Serving's REST API, asked for one model."""

import base64
import http.client
import io
import json
import socket
import threading
import time
import urllib.parse

import numpy as np
from PIL import Image

from dit_tf.serving.retries import Late, Refused, Unavailable
from dit_tf.serving.signatures import CLASSES, DEFAULT, PNG

_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


class RestProtocol:
    """Every question has so many seconds. Late, Unavailable or Refused where there is no answer."""

    def __init__(self, scheme, address, model, version=None, prefix=""):
        """scheme: http or https; address: HOST:PORT; prefix: of the paths, where the server is behind one. No proxy is
        asked."""
        self._kind, self._address = _CONNECTIONS[scheme], address
        self._path = f"{prefix}/v1/models/{urllib.parse.quote(model, safe='')}"
        if version is not None:
            self._path += f"/versions/{version}"

    def images(self, inputs, seconds):
        """uint8 (N, H, W, C)."""
        files = [base64.b64decode(image["b64"]) for image in self._outputs(PNG, inputs, seconds)]
        images = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
        return np.stack([image.reshape(*image.shape[:2], -1) for image in images])

    def classes(self, inputs, seconds):
        """Names, ids and numbers of classes, lists of N."""
        outputs = self._outputs(CLASSES, inputs, seconds)
        return outputs["name"], outputs["id"], [int(number) for number in outputs["num_classes"]]

    def description(self, seconds):
        """(version, shape of the images), of which the first number is -1."""
        answer = self._ask("GET", "/metadata", seconds)
        signature = answer["metadata"]["signature_def"]["signature_def"][DEFAULT]
        shape = signature["outputs"]["image"]["tensor_shape"]["dim"]
        return int(answer["model_spec"]["version"]), [int(dim["size"]) for dim in shape]

    def _outputs(self, signature, inputs, seconds):
        columns = {name: values.tolist() for name, values in inputs.items()}
        return self._ask("POST", ":predict", seconds, dict(signature_name=signature, inputs=columns))["outputs"]

    def _ask(self, method, path, seconds, question=None):
        """The JSON of the answer."""
        status, text = self._exchange(method, path, seconds, question)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        words = answer["error"] if isinstance(answer, dict) and "error" in answer else text.decode(errors="replace")
        raise (Unavailable if status == 503 else Refused)(f"{status} {http.client.responses.get(status, '')}, {words}")

    def _exchange(self, method, path, seconds, question):
        """(status, bytes of the answer)."""
        end, headers = time.monotonic() + seconds, {"Content-Type": "application/json"}
        body = None if question is None else json.dumps(question)
        connection = self._kind(self._address, timeout=seconds)
        try:
            connection.connect()
            # The time limit of a socket is for each of its waits; this one is for the whole answer.
            cut = threading.Timer(end - time.monotonic(), connection.sock.shutdown, [socket.SHUT_RDWR])
            cut.start()
            try:
                connection.request(method, self._path + path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                cut.cancel()
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= end or isinstance(error, TimeoutError):
                raise Late from error
            passing = isinstance(error, ConnectionError | http.client.IncompleteRead)
            raise (Unavailable if passing else Refused)(str(error) or type(error).__name__) from error
        finally:
            connection.close()
