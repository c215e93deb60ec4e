"""Commands that meet other data, classes or options than a training had: refused in a sentence, or as asked for."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dit_tf import build, ema, evaluate, flags, sample, train
from dit_tf.data.folder import FolderSource
from dit_tf.inference import likelihood as inference
from dit_tf.resumption import check_same_run
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.runtime.checksums import write_checksums
from dit_tf.runtime.preemption import StopRequest
from dit_tf.train_history import FILE, History

_TINY = ["--model=DiT-16x1x1/4", "--global_batch_size=4", "--image_size=8", "--sample_every=0", "--xla=false"]
_EVERY = ["--steps_per_execution=2", "--checkpoint_every=2", "--log_every=2"]


def fill(folder, classes=("a", "b"), images=4):
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            Image.new("RGB", (8, 8), (60 * place, 20 * i, 7)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(parse):
    """run(workdir, folder, steps, *flags) -> what train printed. What is compiled for some flags serves all with them.
    """
    compiled, strategy = {}, tf.distribute.OneDeviceStrategy("/CPU:0")

    def trained(workdir, folder, steps, *more, strategy=strategy):
        program = strategy, *(flag for flag in more if "=" in flag and "resume_with" not in flag)
        output = io.StringIO()
        arguments = [f"--workdir={workdir}", f"--dataset=folder:{folder}", f"--train_steps={steps}", *_TINY, *_EVERY]
        options = parse(flags.define_train, *arguments, *more)
        with contextlib.redirect_stdout(output), contextlib.ExitStack() as resources:
            request = resources.enter_context(StopRequest())
            compiled[program] = train.train(options, strategy, resources, request, compiled.get(program))
        return output.getvalue()

    return trained


@pytest.fixture(scope="module")
def original(run, tmp_path_factory):
    """(work directory after two steps, its folder of images)."""
    directory = tmp_path_factory.mktemp("original")
    run(directory / "run", fill(directory / "images"), 2)
    return directory / "run", directory / "images"


@pytest.fixture
def copy(original, tmp_path):
    """Both again, in another place."""
    return shutil.copytree(original[0], tmp_path / "run"), shutil.copytree(original[1], tmp_path / "images")


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "lock"}


def refused(workdir, call, match):
    before = contents(workdir)
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value) and contents(workdir) == before


def test_a_class_that_was_renamed_is_refused(run, copy):
    workdir, images = copy
    (images / "a").rename(images / "z")
    refused(workdir, lambda: run(workdir, images, 4), "other classes .label 0 is b here and a there")


def test_images_that_were_added_are_refused_or_recorded(run, copy):
    workdir, images = copy
    Image.new("RGB", (8, 8)).save(images / "a" / "9.png")
    refused(workdir, lambda: run(workdir, images, 4), "holds a run on other data.*--allow_new_data")
    assert "From here on: " in run(workdir, images, 4, "--allow_new_data")
    history = json.loads((workdir / "checkpoints" / "00000004" / FILE).read_text())
    (change,) = history["changes"]
    assert (change["step"], change["examples"], history["examples"]) == (2, 8, 16)
    digest = FolderSource(f"folder:{images}").digest("train")
    assert change["changed"]["data_digest"][1] == digest == build.load_config(str(workdir)).data_digest
    noted = [line for line in map(json.loads, open(workdir / "metrics.jsonl")) if "changed" in line]
    assert noted == [{"step": 2, "changed": change["changed"]}]
    config = build.load_config(str(workdir))  # they are this run's data now
    check_same_run(config, build.load_classes(str(workdir)), Checkpoints(str(workdir)))


def test_a_folder_that_was_moved_goes_on(run, copy):
    workdir, images = copy
    assert "From here on" not in run(workdir, f"{images}/", 4)
    assert json.loads((workdir / "checkpoints" / "00000004" / FILE).read_text())["changes"] == []


def test_a_run_of_version_010_gets_its_digest(run, original, tmp_path):
    workdir, images = shutil.copytree(original[0], tmp_path / "run"), original[1]
    (place,) = (workdir / "checkpoints").iterdir()
    fields = json.loads((place / "run.json").read_text())
    for name in ("format", "data_digest", "folder_reading", "warmup_steps", "schedule", "schedule_steps"):
        del fields[name]
    (place / "run.json").write_text(json.dumps(fields))
    (place / FILE).unlink()
    write_checksums(str(place))
    assert "Version 0.1.0 did not record the data of this run" in run(workdir, images, 4)
    config = build.load_config(str(workdir))
    assert config.data_digest and config.folder_reading == 1


def test_a_changed_batch_and_a_late_average_go_on_from_what_was_seen(run, copy, parse, tmp_path):
    """To the bit the same as when it is stopped once more; eight examples of batches of four come before."""
    workdir, images = copy
    again = shutil.copytree(workdir, tmp_path / "again")
    changes = ["--global_batch_size=8", "--ema_decays=0.5", "--ema_stds=0.1", "--ema_snapshot_every=2"]
    changes += ["--clip_norm=1", "--resume_with=global_batch_size,ema_decays,ema_stds,clip_norm"]
    refused(workdir, lambda: run(workdir, images, 6, *changes[:-1]), "add --resume_with=clip_norm,|global_batch_size")
    said = run(workdir, images, 6, *changes)
    assert "global_batch_size 8 (was 4)" in said and "ema_stds 0.1 (was none)" in said
    run(again, images, 4, *changes)
    run(again, images, 6, *changes[:-1])  # what was changed is the run's own by now
    for name in ("checkpoints/00000006/state.data-00000-of-00001", f"checkpoints/00000006/{FILE}", "model.keras"):
        assert (workdir / name).read_bytes() == (again / name).read_bytes(), name
    history = json.loads((workdir / "checkpoints" / "00000006" / FILE).read_text())
    assert history["examples"] == 2 * 4 + 4 * 8
    assert all(History.read(json.dumps(history), 6, 8).began(name) == 2 for name in ("ema_decay_0.5", "ema_std_0.1"))

    def averaged(*width):
        ema.main(parse(flags.define_ema, f"--workdir={workdir}", *width, f"--output={tmp_path / 'm.keras'}"))

    with pytest.raises(ValueError, match=r"--decay=0\.5 reaches before step 2, .* 6% of the average at step 6"):
        averaged("--decay=0.5")
    averaged("--std=0.1")  # (2/6)^8 of it lie there
    with pytest.raises(ValueError, match=r"--std=0\.2 reaches before|--std=0\.2 cannot be made"):
        averaged("--std=0.2")


def test_two_replicas_go_on_with_another_batch_and_a_schedule_as_one_does(run, original, tmp_path):
    """To the order of float32 sums: 1e-7 is observed."""
    scheduled = ["--schedule=linear", "--warmup_steps=1", "--schedule_steps=9"]
    changes = [*scheduled, "--global_batch_size=8", "--resume_with=global_batch_size"]
    run(tmp_path / "one", original[1], 2, *scheduled)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name, more in (("one", {}), ("two", dict(strategy=two))):
        run(tmp_path / name, original[1], 6, *changes, **more)
    lines = [list(map(json.loads, open(tmp_path / name / "metrics.jsonl"))) for name in ("one", "two")]
    losses = [[line["loss"] for line in found if "loss" in line] for found in lines]
    assert len(set(losses[0])) == 3
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("crop, ending", [("pil", "png"), ("fast", "webp")])
def test_what_python_reads_is_refused_where_none_runs(parse, monkeypatch, tmp_path, crop, ending):
    """On the hosts of a TPU slice; JPEG and PNG go there."""
    Image.new("RGB", (8, 8)).save(tmp_path / f"1.{ending}")
    source, options = FolderSource(f"folder:{tmp_path}", 2), parse(flags.define_train, f"--crop={crop}")
    train.check_readers(options, source, None)
    monkeypatch.setattr(train, "reads_here", lambda strategy: False)
    with pytest.raises(ValueError, match="--crop=pil runs in Python|has WebP, TIFF or AVIF files"):
        train.check_readers(options, source, None)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "1.webp").unlink(missing_ok=True)
    train.check_readers(parse(flags.define_train), FolderSource(f"folder:{tmp_path}", 2), None)


def test_a_schedule_is_part_of_what_a_run_is_and_exact_when_it_goes_on(run, original, tmp_path):
    images, scheduled = original[1], ["--schedule=cosine", "--warmup_steps=2"]
    scheduled.append("--schedule_steps=6")
    run(tmp_path / "whole", images, 6, *scheduled)
    run(tmp_path / "parts", images, 4, *scheduled)
    refused(tmp_path / "parts", lambda: run(tmp_path / "parts", images, 6), "--warmup_steps=0 here, 2 there")
    wrong = [*scheduled[:-1], "--train_steps=8"]  # which is where its schedule would end
    refused(tmp_path / "parts", lambda: run(tmp_path / "parts", images, 6, *wrong), "--schedule_steps=8 here, 6 there")
    run(tmp_path / "parts", images, 6, *scheduled)
    assert (tmp_path / "whole/model.keras").read_bytes() == (tmp_path / "parts/model.keras").read_bytes()
    assert (tmp_path / "whole/model.keras").read_bytes() != (original[0] / "model.keras").read_bytes()


def test_the_likelihood_matches_classes_by_name(original, parse, tmp_path, monkeypatch):
    """b, alone in a folder and so its class 0, has the model's label 1; zebra is refused."""
    workdir, images = original
    shutil.copytree(images / "b", tmp_path / "some" / "b")
    evaluated, labels = inference.evaluated, []

    def recorded(likelihood, shared, examples, given, *more):
        labels.extend(given)
        return evaluated(likelihood, shared, examples, given, *more)

    monkeypatch.setattr(inference, "evaluated", recorded)
    options = [f"--workdir={workdir}", "--likelihood", f"--dataset=folder:{tmp_path}/some", "--split=train"]
    options += ["--num_steps=2", "--batch_size=4", f"--output={tmp_path}/metrics.json"]
    evaluate.main(parse(flags.define_evaluate, *options))
    assert labels == [1, 1, 1, 1] and np.isfinite(json.loads((tmp_path / "metrics.json").read_text())["bits_per_dim"])
    (tmp_path / "some" / "b").rename(tmp_path / "some" / "zebra")
    with pytest.raises(ValueError, match=r"--dataset=folder:.* has 1 class\(es\) .* not trained on: 0 zebra"):
        evaluate.main(parse(flags.define_evaluate, *options))


def test_null_draws_what_guidance_by_nothing_draws(original, parse, tmp_path):
    drawn = []
    for more in (["--labels=null"], ["--labels=a", "--cfg_scale=0"]):
        path = tmp_path / f"{len(drawn)}.npz"
        options = [f"--workdir={original[0]}", "--sampler=ddim", "--num_steps=2", f"--output={path}"]
        sample.main(parse(flags.define_sample, *options, *more))
        with np.load(path) as arrays:
            drawn.append(arrays["arr_0"].astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1  # float32 in another order
    with pytest.raises(ValueError, match="--labels must be .*got '2'|from 0 to 1, got 2"):
        sample.main(parse(flags.define_sample, *options, "--labels=2"))


def test_300_mutations_of_what_lies_beside_good_weights(original, tmp_path, rng):
    """With checksums that fit: what is read is what was written, or is refused in a sentence."""
    workdir = shutil.copytree(original[0], tmp_path / "run")
    (place,) = (workdir / "checkpoints").iterdir()
    good = {name: (place / name).read_text() for name in ("run.json", "classes.json", FILE)}
    config, classes = build.load_config(str(workdir)), build.load_classes(str(workdir))
    history, checkpoints, refusals = History.read(good[FILE], 2, 4), Checkpoints(str(workdir)), 0
    for i in range(300):
        name = list(good)[i % 3]
        mutated = bytearray(good[name].encode())
        for _ in range(rng.integers(1, 4)):
            mutated[rng.integers(len(mutated))] = rng.integers(32, 127)
        if i % 5 == 0:
            mutated = mutated[: rng.integers(len(mutated))]
        (place / name).write_bytes(mutated)
        write_checksums(str(place))
        try:
            check_same_run(config, classes, checkpoints)
            found = History.read(checkpoints.text_of(2, FILE), 2, 4)
        except ValueError as error:
            refusals += 1
            assert "\n" not in str(error) and len(str(error)) < 1500
        else:
            assert found == history
        (place / name).write_text(good[name])
    assert refusals > 150
