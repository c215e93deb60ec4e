"""ImageNet through TensorFlow Datasets' own builder, from archives of the published layout with a few images."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dit_tf.data import class_names, imagenet, pipeline
from dit_tf.data.class_names import ClassTable

TRAIN = {
    "n01440764_10026.JPEG": 40,
    "n01440764_10027.JPEG": 60,
    "n02099601_7.JPEG": 80,
    "n15075141_54.JPEG": 100,
}  # grey levels
# The first three of 50,000, with their published labels: sea snake, alp and Shetland sheepdog.
VALIDATION = {f"ILSVRC2012_val_0000000{i}.JPEG": 20 * i for i in (1, 2, 3)}
VALIDATION_LABELS = {1: 65, 2: 970, 3: 230}


def jpeg(grey):
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (grey,) * 3).save(buffer, format="JPEG")
    return buffer.getvalue()


def archive(files):
    """A tar of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def train_archive():
    synsets = sorted({name.split("_")[0] for name in TRAIN})
    return archive(
        {
            f"{synset}.tar": archive({n: jpeg(grey) for n, grey in TRAIN.items() if n.startswith(synset)})
            for synset in synsets
        }
    )


def place(data_dir, train=None, validation=None):
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True, exist_ok=True)
    for name, content in zip(imagenet.ARCHIVES, (train, validation)):
        if content is not None:
            (manual / name).write_bytes(content)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    place(data_dir, train_archive(), archive({name: jpeg(grey) for name, grey in VALIDATION.items()}))
    return pipeline.open_dataset("imagenet2012", data_dir)


def stored(source, split):
    """{key: (label, grey level)} of a split."""
    ((images, labels, keys),) = pipeline.examples_in_order(source, split, image_size=32, batch_size=10)
    assert images.shape == (len(keys), 32, 32, 3) and images.dtype == np.uint8
    return {key.decode(): (int(label), image) for image, label, key in zip(images, labels, keys)}


def test_the_training_split_holds_every_image_under_its_class(source):
    records, table = stored(source, "train"), source.spec("train").classes
    assert set(records) == set(TRAIN)
    for key, (label, image) in records.items():
        assert table.ids[label] == key.split("_")[0]
        assert np.abs(image.astype(int) - TRAIN[key]).max() <= 2  # a constant image loses next to nothing as JPEG
    assert [records[key][0] for key in TRAIN] == [0, 0, 207, 999]


def test_the_validation_split_has_the_published_labels(source):
    records = stored(source, "validation")
    assert [records[name][0] for name in VALIDATION] == list(VALIDATION_LABELS.values())
    assert source.spec("validation").num_examples == 3


def test_the_spec_has_the_thousand_classes(source):
    spec = source.spec("train")
    assert (spec.num_examples, spec.image_size, spec.channels, spec.num_classes) == (4, None, 3, 1000)
    assert spec.classes == class_names.imagenet() and spec.horizontal_flip


def test_training_batches_come(source):
    dataset = pipeline.training_batches(
        source, "train", image_size=32, global_batch_size=8, seed=0, first=0, horizontal_flip=True
    )
    images, labels, _ = next(dataset.as_numpy_iterator())
    assert images.shape == (8, 32, 32, 3) and sorted(labels) == [0, 0, 0, 0, 207, 207, 999, 999]


@pytest.mark.parametrize("there", [(), (0,), (1,)])
def test_missing_archives_are_told_with_their_place(tmp_path, there):
    place(tmp_path, *(b"tar" if i in there else None for i in (0, 1)))
    with pytest.raises(ValueError) as error:
        pipeline.open_dataset("imagenet2012", tmp_path)
    absent = [name for i, name in enumerate(imagenet.ARCHIVES) if i not in there]
    words = [*imagenet.ARCHIVES, f"in {tmp_path / 'downloads' / 'manual'}:", f"download {' and '.join(absent)} from"]
    assert all(word in str(error.value) for word in [*words, "https://image-net.org", "account"]), error.value


@pytest.mark.parametrize("damage", ["cut short", "of another kind", "of other folders", "of the wrong classes"])
def test_damaged_archives_are_told_in_one_sentence(tmp_path, damage):
    train = {
        "cut short": train_archive()[:3000],
        "of another kind": b"no tar at all" * 1000,
        "of other folders": archive({"n01440764/n01440764_1.JPEG": jpeg(3)}),
        "of the wrong classes": archive({"n99999999.tar": archive({"n99999999_1.JPEG": jpeg(3)})}),
    }
    place(tmp_path, train[damage], archive({}))
    with pytest.raises(ValueError, match="--dataset=imagenet2012 could not be prepared in"):
        pipeline.open_dataset("imagenet2012", tmp_path)


@pytest.mark.parametrize("split", ["test", "test[:10]", "train+test", "all"])
def test_the_split_without_labels_is_refused(source, split):
    with pytest.raises(ValueError, match=r"--split=.* of imagenet2012 has no labels: take --split=validation"):
        source.spec(split)


def test_names_that_are_not_all_synsets_stay_as_they_are():
    assert imagenet.class_table(["n01440764", "beagle"]) == ClassTable(("n01440764", "beagle"))
    assert imagenet.class_table(class_names.imagenet().ids) == class_names.imagenet()
