"""Claims of the input pipeline: what is refused, and that data order is a function of (seed, step) alone."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from dit_tf.data import pipeline

SIZE = 8


class NumberedSquares(tfds.core.GeneratorBasedBuilder):
    """45 images of varying size in 4 files; image i is black but for i grey levels in its left half."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(num_classes=3),
            "unused": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(45):
            side = SIZE * (1 + i % 3)
            image = np.zeros((side, side, 1), np.uint8)
            image[:, : side // 2] = i + 100
            yield i, {"image": image, "label": i % 3, "unused": str(i)}


class Unlabelled(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 8, 3)), "score": np.float32})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        raise AssertionError("must be refused before it is prepared")

    def _generate_examples(self):
        raise AssertionError("must be refused before it is prepared")


class Imageless(Unlabelled):
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"label": np.int64}))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def digits(data_dir):
    return pipeline.open_dataset("digits", data_dir)


@pytest.fixture(scope="module")
def squares(data_dir):
    builder = NumberedSquares(data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    assert builder.info.splits["train"].num_shards == 4
    return builder


def batches(builder, count, **changes):
    arguments = dict(image_size=SIZE, global_batch_size=16, seed=0, start_step=0, horizontal_flip=False)
    dataset = pipeline.training_batches(builder, "train", **{**arguments, **changes})
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def numbers(some_batches):
    """Which of NumberedSquares' records the batches hold, in order; corners, for a resize overshoots at the middle."""
    corners = [np.maximum(images[:, 0, 0, 0], images[:, 0, -1, 0]) for images, _, _ in some_batches]
    return np.concatenate(corners).astype(int) - 100


def assert_equal(some_batches, other_batches):
    assert len(some_batches) == len(other_batches)
    for batch, other in zip(some_batches, other_batches):
        for array, other_array in zip(batch, other):
            np.testing.assert_array_equal(array, other_array)


def test_batches_have_static_shapes(squares):
    dataset = pipeline.training_batches(
        squares, "train", image_size=SIZE, global_batch_size=6, seed=0, start_step=0, horizontal_flip=True
    )
    images, labels, rows = dataset.element_spec
    assert (images.shape, labels.shape, rows.shape) == ((6, SIZE, SIZE, 1), (6,), (6,))
    assert (images.dtype, labels.dtype, rows.dtype) == (tf.uint8, tf.int32, tf.int32)


def test_rows_are_the_places_in_the_global_batch(squares):
    for _, _, rows in batches(squares, 3):
        np.testing.assert_array_equal(rows, np.arange(16))


def test_images_keep_their_labels(squares):
    for batch in batches(squares, 6):
        np.testing.assert_array_equal(numbers([batch]) % 3, batch[1])


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own(squares):
    stream = numbers(batches(squares, 9, global_batch_size=15)).reshape(3, 45)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(45), (3, 1)))
    for one, other in itertools.combinations(stream, 2):
        # Two random orders of 45 agree in one place on average, and in more than 9 once in 10 million.
        assert np.sum(one == other) < 10


def test_every_epoch_of_digits_holds_every_record_once(digits):
    ((epoch, _, _),) = batches(digits, 1, global_batch_size=1437)
    real, _ = pipeline.real_images(digits, "train")
    assert not np.array_equal(epoch, real)
    assert sorted(map(bytes, epoch)) == sorted(map(bytes, real))


def test_files_are_opened_in_an_order_of_the_epochs_own(squares, monkeypatch):
    # With a buffer of one record nothing but the order of files is left to shuffle.
    monkeypatch.setattr(pipeline, "_SHUFFLE_BYTES", 0)
    monkeypatch.setattr(pipeline, "_SHUFFLE_RECORDS", 1)
    stream = numbers(batches(squares, 12, global_batch_size=15)).reshape(4, 45)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(45), (4, 1)))
    assert len({tuple(epoch) for epoch in stream}) > 1
    unbroken = batches(squares, 12, global_batch_size=15)
    assert_equal(unbroken[7:], batches(squares, 5, global_batch_size=15, start_step=7))


@pytest.mark.parametrize("start_step", [1, 2, 3, 5])
def test_a_resumed_run_reads_what_the_unbroken_run_reads(squares, start_step):
    # 16 does not divide 45: epochs end inside the batches 2 and 5, and step 3 starts inside the second epoch.
    unbroken = batches(squares, 8, horizontal_flip=True)
    resumed = batches(squares, 8 - start_step, horizontal_flip=True, start_step=start_step)
    assert_equal(unbroken[start_step:], resumed)


def test_a_resumed_run_on_digits_reads_what_the_unbroken_run_reads(digits):
    unbroken = batches(digits, 5, global_batch_size=500, horizontal_flip=True)
    assert_equal(unbroken[3:], batches(digits, 2, global_batch_size=500, horizontal_flip=True, start_step=3))


def test_a_batch_may_be_larger_than_the_data_set(squares):
    counts = np.bincount(numbers(batches(squares, 1, global_batch_size=100)), minlength=45)
    assert counts.min() == 2 and counts.max() == 3


def test_two_seeds_give_two_orders(squares):
    one, other, far = (numbers(batches(squares, 2, seed=seed)) for seed in (0, 1, 2**40))
    assert not np.array_equal(one, other) and not np.array_equal(one, far)


@pytest.mark.parametrize("seed", [0, 2**31 - 2, 2**31 - 1, 2**63 - 1])
def test_edges_of_the_range_of_seeds_are_seeds(squares, seed):
    np.testing.assert_array_equal(np.sort(numbers(batches(squares, 1, global_batch_size=45, seed=seed))), np.arange(45))


def test_the_order_does_not_follow_the_programs_own_seed(squares):
    tf.random.set_seed(1)
    one = batches(squares, 2, horizontal_flip=True)
    tf.random.set_seed(2)
    other = batches(squares, 2, horizontal_flip=True)
    assert_equal(one, other)


def test_reading_leaves_the_programs_own_seed_alone(squares):
    tf.random.set_seed(1)
    expected = tf.random.uniform(())
    tf.random.set_seed(1)
    batches(squares, 1, seed=5)
    assert tf.random.uniform(()) == expected


def test_flips_change_from_epoch_to_epoch_and_mirror_half_of_the_images(squares):
    stream = batches(squares, 8, global_batch_size=45, horizontal_flip=True)
    mirrored = np.zeros((8, 45), bool)
    for epoch, batch in enumerate(stream):
        mirrored[epoch, numbers([batch])] = batch[0][:, 0, 0, 0] == 0  # the grey half is on the right
    assert 150 < mirrored.sum() < 210  # 360 fair coins, deviation 9.5; the seed is fixed
    # A flip that went by the record, or by its place in the epoch, would repeat itself; fair coins agree in 22 of 45.
    in_order = np.stack([batch[0][:, 0, 0, 0] == 0 for batch in stream])
    for flips in (mirrored, in_order):
        assert all(10 < np.sum(one == other) < 35 for one, other in itertools.combinations(flips, 2))


def test_without_flips_no_image_is_mirrored(squares):
    for images, _, _ in batches(squares, 6):
        assert np.all(images[:, 0, 0, 0] > 0)


def test_real_images_of_one_size_come_whole(digits):
    images, labels = pipeline.real_images(digits, "test")
    assert images.shape == (360, 8, 8, 1) and images.dtype == np.uint8
    assert labels.shape == (360,) and labels.dtype == np.int64


def test_real_images_of_varying_size_are_refused(squares):
    with pytest.raises(ValueError, match="numbered_squares must have images of one size"):
        pipeline.real_images(squares, "train")


def test_the_spec_says_what_training_needs(digits, squares):
    names = tuple("0123456789")
    assert pipeline.dataset_spec(digits) == pipeline.DatasetSpec(1437, 8, 1, 10, names, False)
    assert pipeline.dataset_spec(digits, "test").num_examples == 360
    assert pipeline.dataset_spec(digits, "train[:100]").num_examples == 100
    assert pipeline.dataset_spec(squares) == pipeline.DatasetSpec(45, None, 1, 3, ("0", "1", "2"), True)


@pytest.mark.parametrize(
    "name, flips", [("mnist", False), ("emnist/letters", False), ("fashion_mnist", True), ("cifar10", True)]
)
def test_characters_are_not_mirrored(tmp_path, monkeypatch, name, flips):
    builder = tfds.builder(name, data_dir=tmp_path)
    monkeypatch.setattr(pipeline, "_num_examples", lambda builder, split: 1)  # known only where the data set lies
    assert pipeline.dataset_spec(builder).horizontal_flip == flips


def test_a_prepared_data_set_is_used_as_it_is(digits, data_dir, monkeypatch):
    def fail(self, **arguments):
        raise AssertionError("prepared twice")

    monkeypatch.setattr(type(digits), "download_and_prepare", fail)
    assert pipeline.open_dataset("digits", data_dir).data_dir == digits.data_dir


def test_a_data_set_that_another_process_prepares_at_the_same_time_is_used(tmp_path, monkeypatch):
    prepare = tfds.core.DatasetBuilder.download_and_prepare

    def lose_the_race(self, **arguments):
        prepare(tfds.builder("digits", data_dir=tmp_path))
        raise OSError("Directory not empty")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lose_the_race)
    assert pipeline.dataset_spec(pipeline.open_dataset("digits", tmp_path)).num_examples == 1437


def test_a_directory_that_is_no_data_set_is_named(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match="--dataset=digits.*1.0.0 is no complete data set; remove it"):
        pipeline.open_dataset("digits", tmp_path)


def test_a_failed_preparation_is_told_in_one_sentence(tmp_path, monkeypatch):
    def fail(self, **arguments):
        raise AssertionError("two archives\nmust be fetched by hand")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match="--dataset=digits could not be prepared.*archives must be fetched by hand"):
        pipeline.open_dataset("digits", tmp_path)


def test_an_unknown_name_is_told_with_near_names(tmp_path):
    with pytest.raises(ValueError, match="--dataset .* got 'digit' .*digits"):
        pipeline.open_dataset("digit", tmp_path)


@pytest.mark.parametrize("name", ["no such data set", "mnist/no_such_config", "mnist:99.0.0"])
def test_a_name_that_tfds_cannot_open_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"--dataset={name} cannot be opened"):
        pipeline.open_dataset(name, tmp_path)


@pytest.mark.parametrize(
    "name, missing", [("unlabelled", "class feature `label`"), ("imageless", "uint8 feature `image`")]
)
def test_data_sets_without_images_or_classes_are_refused(tmp_path, name, missing):
    with pytest.raises(ValueError, match=f"--dataset={name} needs a {missing}, has "):
        pipeline.open_dataset(name, tmp_path)


def test_an_unknown_split_is_told_with_the_known_ones(digits):
    with pytest.raises(ValueError, match="one of train, test .* got 'validation'"):
        pipeline.dataset_spec(digits, "validation")
