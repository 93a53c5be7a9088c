from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, softmax
from scipy.stats import entropy as scipy_entropy

from mmselect.arrays import native, widen
from mmselect.core.scores import information as info
from mmselect.core.scores import softmax as kernel
from mmselect.core.scores.confidence import least_confidence, margin
from mmselect.errors import DataError, ParameterError, SchemaError

LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(2, 9)),
    elements=st.floats(-30, 30, width=32),
)


def naive(p: np.ndarray) -> np.ndarray:
    return scipy_entropy(p, axis=-1)


def exact(x: np.ndarray) -> np.ndarray:
    """Entropy in extended precision: SciPy's p log p loses a certain head's digits."""
    d = x.astype(np.longdouble) - x.max(axis=1, keepdims=True)
    e = np.exp(d)
    z = np.sort(e, axis=1)[:, :-1].sum(axis=1)
    return (np.log1p(z) - (e * d).sum(axis=1) / (1 + z)).astype(np.float64)


def three_heads(n: int, c: int, scale: float = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal((n, c))).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("c", [2, 5, 511, 512, 513, 1000, 3129])
@pytest.mark.parametrize("scale", [0.01, 3, 24])
def test_entropy_and_divergence_equal_scipy(c: int, scale: float) -> None:
    a, b, f = three_heads(40, c, scale)
    found = info.information({"a": a, "b": b, "f": f})
    p = [softmax(x.astype(np.float64), axis=1) for x in (a, b, f)]
    if scale < 24:
        for ours, q in zip(found.entropy, p, strict=True):
            np.testing.assert_allclose(ours, naive(q), rtol=1e-6)
    # far below the largest logit, x - max x itself has been rounded to float32
    for ours, x in zip(found.entropy, (a, b, f), strict=True):
        np.testing.assert_allclose(ours, exact(x), rtol=1e-6 if scale < 24 else 5e-6, atol=1e-38)
    mixed = naive(sum(p) / 3) - sum(map(naive, p)) / 3
    np.testing.assert_allclose(found.jsd, mixed, rtol=1e-5, atol=1e-6)
    two = info.information({"a": a, "b": b}).jsd
    np.testing.assert_allclose(two, jensenshannon(p[0], p[1], axis=1) ** 2, rtol=1e-5, atol=1e-6)


def test_a_certain_head_keeps_its_digits() -> None:
    # the other classes hold 1e-12 in all: 1 - p is lost in float32, their own sum is not
    logits = np.array([[28.0, 0.0, 0.0]], np.float32)
    p = np.exp(-28.0)
    expected = 2 * p * 28 + 2 * p
    assert info.entropy(logits)[0] == pytest.approx(expected, rel=1e-6)
    assert least_confidence(logits)[0] == pytest.approx(2 * p, rel=1e-6)
    heads = {"a": logits, "b": np.array([[26.0, 0, 0]], np.float32)}
    p, q = (softmax(np.array(x, np.float64)) for x in ([28.0, 0, 0], [26.0, 0, 0]))
    both = info.information(heads)
    total = both.jsd + both.entropy.mean(axis=0)
    assert total[0] == pytest.approx(naive((p + q) / 2), rel=1e-6)


@given(LOGITS)
def test_entropy_is_bounded_and_shift_invariant(x: np.ndarray) -> None:
    h = info.entropy(x)
    assert (h >= 0).all() and (h <= np.log(x.shape[1]) + 1e-6).all()
    np.testing.assert_allclose(info.entropy(x.astype(np.float64) + 7), h, rtol=1e-5, atol=1e-6)


@given(LOGITS, st.integers(0, 2**32 - 1))
def test_divergence_is_bounded_and_symmetric(x: np.ndarray, seed: int) -> None:
    y = np.random.default_rng(seed).permuted(x, axis=1)
    jsd = info.information({"x": x, "y": y}).jsd
    assert (jsd >= 0).all() and (jsd <= np.log(2)).all()
    np.testing.assert_allclose(info.information({"y": y, "x": x}).jsd, jsd, atol=1e-6)
    np.testing.assert_allclose(info.information({"x": x, "z": x}).jsd, 0, atol=1e-6)


@given(LOGITS)
def test_half_weights_and_divergence_make_the_entropy_of_the_mean(x: np.ndarray) -> None:
    y = x[:, ::-1]
    found = info.information({"x": x, "y": y})
    mean = (softmax(x.astype(float), axis=1) + softmax(y.astype(float), axis=1)) / 2
    np.testing.assert_allclose(found.entropy.mean(axis=0) + found.jsd, naive(mean), atol=1e-5)


@settings(max_examples=30)
@given(st.integers(0, 400), st.integers(1, 40), st.integers(1, 3))
def test_a_row_has_the_same_bits_whatever_stands_beside_it(start: int, size: int, m: int) -> None:
    heads = {str(j): x for j, x in enumerate(three_heads(450, 300)[:m])}
    whole = info.information(heads)
    part = info.information({name: x[start : start + size] for name, x in heads.items()})
    assert (part.entropy == whole.entropy[:, start : start + size]).all()
    assert (part.jsd == whole.jsd[start : start + size]).all()


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "<f8", ">f8"])
def test_every_float_type(dtype: str) -> None:
    x = three_heads(50, 200)[0].astype(np.float16)
    np.testing.assert_allclose(info.entropy(x.astype(dtype)), info.entropy(x), rtol=1e-6)


def test_every_float16_is_widened_as_numpy_does() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]  # by its bits; with others among them NumPy does it
    for some in (finite, every, finite[::3], finite.reshape(2, -1)[:, 5:], finite[:0]):
        expected = some.astype(np.float32)
        wide = widen(some, np.empty(some.shape, np.float32))
        assert (wide.view(np.uint32) == expected.view(np.uint32)).all()
        assert native(some).tobytes() == expected.tobytes()


def test_sigmoid_norm_normalises_sigmoids() -> None:
    x = three_heads(30, 12)[0]
    p = expit(x.astype(float))
    expected = naive(p / p.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(info.entropy(x, activation="sigmoid-norm"), expected, rtol=1e-5)


def test_confidence_measures_equal_their_definitions() -> None:
    x = three_heads(200, 7)[0]
    p = np.sort(softmax(x.astype(float), axis=1), axis=1)
    np.testing.assert_allclose(least_confidence(x), 1 - p[:, -1], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(margin(x), 1 - (p[:, -1] - p[:, -2]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("measure", [margin, least_confidence])
def test_confidence_measures_over_several_strips(
    measure: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = three_heads(200, 7)[0]
    whole = measure(x)
    monkeypatch.setattr(kernel, "STRIP_ELEMENTS", 7 * 24)  # nine strips, the last one short
    found = measure(x)
    assert len(list(kernel.strips({"x": x}, "softmax"))) == 9
    assert (found == whole).all()
    x[150, 3] = np.nan
    with pytest.raises(DataError, match="row 150"):
        measure(x)


def test_bald_is_the_divergence_of_the_passes() -> None:
    x = np.random.default_rng(1).standard_normal((20, 6, 9))
    p = softmax(x, axis=2)
    np.testing.assert_allclose(
        info.bald(x), naive(p.mean(axis=1)) - naive(p).mean(axis=1), atol=1e-9
    )


def test_masked_classes_contribute_nothing() -> None:
    x = three_heads(5, 300)[0]
    masked = np.concatenate([x, np.full((5, 40), -np.inf, np.float32)], axis=1)
    np.testing.assert_allclose(info.entropy(masked), info.entropy(x), rtol=1e-6)
    np.testing.assert_allclose(margin(masked), margin(x), rtol=1e-6)
    pair = info.information({"a": masked, "b": masked[::-1]})
    np.testing.assert_allclose(pair.jsd, info.information({"a": x, "b": x[::-1]}).jsd, atol=1e-6)


def test_one_class() -> None:
    x = np.ones((3, 1), np.float32)
    assert (info.entropy(x) == 0).all() and (margin(x) == 1).all()


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "nan"), (np.inf, r"\+inf"), (-np.inf, "-inf in every class")],
)
def test_unusable_rows_are_named(value: float, said: str) -> None:
    x = three_heads(100, 3000)[0]
    x[77] = value
    with pytest.raises(DataError, match=f"image: row 77: expected finite logits, found {said}"):
        info.information({"image": x})


def test_a_single_nan_is_found() -> None:
    x = three_heads(10, 4)[0]
    x[3, 2] = np.nan
    for measure in (info.entropy, margin, least_confidence):
        with pytest.raises(DataError, match="row 3"):
            measure(x)


def test_shapes_types_and_names_are_checked() -> None:
    x = three_heads(3, 4)[0]
    with pytest.raises(SchemaError, match=r"b: expected shape \(3, 4\), found \(2, 4\)"):
        info.information({"a": x, "b": x[:2]})
    with pytest.raises(SchemaError, match="found int64"):
        info.entropy(np.zeros((2, 2), np.int64))
    with pytest.raises(ParameterError, match="activation"):
        info.entropy(x, activation="tanh")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="at least one head"):
        info.information({})
