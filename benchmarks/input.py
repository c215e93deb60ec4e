"""Reading images: JPEG files -> 256-pixel crops in batches of 256, beside DiT's own input, with as many workers.

    pip install -e '.[cpu,benchmark]' -c launch/constraints-tf2.20.txt
    python benchmarks/input.py

Ours is tf.data: read, decode, ADM's centre crop, mirror, batch, uint8 (the step turns it to floats on the accelerator).
DiT's is a torch DataLoader: read, PIL decodes and crops as in train.py's center_crop_arr, random flip, ToTensor and
Normalize to [-1, 1] float32. The steps are written here with PIL and torch, in place of torchvision's, which this needs
not. The files, made here, are those of an everyday data set in size: photographs and smooth random images of 500 x 375
pixels, upright and flat, and some of 1200 x 900, JPEG quality 90, read again and again in one order.

A turn of a program is one pass over the list, started and ended with nothing in the queues. The programs take
turns; the median turn counts, and a ratio is the median of the ratios within a turn. Where other programs want the same
cores, the seconds of CPU time for an image, workers included, say more than those of the clock.

Then latents of 256-pixel images, as dit_tf.encode stores them, through the pipeline of training: shuffled, one of two
mirrors of each, in batches of 256.

    python benchmarks/input.py --simulate_hosts=8

measures something else: the pipeline of training on one host of eight, which makes examples of its 32 rows of every
batch of 256, beside a host that is alone. Files and latents are as above.
"""

import importlib.util
import io
import os
import statistics
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
import psutil
import tensorflow as tf
from absl import flags
from machine import print_machine
from PIL import Image
from sklearn.datasets import load_sample_images

from dit_tf.data import latent_spec
from dit_tf.data.class_names import numbered
from dit_tf.data.latent_records import ShardWriter
from dit_tf.data.latent_spec import LatentSpec
from dit_tf.data.pipeline import open_dataset, training_batches
from dit_tf.data.source import image_example
from dit_tf.flags import run

SIZE = 256
SIDES = [(500, 375), (375, 500), (500, 333), (500, 375), (500, 400), (333, 500), (500, 375), (500, 334), (640, 480)]
SIDES += [(1200, 900)]  # width, height: one file in ten is large


def define_flags(values):
    flags.DEFINE_integer("workers", 2, "Processes of the DataLoader; threads of tf.data.", flag_values=values)
    flags.DEFINE_bool("torch", True, "Measure torch too; --notorch: ours alone.", flag_values=values)
    flags.DEFINE_integer("turns", 5, "Passes of every program; the median counts.", flag_values=values)
    flags.DEFINE_integer("files", 300, "JPEG files that are made.", flag_values=values)
    flags.DEFINE_integer("batch_size", 256, "Images of a batch.", flag_values=values)
    flags.DEFINE_integer("batches", 10, "Batches in a pass.", flag_values=values)
    flags.DEFINE_integer("latents", 20_480, "Latents that are made and read.", flag_values=values)
    flags.DEFINE_integer("simulate_hosts", 0, "Instead: the input of one of so many hosts.", flag_values=values)


def main(options):
    if min(options.workers, options.turns, options.files, options.batch_size, options.batches) < 1:
        raise ValueError("--workers, --turns, --files, --batch_size and --batches must be at least 1.")
    if options.latents < 10 * options.batch_size:
        raise ValueError(f"--latents must be at least {10 * options.batch_size}, got {options.latents}.")
    if options.simulate_hosts < 0 or options.batch_size % max(1, options.simulate_hosts):
        raise ValueError(f"--simulate_hosts must divide {options.batch_size}, got {options.simulate_hosts}.")
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        if options.simulate_hosts:
            return one_of_hosts(options, directory)
        images(options, directory)
        latents(options, directory)


def images(options, directory):
    """JPEG files to crops."""
    if options.torch and importlib.util.find_spec("torch") is None:
        sys.exit("Missing: torch; install the extra `benchmark` (pip install '.[cpu,benchmark]'), or give --notorch.")
    files = written_files(directory, options.files)
    paths = [files[i % len(files)] for i in range(options.batch_size * options.batches)]
    beside = "torch DataLoader, PIL" if options.torch else "dit_tf, crop fast"
    programs = {"dit_tf, crop fast": tf_data_pass(paths, options, "fast")}
    if options.torch:
        programs[beside] = torch_pass(paths, options)
    programs["dit_tf, crop pil"] = tf_data_pass(paths, options, "pil")
    size = sum(map(os.path.getsize, files)) / len(files) / 1e3
    title = f"{len(files)} JPEG files of {size:.0f} kB in the mean, {options.workers} workers, {options.turns} turns"
    print_table(title, take_turns(programs, options.turns, len(paths)), beside)


def written_files(directory, count):
    """Paths of `count` JPEG files: two photographs, cut and mirrored at random, and smooth random images in turn."""
    rng, photographs = np.random.default_rng(0), [Image.fromarray(a) for a in load_sample_images().images]
    paths = []
    for i in range(count):
        width, height = SIDES[i % len(SIDES)]
        if i % 3 < 2:
            photograph = photographs[i % 3]
            left, top = rng.uniform(0, 0.3, 2) * photograph.size
            image = photograph.resize((width, height), Image.Resampling.LANCZOS, (left, top, *photograph.size))
        else:
            small = rng.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(os.path.join(directory, f"{i:04d}.jpg"))
        image.save(paths[-1], quality=90)
    return paths


def tf_data_pass(paths, options, crop):
    """A function that reads all files once; it returns how many images came."""

    def prepare(position, path):
        mirror = tf.random.stateless_uniform((), tf.stack([tf.constant(0, tf.int64), position]), alg="philox") < 0.5
        return image_example(tf.io.read_file(path), SIZE, 3, crop, mirror)

    records = tf.data.Dataset.from_tensor_slices(paths).enumerate()
    images = records.map(prepare, num_parallel_calls=options.workers, deterministic=True)
    batches = images.batch(options.batch_size).prefetch(2)
    limits = tf.data.Options()
    limits.threading.private_threadpool_size = options.workers
    limits.threading.max_intra_op_parallelism = 1
    batches = batches.with_options(limits)
    return lambda: sum(len(batch) for batch in batches)


class TorchFiles:
    """DiT's transforms of one file: float32 (3, 256, 256) in [-1, 1]."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        import torch  # in the worker; the other programs need none

        with open(self.paths[index], "rb") as file:
            image = Image.open(io.BytesIO(file.read())).convert("RGB")
        image = centre_crop_arr(image)
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(0.5).div_(0.5)


def centre_crop_arr(image):
    """A PIL image -> its middle square, 256 x 256, a PIL image."""
    while min(image.size) >= 2 * SIZE:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = SIZE / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    array = np.array(image)
    top, left = ((side - SIZE) // 2 for side in array.shape[:2])
    return Image.fromarray(array[top : top + SIZE, left : left + SIZE])


def torch_pass(paths, options):
    """As tf_data_pass, by a DataLoader whose workers stay between passes and stack the batches."""
    from torch.utils.data import DataLoader

    # TensorFlow has threads by now, which a fork would not survive.
    workers = dict(num_workers=options.workers, persistent_workers=True, multiprocessing_context="spawn")
    loader = DataLoader(TorchFiles(paths), batch_size=options.batch_size, **workers)
    return lambda: sum(len(batch) for batch in loader)


def latents(options, directory):
    """Stored latents to batches."""
    write_latents(options, directory)
    speeds = [latents_per_second(directory, options) for _ in range(options.turns)]
    spread = f"{min(speeds):.0f} to {max(speeds):.0f}"
    print(f"{options.latents} latents of 32 x 32 x 8 bfloat16, two mirrors: {statistics.median(speeds):.0f} images/s")
    print(f"({spread}, {options.turns} turns)")


def write_latents(options, directory):
    rng = np.random.default_rng(0)
    spec = LatentSpec(
        dataset="made up", split="train", num_examples=options.latents, classes=numbered(1000), image_size=SIZE,
        crop="fast", vae_sha256="0" * 64, precision="float32", scaling_factor=1.0, moments_shape=(32, 32, 8),
        moments_dtype="bfloat16", mirrored=True, examples_per_shard=1024,
    )  # fmt: skip
    latent_spec.write(directory, spec)
    for shard in range(spec.num_shards):
        with ShardWriter(directory, spec, shard) as writer:
            for i in range(spec.examples_in(shard)):
                moments = rng.normal(size=(2, *spec.moments_shape)).astype(ml_dtypes.bfloat16)
                writer.write(f"{shard}-{i}".encode(), int(rng.integers(1000)), *moments)


def latents_per_second(directory, options):
    """One epoch; the buffer that they are shuffled in is filled before the clock starts."""
    batches = host_batches(open_dataset(f"latents:{directory}"), 1, options)
    next(batches)
    began, count = time.perf_counter(), options.latents // options.batch_size
    for _ in range(count):
        next(batches)
    return count * options.batch_size / (time.perf_counter() - began)


def one_of_hosts(options, directory):
    """What one of several hosts spends on a global batch, beside a host that is alone."""
    files, stored = (os.path.join(directory, name) for name in ("files", "latents"))
    os.mkdir(files), os.mkdir(stored)
    written_files(files, options.files)
    write_latents(options, stored)
    title = f"One of {options.simulate_hosts} hosts, global batches of {options.batch_size}"
    print(f"{title}, {options.turns} turns, medians\n")
    print("| data | hosts | images/s of the host | CPU ms a global batch | beside one host | examples made, of all |")
    print("|---|---|---|---|---|---|")
    for title, name in (("JPEG files", f"folder:{files}"), ("latents", f"latents:{stored}")):
        alone = None
        for hosts in (1, options.simulate_hosts):
            turns = [host_pass(name, hosts, options) for _ in range(options.turns)]
            speed, cost = (statistics.median(column) for column in zip(*turns))
            alone, made = alone or cost, examples_made(name, hosts, options)
            print(f"| {title} | {hosts} | {speed:.0f} | {cost:.1f} | {cost / alone:.3f} | {made:.3f} |", flush=True)


def host_pass(name, hosts, options):
    """A host's images/s, and milliseconds of its CPU time for a global batch."""
    shares = host_batches(open_dataset(name), hosts, options)
    next(shares)  # by now the buffer that records are shuffled in is full
    began, busy = time.perf_counter(), cpu_seconds()
    rows = sum(len(next(shares)[2]) for _ in range(options.batches))
    return rows / (time.perf_counter() - began), (cpu_seconds() - busy) / options.batches * 1e3


def examples_made(name, hosts, options):
    """How many images were decoded, or latents unpacked, for so many global batches, as a share of their rows. A few
    more than are asked for, since some are made ahead."""
    source, made = open_dataset(name), []
    example = source.example

    def counted(*arguments):
        tf.numpy_function(lambda: made.append(1), [], [])
        return example(*arguments)

    source.example = counted
    shares = host_batches(source, hosts, options)
    for _ in range(options.batches):
        next(shares)
    return len(made) / (options.batches * options.batch_size)


def host_batches(source, hosts, options):
    context = tf.distribute.InputContext(hosts, hosts // 2, hosts)
    stream = dict(image_size=SIZE, global_batch_size=options.batch_size, seed=0, first=0, horizontal_flip=True)
    return iter(training_batches(source, "train", context=context, **stream))


def take_turns(programs, turns, count):
    """{name: [(images a second, milliseconds of CPU time an image), a turn each]}.

    A pass before the first turn starts the workers and is not counted.
    """
    measured = {name: [] for name in programs}
    for turn in range(turns + 1):
        for name, read_all in programs.items():
            began, busy = time.perf_counter(), cpu_seconds()
            if read_all() != count:
                raise RuntimeError(f"{name} lost images.")
            if turn:
                speed, cost = count / (time.perf_counter() - began), (cpu_seconds() - busy) / count * 1e3
                measured[name].append((speed, cost))
                print(f"  turn {turn}/{turns}, {name}: {speed:.0f} images/s, {cost:.2f} ms of CPU time", flush=True)
    return measured


def cpu_seconds():
    """Of this process and its workers so far."""
    workers = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(times.user + times.system for times in workers)


def print_table(title, measured, beside):
    print(f"\n{title}\n\n| program | images/s | beside {beside} | CPU ms an image | beside {beside} |")
    print("|---|---|---|---|---|")
    for name, own in measured.items():
        (speeds, costs), others = zip(*own), measured[beside]
        ratios = [
            [a / b for a, b in zip(speeds, (s for s, _ in others))],
            [b / a for (_, a), (_, b) in zip(own, others)],
        ]
        spread = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
        cells = [name, f"{statistics.median(speeds):.0f}", spread[0], f"{statistics.median(costs):.2f}", spread[1]]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


if __name__ == "__main__":
    run(main, define_flags)
