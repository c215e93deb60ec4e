"""A served model behind the page of `python -m dit_tf.app`."""

import shlex

import numpy as np
import pytest

from dit_tf import flags, query
from dit_tf.app import __main__ as app
from dit_tf.app.request import IMAGE, Request


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_image_is_that_of_the_query(server, parse, tmp_path, protocol):
    served = app.source(parse(flags.define_app, f"--server={server.addresses[protocol]}"))
    assert served.samplers == () and served.classes.names == tuple("0123456789")
    request = Request(label=7, seed=5, cfg_scale=2.0)
    *_, last = served.draw(request)
    assert list(last.pictures) == [IMAGE]
    python, module, name, *arguments = shlex.split(served.command(request))
    assert (python, module, name) == ("python", "-m", "dit_tf.query")
    path = tmp_path / "samples.npz"
    query.main(parse(flags.define_query, *arguments, f"--output={path}"))
    with np.load(path) as arrays:
        np.testing.assert_array_equal(last.pictures[IMAGE], arrays["arr_0"][0])


def test_what_the_server_refuses_is_one_sentence(server, parse):
    served = app.source(parse(flags.define_app, f"--server={server.addresses['grpc']}"))
    with pytest.raises(ValueError, match="cfg_scale must be from 0 to 100") as refusal:
        list(served.draw(Request(label=7, seed=5, cfg_scale=101.0)))
    assert "\n" not in str(refusal.value)
