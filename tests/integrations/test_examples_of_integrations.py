"""What users read in the docstrings of the integrations: what is raised is told, and the examples run."""

import doctest

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import flashmla  # noqa: E402 - behind what may be missing
import flashmla.integrations.torch as layers  # noqa: E402
import flashmla.integrations.transformers as models  # noqa: E402
from integrations import tiny_models  # noqa: E402

PUBLIC = [getattr(module, name) for module in (layers, models) for name in module.__all__]
PUBLIC = [*dict.fromkeys(thing for thing in PUBLIC if callable(thing))]
METHODS = [layers.PagedStep.of_lengths, layers.PagedStep.of_cache, layers.PagedStep.cache_of]
RAISE_NOTHING = [layers.Rope, layers.Yarn]
WITHOUT_EXAMPLE = [*RAISE_NOTHING, models.DecodeGraph]  # which decode_graph makes, on a GPU


@pytest.fixture
def used():
    model = models.attach(tiny_models.make("deepseek_v3", vocab_size=1000))
    kv_caches = [torch.zeros(models.kv_cache_shape(model, 8, 64)) for _ in range(models.num_kv_caches(model))]
    cache = flashmla.PagedKVCache(kv_caches, max_seqs=4, max_seq_len=128)
    names = {name: getattr(module, name) for module in (layers, models) for name in module.__all__}
    return names | {"torch": torch, "flashmla": flashmla, "model": model, "cache": cache}


@pytest.mark.parametrize("thing", [*PUBLIC, *METHODS], ids=lambda thing: thing.__qualname__)
def test_what_is_raised_is_told(thing):
    assert ("raise" in thing.__doc__.lower()) == (thing not in RAISE_NOTHING)


@pytest.mark.parametrize("thing", [*PUBLIC, layers.PagedStep.of_cache], ids=lambda thing: thing.__qualname__)
def test_examples(thing, used):
    found = doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs=used)
    examples = [test for test in found if test.examples]
    assert bool(examples) == (thing not in WITHOUT_EXAMPLE), "an example is missing"
    for test in examples:
        report = []
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
