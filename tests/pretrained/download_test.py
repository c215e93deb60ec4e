"""Downloads from a server on loopback: whole, resumed, changed meanwhile, cut, wrong, unreachable."""

import errno
import hashlib
import http.server
import json
import os
import threading

import numpy as np
import pytest

from dit_tf.pretrained import download as download_module
from dit_tf.pretrained.download import download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; attributes say how: `cut` is after how many bytes it hangs up once, `answer` a status."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.modified = CONTENT, '"one"', ""
        self.ranges, self.length, self.cut, self.answer, self.first = True, True, None, None, 0
        self.requests = []  # the Range of each, or None
        self.address = f"http://127.0.0.1:{self.server_port}/weights.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", server.address)
            return self.end_headers()
        if server.answer:
            return self.send_error(server.answer)
        valid = self.headers["If-Range"] in (None, server.etag, server.modified)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges and valid else 0
        if first >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        if first:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {first + server.first}-{last}/{last + 1}")
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        if server.length:
            self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        content, server.cut = server.content[first : server.cut], None
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache" / "weights.pt")


def files(path):
    directory = os.path.dirname(path)
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def read(path):
    with open(path, "rb") as file:
        return file.read()


def refusal(address, path, sha256=None):
    with pytest.raises(ValueError) as caught:
        download(address, path, sha256)
    sentence = str(caught.value)
    assert address in sentence and sentence.endswith(".") and sentence.isprintable()
    assert "weights.pt" not in files(path)
    return sentence


def cut_at(server, path, count):
    server.cut = count
    sentence = f"{server.address} ended after {count:,} of 300,000 bytes: the same command goes on where it stopped."
    assert refusal(server.address, path) == sentence
    assert files(path) == ["weights.pt.part", "weights.pt.part.of"] and read(f"{path}.part") == CONTENT[:count]


def test_a_whole_file_arrives_and_is_not_fetched_again(server, path, capsys):
    assert download(server.address, path, SHA256.upper()) == path
    assert read(path) == CONTENT and files(path) == ["weights.pt"]
    bar = capsys.readouterr().err
    assert "weights.pt: 100%" in bar and "300k/300k" in bar
    download(server.address, path, SHA256)
    assert server.requests == [None]


def test_a_file_that_is_there_must_be_the_one_that_is_asked_for(server, path):
    download(server.address, path)
    with pytest.raises(ValueError, match=f"is there already, but its SHA-256 is {SHA256}, not 0000.*remove it"):
        download(server.address, path, "0" * 64)
    assert read(path) == CONTENT


@pytest.mark.parametrize("etag, modified", [('"one"', ""), ("", "Mon, 03 Jan 2022 10:00:00 GMT"), ('W/"1"', "a date")])
def test_what_was_cut_goes_on(server, path, etag, modified):
    server.etag, server.modified = etag, modified
    cut_at(server, path, 100_000)
    cut_at(server, path, 250_000)
    download(server.address, path, SHA256)
    assert read(path) == CONTENT and files(path) == ["weights.pt"]
    assert server.requests == [None, "bytes=100000-", "bytes=250000-"]


def test_all_of_it_is_asked_for_where_nothing_names_the_version(server, path):
    server.etag = ""
    cut_at(server, path, 100_000)
    download(server.address, path, SHA256)
    assert server.requests == [None, None] and read(path) == CONTENT


def test_a_server_without_ranges_starts_anew(server, path):
    server.ranges = False
    cut_at(server, path, 100_000)
    download(server.address, path, SHA256)
    assert server.requests == [None, "bytes=100000-"] and read(path) == CONTENT


def test_a_file_that_changed_starts_anew(server, path):
    cut_at(server, path, 100_000)
    server.content, server.etag = CONTENT[::-1], '"two"'
    download(server.address, path)
    assert read(path) == CONTENT[::-1]


def test_another_address_does_not_go_on_with_these_bytes(server, path):
    cut_at(server, path, 100_000)
    download(server.address + "?v=2", path)
    assert server.requests == [None, None] and read(path) == CONTENT


@pytest.mark.parametrize("there", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_no_part_starts_anew(server, path, there):
    cut_at(server, path, 100_000)
    with open(f"{path}.part", "wb") as file:
        file.write(there)
    download(server.address, path, SHA256)
    assert read(path) == CONTENT and server.requests[1:] == [f"bytes={len(there)}-", None]


def test_notes_that_are_damaged_are_not_used(server, path):
    for notes in ("", "{", "[1]", json.dumps({"address": server.address})):
        cut_at(server, path, 100_000)
        with open(f"{path}.part.of", "w") as file:
            file.write(notes)
        download(server.address, path, SHA256)
        os.remove(path)


def test_another_part_than_was_asked_for_is_refused(server, path):
    cut_at(server, path, 100_000)
    server.first = 1
    assert "a part that begins at byte 100001, 100000 was asked for" in refusal(server.address, path)
    assert read(f"{path}.part") == CONTENT[:100_000]


def test_a_length_that_nobody_states_ends_where_the_answer_ends(server, path):
    server.length = False
    download(server.address, path, SHA256)
    assert read(path) == CONTENT


def test_wrong_bytes_leave_nothing(server, path):
    assert f"its SHA-256 is {SHA256}, not {'0' * 64}: it was deleted" in refusal(server.address, path, "0" * 64)
    assert files(path) == []


def test_a_redirection_is_followed(server, path):
    download(server.address.replace("weights.pt", "elsewhere"), path, SHA256)
    assert read(path) == CONTENT


@pytest.mark.parametrize("status, reason", [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service")])
def test_an_answer_that_is_no_file(server, path, status, reason):
    server.answer = status
    sentence = refusal(server.address, path)
    assert f"was answered by {reason}" in sentence and f"by other means, put it at {path}, and type" in sentence
    assert files(path) == []


@pytest.mark.parametrize("address, reason", [
    ("http://127.0.0.1:9/weights.pt", "Connection refused"),
    ("http://nowhere.invalid/weights.pt", ""),  # what a system says of an unknown name differs
])  # fmt: skip
def test_without_a_network_one_sentence_says_what_to_do(server, path, address, reason):
    sentence = refusal(address, path)
    assert sentence.startswith(f"{address} could not be fetched ({reason}")
    assert sentence.endswith(f"fetch {address} by other means, put it at {path}, and type the same command.")
    assert files(path) == []


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd"])
def test_other_kinds_of_address_are_refused(path, address):
    assert "must begin with https:// or http://" in refusal(address, path)


def test_an_encrypted_address_may_not_lead_to_an_open_one(server, path, monkeypatch):
    real = download_module.urllib.request.urlopen
    opened = lambda request, timeout: real(server.address, timeout=timeout)  # noqa: E731
    monkeypatch.setattr(download_module.urllib.request, "urlopen", opened)
    assert "which is not encrypted" in refusal("https://127.0.0.1/weights.pt", path)


def test_a_full_disk_and_an_interruption_leave_what_has_come(server, path, monkeypatch):
    real = download_module.tqdm.tqdm

    class Failing(real):
        error = OSError(errno.ENOSPC, "No space left on device")

        def update(self, count=1):
            raise self.error

    monkeypatch.setattr(download_module, "_CHUNK", 50_000)
    monkeypatch.setattr(download_module.tqdm, "tqdm", Failing)
    with pytest.raises(ValueError, match="disk is full, 50,000 bytes of .*part are there: make room, and the same"):
        download(server.address, path)
    Failing.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        download(server.address, path)
    monkeypatch.setattr(download_module.tqdm, "tqdm", real)
    assert files(path) == ["weights.pt.part", "weights.pt.part.of"]
    download(server.address, path, SHA256)
    assert server.requests == [None, "bytes=50000-", "bytes=100000-"] and read(path) == CONTENT
