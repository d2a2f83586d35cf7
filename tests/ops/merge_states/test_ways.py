"""`merge_states` goes the fast way where it can, and can be prepared."""

import numpy as np
import pytest

import flashmla


def parts(framework, count=3):
    """(outs, lses), stacked."""
    draw = np.random.default_rng(5)
    outs = draw.standard_normal((count, 2, 1, 4, 64)).astype(np.float32)
    lses = draw.standard_normal((count, 2, 4, 1)).astype(np.float32)
    if framework == "numpy":
        return outs, lses
    torch = pytest.importorskip("torch")
    return torch.from_numpy(outs), torch.from_numpy(lses)


def equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("kind", [list, lambda stacked: stacked], ids=["listed", "stacked"])
def test_a_call_is_fast_once_its_shape_is_known(only_fast, framework, kind):
    given = [kind(tensor) for tensor in parts(framework)]
    first = flashmla.merge_states(*given)
    out, lse = (tensor * 0 for tensor in first)
    with only_fast():
        equal(flashmla.merge_states(*given), first)
        equal(flashmla.merge_states(*given, out=out, lse=lse), first)
    equal((out, lse), first)


def test_more_parts_than_the_fast_way_takes(framework):
    outs, lses = (list(tensor) * 50 for tensor in parts(framework, count=1))
    out, _ = flashmla.merge_states(outs, lses)
    np.testing.assert_allclose(out, outs[0], rtol=1e-5)


def test_a_prepared_merge(framework):
    outs, lses = parts(framework)
    wanted = flashmla.merge_states(outs, lses)
    equal(flashmla.prepare(flashmla.merge_states, outs, lses)(), wanted)
    prepared = flashmla.prepare(flashmla.merge_states, list(outs), list(lses))
    equal(prepared(), wanted)
    turned = [2, 0, 1]
    found = prepared(outs=[outs[i] for i in turned], lses=[lses[i] for i in turned])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for wrong in ([outs[0]] * 2, outs[0], 3):
        with pytest.raises(TypeError, match=r"^outs must be a list or tuple of 3 tensors"):
            prepared(outs=wrong)
