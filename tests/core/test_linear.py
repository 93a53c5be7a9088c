from __future__ import annotations

import subprocess
import sys

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
    z = {"a": np.zeros((3, 1)), "b": np.zeros((3, 2))}
    w = {"a": np.zeros((4, 1)), "b": np.zeros((4, 2))}
    LinearLogits(z, w, np.zeros(4))
    for features, weight, bias, said in (
        (z, {"a": w["a"]}, None, r"found \['a', 'b'\] and \['a'\]"),
        ({"a": z["a"]}, w, None, r"found \['a'\] and \['a', 'b'\]"),
        ({}, {}, None, r"found \[\] and \[\]"),
        ({**z, "b": z["b"][:2]}, w, None, r"same samples, found \[2, 3\]"),
        (z, {**w, "b": np.zeros((5, 2))}, None, r"b: expected weights \(4, 2\), found \(5, 2\)"),
        (z, {**w, "b": np.zeros(4)}, None, r"b: expected weights \(4, 2\), found \(4,\)"),
        (z, w, np.zeros(5), r"bias: expected \(4,\), found \(5,\)"),
        (z, w, np.zeros((4, 1)), r"bias: expected \(4,\), found \(4, 1\)"),
    ):
        with pytest.raises(ParameterError, match=said):
            LinearLogits(features, weight, bias)


def test_the_core_offers_its_parts_without_scipy() -> None:
    code = (
        "import sys; from mmselect.core import gradients, information, parametric, sampling;"
        "from mmselect.core import shapley;"
        "sampling.d2_sample, information.bald, gradients.residual, shapley.contributions;"
        "sys.exit(str(sorted({'scipy', 'faiss', 'h5py', 'mmselect.pool'} & set(sys.modules))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr == "[]\n"
