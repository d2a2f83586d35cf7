"""What steps and generation refuse, with sentences, and what they take for convenience."""

import pytest

torch = pytest.importorskip("torch")

import flashmla  # noqa: E402 - behind what may be missing
from flashmla.integrations.torch import FlashMLAAttention, PagedStep  # noqa: E402

TABLE = torch.zeros(2, 2, dtype=torch.int32)
ONE = torch.zeros(8, 64, 1, 576)


@pytest.mark.parametrize(
    ("kv_caches", "sentence"),
    [
        (
            ONE,
            r"kv_caches\[0\] has 3 axes; kv_caches must be a list of caches \(num_blocks, page_size, 1, row\), one of ",
        ),
        ([], "kv_caches is empty"),
        ([ONE[0]], r"kv_caches\[0\] has 3 axes"),
        (None, "kv_caches is a NoneType: a list of caches, one of each layer, is needed"),
    ],
)
def test_caches_that_are_none_of_layers(kv_caches, sentence):
    with pytest.raises((flashmla.InvalidArgumentError, TypeError), match=sentence):
        PagedStep.of_lengths(kv_caches, TABLE, [0, 0], [1, 1])
    numbers = torch.zeros(2, dtype=torch.int64)
    with pytest.raises((flashmla.InvalidArgumentError, TypeError), match=sentence):
        PagedStep(kv_caches, TABLE, TABLE[0], numbers, numbers, torch.arange(3), 1)


def test_a_tensor_of_all_layers_is_taken():
    step = PagedStep.of_lengths(torch.stack([ONE, ONE]), TABLE, [0, 0], [1, 1])
    assert step.cache_of(1).shape == ONE.shape


def layer_of(number):
    weights = {
        "q_proj.weight": torch.randn(2 * 192, 64),
        "kv_a_proj_with_mqa.weight": torch.randn(576, 64),
        "kv_a_layernorm.weight": torch.ones(512),
        "kv_b_proj.weight": torch.randn(2 * 256, 512),
        "o_proj.weight": torch.randn(64, 256),
    }
    return FlashMLAAttention(weights, num_heads=2, layer=number)


def test_a_layer_without_a_cache_is_told():
    step = PagedStep.of_lengths([ONE], TABLE, [0, 0], [1, 1])
    with pytest.raises(flashmla.InvalidArgumentError, match="layer is 1; kv_caches has 1 of them"):
        layer_of(1)(torch.randn(2, 64), step)


def test_a_sequence_without_tokens_leaves_the_others_alone():
    layer, x = layer_of(0), torch.randn(3, 64)
    table = torch.arange(6, dtype=torch.int32).view(3, 2)
    alone = layer(x, PagedStep.of_lengths([ONE.clone()], table[1:2], [0], [3]))
    beside = layer(x, PagedStep.of_lengths([ONE.clone()], table, [0, 0, 70], [0, 3, 0]))
    torch.testing.assert_close(alone, beside)
    split = layer(x, PagedStep.of_lengths([ONE.clone()], table, [0, 0, 70], [0, 3, 0], up_project_from=2))
    torch.testing.assert_close(alone, split, atol=1e-3, rtol=1e-3)


def test_a_step_without_tokens_has_no_output():
    step = PagedStep.of_lengths([ONE.clone()], TABLE, [0, 5], [0, 0])
    assert layer_of(0)(torch.randn(0, 64), step).shape == (0, 64)
