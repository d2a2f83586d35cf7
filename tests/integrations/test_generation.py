"""Continuous batching over a PagedKVCache says what each sequence says alone, whatever room there is."""

import functools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import flashmla  # noqa: E402 - behind what may be missing
from flashmla.integrations import transformers as integration  # noqa: E402
from flashmla.integrations._generation import Batch  # noqa: E402
from flashmla.integrations.torch import PagedStep  # noqa: E402
from integrations import tiny_models  # noqa: E402

NEW_TOKENS = 20
PAGE_SIZE = 16


@pytest.fixture(scope="module")
def served():
    """An attached model, prompts of which two begin alike, and what the eager model adds to each."""
    model = tiny_models.make("deepseek_v3")
    alike = tiny_models.token_ids(model, 40, 5)
    prompts = [
        [*alike, 7],
        [3],
        tiny_models.token_ids(model, 60, 6),
        [*alike, 8, 9],
        tiny_models.token_ids(model, 17, 7),
    ]
    expected = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(NEW_TOKENS):
            tokens.append(int(tiny_models.eager_logits(model, tokens)[-1].argmax()))
        expected.append(tokens[len(prompt) :])
    return integration.attach(model), prompts, expected


def cache_of(model, num_blocks, max_seqs=4):
    shape = integration.kv_cache_shape(model, num_blocks, PAGE_SIZE)
    kv_caches = [torch.full(shape, torch.nan) for _ in range(integration.num_kv_caches(model))]
    return flashmla.PagedKVCache(kv_caches, max_seqs=max_seqs, max_seq_len=128, max_slots=256)


@pytest.mark.parametrize(
    ("num_blocks", "max_step_tokens"), [(40, 2048), (40, 9), (6, 2048), (6, 5)], ids=["room", "pieces", "full", "both"]
)
def test_batches_say_what_each_sequence_says_alone(served, num_blocks, max_step_tokens, monkeypatch):
    model, prompts, expected = served
    freed = []
    monkeypatch.setattr(Batch, "_put_back", lambda *call, inner=Batch._put_back: freed.append(call) or inner(*call))
    cache = cache_of(model, num_blocks)
    options = {"max_new_tokens": NEW_TOKENS, "max_step_tokens": max_step_tokens}
    assert integration.generate(model, prompts, cache, **options) == expected
    assert bool(freed) == (num_blocks < 40), "sequences give pages back where they run out"
    usage = cache.usage()
    assert (usage.sequences, usage.used) == (0, 0)
    again = integration.generate(model, prompts[3:4], cache, **options)
    assert again == expected[3:4], "pages that are kept for prompts alike are as good as new ones"


class Uncaptured(integration.DecodeGraph):
    """One whose graph is run anew each time, so that it needs no GPU."""

    runs = 0

    def _capture(self):
        pass

    def _replay(self):
        self.runs += 1
        self._run()


def test_steps_of_a_graph_are_those_of_the_model(served):
    """Of fewer sequences from step to step; steps with prompts, or of more sequences than it has room for, are not."""
    model, prompts, expected = served
    cache = cache_of(model, 40)
    graph = Uncaptured(functools.partial(integration.forward, model), cache, 3)
    options = {"max_new_tokens": NEW_TOKENS, "eos_token_ids": {expected[0][5], expected[1][10], expected[2][15]}}
    found = integration.generate(model, prompts[:4], cache, graph=graph, **options)
    assert found == integration.generate(model, prompts[:4], cache_of(model, 40), **options)
    assert len({len(tokens) for tokens in found}) > 1
    assert graph.runs >= 5
    other = cache_of(model, 40)
    before = graph.runs
    assert integration.generate(model, prompts[:1], other, max_new_tokens=5, graph=graph) == [expected[0][:5]]
    assert graph.runs == before, "of another cache"


def test_prompts_that_begin_alike_share_pages(served, monkeypatch):
    model, prompts, _ = served
    cache = cache_of(model, 40)
    integration.generate(model, prompts[:1], cache, max_new_tokens=1)
    assert cache.match(prompts[3]) == 32
    fed = []
    monkeypatch.setattr(
        integration, "forward", lambda *call, inner=integration.forward: fed.append(call[1]) or inner(*call)
    )
    integration.generate(model, prompts[3:4], cache, max_new_tokens=1)
    assert [len(tokens) for tokens in fed] == [len(prompts[3]) - 32]


def test_prompts_that_run_together_share_pages_too(served, monkeypatch):
    model, prompts, _ = served
    cache, fed = cache_of(model, 40), []
    monkeypatch.setattr(
        integration, "forward", lambda *call, inner=integration.forward: fed.append(call[1]) or inner(*call)
    )
    longest = max(prompts, key=len)
    options = {"max_new_tokens": 2, "max_step_tokens": len(longest)}  # one after the other, the first still decodes
    alone = integration.generate(model, [longest], cache_of(model, 40), **options)
    fed.clear()
    assert integration.generate(model, [longest, longest], cache, **options) == alone * 2
    assert sum(map(len, fed)) < 2 * len(longest)


def test_a_sequence_ends_with_a_token_that_ends_it(served):
    model, prompts, expected = served
    end = expected[0][4]
    added = integration.generate(model, prompts, cache_of(model, 40), max_new_tokens=NEW_TOKENS, eos_token_ids={end})
    for tokens, all_of_them in zip(added, expected, strict=True):
        count = all_of_them.index(end) + 1 if end in all_of_them else NEW_TOKENS
        assert tokens == all_of_them[:count]
    assert integration.generate(model, prompts[:2], cache_of(model, 40), max_new_tokens=0) == [[], []]


@pytest.mark.parametrize(("num_blocks", "new"), [(3, NEW_TOKENS), (40, 70)], ids=["pages", "row"])
def test_a_sequence_that_can_never_fit_is_refused_before_others_run(served, num_blocks, new):
    model, prompts, _ = served
    room = min(num_blocks, 128 // PAGE_SIZE) * PAGE_SIZE
    sentence = rf"prompts\[2\] has 60 tokens and gets {new}; the cache has room for {room} of a sequence"
    with pytest.raises(flashmla.PoolFullError, match=sentence) as refused:
        integration.generate(lambda: None, [[1], [2], prompts[2]], cache_of(model, num_blocks), max_new_tokens=new)
    assert refused.value.status_name == "FLASHMLA_ERROR_CAPACITY"


def test_a_sequence_that_just_fits(served):
    """The last token of a sequence is not written."""
    model, prompts, _ = served
    added = integration.generate(model, [prompts[2]], cache_of(model, 8), max_new_tokens=128 - 60 + 1)
    assert len(added[0]) == 128 - 60 + 1


def test_prompts_longer_than_a_step_of_the_cache_come_in_pieces(served):
    model, prompts, expected = served
    shape = integration.kv_cache_shape(model, 40, PAGE_SIZE)
    kv_caches = [torch.full(shape, torch.nan) for _ in range(integration.num_kv_caches(model))]
    cache = flashmla.PagedKVCache(kv_caches, max_seqs=4, max_seq_len=128, max_slots=16)
    assert integration.generate(model, prompts, cache, max_new_tokens=NEW_TOKENS) == expected


def test_prompts_may_be_tensors(served):
    model, prompts, expected = served
    tensors = [torch.tensor(prompt) for prompt in prompts]
    assert integration.generate(model, tensors, cache_of(model, 40), max_new_tokens=NEW_TOKENS) == expected


def test_a_cache_is_free_again_whatever_is_raised(served):
    model, prompts, expected = served
    cache, steps = cache_of(model, 40), []

    def choose(logits):
        steps.append(len(logits))
        if len(steps) == 3:
            raise KeyboardInterrupt
        return logits.argmax(-1)

    with pytest.raises(KeyboardInterrupt):
        integration.generate(model, prompts, cache, max_new_tokens=NEW_TOKENS, choose=choose)
    usage = cache.usage()
    assert (usage.sequences, usage.used, usage.free_rows) == (0, 0, 4)
    assert integration.generate(model, prompts, cache, max_new_tokens=NEW_TOKENS) == expected


def test_choices_are_those_of_the_caller(served):
    model, prompts, _ = served
    least = integration.generate(
        model, prompts[:1], cache_of(model, 40), max_new_tokens=1, choose=lambda logits: logits.argmin(-1)
    )
    assert least == [[int(tiny_models.eager_logits(model, prompts[0])[-1].argmin())]]


@pytest.mark.parametrize(
    ("prompts", "budget", "sentence"),
    [
        ([[1], []], 8, r"prompts\[1\] has no tokens"),
        ([[1]], 0, "max_step_tokens is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_generated_is_refused(served, prompts, budget, sentence):
    with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
        integration.generate(served[0], prompts, cache_of(served[0], 8), max_new_tokens=1, max_step_tokens=budget)


@pytest.mark.parametrize(
    ("batch", "sentence"), [(0, "batch is 0; it must be at least 1"), (4, "not in PyTorch on a GPU")]
)
def test_graphs_are_of_caches_on_a_gpu(served, batch, sentence):
    with pytest.raises(flashmla.InvalidArgumentError, match=sentence):
        integration.decode_graph(served[0], cache_of(served[0], 8), batch)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("graphs", [False, True])
def test_tokens_that_a_gpu_chooses_are_the_best_or_nearly_so(graphs, figure):
    """In bfloat16 near ties may fall otherwise: how much less the float32 model gives to what was chosen."""
    model = tiny_models.make("deepseek_v3", device="cuda")
    prompts = [tiny_models.token_ids(model, count, count) for count in (3, 40, 61, 17)]
    integration.attach(model.to(torch.bfloat16))
    shape = integration.kv_cache_shape(model, 9, PAGE_SIZE)
    kv_caches = [torch.full(shape, torch.nan, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    cache = flashmla.PagedKVCache(kv_caches, max_seqs=3, max_seq_len=128)
    graph = integration.decode_graph(model, cache, 4) if graphs else None
    added = integration.generate(model, prompts, cache, max_new_tokens=NEW_TOKENS, max_step_tokens=50, graph=graph)
    exact = tiny_models.make("deepseek_v3", device="cuda")
    lost = []
    for prompt, tokens in zip(prompts, added, strict=True):
        assert len(tokens) == NEW_TOKENS
        logits = tiny_models.eager_logits(exact, prompt + tokens)[len(prompt) - 1 : -1]
        lost.append(logits.amax(-1) - logits[range(NEW_TOKENS), tokens])
    most = float(torch.cat(lost).max())
    figure(f"most that a token chosen on a GPU is below the best, graphs {graphs}", f"{most:.3f}")
    assert most < 0.2, "logits have a standard deviation of 1.2"


@pytest.mark.parametrize("form", ["an int", "a list", "a tensor", "NumPy's", "none"])
def test_a_token_that_ends_may_be_one_or_several(served, form):
    model, prompts, expected = served
    end = expected[0][5]
    ids = {"an int": end, "a list": [end], "a tensor": torch.tensor([end, end]), "none": None}
    ids["NumPy's"] = pytest.importorskip("numpy").int64(end)
    added = integration.generate(
        model, prompts[:1], cache_of(model, 40), max_new_tokens=NEW_TOKENS, eos_token_ids=ids[form]
    )
    assert added == [expected[0] if form == "none" else expected[0][: expected[0].index(end) + 1]]


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"eos_token_ids": "2"}, TypeError, "eos_token_ids is a str: an integer, or several, are needed"),
        ({"eos_token_ids": 2.0}, TypeError, "eos_token_ids is a float: an integer, or several, are needed"),
        ({"eos_token_ids": [[2]]}, TypeError, "eos_token_ids is a list: an integer, or several, are needed"),
        ({"max_new_tokens": 2.5}, TypeError, r"max_new_tokens is 2\.5, a float: an integer is needed"),
        ({"max_new_tokens": -1}, flashmla.InvalidArgumentError, "max_new_tokens is -1"),
        ({"max_step_tokens": 1.0}, TypeError, r"max_step_tokens is 1\.0, a float: an integer is needed"),
        ({"prompts": [1, 2]}, TypeError, r"prompts\[0\] is an int: its token ids are needed"),
        ({"prompts": ["text"]}, TypeError, r"prompts\[0\] is a str: its token ids are needed"),
    ],
)
def test_arguments_that_are_nothing_of_the_kind(served, given, error, sentence):
    arguments = {"prompts": [[1]], "max_new_tokens": 1} | given
    prompts = arguments.pop("prompts")
    with pytest.raises(error, match=sentence):
        integration.generate(served[0], prompts, cache_of(served[0], 8), **arguments)


def test_a_cache_of_other_layers_is_refused(served):
    model, prompts, _ = served
    shape = integration.kv_cache_shape(model, 8, PAGE_SIZE)
    cache = flashmla.PagedKVCache([torch.zeros(shape)], max_seqs=4, max_seq_len=128)
    with pytest.raises(flashmla.InvalidArgumentError, match="layer is 1; kv_caches has 1 of them"):
        integration.generate(model, prompts[:1], cache, max_new_tokens=1)
    assert cache.usage().sequences == 0


def test_rows_of_sequences_with_tokens_are_theirs_beside_others_without(served):
    model, prompts, _ = served
    shape = integration.kv_cache_shape(model, 12, PAGE_SIZE)
    kv_caches = [torch.zeros(shape) for _ in range(integration.num_kv_caches(model))]
    table = torch.arange(12, dtype=torch.int32).view(3, 4)
    ids = torch.tensor(prompts[0])
    step = PagedStep.of_lengths(kv_caches, table, [0, 0, 7], [0, len(ids), 0])
    logits = integration.forward(model, ids, step)
    alone = PagedStep.of_lengths(kv_caches, table[:1], [0], [len(ids)])
    torch.testing.assert_close(logits[1], integration.forward(model, ids, alone)[0])
    nothing = PagedStep.of_lengths(kv_caches, table, [0, 0, 7], [0, 0, 0])
    with pytest.raises(flashmla.InvalidArgumentError, match="the step has no tokens"):
        integration.forward(model, ids[:0], nothing)
