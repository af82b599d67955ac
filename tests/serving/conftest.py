"""Two trained models for the proofs of serving."""

import pytest
from serving_kit import at_home, checked, train


@pytest.fixture(scope="session")
def trained(house):
    """A house with two models that nobody has deployed."""
    train(house)
    return house


@pytest.fixture(scope="module")
def models(trained):
    """The two models; the product's functions in this process talk to the house."""
    with at_home(trained):
        yield tuple(checked(trained, name) for name in ("proof-a", "proof-b"))
