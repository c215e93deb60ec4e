import pickle

import pytest

from dit_tf.report.figures import draw
from tests.report.synthetic_study import make_study


@pytest.fixture(scope="session")
def study():
    return make_study()


@pytest.fixture(scope="session")
def drawn(study, once):
    """(pictures, those left out) of the whole study, drawn once for all files."""

    def make(directory):
        (directory / "drawn.pickle").write_bytes(pickle.dumps(draw(study)))

    return pickle.loads((once("drawn", make) / "drawn.pickle").read_bytes())
