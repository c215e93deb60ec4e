"""`python -m dit_tf.evaluate`: ADM's five numbers by one command, of files, folders, data sets and models."""

import functools
import http.server
import io
import json
import pathlib
import threading

import numpy as np
import pytest
from PIL import Image

from dit_tf import evaluate, flags, sample
from dit_tf.evaluation import feature_set
from dit_tf.inference import scoring
from tests.commands import run_command

_GOLDENS = pathlib.Path(__file__).parent / "goldens" / "adm"
_REFERENCE, _SAMPLES = (_GOLDENS / f"batch_{name}.npz" for name in ("ref", "sample"))


_MODEL = ["--features=pixels", "--reference=digits", "--num_samples=100", "--sampler=ddim", "--num_steps=5"]


@pytest.fixture(scope="module")
def run_in(parse, tiny_flags):
    """run_in(directory, flag, ...) -> metrics.json as the command writes it there."""

    def evaluated(directory, *more):
        path = directory / "metrics.json"
        data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir"))
        evaluate.main(parse(flags.define_evaluate, data_dir, f"--output={path}", *more))
        return json.loads(path.read_text())

    return evaluated


@pytest.fixture
def run(run_in, tmp_path):
    return functools.partial(run_in, tmp_path)


@pytest.fixture(scope="module")
def direct(run_in, trained, tmp_path_factory):
    """What the command writes of 100 digits straight from the checkpoint."""
    return run_in(tmp_path_factory.mktemp("direct"), *_MODEL, f"--workdir={trained}", "--batch_size=20")


@pytest.fixture(scope="module")
def drawn(trained, parse, tmp_path_factory):
    """An npz of 100 digits that the tiny model draws in few steps."""
    path = tmp_path_factory.mktemp("drawn") / "samples.npz"
    arguments = [f"--workdir={trained}", "--num_samples=100", "--sampler=ddim", "--num_steps=5", "--batch_size=20"]
    arguments.append(f"--output={path}")
    sample.main(parse(flags.define_sample, *arguments))
    return path


def test_the_command_gives_adms_numbers_and_says_of_what(inception_file, tmp_path):
    """As a user types it, on the images whose numbers ADM's own program printed: 16 against 16, of 2048 features. That
    program says itself that its root of a singular matrix may be wrong. The exact low-rank formula on its activations
    is the sharper comparison."""
    path = tmp_path / "metrics.json"
    command = ["dit_tf.evaluate", f"--reference={_REFERENCE}", f"--samples={_SAMPLES}"]
    more = [f"--inception={inception_file}", "--allow_few_samples", "--batch_size=16", f"--output={path}"]
    process = run_command(*command, *more)
    assert process.returncode == 0, process.stderr
    metrics, recorded = json.loads(path.read_text()), json.loads((_GOLDENS / "e2e_metrics.json").read_text())
    printed, exact = recorded["stdout_metrics"], recorded["exact_float64_lowrank"]
    for mine, theirs in (("fid", "FID"), ("sfid", "sFID")):
        assert metrics[mine] == pytest.approx(exact[theirs], rel=2e-5)  # features differ by 7e-5, compiled
        assert metrics[mine] == pytest.approx(printed[theirs], rel=1e-4)
    assert metrics["inception_score"] == pytest.approx(printed["Inception Score"], rel=1e-5)
    # Within one of 16 images: near-ties in float16 fall either way.
    assert abs(metrics["precision"] - printed["Precision"]) <= 1 / 16
    assert abs(metrics["recall"] - printed["Recall"]) <= 1 / 16
    title, numbers, _ = process.stdout.splitlines()[-3:]
    assert title.split() == ["FID-16", "sFID", "IS", "Precision", "Recall"]
    assert numbers.split()[:3] == ["1090.00", "991.60", "1.42"]
    told = metrics["provenance"]
    assert told["reference"]["sha256"] == "8a5cee9788ae333da42696b820011916fb832afcfb76fbda4224d10943699990"
    assert told["inception_sha256"] == recorded["graph_sha256"] and told["samples"]["images"] == 16
    assert told["precision_recall_dtype"] == "float16" and told["tensorflow"] and told["devices"] == ["CPU"]


def test_a_model_has_the_scores_of_the_file_that_it_draws(run, trained, direct, drawn):
    """Straight from the checkpoint nothing but numbers is written; a file of the same samples says where it is from."""
    through_file = run("--features=pixels", "--reference=digits", f"--samples={drawn}")
    assert direct["fd_pixels"] == pytest.approx(through_file["fd_pixels"], rel=1e-12) and direct["fd_pixels"] > 0
    assert direct["recall_pixels"] == through_file["recall_pixels"]
    made, told = through_file["provenance"]["samples"]["made_by"], direct["provenance"]["samples"]
    assert made == told
    assert (told["sampler"], told["num_steps"], told["cfg_scale"], told["seed"]) == ("ddim", 5, 1.0, 0)
    assert told["label_policy"] == "random" and len(told["weights_sha256"]) == 64 and told["vae_sha256"] is None
    other = run(*_MODEL, f"--workdir={trained}", "--batch_size=20", "--label_policy=balanced")
    assert other["fd_pixels"] != direct["fd_pixels"] and other["provenance"]["samples"]["label_policy"] == "balanced"


def test_pixels_are_never_called_fid(run, drawn, capsys):
    metrics = run("--features=pixels", "--reference=digits", f"--samples={drawn}")
    assert set(metrics) == {"fd_pixels", "fd_pixels_error", "precision_pixels", "recall_pixels", "provenance"}
    assert "FD-pixels-100" in capsys.readouterr().out


def test_a_folder_of_png_is_its_npz(run, tmp_path, rng):
    reference, images = rng.integers(0, 256, (2, 30, 3, 3, 3), dtype=np.uint8)
    np.savez(tmp_path / "reference.npz", reference)
    np.savez(tmp_path / "samples.npz", images)
    (tmp_path / "png").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "png" / f"{i}.png")
    how = ["--features=pixels", f"--reference={tmp_path / 'reference.npz'}", "--batch_size=7"]
    folder, file = (run(*how, f"--samples={tmp_path / name}") for name in ("png", "samples.npz"))
    told = folder.pop("provenance"), file.pop("provenance")
    assert folder == file and told[0]["features_sha256"] == told[1]["features_sha256"]
    assert told[0]["samples"]["folder"] == str(tmp_path / "png")


def test_a_data_set_is_scored_by_its_split(run):
    halves = run("--features=pixels", "--reference=digits", "--samples=digits", "--samples_split=test")
    itself = run("--features=pixels", "--reference=digits", "--samples=digits", "--samples_split=train")
    assert itself["fd_pixels"] < 1e-9 < halves["fd_pixels"] < 1.0 and itself["recall_pixels"] == 1.0
    test = ["--reference=digits", "--samples=digits", "--samples_split=test"]
    fewer = run("--features=pixels", *test, "--num_reference_images=100")
    assert fewer["fd_pixels"] == halves["fd_pixels"]
    assert fewer["precision_pixels"] > halves["precision_pixels"]  # the balls are wider


def test_a_killed_evaluation_draws_no_image_twice(run, trained, direct, monkeypatch, tmp_path):
    how = [*_MODEL, f"--workdir={trained}", "--batch_size=20"]
    extract, seen = feature_set.PartialArray.append, []

    def killed(self, rows, note=None):
        seen.append((self.count, len(rows)))
        if len(seen) == 75:  # among the samples: the training split has 1,437 images
            raise KeyboardInterrupt
        extract(self, rows, note)

    monkeypatch.setattr(feature_set.PartialArray, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*how)
    assert not (tmp_path / "metrics.json").exists()
    assert run(*how) == direct
    assert seen[72:] == [(0, 20), (20, 20), (40, 20), (40, 20), (60, 20), (80, 20)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def damaged_npz(kind, tmp_path):
    """The path of a file of samples that cannot be scored."""
    path = tmp_path / f"{kind}.npz"
    images = np.zeros((70, 8, 8, 1), np.uint8)
    content = {
        "float": images / 255.0, "shape": images[0], "channels": np.repeat(images, 4, axis=-1), "empty": images[:0],
        "objects": np.array([{}, {}]), "size": np.zeros((70, 4, 4, 1), np.uint8), "few": images[:63],
    }.get(kind, images)  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, content)
    whole = buffer.getvalue()
    path.write_bytes({"truncated": whole[:2000], "text": b"no file of arrays"}.get(kind, whole))
    return path


@pytest.mark.parametrize(
    "kind, said",
    [
        ("float", ["arr_0 must be uint8", "got float64 (70, 8, 8, 1)"]),
        ("shape", ["arr_0 must be uint8", "(8, 8, 1)"]),
        ("channels", ["N, H, W, 1 or 3", "(70, 8, 8, 4)"]),
        ("empty", ["at least one image"]),
        ("objects", ["arr_0"]),
        ("size", ["size of the reference's images, 8x8x1, got 4x4x1"]),
        ("few", ["at least as many images as there are features, got 63 of 64", "--allow_few_samples"]),
        ("truncated", ["cut short"]),
        ("text", ["cannot be read as an .npz file"]),
    ],
)
def test_bad_samples_end_in_one_sentence_before_anything_is_computed(run, tmp_path, kind, said):
    path = damaged_npz(kind, tmp_path)
    with pytest.raises(ValueError) as error:
        run("--features=pixels", "--reference=digits", f"--samples={path}")
    assert all(word in str(error.value) for word in said), error.value
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_nan_in_stored_statistics_is_one_sentence(run, drawn, tmp_path):
    np.savez(tmp_path / "ref.npz", mu=np.full(64, np.nan, np.float32), sigma=np.eye(64))
    with pytest.raises(ValueError, match="--reference=.*its mu must be finite, 64 of its entries are not"):
        run("--features=pixels", f"--reference={tmp_path / 'ref.npz'}", f"--samples={drawn}")
    np.savez(tmp_path / "ref.npz", mu=np.zeros(2048, np.float32), sigma=np.eye(2048))
    with pytest.raises(ValueError, match=r"--reference=.*its mu must be floats of shape \(64,\), got float32 \(20"):
        run("--features=pixels", f"--reference={tmp_path / 'ref.npz'}", f"--samples={drawn}")


@pytest.mark.parametrize(
    "more, said",
    [
        (["--samples=x.npz", "--workdir=w"], ["Either --samples or a model"]),
        (["--reference=digits"], ["Either --samples or a model"]),
        (["--samples=x.npz"], ["--reference must be given", ".npz", "a folder", "data set"]),
        (["--samples=nowhere", "--reference=digits"], ["--samples=nowhere must be", "folder of PNG or JPEG files"]),
        (["--samples=nowhere.npz", "--reference=digits"], ["--samples=nowhere.npz", "No such file"]),
        (["--samples={drawn}", "--reference=nowhere.npz"], ["--reference=nowhere.npz", "No such file"]),
        (["--samples={drawn}", "--reference=digits", "--reference_split=dev"], ["--reference_split", "train, test"]),
        (["--samples={drawn}", "--reference=digits", "--features=dino"], ["--features", "inception, pixels", "dino"]),
        (["--samples={drawn}", "--reference=digits", "--features=inception"], ["16 pixels a side", "--features=pixels"]),
        (["--samples={drawn}", "--reference=digits", "--inception=i.pb"], ["--inception goes with", "i.pb"]),
        (["--samples={drawn}", "--reference=digits", "--batch_size=0"], ["--batch_size", "positive multiple"]),
        (["--samples={drawn}", "--reference=digits", "--output=m.txt"], ["--output must end in .json", "m.txt"]),
        (["--make_reference"], ["--output of --make_reference must end in .npz"]),
        (["--make_reference", "--output=r.npz"], ["--dataset must be given"]),
    ],
)  # fmt: skip
def test_bad_flags_name_the_flag_the_rule_and_the_value(run, drawn, more, said):
    with pytest.raises(ValueError) as error:
        run("--features=pixels", *(text.format(drawn=drawn) for text in more))
    assert all(word in str(error.value) for word in said), error.value


def test_a_missing_network_says_what_to_fetch(run):
    with pytest.raises(ValueError, match="--inception=nowhere.pb is no file: fetch https://"):
        run(f"--reference={_REFERENCE}", f"--samples={_SAMPLES}", "--inception=nowhere.pb", "--allow_few_samples")


def test_the_published_network_is_fetched_or_the_flag_is_named(monkeypatch, tmp_path, inception_file):
    """From a server on the loopback; and from nowhere."""
    monkeypatch.setattr(scoring, "DOWNLOADS", str(tmp_path))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=inception_file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{inception_file.name}"
        monkeypatch.setattr(scoring, "ADDRESS", address)
        path = scoring.fetch_inception()
        server.shutdown()
    assert path == scoring.fetch_inception() == str(tmp_path / inception_file.name)
    assert pathlib.Path(path).read_bytes() == inception_file.read_bytes()
    pathlib.Path(path).unlink()
    with pytest.raises(ValueError, match="could not be fetched .* put it at .*; or name the file with --inception.$"):
        scoring.fetch_inception()
