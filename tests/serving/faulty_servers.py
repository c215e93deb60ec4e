"""Servers between a client and a real one, that fail when they are told to and count what they are asked."""

import concurrent.futures
import contextlib
import functools
import http.server
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc

RESET = "reset"  # the connection is cut instead of an answer
SILENCE = "silence"  # no answer
TRICKLE = "trickle"  # an answer that never ends
_FOREVER = 10  # seconds: more than any deadline of the tests


class _FaultyGrpc(grpc.GenericRpcHandler):
    def __init__(self, address, faults):
        self.channel, self.faults, self.attempts = grpc.insecure_channel(address), iter(faults), 0

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(functools.partial(self._answer, details.method))  # of bytes

    def _answer(self, method, request, context):
        self.attempts += 1
        fault = next(self.faults, None)
        if fault == SILENCE:
            time.sleep(_FOREVER)
        elif fault is not None:
            context.abort(fault, f"told to say {fault.name}")
        try:
            return self.channel.unary_unary(method)(request)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())


@contextlib.contextmanager
def faulty_grpc(address, faults, port=0):
    """Yields (the address as --server takes it, the server, whose `attempts` grow). faults: codes, None or SILENCE, one
    for each request; behind them all requests are answered by the server at `address`."""
    handler = _FaultyGrpc(address.removeprefix("grpc://"), faults)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", handler
    finally:
        server.stop(None)


class _FaultyRest(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.attempts += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = next(self.server.faults, None)
        if fault == RESET:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == SILENCE:
            time.sleep(_FOREVER)
        elif fault == TRICKLE:
            self._trickle()
        elif isinstance(fault, bytes):
            self._answer(200, fault)
        elif fault is not None:
            self._answer(fault, json.dumps(dict(error=f"told to say {fault}")).encode())
        else:
            self._answer(*self._of_the_real_server(body))

    def _of_the_real_server(self, body):
        try:
            with urllib.request.urlopen(f"{self.server.address}{self.path}", body) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _trickle(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client goes away
            for _ in range(_FOREVER * 20):
                self.wfile.write(b" ")
                time.sleep(0.05)

    def log_message(self, *_):
        """Nothing."""


@contextlib.contextmanager
def faulty_rest(address, faults, port=0):
    """The same of REST: faults are statuses, None, RESET, SILENCE, TRICKLE or the bytes of an answer."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _FaultyRest)
    server.daemon_threads, server.block_on_close = True, False
    server.address, server.faults, server.attempts = address, iter(faults), 0
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        server.server_close()


FAULTY = {"grpc": faulty_grpc, "http": faulty_rest}
UNAVAILABLE = {"grpc": grpc.StatusCode.UNAVAILABLE, "http": 503}
FINAL = {
    "grpc": [c for c in grpc.StatusCode if c.name not in ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED")],
    "http": [400, 401, 404, 413, 429, 500, 502, 504],
}
