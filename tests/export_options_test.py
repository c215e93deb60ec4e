"""`python -m dit_tf.export` of other models than the usual, in fewer bytes, and what it refuses."""

import functools
import os

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, export, flags
from dit_tf.config import RunConfig
from dit_tf.data.class_names import UNLABELLED, numbered
from dit_tf.inference import exporting

_TINY = dict(model="DiT-64x1x2/4", image_size=8)
_LATENTS = dict(_TINY, codec="vae", channels=3, image_size=64)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """model_of(field=value, ...) -> the path of a model with random weights, which say something from the start."""

    @functools.cache
    def make(classes=None, **fields):
        config, rng = RunConfig(**_TINY | fields), np.random.default_rng(0)
        shapes = [v.shape for v in build.make_model(config).trainable_variables]
        weights = [tf.constant(rng.normal(0, 0.1, shape), tf.float32) for shape in shapes]
        path = str(tmp_path_factory.mktemp("model") / "model.keras")
        build.save_model(path, config, classes or numbered(config.num_classes), weights)
        return path

    return make


@pytest.fixture(scope="module")
def traced_once():
    """make_served_model, which gives the model of another export, with the functions that were traced for it, where
    network, options and dtype are the same: so are the weights."""
    make, made = build.make_served_model, {}

    def once(config, model, options, classes, **more):
        key = config, options, str(more)
        if key not in made:
            made[key] = make(config, model, options, classes, **more)
            made[key].signatures = functools.cache(made[key].signatures)
        return made[key]

    return once


@pytest.fixture(scope="module")
def export_to(parse, traced_once):
    """export_to(directory, flag, ...): four steps of DDIM unless a flag names another sampler."""

    def exported(directory, *more):
        few = [] if any(flag.startswith("--sampler") for flag in more) else ["--sampler=ddim", "--num_steps=4"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "make_served_model", traced_once)
            export.main(parse(flags.define_export, *few, *more, f"--output={directory}"))

    return exported


@pytest.fixture
def run(export_to, tmp_path):
    """run(flag, ...) -> the loaded SavedModel."""

    def exported(*more):
        output = str(tmp_path / "models" / "1")
        export_to(output, *more)
        return tf.saved_model.load(output)

    return exported


def images(loaded, label=(3, 1, 4), seed=(0, 5, 0), cfg_scale=(1.0, 1.5, 4.0)):
    columns = dict(label=(label, tf.int64), seed=(seed, tf.int64), cfg_scale=(cfg_scale, tf.float32))
    drawn = loaded.signatures["serving_default"](**{k: tf.constant(v, dtype) for k, (v, dtype) in columns.items()})
    return drawn["image"].numpy().astype(int)


@pytest.mark.parametrize(
    "flags_of_sampler",
    [["ode", "solver=dopri5"], ["sde", "num_steps=3"], ["ode", "num_steps=3", "guidance_interval=0.2,0.8"]],
)
def test_every_kind_of_sampler_is_served(run, model_of, flags_of_sampler):
    """A row is drawn with its neighbours as without them: an adaptive solver too steps each at its own pace."""
    path = model_of(objective="flow", learn_sigma=False)
    asked = [f"--{flag}" for flag in ["sampler=" + flags_of_sampler[0], *flags_of_sampler[1:]]]
    loaded = run(f"--weights={path}", *asked)
    together = images(loaded)
    assert len({image.tobytes() for image in together}) == 3
    for i, row in enumerate(zip((3, 1, 4), (0, 5, 0), (1.0, 1.5, 4.0))):
        assert np.abs(images(loaded, *([value] for value in row)) - together[i]).max() <= 1


def test_a_model_of_latents_carries_its_decoder(run, model_of, vae_file):
    path = model_of(**_LATENTS, num_classes=3)
    loaded = run(f"--weights={path}", f"--vae={vae_file}", "--num_steps=2", "--sampler=ddim", "--batch_sizes=3")
    drawn = images(loaded, label=(0, 1, 2))
    assert drawn.shape == (3, 64, 64, 3) and drawn.std() > 1
    assert loaded.signatures["denoise"].structured_outputs["output"].shape.as_list() == [None, 8, 8, 8]


def test_without_label_dropout_there_is_no_guidance(run, model_of):
    loaded = run(f"--weights={model_of(UNLABELLED, class_dropout_prob=0.0, num_classes=1)}")
    assert images(loaded, (0,), (3,), (1.0,)).shape == (1, 8, 8, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cfg_scale must be 1: this model was trained without"):
        images(loaded, (0,), (3,), (1.5,))


@pytest.fixture(scope="module")
def whole(export_to, model_of, tmp_path_factory):
    """(the images, the bytes of the weights) of an export in float32."""
    directory = tmp_path_factory.mktemp("whole") / "1"
    export_to(directory, f"--weights={model_of()}")
    return images(tf.saved_model.load(str(directory))), bytes_of_weights(directory)


def bytes_of_weights(directory):
    return sum(file.stat().st_size for file in (directory / "variables").iterdir())


@pytest.mark.parametrize("dtype, share, change", [("bfloat16", 0.5, 0.8), ("int8", 0.3, 1.5)])
def test_fewer_bytes_change_an_image_little(run, model_of, whole, tmp_path, dtype, share, change):
    """Grey levels in the mean, of a network whose random weights amplify them; another seed changes 60."""
    rounded = images(run(f"--weights={model_of()}", f"--weights_dtype={dtype}"))
    assert 0 < np.abs(rounded - whole[0]).mean() < change
    assert bytes_of_weights(tmp_path / "models/1") < share * whole[1] + 8000  # the index of the file


def test_a_version_that_is_there_is_never_changed_and_one_in_the_making_is_no_version(
    run, model_of, tmp_path, monkeypatch
):
    path = model_of()
    with monkeypatch.context() as patch:

        def killed(*_, **__):
            os.makedirs(tmp_path / "models" / "unfinished-1" / "variables")
            raise KeyboardInterrupt

        patch.setattr(tf.saved_model, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(f"--weights={path}")
    assert os.listdir(tmp_path / "models") == ["unfinished-1"]
    run(f"--weights={path}")
    assert os.listdir(tmp_path / "models") == ["1"]
    with pytest.raises(ValueError, match=r"is there, .* write the next, --output=.*/models/2, or remove it\.$"):
        run(f"--weights={path}")


def test_without_the_servers_messages_there_is_no_warm_up_and_it_says_so(run, model_of, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "missing_protocol", lambda: True)
    run(f"--weights={model_of()}")
    assert "No warm-up requests" in capsys.readouterr().out
    assert os.listdir(tmp_path / "models/1/assets.extra") == ["dit_tf.json"]


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--output=models/digits"], r"--output must end in a version number, such as models/dit/1, got 'models/dig"),
        (["--output=models/v1"], r"--output must end in a version number"),
        (["--weights_dtype=float16"], r"--weights_dtype must be one of float32, bfloat16, int8, got 'float16'\."),
        (["--batch_sizes=4,2"], r"--batch_sizes must be ascending numbers from 1 on, got '4,2'\."),
        (["--batch_sizes=0,2"], r"--batch_sizes must be ascending numbers from 1 on, got '0,2'\."),
        (["--batch_sizes=many"], r"--batch_sizes must be ascending numbers from 1 on, got 'many'\."),
        (["--cfg_scale=101"], r"--cfg_scale must be from 0 to 100, got 101\.0\."),
        ([], r"Exactly one of --workdir and --weights must be given\."),
        (["--workdir=W", "--weights=w.keras"], r"Exactly one of --workdir and --weights"),
        (["--weights=nowhere.keras"], r"nowhere.keras holds no checkpoint"),
    ],
)
def test_bad_flags_are_one_sentence(parse, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        export.main(parse(flags.define_export, f"--output={tmp_path}/1", *more))
    assert "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_one_sentence(run, model_of, tmp_path):
    (tmp_path / "models").write_text("")
    with pytest.raises(
        ValueError, match=r"--output=.*models/1 cannot be written \(.*\): make room or give another place"
    ):
        run(f"--weights={model_of()}")
