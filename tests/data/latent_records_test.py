"""Claims of stored latents: what is written is read, in orders that follow from (seed, epoch), and damage is told."""

import dataclasses
import itertools
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from dit_tf.data import latent_records, latent_spec
from dit_tf.data.class_names import numbered
from dit_tf.data.latent_records import LatentSource, ShardWriter, check_shard, shards_of_host
from dit_tf.data.pipeline import examples_in_order, training_batches
from tests.data.latents import SPEC


def arrays(spec):
    """(45, 2, 2, 8) moments and those of the mirrors: that of record i begins with i, its mirror's with -i."""
    draws = np.random.default_rng(0).normal(size=(2, spec.num_examples, *spec.moments_shape))
    draws[:, :, 0, 0, 0] = np.arange(spec.num_examples) * [[1], [-1]]
    return draws.astype(ml_dtypes.bfloat16 if spec.moments_dtype == "bfloat16" else np.float32)


def write(directory, **changes):
    spec = dataclasses.replace(SPEC, **changes)
    moments, mirrored = arrays(spec)
    latent_spec.write(directory, spec)
    for shard in range(spec.num_shards):
        with ShardWriter(directory, spec, shard) as writer:
            for i in range(shard * 10, shard * 10 + spec.examples_in(shard)):
                writer.write(b"image-%d" % i, i % 3, moments[i], mirrored[i] if spec.mirrored else None)
    return spec


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("latents"))
    write(directory)
    return LatentSource(directory)


def batches(source, count, **changes):
    arguments = dict(image_size=16, global_batch_size=15, seed=0, first=0, horizontal_flip=False)
    dataset = training_batches(source, "train", **{**arguments, **changes})
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def numbers(some_batches):
    return np.concatenate([examples[:, 0, 0, 0].astype(int) for examples, _, _ in some_batches])


@pytest.mark.parametrize("dtype", latent_spec.MOMENTS_DTYPES)
@pytest.mark.parametrize("mirrored", [True, False])
def test_what_is_written_is_read(tmp_path, dtype, mirrored):
    spec = write(str(tmp_path), moments_dtype=dtype, mirrored=mirrored)
    opened = LatentSource(str(tmp_path), "latents:here")
    assert opened.latents == spec and opened.name == "latents:here"
    expected = arrays(spec)
    for mirror in (False, True)[: 1 + mirrored]:
        ((examples, labels, keys),) = examples_in_order(opened, "train", image_size=16, batch_size=45, mirror=mirror)
        np.testing.assert_array_equal(examples, expected[int(mirror)])
        assert examples.dtype == expected.dtype
        np.testing.assert_array_equal(labels, np.arange(45) % 3)
        assert list(keys) == [b"image-%d" % i for i in range(45)]


def test_bytes_are_little_endian_and_the_same_in_every_file(tmp_path):
    spec = dataclasses.replace(SPEC, num_examples=1, moments_shape=(1, 1, 8), moments_dtype="float32")
    contents = set()
    for name in "ab":
        os.mkdir(tmp_path / name)
        with ShardWriter(str(tmp_path / name), spec, 0) as writer:
            writer.write(b"key", 2, np.full((1, 1, 8), 1.0, np.float32), np.full((1, 1, 8), -2.0, np.float32))
        contents.add((tmp_path / name / "latents-00000-of-00001.tfrecord").read_bytes())
    (content,) = contents
    feature = tf.train.Example.FromString(content[12:-4]).features.feature
    assert feature["moments"].bytes_list.value == [b"\0\0\x80\x3f" * 8]
    assert feature["mirrored"].bytes_list.value == [b"\0\0\0\xc0" * 8]
    assert (feature["label"].int64_list.value, feature["key"].bytes_list.value) == ([2], [b"key"])


def test_the_specification_says_what_training_needs(source):
    spec = source.spec("train")
    assert (spec.num_examples, spec.image_size, spec.channels, spec.horizontal_flip) == (45, 16, 3, True)
    assert (spec.classes, spec.vae_sha256, spec.latent_scale) == (numbered(3), "ab" * 32, SPEC.latent_scale)


def test_the_images_split_is_a_name_of_the_only_split(tmp_path):
    write(str(tmp_path), split="validation")
    assert LatentSource(str(tmp_path)).spec("train") == LatentSource(str(tmp_path)).spec("validation")
    with pytest.raises(ValueError, match="--split must be train, the one split .* got 'test'"):
        LatentSource(str(tmp_path)).spec("test")


@pytest.mark.parametrize("first", [0, 1, 9, 10, 11, 30, 44, 45])
def test_reading_in_order_begins_at_any_record(source, first):
    keys = [record["key"].numpy() for record in source.in_order("train", first)]
    assert keys == [b"image-%d" % i for i in range(first, 45)]


def test_every_epoch_holds_every_record_once_in_an_order_of_its_own(source):
    stream = numbers(batches(source, 9)).reshape(3, 45)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(45), (3, 1)))
    for one, other in itertools.combinations([*stream, np.arange(45)], 2):
        # Two random orders of 45 agree in one place on average, and in more than 9 once in 10 million.
        assert np.sum(one == other) < 10


def test_the_order_is_a_function_of_seed_and_epoch(source):
    tf.random.set_seed(1)
    one = numbers(batches(source, 6))
    tf.random.set_seed(2)
    np.testing.assert_array_equal(numbers(batches(source, 6)), one)
    assert not np.array_equal(numbers(batches(source, 6, seed=1)), one)


@pytest.mark.parametrize("start_step", [1, 2, 3, 5])
def test_a_resumed_run_reads_what_the_unbroken_run_reads(source, start_step):
    # 16 does not divide 45: epochs end inside the batches 2 and 5, and step 3 starts inside the second epoch.
    unbroken = batches(source, 8, global_batch_size=16, horizontal_flip=True)
    resumed = batches(source, 8 - start_step, global_batch_size=16, horizontal_flip=True, first=16 * start_step)
    for batch, other in zip(unbroken[start_step:], resumed, strict=True):
        for array, other_array in zip(batch, other):
            np.testing.assert_array_equal(array, other_array)


def test_neighbours_come_from_many_files(source, monkeypatch):
    """Without the shuffle in memory: eight of a file in turn, files in an order of the epoch's own."""
    monkeypatch.setattr(latent_records, "_SHUFFLE_BYTES", 0)
    stream = numbers(batches(source, 6)).reshape(2, 45)
    for epoch in stream:
        assert sorted(epoch) == list(range(45))
        assert len(set(epoch[:40:8] // 10)) == 5 or 4 in epoch[:40:8] // 10  # the last file has five records
    assert not np.array_equal(stream[0], stream[1])


def test_flips_choose_between_the_stored_mirrors(source):
    moments, mirrored = arrays(SPEC)
    stream = batches(source, 12, horizontal_flip=True)
    examples = np.concatenate([batch[0] for batch in stream])
    which = np.abs(numbers(stream))
    flipped = np.array([np.array_equal(a, mirrored[i]) for a, i in zip(examples, which)])
    straight = np.array([np.array_equal(a, moments[i]) for a, i in zip(examples, which)])
    assert np.all(flipped ^ straight)
    assert 55 < flipped.sum() < 125  # 180 fair coins, deviation 6.7; the seed is fixed


@pytest.mark.parametrize("hosts, shards", list(itertools.product((1, 2, 3, 7), (1, 5, 12))))
def test_hosts_share_out_the_shards(hosts, shards):
    shares = [shards_of_host(host, hosts, shards) for host in range(hosts)]
    assert sorted(itertools.chain(*shares)) == list(range(shards))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        with ShardWriter(str(tmp_path), SPEC, 0) as writer:
            writer.write(b"key", 0, *arrays(SPEC)[:, 0])
            assert [name.startswith("unfinished-") for name in os.listdir(tmp_path)] == [True]
            raise RuntimeError("stop")
    assert os.listdir(tmp_path) == []


def test_leftovers_of_the_hosts_own_shards_are_removed(tmp_path):
    for shard in range(3):
        (tmp_path / f"unfinished-77-latents-{shard:05d}-of-00005.tfrecord").touch()
    latent_records.remove_leftovers(str(tmp_path), SPEC, [0, 2])
    assert os.listdir(tmp_path) == ["unfinished-77-latents-00001-of-00005.tfrecord"]


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"--dataset=latents:.* has no spec.json: `python -m dit_tf.encode --output="):
        LatentSource(str(tmp_path))
    write(str(tmp_path))
    (tmp_path / "latents-00001-of-00005.tfrecord").unlink()
    (tmp_path / "latents-00003-of-00005.tfrecord").rename(tmp_path / "latents-00003-of-00006.tfrecord")
    with pytest.raises(ValueError, match="2 of 5 shards are missing; run the same encode command again"):
        LatentSource(str(tmp_path))


def test_what_the_latents_cannot_give_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="--image_size must be 16, that of latents:.*, got 32"):
        batches(source, 1, image_size=32)
    write(str(tmp_path), mirrored=False)
    with pytest.raises(ValueError, match="--horizontal_flip must be false: .* without mirror images"):
        batches(LatentSource(str(tmp_path)), 1, horizontal_flip=True)


def mutations(content, record_ends):
    """(what is done, the bytes of a damaged file), a hundred."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        place, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
        yield f"bit {bit} of byte {place}", content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    for length in rng.choice(len(content), 24, replace=False).tolist():
        yield f"cut to {length} bytes", content[:length]
    for end in record_ends[:-1]:
        yield f"cut after a record, at {end}", content[:end]
    yield "one record twice", content + content[record_ends[-2] :]
    yield "zeros behind", content + bytes(64)
    yield "one byte behind", content + b"\0"
    for place in rng.choice(record_ends[:-1], 4).tolist():
        yield f"bytes put in at {place}", content[:place] + rng.bytes(7) + content[place:]


def test_damaged_files_are_named_and_nothing_else_is_read_from_them(tmp_path):
    write(str(tmp_path))
    source = LatentSource(str(tmp_path))
    path = tmp_path / "latents-00001-of-00005.tfrecord"
    content = path.read_bytes()
    for shard in range(5):
        check_shard(str(tmp_path), SPEC, shard)
    record = len(content) // 10
    ends = [record * i for i in range(11)]
    assert all(content[end : end + 8] == struct.pack("<Q", record - 16) for end in ends[:-1])
    cases = list(mutations(content, ends))
    assert len(cases) >= 100
    read = source.in_order("train", 10).take(11)  # and one of the next file
    whole, refused = list(read.as_numpy_iterator()), 0
    for what, damaged in cases:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^\S*latents-00001-of-00005.tfrecord is damaged \(.*\): remove it.*\.$"):
            check_shard(str(tmp_path), SPEC, 1)
        try:
            assert list(read.as_numpy_iterator()) == whole, what  # TensorFlow passes over a byte behind the last record
        except tf.errors.OpError:
            refused += 1
    assert refused >= 95


def masked_crc(data):
    """CRC-32C as TFRecord files have it, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_a_length_beyond_the_file_is_refused_before_memory_is_taken(tmp_path):
    head = struct.pack("<Q", 2**50)
    write(str(tmp_path))
    path = tmp_path / "latents-00000-of-00005.tfrecord"
    assert path.read_bytes()[8:12] == masked_crc(path.read_bytes()[:8])
    path.write_bytes(head + masked_crc(head) + bytes(100))
    with pytest.raises(ValueError, match="its last record is cut off, or a length in it is wrong"):
        check_shard(str(tmp_path), SPEC, 0)


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(moments_shape=(2, 3, 8)), "moments has 64 bytes, 96 are right"),
        (dict(classes=numbered(2)), "a label is 2, there are 2 classes"),
        (dict(num_examples=46, examples_per_shard=11), "10"),  # the number of records
    ],
)
def test_records_of_another_kind_are_told(tmp_path, changes, reason):
    write(str(tmp_path))
    with pytest.raises(ValueError, match=f"latents-00000-of-00005.tfrecord is damaged .*{reason}"):
        check_shard(str(tmp_path), dataclasses.replace(SPEC, **changes), 0)


def test_damage_inside_a_stream_ends_in_a_sentence_with_the_files_name(tmp_path):
    write(str(tmp_path))
    path = tmp_path / "latents-00001-of-00005.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="latents-00001-of-00005.tfrecord"):
        list(examples_in_order(LatentSource(str(tmp_path)), "train", image_size=16, batch_size=8))


def test_the_damaged_file_is_named_also_when_it_was_cut_between_two_records(tmp_path):
    write(str(tmp_path))
    source = LatentSource(str(tmp_path))
    path = source.latents.path(str(tmp_path), 3)
    with open(path, "r+b") as file:
        file.truncate(16 + int.from_bytes(file.read(8), "little"))
    assert source.damaged_file("train") == path
    with pytest.raises(ValueError, match=f"{path} cannot be read"):
        list(examples_in_order(source, "train", image_size=16, batch_size=4))
