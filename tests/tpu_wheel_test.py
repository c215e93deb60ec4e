"""The train step through the TPU kernels of the TensorFlow that a TPU runs: tensorflow-tpu 2.20.0, in an environment
that the test makes from the extra `tpu`. Everywhere else here the step is lowered by the kernels of a CPU.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tpu_wheel
_REPOSITORY = pathlib.Path(__file__).parents[1]

_LOWER = """
import json, re, sys
import tensorflow as tf
from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.models.costs import abstract, training_flops
from dit_tf.runtime.hlo_products import products, share_of
from dit_tf.training.train_step import State

PER_REPLICA = 8
config = RunConfig(model="DiT-S/2", precision="bfloat16", codec="vae", image_size=256, num_classes=1000)
model = abstract(lambda: build.make_model(config))
step = build.make_train_step(config, model, remat=sys.argv[1] == "remat")

def lower(function, *arguments):
    flat = tf.function(
        lambda *tensors: function(*tf.nest.pack_sequence_as(arguments, tensors)), jit_compile=True, autograph=False)
    return flat.experimental_get_compiler_ir(*tf.nest.flatten(arguments))(stage="hlo", platform_name="TPU")

def spec(dtype, *shape):
    return tf.TensorSpec(shape, dtype)

weights = [tf.TensorSpec(v.shape, tf.float32) for v in model.trainable_variables]
row, count = spec(tf.int32, PER_REPLICA), spec(tf.int32)
batch = spec(tf.bfloat16, PER_REPLICA, 32, 32, 8), row, row
losses = {name: spec(tf.float32) for name in step.process.loss_names}
text = lower(step.loss_and_gradients, weights, [], batch, spec(tf.int64), count)
update = lower(step.update, State(*[weights] * len(State._fields)), losses, weights, count)
found = products(text)
print(json.dumps({
    "version": tf.__version__,
    "products": len(found),
    "flops": sum(product.flops for product in found) / training_flops(model, PER_REPLICA),
    "in_bfloat16": share_of("bfloat16", found),
    "products_of_update": len(products(update)),
    "barriers": text.count(" opt-barrier("),
    "of_the_host": re.findall(r"\\b(?:infeed|outfeed|send|recv|custom-call|rng[\\w-]*)\\(", text + update),
}))
"""


@pytest.fixture(scope="module")
def tpu_python(tmp_path_factory):
    """The interpreter of an environment with the extra `tpu` and its pins."""
    folder = tmp_path_factory.mktemp("tpu")
    for name in ("dit_tf", "setup.py", "setup.cfg", "README.md", "LICENSE"):
        copy = shutil.copytree if (_REPOSITORY / name).is_dir() else shutil.copy
        copy(_REPOSITORY / name, folder / name)
    python = folder / "environment" / "bin" / "python"
    pins = _REPOSITORY / "launch" / "constraints-tf2.20.txt"
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", pins, f"{folder}[tpu]"], check=True)
    return python


@pytest.mark.parametrize("remat", ["remat", ""], ids=["remat", "plain"])
def test_the_tpu_kernels_lower_the_step(tpu_python, remat):
    """No TPU is asked: lowering stops before Google's compiler, which tests/training/tpu_test.py runs."""
    quiet = dict(TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5litepod-4", TPU_WORKER_HOSTNAMES="localhost")
    # An imported TensorFlow leaves the path of this environment's libtpu, which is another one, in TPU_LIBRARY_PATH.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
    process = subprocess.run(
        [tpu_python, "-c", _LOWER, remat], capture_output=True, text=True, cwd=_REPOSITORY, env=ours | quiet
    )
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["version"] == "2.20.0"
    assert report["in_bfloat16"] == 1 and report["products_of_update"] == 0
    assert report["of_the_host"] == []  # nor custom calls, nor a generator of the device: philox is plain arithmetic
    if remat:  # attention and MLP of twelve blocks once more, a third of it all, which a TPU's compiler keeps
        assert report["barriers"] == 24 and 1.30 < report["flops"] < 1.34
    else:  # less the gradients of the patches and of the timestep's sinusoids, which nobody needs
        assert report["barriers"] == 0 and 0.999 < report["flops"] < 1
