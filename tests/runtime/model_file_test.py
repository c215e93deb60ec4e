"""A .keras file: what is saved comes back, nothing in it is believed or run, and damage is one sentence."""

import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest

from dit_tf.runtime import model_file

TEXTS = {"run.json": '{"model": "tiny"}', "classes.json": "ü" * 3000}
MARKER = "marker"


def tiny(units=3, seed=0):
    layers = [keras.layers.Dense(units, name="first"), keras.layers.Dense(2, name="second")]
    model = keras.Sequential([keras.Input((4,), name="input"), *layers], name="tiny")
    rng = np.random.default_rng(seed)
    for v in model.variables:
        v.assign(rng.standard_normal(v.shape))
    return model


def weights(model):
    return [v.numpy() for v in model.variables]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def saved(tmp_path):
    model_file.save(tmp_path / "new" / "model.keras", tiny(), TEXTS)
    return tmp_path / "new" / "model.keras"


def rewrite(path, **entries):
    """The same file with other contents of some entries, their checksums right; None removes one."""
    with zipfile.ZipFile(path) as archive:
        old = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (old | {name.replace("__", "."): content for name, content in entries.items()}).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def refusal(path, read=lambda path: model_file.load_weights(path, tiny())):
    with pytest.raises(ValueError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} cannot be read as a model of dit_tf: ") and sentence.endswith(".")
    assert sentence.isprintable() and len(sentence) < len(str(path)) + 400
    return sentence


def test_weights_and_texts_come_back(saved):
    model = tiny(seed=1)
    model_file.load_weights(saved, model)
    assert same(weights(model), weights(tiny()))
    assert {name: model_file.read_text(saved, name) for name in TEXTS} == TEXTS
    assert model_file.read_text(saved, "provenance.json") is None
    assert os.listdir(saved.parent) == ["model.keras"]


def test_keras_reads_it_too(saved):
    assert same(weights(keras.saving.load_model(saved)), weights(tiny()))


def test_what_keras_saved_is_read(tmp_path):
    tiny().save(tmp_path / "model.keras")
    model = tiny(seed=1)
    model_file.load_weights(tmp_path / "model.keras", model)
    assert same(weights(model), weights(tiny()))


def test_the_bytes_follow_from_the_weights_and_texts(saved, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        model_file.save(tmp_path / name, tiny(seed=seed), TEXTS)
    again, other = ((tmp_path / name).read_bytes() for name in ("again", "other"))
    assert again == saved.read_bytes() != other


def test_a_save_that_is_interrupted_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def killed(*arguments):
        raise KeyboardInterrupt

    for target, name in ((keras.Model, "save_weights"), (os, "replace")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(target, name, killed)
            model_file.save(saved, tiny(seed=1), TEXTS)
        assert saved.read_bytes() == before and os.listdir(saved.parent) == ["model.keras"]


# Nothing is run


class Evil(keras.layers.Layer):
    def __init__(self, **kwargs):
        open(MARKER, "w").close()
        super().__init__(**kwargs)


@pytest.mark.parametrize("config", [
    {"module": None, "class_name": "Evil", "registered_name": f"{__name__}>Evil", "config": {}},
    {"module": "os", "class_name": "system", "config": {"command": f"touch {MARKER}"}},
    {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__",
     "config": {"code": "4wAAAAA=", "defaults": None, "closure": None}}}},
    "not a configuration",
])  # fmt: skip
def test_what_config_json_says_is_never_looked_at(saved, tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    rewrite(saved, config__json=json.dumps(config))
    model = tiny(seed=1)
    model_file.load_weights(saved, model)
    assert same(weights(model), weights(tiny())) and not os.path.exists(MARKER)
    Evil()
    assert os.path.exists(MARKER)  # else nothing could be seen


# What HDF5 can do beside holding arrays


def changed_weights(path, change):
    with zipfile.ZipFile(path) as archive:
        archive.extract("model.weights.h5", path.parent)
    with h5py.File(path.parent / "model.weights.h5", "a") as file:
        change(file, "layers/dense/vars/0")
    return rewrite(path, model__weights__h5=(path.parent / "model.weights.h5").read_bytes())


def replaced(make):
    def change(file, name):
        content = file[name][()]
        del file[name]
        make(file, name, content)

    return change


def external_link(file, name, content):
    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(file, name, content):
    file[name] = h5py.SoftLink("/layers/dense_1/vars/0")


def virtual(file, name, content):
    layout = h5py.VirtualLayout(content.shape, content.dtype)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", content.shape)
    file.create_virtual_dataset(name, layout)


def external_storage(file, name, content):
    file.create_dataset(name, content.shape, content.dtype, external=[("elsewhere.bin", 0, content.nbytes)])


def made_of_nothing(file, name, content):
    file.create_dataset(name, (2**20, 2**20), np.float32, chunks=(1024, 1024), compression="gzip", fillvalue=1)


def never_written(file, name, content):
    file.create_dataset(name, (2**20, 2**20), np.float32)  # 4 TiB, of which no byte is there


def objects(file, name, content):
    file.create_dataset(name, data=[b"text"] * 12)


@pytest.mark.parametrize("make, detail", [
    (external_link, "has a ExternalLink, layers/dense/vars/0"),
    (soft_link, "has a SoftLink, layers/dense/vars/0"),
    (virtual, "layers/dense/vars/0, which is no plain array of numbers"),
    (external_storage, "layers/dense/vars/0, which is no plain array of numbers"),
    (made_of_nothing, "layers/dense/vars/0, which is no plain array of numbers"),
    (never_written, "layers/dense/vars/0, which is no plain array of numbers"),
    (objects, "layers/dense/vars/0, which is no plain array of numbers"),
])  # fmt: skip
def test_what_is_no_plain_array_is_refused(saved, make, detail):
    assert detail in refusal(changed_weights(saved, replaced(make)))


def test_arrays_held_many_times_are_no_larger_than_the_file(saved):
    def repeat(file, name):
        large = file.create_dataset("large", data=np.zeros(10_000, np.float32))
        for i in range(50):
            file[f"again{i}"] = large

    assert "arrays of" in refusal(changed_weights(saved, repeat))


def test_a_group_that_holds_itself_ends(saved):
    def cycle(file, name):
        file["layers/dense/again"] = file["layers"]

    model = tiny(seed=1)
    model_file.load_weights(changed_weights(saved, cycle), model)
    assert same(weights(model), weights(tiny()))


def test_weights_of_another_model_are_refused(saved):
    assert "shape" in refusal(saved, lambda path: model_file.load_weights(path, tiny(units=5)))
    deeper = keras.Sequential([tiny(), keras.layers.Dense(2)])
    deeper.build((None, 4))
    assert "the model has 6" in refusal(saved, lambda path: model_file.load_weights(path, deeper))

    def less(file, name):
        del file[name]

    assert "has 3 arrays" in refusal(changed_weights(saved, less))


# What zip files can do


def test_other_files_are_refused(tmp_path, saved):
    assert "No such file" in refusal(tmp_path / "none.keras")
    assert "it is a directory" in refusal(tmp_path)
    (tmp_path / "text.keras").write_text("text" * 100)
    assert "not a zip file" in refusal(tmp_path / "text.keras")
    assert "it has no model.weights.h5" in refusal(rewrite(saved, model__weights__h5=None))


READERS = {
    "run.json": lambda path: model_file.read_text(path, "run.json"),
    "model.weights.h5": lambda path: model_file.load_weights(path, tiny()),
}


@pytest.mark.parametrize("name, read", READERS.items())
def test_a_wrong_checksum_is_seen(saved, name, read):
    with zipfile.ZipFile(saved) as archive:
        content = archive.read(name)
    whole = saved.read_bytes()
    place = whole.index(content) + len(content) // 2
    saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "Bad CRC-32" in refusal(saved, read)


@pytest.mark.parametrize("name, read", READERS.items())
def test_what_is_compressed_is_refused(saved, name, read):
    rewrite(saved, **{name.replace(".", "__"): None})
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(2**24))
    assert f"its entry {name} is compressed" in refusal(saved, read)


def test_a_long_text_and_an_entry_that_comes_twice_are_refused(saved):
    rewrite(saved, run__json=" " * 2**23)
    assert "8388608 bytes" in refusal(saved, lambda path: model_file.read_text(path, "run.json"))
    with pytest.warns(UserWarning), zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("run.json", "{}")
    assert "an entry twice" in refusal(saved, lambda path: model_file.read_text(path, "run.json"))


def test_a_directory_of_any_length_is_not_read(saved):
    """8 MiB of it, which zipfile would make a hundred thousand records of."""
    with zipfile.ZipFile(saved, "a") as archive:
        for i in range(140):
            info = zipfile.ZipInfo(f"x{i}")
            info.comment = b"c" * 60_000
            archive.writestr(info, b"")
    assert "bytes are one piece" in refusal(saved)
