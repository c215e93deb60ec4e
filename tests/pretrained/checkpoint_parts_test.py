"""Which weights of a checkpoint are taken: the averaged ones under any of their names, whatever prefix they have."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dit_tf.models.dit import DiT
from dit_tf.pretrained import torch_pickle
from dit_tf.pretrained.checkpoint_parts import AVERAGED, choose
from dit_tf.pretrained.dit_map import load_weights
from dit_tf.pretrained.foreign_objects import Foreign
from dit_tf.pretrained.torch_pickle import write_torch
from dit_tf.pretrained.vae_map import LAYOUTS, weight_map
from dit_tf.pretrained.weight_files import read_weight_file
from tests.damaged_bytes import damaged
from tests.pretrained import torch_files as by_hand

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "dit"
COMPVIS = LAYOUTS[2]
NAMES = ["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "pos_embed", "final_layer.linear.bias"]


def network(value, prefix=""):
    return {prefix + name: np.float32([value]) for name in NAMES}


def taken(content, **options):
    """The number that the chosen network's arrays hold."""
    part = choose(content, **options)
    assert set(part.state) == set(NAMES), set(part.state)
    (value,) = {float(part.state[name][0]) for name in NAMES}
    return value


@pytest.mark.parametrize("ema, part", [(True, "ema"), (False, "model")])
def test_dits_own_checkpoints_give_their_average(ema, part):
    content = {"model": network(1), "ema": network(2), "opt": {"state": {}}, "args": "Namespace"}
    found = choose(content, ema=ema)
    assert (found.part, found.prefix, found.averaged) == (part, "", ema) and found.state is content[part]
    assert found.described().startswith("averaged weights, the part 'ema'" if ema else "raw weights, the part 'model'")


@pytest.mark.parametrize("name", AVERAGED)
def test_every_name_of_an_average_is_known(name):
    assert taken({"model": network(1), name: network(2), "epoch": 3}) == 2
    assert taken({"state_dict": network(1), name: network(2), "epoch": 3}) == 2
    both = network(1, "net.") | network(2, f"{name}.") | {"n_averaged": 3}
    assert taken(both) == taken({"state_dict": both}) == 2
    assert taken(both, ema=False) == 1
    assert taken({"checkpoint": {"state_dict": network(1), name: network(2, "module.")}}) == 2


def test_without_an_average_the_raw_weights_are_taken_and_said():
    found = choose({"model": network(1), "opt": {}, "ema": None, "ema_decay": 0.99})
    assert found.described() == "raw weights, the part 'model' of a checkpoint that has no averaged ones"
    assert choose(network(1)).described() == "a file of weights alone"
    with pytest.raises(ValueError, match="averaged weights alone, and --ema=false: it holds ema"):
        choose({"ema": network(1)}, ema=False)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "ema_model.", "module._orig_mod.", "a.b.c.", "model.model."]
)
def test_a_prefix_that_all_share_is_taken_off(prefix):
    found = choose(network(3, prefix))
    shown = prefix.replace("._orig_mod.", ".")
    assert taken(network(3, prefix)) == 3 and found.prefix == shown and repr(shown) in found.described()


def test_names_within_names_are_taken_off():
    wrapped = {name.replace("blocks.0.", "blocks.0._orig_mod."): a for name, a in network(4).items()}
    assert taken(wrapped) == taken({f"module.{name}": a for name, a in wrapped.items()}) == 4
    with pytest.raises(ValueError, match="holds blocks.0.attn.qkv.weight twice"):
        choose(wrapped | network(4))


def test_averages_without_dots_are_compvis():
    """Its positions are not trained, and have none."""
    raw = {f"{name}": a for name, a in network(1).items()}
    average = {f"model_ema.{name.replace('.', '')}": a + 4 for name, a in raw.items() if name != "pos_embed"}
    found = choose({"state_dict": raw | average | {"model_ema.decay": np.float32(1)}})
    assert found.averaged and set(found.state) == set(NAMES)
    assert found.state["final_layer.linear.bias"] == 5 and found.state["pos_embed"] == 1


def test_projectors_are_left_out_by_name():
    heads = {f"projectors.{i}.{k}.weight": np.zeros(1) for i in range(2) for k in (0, 2, 4)}
    found = choose({"ema": network(1) | heads, "model": network(2) | heads})
    assert found.left_out == {"projectors.": 6} and "6 arrays projectors.* left out" in found.described()
    assert taken({"ema": network(1, "module.") | {f"module.{n}": a for n, a in heads.items()}}) == 1


def test_what_else_lies_there_is_not_swallowed():
    found = choose(network(1, "net.") | {"head.weight": np.zeros(1), "net.extra": np.zeros(1)})
    assert set(found.state) == {*NAMES, "head.weight", "extra"}  # the layout's list refuses them by name


def test_an_autoencoder_beside_a_network_is_found_where_one_is_wanted():
    vae = {f"vae.{row.theirs}": np.float16([0]) for row in weight_map(COMPVIS)}
    content = {"state_dict": network(1, "net.") | network(2, "net_ema.") | vae}
    assert taken(content) == 2
    assert set(choose(content, "vae").state) == {row.theirs for row in weight_map(COMPVIS)}


@pytest.mark.parametrize("content, message", [
    ([1, 2], "mapping of names, got list"),
    (Foreign("models.DiT"), "got an object of models.DiT, of which nothing is made here: save its state_dict"),
    ({}, "it holds nothing"),
    ({k: 0 for k in range(20)}, "0, 1, 10, 11, 12, 13, 14, 15 and 12 more"),
    ({"opt": 0, "args": 1}, "holds no weights of a DiT, SiT or autoencoder: it holds args, opt"),
    ({"model": 3}, "'model' of the checkpoint must hold weights by their names, not int"),
    ({"ema": Foreign("a.B"), "model": network(1)}, "'ema' .* not an object of a.B.*: --ema=false takes the others"),
    ({"ema": {"shadow_params": [1]}, "model": network(1)}, "'ema' .* it holds shadow_params: --ema=false"),
    ({"model": network(1), "state_dict": network(2)}, "several networks .model and state_dict.: save the one"),
    (network(1, "a.") | network(2, "b."), "several networks .names a. and names b.."),
    ({"model": network(1) | {"pos_embed": Foreign("torch.storage.X")}}, "pos_embed must be an array, .* torch.storage.X"),
])  # fmt: skip
def test_what_leaves_a_doubt_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        choose(content)


# Objects of anybody's classes beside good weights

PATH = by_hand.call(by_hand.name("pathlib", "PosixPath"), by_hand.plain("/"), by_hand.plain("data"))
OPAQUE = {
    "path": PATH,
    "date": by_hand.call(by_hand.name("datetime", "datetime"), by_hand.plain("\x07\xe8")),
    "counter": by_hand.call(by_hand.name("collections", "Counter"), by_hand.plain({"a": 1})),
    "defaultdict": by_hand.call(by_hand.name("collections", "defaultdict"), by_hand.name("builtins", "list"))
    + by_hand.plain("k") + by_hand.plain([1]) + b"s",
    "config": by_hand.name("omegaconf.dictconfig", "DictConfig") + b")\x81" + by_hand.plain({"_content": 1}) + b"b",
    "list": by_hand.name("omegaconf.listconfig", "ListConfig") + b")\x81(" + PATH + b"e",
    "by_name": by_hand.name("a", "B") + b")" + by_hand.plain({"x": 1}) + b"\x92",
    "object": b"(" + by_hand.name("a", "B") + by_hand.plain(1) + b"o",
    "enum": by_hand.call(by_hand.name("builtins", "getattr"), by_hand.name("a", "Colour"), by_hand.plain("RED")),
    "key": b"}" + by_hand.plain((1, 2)) + b"Ns",
    "set": by_hand.name("a", "Set") + b")\x81(" + by_hand.plain(1) + b"\x90",
}  # fmt: skip


@pytest.mark.parametrize("write", [by_hand.write_zip, by_hand.write_legacy])
def test_objects_beside_good_weights_are_read_over(tmp_path, write):
    stored = by_hand.storage("float32", "0", 1)
    ema = by_hand.dictionary(**{name: by_hand.tensor(stored, 0, (1,), (1,)) for name in NAMES})
    file = write(tmp_path / "file.pt", by_hand.dictionary(ema=ema, **OPAQUE), {"0": np.float32([7])})
    content = torch_pickle.read_torch(file)
    assert taken(content) == 7
    names = {key: value.name for key, value in content.items() if isinstance(value, Foreign)}
    assert names.pop("enum") == "builtins.getattr" and len(names) == len(OPAQUE) - 2
    assert names["path"] == "pathlib.PosixPath" and names["config"] == "omegaconf.dictconfig.DictConfig"


# Every container and prefix, drawn at random

CONTAINERS = {
    "bare": lambda state: state,
    "training": lambda state: {"model": _changed(state), "ema": state, "opt": {}, "args": {"lr": 1e-4}},
    "lightning": lambda state: {"state_dict": _prefixed(_changed(state), "net.") | _prefixed(state, "net_ema.")},
    "swin": lambda state: {"state_dict": _changed(state), "state_dict_ema": state, "epoch": 3},
    "timm": lambda state: {"model": _changed(state), "model_ema": state},
    "trainer": lambda state: {"checkpoint": {"model": _changed(state), "ema_model": state, "step": 4}},
    "raw": lambda state: {"model": state, "ema_state_dict": None},
}
PREFIXES = ["", "module.", "_orig_mod.", "model.", "net.", "ema_model.", "module._orig_mod.", "model.diffusion."]


def _prefixed(state, prefix):
    return {prefix + name: a for name, a in state.items()}


def _changed(state):
    return {name: -a for name, a in state.items()}


@pytest.fixture(scope="module")
def golden_state():
    with np.load(_GOLDENS / "tiny_bare.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model():
    config = json.loads((_GOLDENS / "tiny_config.json").read_text())
    return DiT(width=config.pop("hidden_size"), **config)


@pytest.mark.parametrize("number", range(20))
def test_golden_weights_in_any_container_and_prefix(number, tmp_path, model, golden_state):
    rng = np.random.default_rng(number)
    container, prefix = (list(choices)[rng.integers(len(choices))] for choices in (CONTAINERS, PREFIXES))
    heads = {"projectors.0.0.weight": np.float32([1])} if rng.integers(2) else {}
    content = CONTAINERS[container](_prefixed(golden_state | heads, prefix))
    if container == "bare" and rng.integers(2):
        path = tmp_path / "file.safetensors"
        save_file(content, path)
    else:
        path = tmp_path / "file.pt"
        write_torch(path, content)
    found = read_weight_file(path)
    assert found.part.prefix.endswith(prefix.replace("._orig_mod.", ".")) and bool(found.part.left_out) == bool(heads)
    load_weights(model, found.state)
    with np.load(_GOLDENS / "tiny_forward.npz") as arrays:
        out = model((np.moveaxis(arrays["x"], 1, -1), arrays["t"], arrays["y"]))
        np.testing.assert_allclose(np.moveaxis(np.asarray(out), -1, 1), arrays["out"], rtol=0, atol=2e-5)


def test_200_mutations_of_checkpoints_with_objects_in_them(tmp_path):
    """A sentence that names the file, or weights in their shapes; nothing is run."""
    rng, refused = np.random.default_rng(0), 0
    stored = {str(k): np.float32([k]) for k in range(len(NAMES))}
    tensors = {n: by_hand.tensor(by_hand.storage("float32", str(k), 1), 0, (1,), (1,)) for k, n in enumerate(NAMES)}
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    parts = dict(OPAQUE, state_dict_ema=by_hand.dictionary(**prefixed), state_dict=by_hand.dictionary(**tensors))
    files = [write(tmp_path / f"{k}.pt", by_hand.dictionary(**parts), stored).read_bytes()
             for k, write in enumerate((by_hand.write_zip, by_hand.write_legacy))]  # fmt: skip
    for k in range(200):
        path = tmp_path / "file.pt"
        path.write_bytes(damaged(files[k % 2], k // 2, rng))
        try:
            part = choose(torch_pickle.read_torch(path))
            arrays = [np.asarray(part.state[name]) for name in part.state]
        except ValueError as error:
            sentence, refused = str(error), refused + 1
            assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < len(str(path)) + 3000
            continue
        assert all(a.shape == (1,) for a in arrays if a.dtype == np.float32)
    assert refused > 60


def test_widened_types_are_those_of_the_file(tmp_path):
    half = {name: a.astype(ml_dtypes.bfloat16) for name, a in network(1).items()}
    write_torch(tmp_path / "file.pt", {"ema_model": half, "args": "x"})
    content = torch_pickle.read_torch(tmp_path / "file.pt")
    assert choose(content).state["pos_embed"].dtype == ml_dtypes.bfloat16
