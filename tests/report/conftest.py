import pytest

from dit_tf.report.figures import draw
from tests.report.synthetic_study import make_study


@pytest.fixture(scope="session")
def study():
    return make_study()


@pytest.fixture(scope="session")
def drawn(study):
    """(pictures, those left out) of the whole study."""
    return draw(study)
