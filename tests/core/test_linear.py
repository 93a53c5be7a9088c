from __future__ import annotations

import numpy as np
import pytest

from mmselect.core.scores.linear import LinearLogits
from mmselect.errors import ParameterError


def head(n: int = 200, c: int = 7) -> LinearLogits:
    rng = np.random.default_rng(0)
    features = {"a": rng.standard_normal((n, 5)), "b": rng.standard_normal((n, 3))}
    weight = {"a": rng.standard_normal((c, 5)), "b": rng.standard_normal((c, 3))}
    return LinearLogits(features, weight, rng.standard_normal(c))


def test_logits_are_the_formula() -> None:
    f = head()
    expected = sum(f.features[m] @ f.weight[m].T for m in "ab") + f.bias
    np.testing.assert_allclose(f[0:200], expected, rtol=1e-6)


def test_a_row_has_the_same_bits_whatever_is_asked_with_it() -> None:
    f = head()
    whole = f[0:200]
    for rows in ([7], [199, 3, 3, 64], list(range(50, 180))):
        assert (f[np.array(rows)] == whole[rows]).all()
    assert (f[13:77] == whole[13:77]).all()


def test_shapes_are_checked() -> None:
    with pytest.raises(ParameterError, match=r"b: expected weights \(c, 2\), found none"):
        LinearLogits({"a": np.zeros((3, 1)), "b": np.zeros((3, 2))}, {"a": np.zeros((4, 1))})
