import pytest

from tests.models.diffusionkit.small import SmallModel, write_model


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> SmallModel:
    return write_model(tmp_path_factory.mktemp("small"))
