"""Versions that do not go together are named before anything is tried."""

import configparser
import pathlib
import re

import keras
import pytest
import tensorflow as tf

from dit_tf.runtime.versions import RELEASES, Installed, check_path, check_versions, installed, line, table

_REPOSITORY = pathlib.Path(__file__).parents[2]
_TPU = Installed("2.20.0", ("tensorflow-tpu 2.20.0",), "3.15.1", "tensorflow", "0.0.14", gcs=True)
_CPU = _TPU._replace(wheels=("tensorflow-cpu 2.20.0",), libtpu=None)
_NEW = _CPU._replace(tensorflow="2.21.0", wheels=("tensorflow-cpu 2.21.0",), gcs=False)


@pytest.mark.parametrize(
    "have, tpu, sentence",
    [
        (_TPU._replace(keras_backend="jax"), None, r"backend 'jax' before dit_tf: import dit_tf first"),
        (_CPU._replace(wheels=("tensorflow-cpu 2.20.0", "tensorflow-tpu 2.20.0")), None, r"installed over each other"),
        (_NEW, "local", r"2\.20\.0 is the newest: TensorFlow 2\.21\.0 cannot"),
        (_NEW, "node", r"2\.20\.0 is the newest"),
        (_CPU, "local", r"--tpu=local needs tensorflow-tpu, and tensorflow-cpu 2\.20\.0 is installed"),
        (_TPU._replace(libtpu=None), "local", r"needs libtpu, and none is installed: pip install libtpu==0\.0\.14\."),
        (
            _TPU._replace(libtpu="0.0.51"),
            "local",
            r"needs libtpu 0\.0\.14, got 0\.0\.51: pip install libtpu==0\.0\.14\.",
        ),
        (_TPU._replace(tensorflow="2.19.1"), "local", r"needs libtpu 0\.0\.10, got 0\.0\.14"),
    ],
)
def test_what_is_known_to_fail_is_refused_with_the_remedy(monkeypatch, have, tpu, sentence):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(ValueError, match=sentence) as error:
        check_versions(have, tpu)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "have, tpu",
    [(_TPU, "local"), (_TPU, "node"), (_CPU, "grpc://10.0.0.1:8470"), (_CPU, None), (_NEW, None), (_TPU, None)],
)
def test_what_goes_together_passes(have, tpu):
    check_versions(have, tpu)


def test_a_bucket_needs_a_tensorflow_that_reads_it():
    check_path(_TPU, "workdir", "gs://bucket/run")
    check_path(_NEW, "workdir", "runs/digits")
    with pytest.raises(ValueError, match=r"--dataset=latents:gs://bucket/l needs the plugin .* 2\.21\.0 no longer"):
        check_path(_NEW, "dataset", "latents:gs://bucket/l")


def test_what_is_installed_here_is_named_and_marked():
    have = installed()
    check_versions(have)
    assert (have.tensorflow, have.keras, len(have.wheels)) == (tf.__version__, keras.__version__, 1)
    assert line(have).startswith(f"TensorFlow {tf.__version__}, Keras {keras.__version__}")
    (marked,) = [row for row in table(have).splitlines() if row.endswith("<- installed")]
    assert marked.split()[0] == tf.__version__
    assert "not tested with: 2.19.1, 2.20.0, 2.21.0 are" in line(have._replace(tensorflow="2.25.0-rc1"))


def test_the_table_is_what_the_extra_installs():
    """setup.cfg pins the wheel and the libtpu that are called primary here."""
    setup = configparser.ConfigParser()
    setup.read(_REPOSITORY / "setup.cfg")
    pins = dict(re.findall(r"^(\S+)==(\S+)$", setup["options.extras_require"]["tpu"], re.MULTILINE))
    (primary,) = [release for release in RELEASES if release.note.startswith("primary")]
    assert primary.tpu_wheel == f"tensorflow-tpu {pins['tensorflow-tpu']}" and primary.libtpu == pins["libtpu"]
