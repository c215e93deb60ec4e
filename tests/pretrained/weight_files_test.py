"""Any published file or directory: recognised by what is in it, and refused in one sentence that names it."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from dit_tf.pretrained.dit_map import to_diffusers
from dit_tf.pretrained.torch_pickle import write_torch
from dit_tf.pretrained.vae_map import LAYOUTS, weight_map
from dit_tf.pretrained.weight_files import digest, naming, read_weight_file
from tests.pretrained import torch_files as by_hand

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
_HF = _GOLDENS / "hf_dit"
COMPVIS, WHOLE = LAYOUTS[2:]


@pytest.fixture(scope="module")
def state():
    with np.load(_GOLDENS / "dit/tiny_bare.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def write(tmp_path):
    def written(content, name="file.pt"):
        write_torch(tmp_path / name, content)
        return tmp_path / name

    return written


def autoencoder(layout):
    """The names of an autoencoder; one number is enough where no shape is looked at."""
    return {row.theirs: np.float16([0]) for row in weight_map(layout)}


def refusal(path, *arguments, **options):
    with pytest.raises(ValueError) as caught:
        read_weight_file(path, *arguments, **options)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and sentence.endswith(".") and sentence.count("\n") == 0
    return sentence


# What is recognised


@pytest.mark.parametrize("name", ["file.pt", "file.ckpt", "file.safetensors.pt", "no_ending"])
def test_bare_weights_whatever_the_file_is_called(write, state, name):
    found = read_weight_file(write(state, name))
    assert (found.kind, found.layout, found.part.part, found.arguments) == ("dit", "official", None, {})
    assert list(found.state) == list(state) and found.files == (found.path,)


def test_safetensors_under_another_name(tmp_path):
    shutil.copy(_HF / "diffusion_pytorch_model.safetensors", tmp_path / "weights.bin")
    found = read_weight_file(tmp_path / "weights.bin")
    assert (found.kind, found.layout, found.arguments) == ("dit", "diffusers", {})  # no config.json beside it


@pytest.mark.parametrize("ema, part", [(True, "ema"), (False, "model")])
def test_a_training_checkpoint(write, state, ema, part):
    raw = {name: a + 1 for name, a in state.items()}
    found = read_weight_file(write({"model": raw, "ema": state, "opt": {}, "args": [1]}), ema=ema)
    assert found.part.part == part and found.part.averaged == ema
    np.testing.assert_array_equal(found.state["pos_embed"], (state if ema else raw)["pos_embed"])


def test_a_directory_of_diffusers_and_the_file_in_it():
    for path in (_HF, _HF / "diffusion_pytorch_model.safetensors"):
        found = read_weight_file(path, "dit")
        assert found.arguments == dict(input_size=8, num_heads=4, num_classes=10)
        assert [pathlib.Path(file).name for file in found.files] == ["diffusion_pytorch_model.safetensors"]


def test_a_directory_with_pytorchs_file(tmp_path, state):
    """As facebook/DiT-XL-2-256 has it."""
    shutil.copy(_HF / "config.json", tmp_path)
    weights = {name: a for name, a in state.items() if name != "pos_embed"}
    write_torch(tmp_path / "diffusion_pytorch_model.bin", dict(to_diffusers(weights)))
    found = read_weight_file(tmp_path)
    assert (found.layout, found.arguments["num_heads"]) == ("diffusers", 4)


def test_shards_and_their_index_are_one_state(tmp_path, state):
    names, weight_map = sorted(state), {}
    for k, part in enumerate((names[:9], names[9:])):
        file = f"model-{k}.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / file)
        weight_map.update(dict.fromkeys(part, file))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for path in (index, tmp_path):
        found = read_weight_file(path)
        assert set(found.state) == set(state) and len(found.files) == 3


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_autoencoders_in_every_layout(write, layout):
    found = read_weight_file(write(autoencoder(layout)), "vae")
    assert (found.kind, found.layout, len(found.state)) == ("vae", layout.title, 248)


def test_the_autoencoder_is_taken_out_of_compvis_checkpoints(write):
    alone = autoencoder(COMPVIS) | {"loss.logvar": np.zeros(1), "loss.discriminator.main.0.weight": np.zeros(3),
                                    "model_ema.decay": np.zeros(1)}  # fmt: skip
    whole = autoencoder(WHOLE) | {"model.diffusion_model.out.2.bias": np.zeros(4), "betas": np.zeros(9),
                                  "cond_stage_model.transformer.x": np.zeros(2)}  # fmt: skip
    for state, layout in ((alone, COMPVIS), (whole, WHOLE)):
        found = read_weight_file(write({"state_dict": state, "global_step": 3, "callbacks": [1]}, "model.ckpt"), "vae")
        assert found.layout == layout.title and set(found.state) == set(autoencoder(layout))
        with pytest.raises(KeyError):
            found.state["loss.logvar"]


def test_arrays_are_read_when_they_are_asked_for(write, state, monkeypatch):
    from dit_tf.pretrained import safetensors_file

    asked = []
    original = safetensors_file.SafetensorsFile.__getitem__
    monkeypatch.setattr(
        safetensors_file.SafetensorsFile, "__getitem__", lambda self, name: asked.append(name) or original(self, name)
    )
    found = read_weight_file(_HF)
    assert asked == []
    found.state["pos_embed.proj.bias"]
    assert asked == ["pos_embed.proj.bias"]


# What is refused


@pytest.mark.parametrize("content, detail", [
    (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS, not the weights: `git lfs pull`"),
    (b"\n<!DOCTYPE html><html>Sign in</html>", "it is a web page, not the weights"),
    (b"\x89HDF\r\n\x1a\n" + bytes(60), "it is an HDF5 file"),
    (b"PK\3\4" + bytes(26) + b"metadata.json{}", "it is a .keras file, published weights are needed"),
    (b"", "empty file"),
    (b"text", "it begins with b'text', neither a zip file nor a pickle"),
])  # fmt: skip
def test_what_people_have_in_the_place_of_weights(tmp_path, content, detail):
    (tmp_path / "file.pt").write_bytes(content)
    assert detail in refusal(tmp_path / "file.pt")


def test_what_is_not_there(tmp_path):
    assert refusal(tmp_path / "none.pt").endswith("none.pt: No such file or directory.")
    assert "holds no .safetensors file" in refusal(tmp_path)


def test_directories_that_leave_a_choice(tmp_path, write, state):
    for name in ("a.pt", "b.ckpt"):
        write(state, name)
    assert "it holds several, name one of a.pt, b.ckpt" in refusal(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "vae").mkdir()
    assert "a whole pipeline of diffusers: name one of its parts, transformer or vae" in refusal(tmp_path)


def test_the_wrong_kind_is_said(write, state):
    assert refusal(write(state), "vae").endswith("it is a DiT or SiT, an autoencoder is needed.")
    assert refusal(write(autoencoder(COMPVIS)), "dit").endswith("it is an autoencoder, a DiT or SiT is needed.")


def test_names_that_are_missing_or_left_over_are_listed_and_long_lists_cut(write, state):
    less = {name: a for name, a in state.items() if name != "blocks.1.mlp.fc1.bias"}
    sentence = refusal(write({**less, "head": np.zeros(1)}))
    assert "missing ['blocks.1.mlp.fc1.bias'], not used ['head']" in sentence
    many = {f"head{i:03}": np.zeros(1) for i in range(100)}
    sentence = refusal(write({**state, **many}))
    assert "'head000'" in sentence and "and 84 more" in sentence and len(sentence) < 600
    broken = autoencoder(COMPVIS)
    del broken["quant_conv.bias"]
    assert "(CompVis): missing ['quant_conv.bias'], left over []" in refusal(write(broken))


@pytest.mark.parametrize("content, detail", [
    ([1, 2], "must be a mapping of names, got list"),
    ({"step": 3}, "holds no weights of a DiT, SiT or autoencoder: it holds step"),
    ({"state_dict": {"model.diffusion_model.x": np.zeros(1)}}, "it holds model.diffusion_model.x"),
    ({"model": 3}, "'model' of the checkpoint must hold weights"),
    ({"encoder.conv_in.weight": np.zeros(1), 3: 4}, "left over ['3']"),
])  # fmt: skip
def test_files_of_something_else(write, content, detail):
    assert detail in refusal(write(content))


def test_an_autoencoder_of_other_latents_is_refused(write):
    """As those of Stable Diffusion 3, which lack names too."""
    names = {n: a for n, a in autoencoder(LAYOUTS[0]).items() if "quant" not in n}
    sentence = refusal(write(names | {"decoder.conv_in.weight": np.zeros((512, 16, 3, 3), np.float16)}))
    assert "an autoencoder of latents of 16 channels; DiT and SiT work on those of 4" in sentence


def test_a_harmful_pickle_is_refused_by_name(tmp_path):
    attack = by_hand.call(by_hand.name("posix", "system"), by_hand.plain(f"touch {tmp_path}/marker"))
    path = by_hand.write_zip(tmp_path / "file.pt", by_hand.dictionary(model=attack), {})
    assert "asks for the global posix.system" in refusal(path) and not (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 10**5, b'{"sample_size": 8}', b"\xff"])
def test_a_damaged_configuration_is_refused(tmp_path, content):
    shutil.copytree(_HF, tmp_path / "model")
    (tmp_path / "model/config.json").write_bytes(content)
    assert "config.json" in refusal(tmp_path / "model")


def test_every_error_names_its_file_once(tmp_path):
    for said in (f"{tmp_path}/x is cut.", "x is cut.", "x is cut"):
        with pytest.raises(ValueError) as caught, naming(str(tmp_path)):
            raise ValueError(said)
        assert str(caught.value) == (said if said.startswith("/") else f"{tmp_path}: x is cut.")


def test_the_digest_of_one_file_and_of_several(tmp_path):
    files, lines = [], []
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(name.encode() * 10)
        files.append(str(tmp_path / name))
        lines.append(f"{hashlib.sha256(name.encode() * 10).hexdigest()}  {name}\n")
    assert digest(files[:1]) == lines[0].split()[0]
    assert digest(files) == digest(files[::-1]) == hashlib.sha256("".join(lines[::-1]).encode()).hexdigest()
