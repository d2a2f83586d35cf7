"""Models of transformers over paged caches say what the eager models say, whatever is beside a sequence in a step."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import flashmla  # noqa: E402 - behind what may be missing
from flashmla.integrations import transformers as integration  # noqa: E402
from integrations import tiny_models  # noqa: E402
from integrations.paging import Paging  # noqa: E402

NEW_TOKENS = 64
PROMPTS = {"a": 3, "b": 17, "c": 32, "d": 61}  # tokens, over pages of 16


def paging_of(model, num_blocks=40, page_size=16, max_blocks=16):
    shape = integration.kv_cache_shape(model, num_blocks, page_size)
    return Paging(shape, integration.num_kv_caches(model), model.dtype, model.device, max_blocks)


def logits_of_step(model, paging, tokens, **options):
    """Logits behind every token that each sequence gets."""
    step = paging.step({sequence: len(given) for sequence, given in tokens.items()}, **options)
    packed = torch.tensor([token for given in tokens.values() for token in given], device=model.device)
    logits = integration.forward(model, packed, step, logits_to_keep=0)
    return dict(zip(tokens, logits.split([len(given) for given in tokens.values()]), strict=True))


@pytest.fixture(scope="module")
def greedy():
    """The model, prompts, and what it adds to each of them alone, eagerly."""
    model = tiny_models.make("deepseek_v3")
    prompts = {name: tiny_models.token_ids(model, count, seed=count) for name, count in PROMPTS.items()}
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    added = {
        name: model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **options)[
            0, len(prompt) :
        ].tolist()
        for name, prompt in prompts.items()
    }
    assert len(set().union(*added.values())) > 40, "sequences that run in circles show little"
    return model, prompts, added


@pytest.mark.parametrize("up_project_from", [2, None])
def test_ragged_sequences_get_the_tokens_of_the_eager_model(greedy, up_project_from):
    """They come one after the other, prompts in pieces beside sequences that decode, and leave when they are done."""
    model, prompts, expected = greedy
    integration.attach(model)
    paging = paging_of(model)
    waiting, added = list(prompts), {}
    given = {}
    rounds = 0
    while waiting or given:
        if waiting and rounds % 5 == 0:
            name = waiting.pop(0)
            given[name], added[name] = prompts[name][:25], []
        step = paging.step({name: len(tokens) for name, tokens in given.items()}, up_project_from=up_project_from)
        packed = torch.tensor([token for tokens in given.values() for token in tokens])
        for name, row in zip(list(given), integration.forward(model, packed, step), strict=True):
            rest = prompts[name][paging.lengths[name] :]
            if rest:
                given[name] = rest
                continue
            added[name].append(int(row.argmax()))
            given[name] = added[name][-1:]
            if len(added[name]) == NEW_TOKENS:
                del given[name]
                paging.leave(name)
        rounds += 1
    integration.detach(model, "eager")
    assert added == expected


@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_every_configuration_has_the_logits_of_its_eager_model(name):
    """A prompt in two pieces, the second beside a decoding sequence; projected up and absorbed."""
    model = tiny_models.make(name)
    tokens = {"x": tiny_models.token_ids(model, 90, 1), "y": tiny_models.token_ids(model, 21, 2)}
    expected = {sequence: tiny_models.eager_logits(model, ids) for sequence, ids in tokens.items()}
    integration.attach(model)
    for up_project_from in (2, None):
        paging = paging_of(model)
        steps = [{"x": tokens["x"][:70], "y": tokens["y"][:20]}, {"y": tokens["y"][20:], "x": tokens["x"][70:]}]
        found = [logits_of_step(model, paging, step, up_project_from=up_project_from) for step in steps]
        for sequence, rows in expected.items():
            both = torch.cat([logits[sequence] for logits in found])
            torch.testing.assert_close(both, rows, atol=2e-4, rtol=2e-4)


def bfloat16_distances(model, up_project_from):
    """Of teacher-forced logits from those of the float32 model: over paged caches, and of the eager model itself."""
    tokens = {name: tiny_models.token_ids(model, count, count) for name, count in (("x", 128), ("y", 70), ("z", 33))}
    exact = torch.cat([tiny_models.eager_logits(model, ids) for ids in tokens.values()])
    model.to(torch.bfloat16)
    eager = torch.cat([tiny_models.eager_logits(model, ids) for ids in tokens.values()])
    integration.attach(model)
    paging = paging_of(model)
    found = {name: [] for name in tokens}
    for first, last in ((0, 30), *((i, i + 1) for i in range(30, 40)), (40, 128)):
        piece = {name: ids[first:last] for name, ids in tokens.items() if first < len(ids)}
        for name, logits in logits_of_step(model, paging, piece, up_project_from=up_project_from).items():
            found[name].append(logits)
    paged = torch.cat([logits for pieces in found.values() for logits in pieces])
    return [float((logits.float() - exact).norm() / exact.norm()) for logits in (paged, eager)]


def check_bfloat16(name, device, up_project_from, figure):
    paged, eager = bfloat16_distances(tiny_models.make(name, device=device), up_project_from)
    figure(f"{name} in bfloat16 on {device}, projected up from {up_project_from}", f"{paged / eager:.3f} of eager")
    assert paged <= 1.1 * eager


@pytest.mark.parametrize("up_project_from", [2, None])
@pytest.mark.parametrize("name", ["deepseek_v3", "minicpm3"])
def test_bfloat16_is_no_further_from_float32_than_the_eager_model(name, up_project_from, figure):
    check_bfloat16(name, "cpu", up_project_from, figure)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("up_project_from", [2, None])
@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2", "kimi_k2", "glm4_moe_lite", "mistral4", "minicpm3"])
def test_bfloat16_on_a_gpu_is_no_further_from_float32_than_the_eager_model(name, up_project_from, figure):
    check_bfloat16(name, "cuda", up_project_from, figure)


def test_calls_without_a_step_are_those_of_sdpa(greedy):
    """An attached model generates by the means of transformers, from prompts of unequal length with padding too."""
    model, prompts, expected = greedy
    integration.attach(model)
    width = max(map(len, prompts.values()))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts.values()])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts.values()])
    made = model.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0)
    integration.detach(model, "eager")
    assert made[:, width:].tolist() == [tokens[:16] for tokens in expected.values()]


def test_quantised_caches_are_near():
    """In a format of codes: the layers write and read it; near means beside the size of the logits."""
    model = tiny_models.make("deepseek_v3", dtype=torch.bfloat16)
    tokens = tiny_models.token_ids(model, 60, 4)
    expected = tiny_models.eager_logits(model, tokens).float()
    integration.attach(model)
    for up_project_from in (1, None):
        paging = Paging((8, 64, 1, 656), 2, torch.uint8)
        options = {"kv_format": "v32", "up_project_from": up_project_from}
        found = [logits_of_step(model, paging, {"x": piece}, **options)["x"] for piece in (tokens[:40], tokens[40:])]
        assert float((torch.cat(found).float() - expected).norm() / expected.norm()) < 0.1


def test_detach_gives_the_model_back(greedy):
    model, prompts, _ = greedy
    before = tiny_models.eager_logits(model, prompts["b"])
    integration.attach(model)
    assert integration.detach(model, "eager") is model
    assert torch.equal(tiny_models.eager_logits(model, prompts["b"]), before)
    step = paging_of(model).step({"b": len(prompts["b"])})
    with pytest.raises(flashmla.InvalidArgumentError, match=r"the model is not attached; call .*attach"):
        integration.forward(model, torch.tensor(prompts["b"]), step)


def test_a_model_of_this_implementation_that_is_not_attached_has_no_steps(greedy):
    """As one that was made with attn_implementation="paged_mla"."""
    model, prompts, _ = greedy
    model.set_attn_implementation(integration.IMPLEMENTATION)
    found = tiny_models.eager_logits(model, prompts["b"])
    step = paging_of(model).step({"b": len(prompts["b"])})
    with pytest.raises(flashmla.InvalidArgumentError, match=r"the layer is not attached; call .*attach"):
        integration.forward(model, torch.tensor(prompts["b"]), step)
    integration.detach(model, "eager")
    torch.testing.assert_close(found, tiny_models.eager_logits(model, prompts["b"]), atol=1e-4, rtol=1e-4)


def test_other_models_are_refused_by_their_configuration():
    sizes = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **tiny_models.heads(2)))
    with pytest.raises(flashmla.UnsupportedError, match="has the configuration LlamaConfig; its attention layers must"):
        integration.attach(llama)
    assert llama.config._attn_implementation != integration.IMPLEMENTATION


class Quantised(torch.nn.Linear):
    pass


def _biased(_linear):
    return torch.nn.Linear(512, 16 * 256, bias=True)


def _hooked(linear):
    linear.register_forward_hook(lambda _module, _inputs, out: 2 * out)
    return linear


def _wrapped(linear):
    linear.forward = lambda x: torch.nn.functional.linear(x, linear.weight) + 1
    return linear


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda _: Quantised(512, 16 * 256), r"is a .*\.Quantised"),
        (_biased, "has a bias"),
        (_hooked, "has a forward of its own, or hooks"),
        (_wrapped, "has a forward of its own, or hooks"),
    ],
    ids=["quantised", "bias", "hook", "forward"],
)
def test_projections_that_are_no_plain_weights_are_refused(change, sentence):
    model = tiny_models.make("deepseek_v3")
    layer = model.model.layers[1].self_attn
    layer.kv_b_proj = change(layer.kv_b_proj)
    with pytest.raises(flashmla.UnsupportedError, match=f"kv_b_proj of layer 1 {sentence}; it must be a plain"):
        integration.attach(model)


def test_head_sizes_without_kernels_are_refused_by_the_names_of_their_fields():
    model = tiny_models.make("deepseek_v3")
    model.config.qk_rope_head_dim = 32
    sentence = r"kv_lora_rank and qk_rope_head_dim are 512 and 32: .* supported are"
    with pytest.raises(flashmla.UnsupportedError, match=sentence):
        integration.attach(model)


def test_a_step_that_is_refused_leaves_the_books_alone():
    cache = flashmla.PagedKVCache([torch.zeros(8, 64, 1, 576)], max_seqs=2, max_seq_len=128)
    sequence, _ = cache.allocate()
    with pytest.raises(TypeError, match="of_cache has no option 'up_project'"):
        integration.PagedStep.of_cache(cache, [sequence], [3], up_project=1)
    of_arrays = flashmla.PagedKVCache([np.zeros((8, 64, 1, 576), np.float32)], max_seqs=2, max_seq_len=128)
    other, _ = of_arrays.allocate()
    with pytest.raises(TypeError, match=r"block_table is an ndarray; a torch\.Tensor is needed"):
        integration.PagedStep.of_cache(of_arrays, [other], [3])
    assert cache.length(sequence) == of_arrays.length(other) == 0
    step = integration.PagedStep.of_cache(cache, iter([sequence]), iter([3]))
    assert step.query_lens == (3,)


@pytest.mark.parametrize(
    ("contexts", "counts", "sentence"),
    [
        ([0], [1, 2], r"context_lens has 1 lengths, query_lens 2,"),
        ([0, -1], [1, 2], r"context_lens\[1\] is -1; it must be >= 0"),
        ([9, 0], [-1, 2], r"query_lens\[0\] is -1; it must be >= 0"),
        ([9, 8], [1, 9], r"context_lens\[1\] is 8, query_lens\[1\] 9; a row of block_table has room for 16 tokens"),
    ],
)
def test_lengths_that_do_not_fit_the_table_are_refused(contexts, counts, sentence):
    model = tiny_models.make("deepseek_v3")
    table = torch.zeros(2, 1, dtype=torch.int32)
    with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
        integration.PagedStep.of_lengths(paging_of(model).kv_caches, table, contexts, counts)


@pytest.mark.parametrize("shape", [(1, 3), (2,), (1,)])
def test_tokens_that_are_not_those_of_the_step_are_refused(shape):
    model = integration.attach(tiny_models.make("deepseek_v3"))
    step = paging_of(model).step({"b": 3})
    with pytest.raises(flashmla.InvalidArgumentError, match=r"input_ids has the shape \(.*\); it must be \(3,\)"):
        integration.forward(model, torch.zeros(shape, dtype=torch.int64), step)
