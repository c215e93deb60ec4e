"""A file from the web, resumed where an earlier try stopped, and verified.

PATH          only whole files have this name
PATH.part     what has come so far
PATH.part.of  JSON: which file of which address that is, so that it is not continued with another one's bytes
"""

import errno
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request

import tqdm

_CHUNK = 2**20
_TIMEOUT = 30  # seconds without a byte


def download(address, path, sha256=None):
    """Fetch an http(s) address to path, unless it is there. ValueError, one sentence with what to do, where it fails.

    What has come stays in PATH.part, also after an interruption, and the next call asks for the rest alone. If-Range
    names the version by its ETag, or else its date; a server that gives neither, has another version by now, or knows
    no ranges is asked for all of it. The length is the server's Content-Length. sha256: what the whole file must have,
    in hexadecimal; other bytes are deleted.
    """
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise ValueError(f"An address must begin with https:// or http://, got {address}.")
    if os.path.exists(path):
        _verify(path, sha256, f"{path} is there already, but {{}}: remove it to fetch it anew.")
        return path
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    part = f"{path}.part"
    by_hand = f"fetch {address} by other means, put it at {path}, and type the same command"
    try:
        length = _fetch(address, part)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{address} was answered by {error.code} {error.reason}: {by_hand}.") from error
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            advice = "make room, and the same command goes on where it stopped"
            raise ValueError(f"The disk is full, {_size_of(part):,} bytes of {part} are there: {advice}.") from error
        cause = getattr(error, "reason", error)
        reason = " ".join(str(getattr(cause, "strerror", None) or cause).split()) or type(error).__name__
        raise ValueError(f"{address} could not be fetched ({reason}): {by_hand}.") from error
    found = _size_of(part)
    if length is not None and found != length:
        if found > length:
            _remove(part)
        advice = "the same command goes on where it stopped" if found < length else "the same command starts anew"
        raise ValueError(f"{address} ended after {found:,} of {length:,} bytes: {advice}.")
    try:
        _verify(part, sha256, f"{address} {{}}: it was deleted.")
    except ValueError:
        _remove(part)
        raise
    os.replace(part, path)
    _remove(part)
    return path


def _fetch(address, part):
    """Append to part, or start it anew -> the length that the whole file must have, None where nobody says."""
    start, version = _size_of(part), _version_of(part, address)
    headers = {"Accept-Encoding": "identity", "User-Agent": "dit_tf"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        response = _open(address, headers)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or "Range" not in headers:
            raise
        error.close()
        _remove(part)
        return _fetch(address, part)
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            first, length = _content_range(response)
            if "Range" not in headers or first != start:
                raise OSError(f"it sent a part that begins at byte {first}, {start} was asked for")
        else:
            start = 0
            length = response.headers.get("Content-Length", "")
            length = int(length) if length.isdecimal() else None
            _remove(part)
            with open(f"{part}.of", "w", encoding="utf-8") as file:
                json.dump({"address": address, "version": _version(response.headers)}, file)
        bar = tqdm.tqdm(
            total=length, initial=start, unit="B", unit_scale=True, desc=os.path.basename(part)[:-5], dynamic_ncols=True
        )
        with bar, open(part, "ab") as file:
            while chunk := _read(response, length):
                file.write(chunk)
                bar.update(len(chunk))
    return length


def _read(response, length):
    """The next bytes, none at the end; also where the connection breaks, if the length will show it."""
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException):
        if length is None:
            raise
        return b""


def _open(address, headers):
    response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)
    if address.startswith("https:") and not response.url.startswith("https:"):
        response.close()
        raise OSError(f"it leads to {response.url}, which is not encrypted")
    return response


def _version(headers):
    """What names these bytes in an If-Range: a strong ETag, else the date of the last change."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _version_of(part, address):
    """The version that an unfinished file is of; empty where it cannot be continued."""
    try:
        with open(f"{part}.of", encoding="utf-8") as file:
            known = json.load(file)
        return known["version"] if known["address"] == address else ""
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _content_range(response):
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not match:
        raise OSError("it sent a part without saying which")
    return int(match[1]), int(match[2])


def _verify(path, sha256, sentence):
    if sha256 is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise ValueError(sentence.format(f"its SHA-256 is {found}, not {sha256.lower()}"))


def _size_of(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def _remove(part):
    for path in (part, f"{part}.of"):
        if os.path.exists(path):
            os.remove(path)
