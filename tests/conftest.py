"""Golden arrays of DiT's diffusion and SiT's transport package, their stub models and the measure of agreement."""

import fcntl
import functools
import gc
import importlib.util
import json
import lzma
import math
import multiprocessing.forkserver
import os
import pathlib
import shutil
import tempfile

import absl.flags
import numpy as np
import pytest

from dit_tf.runtime import compile_cache
from tests import forked_files
from tests.commands import run_command

_GOLDENS = pathlib.Path(__file__).parents[0] / "goldens"

# Files that take longest, longest first: so that at the end no worker waits for the other.
_LONGEST = """
study_test.py hosts_test.py encode_test.py training/tpu_test.py interruptions_test.py same_run_test.py training/trainer_test.py
latent_path_test.py evaluate_training_test.py export_options_test.py benchmarks_test.py evaluate_likelihood_test.py
runtime/compile_cache_test.py quiet_test.py samplers/tpu_test.py models/remat_test.py preflight_test.py library_test.py
flow_grid_test.py samplers/generate_test.py models/autoencoder_kl_test.py serving/client_test.py sample_test.py
export_test.py models/costs_test.py evaluation/evaluator_test.py samplers/likelihood_test.py evaluate_samples_test.py
train_test.py study_process_test.py training/bad_steps_test.py app_browser_test.py encode_latents_test.py autoencoder_file_test.py
""".split()


def pytest_configure(config):
    """What is compiled once in a run is not compiled again in it, by whichever worker or process."""
    if not hasattr(config, "workerinput"):
        os.environ[compile_cache.VARIABLE] = tempfile.mkdtemp(prefix="dit_tf-compiled-")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(compile_cache.VARIABLE), ignore_errors=True)


def pytest_sessionstart(session):
    """The process that hands out the tests to workers runs none, and so needs no TensorFlow."""
    if hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses", None):
        compile_cache.enable()
        multiprocessing.forkserver.ensure_running()  # one for all files
        session.config._tmp_path_factory.getbasetemp()  # so that no file's process empties it


def pytest_collection_finish():
    """A process that has computed something cannot be forked: its threads would be missing."""
    if compile_cache.has_started():
        raise pytest.UsageError("A file of tests computes something with TensorFlow where it is imported: move that.")
    gc.freeze()  # what is imported by now stays: no file's process looks it over again
    gc.set_threshold(100_000, 20, 100)


def pytest_runtest_protocol(item, nextitem):
    return None if item.config.option.usepdb else forked_files.run(item, nextitem)


def pytest_sessionfinish():
    forked_files.end()


@pytest.fixture(scope="session", autouse=True)
def two_devices():
    """Two devices where there is one, before TensorFlow looks at them: replicas without hardware."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(_LONGEST)}
    tests = pathlib.Path(__file__).parent
    items.sort(key=lambda item: place.get(str(item.path.relative_to(tests)), len(place)))


@functools.cache  # the largest file has a thousand arrays; nobody writes to them
def _read_images_last(path):
    with np.load(path) as arrays:
        return {key: np.moveaxis(a, -3, -1) if a.ndim >= 4 else a for key, a in arrays.items()}


@pytest.fixture(scope="session")
def golden():
    """golden(name) -> the arrays of goldens/diffusion/name.npz; images (rank 4 and 5) are NCHW there, NHWC here."""
    return lambda name: _read_images_last(_GOLDENS / "diffusion" / f"{name}.npz")


@pytest.fixture(scope="session")
def stub():
    """stub(arrays, learned) -> model_fn(x, t): W x + U cos(0.005 t) + V[y] B, with 2C or C channels."""
    import tensorflow as tf

    def build(arrays, learned):
        w, u, b, v = (tf.constant(arrays[f"stub_{k}{'' if learned else '_nosigma'}"]) for k in "WUBV")
        label_term = tf.gather(v, arrays["y"])[:, None] * b

        def model_fn(x, t):
            time_term = tf.cos(0.005 * tf.cast(t, tf.float32))[:, None] * u
            return tf.einsum("nhwc,oc->nhwo", x, w) + (time_term + label_term)[:, None, None]

        return model_fn

    return build


@pytest.fixture(scope="session")
def transport_golden():
    """transport_golden(name) -> the arrays of goldens/transport/name.npz, images NHWC as in `golden`."""
    return lambda name: _read_images_last(_GOLDENS / "transport" / f"{name}.npz")


@pytest.fixture(scope="session")
def transport_index():
    """transport_index(name) -> what goldens/transport/name.json holds: for "*_index", a list of records."""
    return lambda name: json.loads((_GOLDENS / "transport" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def transport_stub():
    """transport_stub(arrays, prediction) -> model_fn(x, t): M x + U cos(pi t) + V[y] B, of C channels."""
    import tensorflow as tf

    def build(arrays, prediction):
        m, u, b, v = (tf.constant(arrays[f"stub/{prediction}/{k}"], tf.float32) for k in "MUBV")
        label_term = tf.gather(v, arrays["y"])[:, None] * b

        def model_fn(x, t):
            time_term = tf.cos(math.pi * tf.cast(t, tf.float32))[:, None] * u
            return tf.einsum("nhwc,oc->nhwo", x, m) + (time_term + label_term)[:, None, None]

        return model_fn

    return build


@pytest.fixture(scope="session")
def assert_agrees():
    """assert_agrees(actual, expected): the largest error, relative to the largest expected magnitude, over finite
    entries. 1e-5 is the project's figure for float32 sums and products in another order; about 3e-6 is observed."""

    def check(actual, expected, tolerance=1e-5):
        actual, finite = np.asarray(actual), np.isfinite(expected)
        assert actual.shape == expected.shape
        assert np.array_equal(np.isfinite(actual), finite)
        error = np.abs(actual - expected)[finite].max() / np.abs(expected[finite]).max()
        assert error <= tolerance, f"relative error {error:.2e}"

    return check


@pytest.fixture(scope="session")
def recorded_noise():
    """recorded_noise(array) stands in for RowSeeds: the normal draw of step k is array[k]."""
    import tensorflow as tf

    class RecordedNoise:
        def __init__(self, noise, step=0):
            self.noise, self.step = noise, step

        def at(self, step):
            return RecordedNoise(self.noise, step)

        def normal(self, stream, shape):
            assert tuple(shape) == self.noise.shape[2:]
            return tf.gather(self.noise, self.step)

    return RecordedNoise


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def parse():
    """parse(define, "--name=value", ...) -> the options that a command's main takes, in flags of their own."""

    def options(define, *arguments):
        values = absl.flags.FlagValues()
        define(values)
        values(["program", *arguments])
        return values

    return options


@pytest.fixture(scope="session")
def run_with_tpu_compiler():
    """run_with_tpu_compiler(code, *arguments) -> the lines that the code prints, in a process of its own."""

    def run(code, *arguments):
        missing = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(f"the TPU compiler comes for Linux x86-64 only: no {' and no '.join(missing)} here")
        process = run_command("-c", code, *arguments)
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """The published network's nodes at a sixteenth of its width; ADM's program recorded its activations."""
    content = lzma.decompress((_GOLDENS / "adm" / "classify_image_graph_def.pb.xz").read_bytes())
    path = tmp_path_factory.mktemp("inception") / "classify_image_graph_def.pb"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """once(name, make) -> the directory NAME that make(directory) has filled, once for all workers of a run; nobody
    writes to it afterwards."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    def filled(name, make):
        directory, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                directory.mkdir()
                make(directory)
                done.touch()
        return directory

    return filled


@pytest.fixture(scope="session")
def vae_file(once):
    """An autoencoder of a quarter of the published width with random weights, as convert writes it: 21 MB."""

    def make(directory):
        import keras

        from dit_tf import autoencoder_file
        from dit_tf.models.autoencoder_kl import AutoencoderKL

        keras.utils.set_random_seed(0)
        autoencoder_file.save(str(directory / "vae.keras"), AutoencoderKL(width=32), {"source": "random"})

    return once("vae", make) / "vae.keras"


@pytest.fixture(scope="session")
def tiny_flags(once):
    """Flags of a training that takes seconds, on digits prepared for the tests alone."""

    def prepare(directory):
        from dit_tf.data.pipeline import open_dataset

        open_dataset("digits", str(directory)).spec("train")

    return [
        f"--data_dir={once('data', prepare)}",
        "--model=DiT-64x1x2/4",
        "--global_batch_size=16",
        "--learning_rate=1e-3",
        "--warmup_steps=20",
        "--schedule=cosine",
        "--schedule_steps=500",
        "--ema_decay=0.9",
        "--ema_stds=0.1",
        "--ema_snapshot_every=30",
        "--steps_per_execution=10",
        "--checkpoint_every=50",
        "--log_every=50",
        "--sample_every=100",
    ]


@pytest.fixture(scope="session")
def trained(tiny_flags, once):
    """The work directory of one whole training of 300 steps, as the command leaves it."""
    return once("trained", lambda workdir: _train(workdir, *tiny_flags))


@pytest.fixture(scope="session")
def trained_flow(tiny_flags, once):
    """The same with --objective=flow."""
    return once("trained_flow", lambda workdir: _train(workdir, *tiny_flags, "--objective=flow"))


def _train(workdir, *arguments):
    process = run_command("dit_tf.train", *arguments, f"--workdir={workdir}", "--train_steps=300")
    assert process.returncode == 0, process.stderr
