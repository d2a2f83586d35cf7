"""FlashMLAAttention gives what the attention layers of transformers give with the same weights."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import flashmla  # noqa: E402 - behind what may be missing
from flashmla.integrations.torch import FlashMLAAttention, PagedStep, Rope, Yarn  # noqa: E402
from integrations import tiny_models  # noqa: E402
from integrations.paging import Paging  # noqa: E402

SCALED = {"original_max_position_embeddings": 64, "mscale_all_dim": 1.0}
ROPES = {
    "deepseek_v3": Rope(),
    "deepseek_v3_yarn": Rope(yarn=Yarn(40.0, **SCALED)),
    "deepseek_v2": Rope(yarn=Yarn(40.0, **SCALED)),
    "deepseek_v2_lite": Rope(),
    "kimi_k2": Rope(yarn=Yarn(32.0, beta_fast=1, **SCALED)),
    "glm4_moe_lite": Rope(),
    "minicpm3": Rope(interleaved=False),
    "youtu": Rope(),
}


def pieces(tokens, layer, hidden, paging, **options):
    """The layer's output in steps of several tokens and of one."""
    found = []
    for rows in hidden.split(tokens):
        found.append(layer(rows, paging.step({"x": len(rows)}, **options)))
    return torch.cat(found)


def causal_mask(count):
    return torch.full((count, count), -torch.inf).triu(1)[None, None]


def of_module(module, **options):
    return FlashMLAAttention(module.state_dict(), num_heads=module.num_heads, **options)


@pytest.mark.parametrize("name", ROPES)
def test_the_layer_is_that_of_transformers(name):
    model = tiny_models.make(name)
    module = model.model.layers[1].self_attn
    layer = of_module(module, rope=ROPES[name])
    assert layer.softmax_scale == pytest.approx(module.scaling)
    hidden = torch.randn(150, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(len(hidden))[None]
    with torch.no_grad():
        turning = model.model.rotary_emb(hidden[None], positions)
        expected, _ = module(hidden[None], position_embeddings=turning, attention_mask=causal_mask(len(hidden)))
    shape = 30, 16, 1, layer.kv_lora_rank + layer.d_rope
    for up_project_from in (2, 2**31):
        found = pieces(
            [70, 1, 1, 40, 38], layer, hidden, Paging(shape, 1, max_blocks=16), up_project_from=up_project_from
        )
        torch.testing.assert_close(found, expected[0], atol=1e-4, rtol=1e-4)


def test_columns_that_do_not_turn():
    """Kimi Linear's layers of attention have no RoPE, but columns that all heads share."""
    from transformers.models.kimi_linear import modeling_kimi_linear as kimi

    sizes = tiny_models.DEEPSEEK | tiny_models.heads(4) | {"hidden_size": 64, "q_lora_rank": None}
    config = transformers.KimiLinearConfig(**sizes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    module = kimi.KimiLinearAttention(config, layer_idx=0).eval()
    hidden = torch.randn(40, 64)
    with torch.no_grad():
        expected, _ = module(hidden[None], attention_mask=causal_mask(40))
    found = pieces([30, 10], of_module(module), hidden, Paging((8, 16, 1, 576), 1))
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-4)


def random_weights(heads=4, rank=512, d_rope=0, d_nope=96, d_v=80, hidden=32):
    shapes = {
        "q_a_proj.weight": (24, hidden),
        "q_a_proj.bias": (24,),
        "q_a_layernorm.weight": (24,),
        "q_b_proj.weight": (heads * (d_nope + d_rope), 24),
        "kv_a_proj_with_mqa.weight": (rank + d_rope, hidden),
        "kv_a_proj_with_mqa.bias": (rank + d_rope,),
        "kv_a_layernorm.weight": (rank,),
        "kv_b_proj.weight": (heads * (d_nope + d_v), rank),
        "o_proj.weight": (hidden, heads * d_v),
        "o_proj.bias": (hidden,),
    }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def normalised(rows, weight):
    return rows / (rows.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def test_without_rope_columns_and_with_biases():
    """Against the mathematics in float64: every head's keys and values of its own."""
    weights = random_weights()
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    w = {name: weight.double() for name, weight in weights.items()}
    x = hidden.double()
    low = normalised(x @ w["q_a_proj.weight"].mT + w["q_a_proj.bias"], w["q_a_layernorm.weight"])
    q = (low @ w["q_b_proj.weight"].mT).view(50, 4, 96)
    latent = x @ w["kv_a_proj_with_mqa.weight"].mT + w["kv_a_proj_with_mqa.bias"]
    kv = (normalised(latent, w["kv_a_layernorm.weight"]) @ w["kv_b_proj.weight"].mT).view(50, 4, 176)
    logits = torch.einsum("shd,thd->hst", q, kv[..., :96]) * 96**-0.5 + causal_mask(50)[0].double()
    out = torch.einsum("hst,thd->shd", logits.softmax(-1), kv[..., 96:]).reshape(50, -1)
    expected = out @ w["o_proj.weight"].mT + w["o_proj.bias"]
    layer = FlashMLAAttention(weights, num_heads=4)
    for up_project_from in (2, 2**31):
        found = pieces([30, 1, 19], layer, hidden, Paging((8, 16, 1, 512), 1), up_project_from=up_project_from)
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_rope_columns_that_lie_at_no_multiple_of_16_bytes():
    """Of q, behind an odd number of others."""
    layer = FlashMLAAttention(random_weights(d_nope=97, d_rope=64), num_heads=4)
    hidden = torch.randn(31, 32, generator=torch.Generator().manual_seed(1))
    found = [
        pieces([30, 1], layer, hidden, Paging((8, 16, 1, 576), 1), up_project_from=up_project_from)
        for up_project_from in (2, 2**31)
    ]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_a_softmax_scale_that_is_given_counts():
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    usual, given = (
        pieces([20], FlashMLAAttention(random_weights(), num_heads=4, softmax_scale=scale), hidden, paging)
        for scale, paging in ((None, Paging((8, 16, 1, 512), 1)), (96**-0.5, Paging((8, 16, 1, 512), 1)))
    )
    assert torch.equal(usual, given)
    layer = FlashMLAAttention(random_weights(), num_heads=4, softmax_scale=0.0)
    with pytest.raises(flashmla.InvalidArgumentError, match="softmax_scale"):
        pieces([20], layer, hidden, Paging((8, 16, 1, 512), 1))


def test_weights_are_not_copied_and_move_like_those_of_a_module():
    weights = random_weights()
    layer = FlashMLAAttention(weights, num_heads=4)
    assert layer.state_dict().keys() == weights.keys()
    assert layer.kv_b_proj.weight.data_ptr() == weights["kv_b_proj.weight"].data_ptr()
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    exact = pieces([20], layer, hidden, Paging((8, 16, 1, 512), 1))
    layer.to(torch.bfloat16)
    near = pieces([12, 8], layer, hidden.bfloat16(), Paging((8, 16, 1, 512), 1, torch.bfloat16))
    assert near.dtype == torch.bfloat16
    assert float((near.float() - exact).norm() / exact.norm()) < 0.03


def test_a_sequence_does_not_feel_those_beside_it():
    """Slots of padding write nothing, and sequences without a token in the step are there."""
    layer = FlashMLAAttention(random_weights(d_rope=64), num_heads=4, rope=Rope())
    hidden = torch.randn(30, 32, generator=torch.Generator().manual_seed(1))
    alone = pieces([30], layer, hidden, Paging((8, 16, 1, 576), 1))
    paging = Paging((8, 16, 1, 576), 1)
    other = torch.randn(9, 32, generator=torch.Generator().manual_seed(2))
    layer(torch.cat([other, hidden[:20]]), paging.step({"other": 9, "x": 20}))
    beside = layer(torch.cat([hidden[20:], other[:1]]), paging.step({"idle": 0, "x": 10, "other": 1}))
    torch.testing.assert_close(beside[:10], alone[20:], atol=1e-5, rtol=1e-5)


def test_layers_with_other_heads_share_a_step():
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    paging, alone = (Paging((8, 16, 1, 512), 2) for _ in range(2))
    layers = [FlashMLAAttention(random_weights(heads), num_heads=heads, layer=i) for i, heads in enumerate((4, 6))]
    step = paging.step({"x": 20})
    for layer in layers:
        expected = layer(hidden, alone.step({layer: 20}))
        torch.testing.assert_close(layer(hidden, step), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "heads", "sentence"),
    [
        ({"kv_b_proj.weight": None}, 4, r"weights lack kv_b_proj\.weight"),
        ({"q_b_proj.weight": None, "o_proj.weight": None}, 4, r"weights lack o_proj\.weight, q_b_proj\.weight"),
        ({"indexer.wk.weight": torch.zeros(1)}, 4, r"weights have the unknown indexer\.wk\.weight"),
        ({}, 3, r"num_heads is 3; the 704 rows of kv_b_proj\.weight must be a multiple"),
        ({}, 0, r"num_heads is 0"),
        ({}, 4.0, r"num_heads is 4\.0"),
        ({"kv_a_layernorm.weight": torch.ones(500)}, 4, r"kv_a_layernorm\.weight has the shape \(500,\); it must be"),
        ({"o_proj.weight": [1.0]}, 4, r"weights\['o_proj\.weight'\] is a list; a torch\.Tensor is needed"),
        (
            {"q_b_proj.weight": torch.zeros(4 * 112, 24), "kv_a_proj_with_mqa.weight": torch.zeros(528, 32)},
            2,
            r"q_b_proj\.weight has 448 rows; with num_heads 2, d_nope 192 and d_rope 16, .* it must have 416",
        ),
    ],
)
def test_what_is_no_layer_is_refused(change, heads, sentence):
    weights = random_weights() | change
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    with pytest.raises((flashmla.InvalidArgumentError, TypeError), match=sentence):
        FlashMLAAttention(weights, num_heads=heads)


@pytest.mark.parametrize("shape", [(19, 32), (1, 20, 32), (20,)], ids=str)
def test_hidden_states_of_other_tokens_are_refused(shape):
    layer, step = FlashMLAAttention(random_weights(), num_heads=4), Paging((8, 16, 1, 528), 1).step({"x": 20})
    with pytest.raises(flashmla.InvalidArgumentError, match=r"it must be \(20, hidden_size\), a row for each token"):
        layer(torch.zeros(shape), step)
    with pytest.raises(flashmla.InvalidArgumentError, match="layer is -1; it must be"):
        FlashMLAAttention(random_weights(), num_heads=4, layer=-1)


@pytest.mark.usefixtures("gpu")
def test_a_step_is_captured_in_a_graph():
    """A step of tensors alone: what is captured reads them anew in each replay, lengths and positions too."""
    weights = {name: weight.cuda().bfloat16() for name, weight in random_weights(d_rope=64).items()}
    layer = FlashMLAAttention(weights, num_heads=4, rope=Rope())
    kv_caches = [torch.randn(8, 64, 1, 576, device="cuda").bfloat16()]
    again = [kv_caches[0].clone()]
    hidden = torch.randn(2, 32, device="cuda").bfloat16()
    table = torch.tensor([[3, 5, 0], [1, 6, 2]], dtype=torch.int32, device="cuda")
    lengths = torch.tensor([70, 1], dtype=torch.int32, device="cuda")
    slots = torch.tensor([5 * 64 + 5, 64], device="cuda")
    positions = torch.tensor([69, 0], device="cuda")
    offsets = torch.tensor([0, 1, 2], dtype=torch.int32, device="cuda")

    def step(caches):
        return PagedStep(caches, table, lengths, slots, positions, offsets, 1)

    layer(hidden, step(kv_caches))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer(hidden, step(kv_caches))
    again[0].copy_(kv_caches[0])
    for _ in range(2):
        hidden.normal_()
        for moving in (lengths, slots, positions):
            moving.add_(1)
        graph.replay()
        torch.testing.assert_close(out, layer(hidden, step(again)))
    assert torch.equal(kv_caches[0], again[0])
