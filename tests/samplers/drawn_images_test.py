"""Images that are drawn as they are read: any part of them is that part of the whole, and what they are is told."""

import hashlib
import json
import struct

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.models.codec import PixelCodec
from dit_tf.samplers.drawn_images import DrawnImages, check_finished
from dit_tf.samplers.generate import ImageSampler
from dit_tf.samplers.options import SamplerOptions
from dit_tf.samplers.solvers import Work

_OPTIONS = SamplerOptions("ddim", 3, eta=0.5, cfg_scale=2.0, guidance_interval=(0.25, 1.0))
_LABELS = np.array([2, 0, 1, 1, 2, 0, 0])
_FACTS = {"model": "runs/digits", "vae_sha256": None}


def make_sampler(options=_OPTIONS, strategy=None):
    """Of a model that says little: the noise is half of x, moved by the label. No sums, so that batches of one size or
    another give the same bits."""

    def call(params, x, t, y):
        eps = 0.5 * x + params[0] * tf.cast(y, tf.float32)[:, None, None, None]
        return tf.concat([eps, tf.zeros_like(eps)], axis=-1)

    return ImageSampler(call, GaussianDiffusion(), PixelCodec(4, 1), 3, options, strategy)


def images_of(sampler, labels=_LABELS, seed=5, **facts):
    return DrawnImages(sampler, [tf.constant(0.1)], labels, seed, _FACTS | facts)


@pytest.fixture(scope="module")
def sampler():
    return make_sampler()


def test_reading_may_begin_anywhere(sampler):
    found = images_of(sampler)
    assert (found.count, found.shape) == (7, (4, 4, 1))
    assert found.labels().dtype == np.int64 and found.labels().tolist() == _LABELS.tolist()
    whole = np.concatenate(list(found.batches(3)))
    assert whole.dtype == np.uint8 and whole.shape == (7, 4, 4, 1) and len(np.unique(whole)) > 20
    for first in (0, 1, 5, 7):
        batches = list(found.batches(3, first))
        assert [len(batch) for batch in batches[:-1]] == [3] * len(batches[:-1])
        np.testing.assert_array_equal(np.concatenate([whole[:0], *batches]), whole[first:])


def test_each_image_comes_with_what_it_has_cost(sampler):
    found = images_of(sampler)
    for images, drawn in zip(found.batches(3, 1), found.draws(3, 1), strict=True):
        np.testing.assert_array_equal(drawn.images, images)
        assert drawn.work.evaluations.tolist() == [3] * len(images)


def test_what_images_are_is_told_in_full(sampler):
    labels = struct.pack("<7q", *_LABELS)
    told = images_of(sampler).provenance()
    assert told == {
        "model": "runs/digits", "vae_sha256": None, "sampler": "ddim", "num_steps": 3, "solver": None, "eta": 0.5,
        "cfg_scale": 2.0, "guided_channels": None, "guidance_interval": [0.25, 1.0], "seed": 5, "images": 7,
        "size": [4, 4, 1], "labels_sha256": hashlib.sha256(labels).hexdigest(),
    }  # fmt: skip
    assert json.loads(json.dumps(told)) == told  # no tuples, no NumPy


def test_defaults_that_play_a_part_are_told_resolved():
    told = images_of(make_sampler(SamplerOptions())).provenance()
    expected = dict(sampler="ddpm", num_steps=250, solver=None, cfg_scale=1.0, guidance_interval=[0.0, 1.0])
    assert {name: told[name] for name in expected} == expected
    assert "eta" not in told and "diffusion" not in told
    adaptive = images_of(make_sampler(SamplerOptions("ode", solver="dopri5", rtol=0.01))).provenance()
    assert (adaptive["num_steps"], adaptive["solver"], adaptive["rtol"]) == (None, "dopri5", 0.01)


def test_the_same_images_are_told_the_same_and_others_otherwise(sampler):
    told = images_of(sampler).provenance()
    replicas = make_sampler(strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    assert images_of(replicas).provenance() == images_of(sampler, list(_LABELS)).provenance() == told
    others = [
        images_of(sampler, seed=6),
        images_of(sampler, _LABELS[:6]),
        images_of(sampler, _LABELS[::-1]),
        images_of(sampler, model="runs/other"),
        images_of(make_sampler(SamplerOptions("ddim", 3, eta=0.5, cfg_scale=2.0))),
        images_of(make_sampler(SamplerOptions("ddim", 4, eta=0.5, cfg_scale=2.0, guidance_interval=(0.25, 1.0)))),
    ]
    assert len({json.dumps(other.provenance()) for other in others} | {json.dumps(told)}) == 7


def test_a_solver_that_gives_up_is_one_sentence():
    work = Work(np.array([14, 32]), np.array([1, 0]), np.array([True, True]))
    check_finished(work)
    with pytest.raises(ValueError, match="--solver=dopri5 gave up on 1 of 2 images.*--rtol, or take --solver=heun"):
        check_finished(work._replace(finished=np.array([True, False])))


def test_the_batch_of_a_solver_that_gives_up_is_not_given_out(sampler, monkeypatch):
    def gives_up(params, labels, seed, row):
        drawn = sampler(params, labels, seed, row)
        return drawn._replace(work=drawn.work._replace(finished=row < 4))

    found = images_of(sampler)
    monkeypatch.setattr(found, "sampler", gives_up)
    batches = found.batches(3)
    assert len(next(batches)) == 3
    with pytest.raises(ValueError, match="gave up on 2 of 3 images"):
        next(batches)
