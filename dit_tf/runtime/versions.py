"""Which TensorFlow, Keras and libtpu are installed, which go together, and one sentence where they do not."""

import importlib.metadata
import os
from typing import NamedTuple

import keras
import tensorflow as tf

_WHEELS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")  # all of them hold the package `tensorflow`


class Release(NamedTuple):
    """A TensorFlow that this package is tested with, and what it trains with on a TPU."""

    tensorflow: str
    tpu_wheel: str | None  # none: it cannot reach a TPU
    libtpu: str | None  # the one that the wheel asks for, or asks for at least
    note: str


# From the wheels' own metadata. tensorflow-tpu 2.20.0 asks for libtpu~=0.0.14, but 0.0.51 lacks 132 of the 203
# functions that it binds.
RELEASES = (
    Release("2.19.1", "tensorflow-tpu 2.19.1", "0.0.10", "tested without a TPU"),
    Release("2.20.0", "tensorflow-tpu 2.20.0", "0.0.14", "primary: pip install '.[tpu]'"),
    Release("2.21.0", None, None, "tested without a TPU, has no TPU wheel"),
)


class Installed(NamedTuple):
    tensorflow: str
    wheels: tuple  # the distributions that brought it, as "tensorflow-cpu 2.20.0"
    keras: str
    keras_backend: str
    libtpu: str | None
    gcs: bool  # whether gs:// can be read and written


def installed():
    found = {name: _version(name) for name in (*_WHEELS, "libtpu", "tensorflow-io-gcs-filesystem")}
    wheels = tuple(f"{name} {found[name]}" for name in _WHEELS if found[name])
    gcs = _numbers(tf.__version__) < (2, 21) or bool(found["tensorflow-io-gcs-filesystem"])
    return Installed(tf.__version__, wheels, keras.__version__, keras.backend.backend(), found["libtpu"], gcs)


def check_versions(have, tpu=None):
    """ValueError on a combination that is known to fail. tpu: of --tpu."""
    if have.keras_backend != "tensorflow":
        raise ValueError(
            f"Keras must run on TensorFlow, but was imported with the backend {have.keras_backend!r} before dit_tf: "
            "import dit_tf first, or set KERAS_BACKEND=tensorflow."
        )
    if len(have.wheels) > 1:
        names = [wheel.split()[0] for wheel in have.wheels]
        raise ValueError(
            f"{' and '.join(have.wheels)} are installed over each other: one of them must go. Run pip uninstall "
            f"{' '.join(names)}, then pip install the extra that this machine needs, '.[cpu]', '.[gpu]' or '.[tpu]'."
        )
    if tpu:
        _check_tpu(have, tpu)


def check_path(have, flag, path):
    """ValueError where a path is on gs:// and this TensorFlow cannot go there."""
    if path and "gs://" in path and not have.gcs:
        raise ValueError(
            f"--{flag}={path} needs the plugin for gs:// that TensorFlow {have.tensorflow} no longer brings: pip "
            "install tensorflow-io-gcs-filesystem (Python below 3.13), or take TensorFlow 2.20."
        )


def _check_tpu(have, tpu):
    release = _release_of(have)
    if _numbers(have.tensorflow) >= (2, 21):
        raise ValueError(
            f"--tpu={tpu} needs tensorflow-tpu, of which 2.20.0 is the newest: TensorFlow {have.tensorflow} cannot use "
            "a TPU. In an environment of its own, pip install '.[tpu]'."
        )
    if tpu != "local":
        return  # the server on the TPU has its own libtpu
    if not any(wheel.startswith("tensorflow-tpu ") for wheel in have.wheels):
        raise ValueError(
            f"--tpu=local needs tensorflow-tpu, and {' '.join(have.wheels) or 'a TensorFlow without a wheel'} is "
            "installed: in an environment of its own, pip install '.[tpu]'."
        )
    wanted = release.libtpu if release else RELEASES[1].libtpu
    if have.libtpu is None and not os.environ.get("TPU_LIBRARY_PATH"):
        raise ValueError(f"--tpu=local needs libtpu, and none is installed: pip install libtpu=={wanted}.")
    if have.libtpu is not None and have.libtpu != wanted:
        raise ValueError(
            f"--tpu=local with TensorFlow {have.tensorflow} needs libtpu {wanted}, got {have.libtpu}: pip install "
            f"libtpu=={wanted}."
        )


def line(have):
    """What is installed, on one line."""
    tested = "" if _release_of(have) else f" (not tested with: {', '.join(r.tensorflow for r in RELEASES)} are)"
    libtpu = f", libtpu {have.libtpu}" if have.libtpu else ""
    return f"TensorFlow {have.tensorflow}{tested}, Keras {have.keras}{libtpu}"


def table(have):
    """RELEASES as text, the one that is installed marked."""
    rows = [("TensorFlow", "on a TPU", "libtpu", "")]
    for r in RELEASES:
        here = "  <- installed" if r is _release_of(have) else ""
        rows.append((r.tensorflow, r.tpu_wheel or "no", r.libtpu or "", r.note + here))
    return "\n".join(f"  {a:<12}{b:<23}{c:<8}{d}".rstrip() for a, b, c, d in rows)


def _release_of(have):
    return next((r for r in RELEASES if _numbers(r.tensorflow)[:2] == _numbers(have.tensorflow)[:2]), None)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version):
    """ "2.20.0-rc1" -> (2, 20, 0)"""
    return tuple(int(part) for part in version.split("-")[0].split("rc")[0].split(".")[:3])
