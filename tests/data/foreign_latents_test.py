"""Claims of other programs' latents: what does not fit is one sentence with its file; no more than needed is read."""

import shutil
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dit_tf.data.foreign_latents import open_foreign, survey
from tests import foreign_latents as theirs
from tests.damaged_bytes import damaged


@pytest.fixture
def fast_dit(tmp_path):
    return theirs.write_fast_dit(tmp_path / "fast")


@pytest.fixture
def lightning_dit(tmp_path):
    return theirs.write_lightning_dit(tmp_path / "lightning")


def read(directory):
    """[(key, label, latents and, if there are any, the mirror image's)] of a directory, all looked over before."""
    source = open_foreign(str(directory), 0.18215)
    survey(source)
    return [(row.key, row.label, np.stack(row.latents)) for row in source.rows(0, source.count)]


def test_rows_begin_anywhere_and_end_anywhere(lightning_dit, fast_dit):
    for directory in (lightning_dit, fast_dit):
        rows, source = read(directory), open_foreign(str(directory), 0.18215)
        for first, count in ((0, 4), (3, 2), (3, 5), (5, 6), (10, 1), (11, 0)):
            part = list(source.rows(first, count))
            assert [(row.key, row.label) for row in part] == [row[:2] for row in rows[first : first + count]]
            for row, (_, _, latents) in zip(part, rows[first : first + count], strict=True):
                np.testing.assert_array_equal(row.latents, latents)


def test_the_digest_follows_latents_labels_and_order(fast_dit):
    def digest():
        return survey(open_foreign(str(fast_dit), 0.18215))[1]

    features, labels = fast_dit / "imagenet256_features", fast_dit / "imagenet256_labels"
    digests, first, second = [digest()], np.load(features / "0.npy"), np.load(features / "1.npy")
    np.save(features / "0.npy", second), np.save(features / "1.npy", first)
    digests.append(digest())
    np.save(labels / "3.npy", np.array([5]))
    digests.append(digest())
    assert len(set(digests)) == 3
    shutil.move(fast_dit, fast_dit.with_name("elsewhere"))
    fast_dit = fast_dit.with_name("elsewhere")
    assert digest() == digests[-1]


def _npy(array):
    return lambda path: np.save(path, array)


def _rewritten(change):
    """A change of the arrays of a safetensors file."""

    def rewrite(path):
        arrays = load_file(path)
        change(arrays)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

    return rewrite


def _with(name, change):
    return _rewritten(lambda arrays: arrays.update({name: change(arrays[name])}))


def _nan(array):
    array = array.copy()
    array[-1, 3, 1, 1] = np.nan
    return array


_FEATURE, _LABEL = "imagenet256_features/7.npy", "imagenet256_labels/7.npy"
_SHARD = theirs.shard_name(0, 1)
_ONE = np.ones((1, 4, 2, 2), np.float32)


@pytest.mark.parametrize(
    "kind, file, change, said",
    [
        ("fast", _FEATURE, lambda path: path.unlink(), "imagenet256_features .* has 10 .npy files, but no 7.npy: they"),
        ("fast", "imagenet256_features/10.npy", lambda path: path.unlink(), "_features has 10 files and .*_labels 11"),
        ("fast", "imagenet256_labels", shutil.rmtree, "imagenet256_labels cannot be used: No such file or directory"),
        ("fast", _FEATURE, lambda path: path.write_bytes(b""), "7.npy cannot be used: EOF"),
        ("fast", _FEATURE, lambda path: path.write_bytes(path.read_bytes()[:-8]), "has 56 bytes of values, 64 are nee"),
        ("fast", _FEATURE, _npy(np.array([{}])), "it holds Python objects, which are not read"),
        ("fast", _FEATURE, _npy(np.ones((1, 4, 2, 2), int)), "it holds int64, floats are needed"),
        ("fast", _FEATURE, _npy(_ONE[0]), r"have the shape \(4, 2, 2\), \(1, 4, 2, 2\) is needed"),
        ("fast", _FEATURE, _npy(np.ones((1, 4, 3, 3))), r"have the shape \(1, 4, 3, 3\), \(1, 4, 2, 2\) is needed"),
        ("fast", _FEATURE, _npy(np.ones((1, 32, 2, 2))), "its latents have 32 channels, those of an autoencoder"),
        ("fast", _FEATURE, _npy(_nan(_ONE)), "7.npy cannot be used: it has latents that are not finite"),
        ("fast", _FEATURE, _npy(np.float32(3e38) * _ONE), "it has latents that are not finite"),
        ("fast", "imagenet256_features/0.npy", _npy(np.ones((1, 4, 2, 3))), r"\(1, 4, 2, 3\), \(1, 4, h, h\) is"),
        ("fast", _LABEL, _npy(np.array([-1])), "labels/7.npy cannot be used: a label must be from 0 to 99999, got -1"),
        ("fast", _LABEL, _npy(np.array([2**40])), "a label must be from 0 to 99999, got 1099511627776"),
        ("fast", _LABEL, _npy(np.array([3, 4])), r"its label has the shape \(2,\), \(1,\) is needed"),
        ("fast", _LABEL, _npy(np.array([3.0])), "it holds float64, integers are needed"),
        ("lightning", _SHARD, lambda path: path.unlink(), None),
        ("lightning", theirs.shard_name(0, 0), lambda path: path.unlink(), "rank00_shard000.safetensors is missing: r"),
        ("lightning", _SHARD, lambda path: path.rename(path.with_name("a.safetensors")), "a.safetensors is not called"),
        ("lightning", _SHARD, lambda path: path.write_bytes(path.read_bytes()[:-8]), "shard001.safetensors cannot be"),
        ("lightning", _SHARD, _with("latents", _nan), "shard001.safetensors cannot be used: it has latents that are"),
        ("lightning", _SHARD, _with("latents_flip", _nan), "it has latents that are not finite"),
        ("lightning", _SHARD, _with("latents", lambda a: a[:, :, :1, :1]), r"shape \(2, 4, 1, 1\), \(N, 4, 2, 2\) is"),
        ("lightning", _SHARD, _with("latents", lambda a: a.astype(int)), "latents has the dtype I64, one of BF16, F16"),
        ("lightning", _SHARD, _with("latents", lambda a: a[:0]), r"shape \(0, 4, 2, 2\), \(N, 4, 2, 2\) is needed"),
        ("lightning", _SHARD, _with("latents_flip", lambda a: a[:1]), r"latents_flip has the shape \(1, 4, 2, 2\), l"),
        ("lightning", _SHARD, _with("labels", lambda a: a[:1]), r"labels has the shape \(1,\), latents \(2, 4, 2, 2\)"),
        ("lightning", _SHARD, _with("labels", lambda a: -a - 1), "a label must be from 0 to 99999, got -"),
        ("lightning", _SHARD, _with("labels", lambda a: a + 0.5), "labels has the dtype F64, one of I16"),
        ("lightning", _SHARD, _rewritten(lambda a: a.pop("labels")), "it has no array labels, but latents, latents"),
        ("lightning", _SHARD, _rewritten(lambda a: a.pop("latents_flip")), "one has latents_flip and another has not"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(request, kind, file, change, said):
    directory = request.getfixturevalue(f"{kind}_dit")
    change(directory / file)
    if said is None:  # the last shard of a rank: nothing says that it was there
        assert len(read(directory)) == theirs.COUNT - 2
        return
    with pytest.raises(ValueError, match=rf"^--from_latents: [^\n]*{said}[^\n]*\.$"):
        read(directory)


def test_a_directory_of_neither_or_of_both_is_told_what_is_looked_for(tmp_path, fast_dit, lightning_dit):
    with pytest.raises(ValueError, match="--from_latents=.*nowhere must be a directory that is there: No such file"):
        open_foreign(str(tmp_path / "nowhere"), 1.0)
    looked = r"folders \*_features and \*_labels .*fast-DiT.*latents_rank00_shard000.safetensors, ... \(LightningDiT\)"
    with pytest.raises(ValueError, match=f"{looked}, got neither"):
        open_foreign(str(tmp_path), 1.0)
    shutil.copytree(lightning_dit, fast_dit, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=f"{looked}, got imagenet256_features, {theirs.shard_name(0, 0)}"):
        open_foreign(str(fast_dit), 1.0)


@pytest.mark.parametrize(
    "kind, file, independent",
    [
        ("fast", _FEATURE, lambda path: np.load(path)[0] / np.float32(0.18215)),
        ("fast", _LABEL, lambda path: np.load(path)[0]),
        ("lightning", _SHARD, lambda path: load_file(path)),
    ],
)
def test_damaged_files_are_named_or_read_as_they_are(request, kind, file, independent):
    """Neither format has checksums: values may be others, but are those that NumPy and safetensors find there."""
    directory, rng, named = request.getfixturevalue(f"{kind}_dit"), np.random.default_rng(0), 0
    path = directory / file
    intact = path.read_bytes()
    for k in range(60):
        path.write_bytes(damaged(intact, k, rng))
        try:
            rows = read(directory)
        except ValueError as error:
            assert str(error).startswith("--from_latents: ") and "\n" not in str(error) and path.name in str(error)
            named += 1
            continue
        there = independent(path)
        if isinstance(there, dict):
            for i in (0, 1):
                key, label, latents = rows[4 + i]
                assert (key, label) == (f"{path.name}/{i}", there["labels"][i])
                np.testing.assert_array_equal(latents, [there["latents"][i], there["latents_flip"][i]])
        else:
            np.testing.assert_array_equal(rows[7][2][0] if file == _FEATURE else rows[7][1], there)
    assert named > 20


def test_a_large_file_is_read_in_slices(tmp_path):
    """8 MB of latents and of their mirror images; 64 images of each take 0.26 MB, twice while they are checked."""
    z = np.random.default_rng(0).standard_normal((4096, 4, 16, 8), np.float32).reshape(2048, 4, 16, 16)
    save_file(dict(latents=z, latents_flip=z, labels=np.zeros(2048, int)), tmp_path / theirs.shard_name(0, 0))
    tracemalloc.start()
    survey(open_foreign(str(tmp_path), 1.0))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2.5e6
