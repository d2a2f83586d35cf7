"""What goes in and comes out: tensors of every framework, read-only ones, objects that are none, and their lifetime."""

import contextlib
import ctypes
import gc
import sys
import weakref

import numpy as np
import pytest

import flashmla
import small
from flashmla import _frameworks, _tensor


class Exporter:
    """A tensor of an unknown framework: DLPack and nothing else, of the generation before versions."""

    def __init__(self, array):
        self.array = array
        self.exports = 0

    def __dlpack__(self, stream=None):
        assert stream is None, "a CPU tensor has no stream"
        self.exports += 1
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OnGPU(Exporter):
    """Host memory that says it is on a GPU, and remembers the streams that it was asked to be ready for."""

    def __init__(self, array):
        super().__init__(array)
        self.streams = []

    def __dlpack__(self, stream=None, max_version=None):
        self.streams.append(stream)
        capsule = self.array.__dlpack__(max_version=max_version)
        _tensor.pointer(capsule, "test").device.device_type = _tensor.CUDA
        return capsule

    def __dlpack_device__(self):
        return (_tensor.CUDA, 0)


@pytest.mark.parametrize(("given", "expected"), [(None, 1), (0, 1), (1, 1), (4096, 4096)])
def test_exporters_wait_for_the_stream_of_the_call(given, expected):
    """DLPack calls CUDA's default stream 1. Sizes need no driver, or say that there is none: exports come first."""
    exporters = [OnGPU(array) for array in small.inputs()]
    with contextlib.suppress(flashmla.FlashMLAError, TypeError):
        flashmla.plan_decode(*exporters, stream=given)
    assert [exporter.streams for exporter in exporters] == [[expected]] * 4


@pytest.mark.parametrize("dtype", small.DTYPES)
def test_numpy_gives_numpy(dtype):
    arrays = small.inputs(dtype)
    out, lse = flashmla.dense_decode(*arrays, causal=True)
    assert type(out) is type(lse) is np.ndarray
    assert out.dtype == arrays[0].dtype
    small.check(out, lse, arrays, causal=True)


@pytest.mark.parametrize("dtype", small.DTYPES)
def test_torch_gives_torch(dtype):
    torch = pytest.importorskip("torch")
    arrays = small.inputs("float32")
    tensors = [torch.from_numpy(array) for array in arrays]
    tensors[:2] = [tensor.to(getattr(torch, dtype)) for tensor in tensors[:2]]
    out, lse = flashmla.dense_decode(*tensors)
    assert isinstance(out, torch.Tensor)
    assert (out.dtype, lse.dtype, out.device) == (tensors[0].dtype, torch.float32, tensors[0].device)
    rounded = [tensor.float().numpy() for tensor in tensors[:2]]
    small.check(out.float().numpy().astype(small.DTYPES[dtype]), lse.numpy(), (*rounded, *arrays[2:]))


@pytest.mark.parametrize("dtype", small.DTYPES)
def test_jax_gives_jax_and_keeps_inputs(dtype):
    jnp = pytest.importorskip("jax.numpy")
    arrays = small.inputs(dtype)
    tensors = [jnp.asarray(array) for array in arrays]
    out, lse = flashmla.dense_decode(*tensors)
    plan = flashmla.plan_decode(*tensors)
    again, _ = flashmla.dense_decode(*tensors, plan=plan)
    assert isinstance(out, type(tensors[0]))
    assert out.dtype == tensors[0].dtype
    small.check(np.asarray(out), np.asarray(lse), arrays)
    assert bool((out == again).all())
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(tensor), array)


def test_jax_outputs_are_not_shared_with_equal_arrays():
    jnp = pytest.importorskip("jax.numpy")
    tensors = [jnp.asarray(array) for array in small.inputs()]
    before = jnp.empty((2, 2, 4, 512), jnp.float32)
    seen = np.array(before)
    first, _ = flashmla.dense_decode(*tensors)
    kept = np.array(first)
    second, _ = flashmla.dense_decode(*tensors, softmax_scale=0.5)
    assert not bool((first == second).all())
    np.testing.assert_array_equal(np.asarray(first), kept)
    np.testing.assert_array_equal(np.asarray(before), seen)


@pytest.mark.parametrize("argument", range(4))
def test_a_deleted_jax_array_is_named(argument):
    jnp = pytest.importorskip("jax.numpy")
    tensors = [jnp.asarray(array) for array in small.inputs()]
    tensors[argument].delete()
    name = ("q", "kv_cache", "block_table", "cache_seqlens")[argument]
    with pytest.raises(
        flashmla.InvalidArgumentError, match=rf"^{name} was deleted, or donated to another computation$"
    ):
        flashmla.dense_decode(*tensors)


@pytest.mark.parametrize("owner", ["torch", "jax"])
def test_frameworks_may_be_mixed_on_one_device(owner):
    arrays = small.inputs()
    module = pytest.importorskip(owner)
    convert = module.from_numpy if owner == "torch" else module.numpy.asarray
    out, lse = flashmla.dense_decode(arrays[0], convert(arrays[1]), arrays[2], convert(arrays[3]))
    small.check(out, lse, arrays)


def test_any_exporter_can_be_read_and_written_but_not_made():
    arrays = small.inputs()
    exporters = [Exporter(array) for array in arrays]
    out, lse = np.zeros((2, 2, 4, 512), np.float32), np.zeros((2, 4, 2), np.float32)
    workspace = np.zeros(flashmla.dense_decode_workspace_size(*exporters), np.uint8)
    given = Exporter(out)
    returned, _ = flashmla.dense_decode(*exporters, out=given, lse=Exporter(lse), workspace=Exporter(workspace))
    assert returned is given
    small.check(out, lse, arrays)
    with pytest.raises(TypeError, match="q is an Exporter: memory is made for torch, CuPy, JAX, NumPy; pass what"):
        flashmla.dense_decode(*exporters)
    with pytest.raises(TypeError, match=r"pass what .* its scratch .*buffer"):
        flashmla.plan_decode(*exporters)


@pytest.mark.parametrize("dtype", small.DTYPES)
def test_read_only_arrays_are_inputs_but_no_outputs(dtype):
    arrays = small.inputs(dtype)
    for array in arrays:
        array.flags.writeable = False
    out, lse = flashmla.dense_decode(*arrays)
    small.check(out, lse, arrays)
    out.flags.writeable = False
    with pytest.raises(flashmla.InvalidArgumentError, match="out is read-only"):
        flashmla.dense_decode(*arrays, out=out)
    frozen = np.zeros(1 << 20, np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(flashmla.InvalidArgumentError, match="workspace is read-only"):
        flashmla.dense_decode(*arrays, workspace=frozen)
    with pytest.raises(flashmla.InvalidArgumentError, match="buffer is read-only"):
        flashmla.plan_decode(*arrays, buffer=frozen)


@pytest.mark.parametrize("argument", ["out", "lse", "workspace"])
def test_jax_arrays_are_never_written(argument):
    jnp = pytest.importorskip("jax.numpy")
    tensors = [jnp.asarray(array) for array in small.inputs()]
    with pytest.raises(flashmla.InvalidArgumentError, match=f"{argument} is read-only"):
        flashmla.dense_decode(*tensors, **{argument: jnp.zeros((2, 2, 4, 512), jnp.float32)})


@pytest.mark.parametrize("argument", range(4))
@pytest.mark.parametrize("wrong", [None, 3.5, "q", [1, 2]])
def test_an_object_that_is_no_tensor_is_named(argument, wrong):
    arrays = list(small.inputs())
    arrays[argument] = wrong
    name = ("q", "kv_cache", "block_table", "cache_seqlens")[argument]
    with pytest.raises(TypeError, match=f"^{name} is a {type(wrong).__name__}"):
        flashmla.dense_decode(*arrays)


def test_an_exporter_that_lies_is_refused():
    class Liar(Exporter):
        def __dlpack__(self, stream=None):
            return ctypes.c_int(0)

    q, *rest = small.inputs()
    with pytest.raises(TypeError, match=r"q\.__dlpack__\(\) returned .* no DLPack capsule"):
        flashmla.dense_decode(Liar(q), *rest)


@pytest.mark.parametrize(("kind", "place"), [(AttributeError, "device"), (TypeError, "export")])
def test_what_fails_inside_an_exporter_is_shown_with_the_arguments_name(kind, place):
    class Broken(Exporter):
        def __dlpack_device__(self):
            return self.fail() if place == "device" else super().__dlpack_device__()

        def __dlpack__(self, stream=None, max_version=None):
            self.exports += 1
            return self.fail()

        def fail(self):
            raise kind("the exporter's own trouble")

    q, *rest = small.inputs()
    broken = Broken(q)
    words = rf"a \S*Broken whose export raised {kind.__name__}: the exporter's own trouble$"
    with pytest.raises(flashmla.InvalidArgumentError, match=f"^q is {words}") as caught:
        flashmla.dense_decode(broken, *rest)
    assert type(caught.value.__cause__) is kind
    with pytest.raises(flashmla.InvalidArgumentError, match=f"^kv_cache is {words}"):
        flashmla.dense_decode(q, Broken(rest[0]), *rest[1:])
    assert broken.exports == (place == "export"), "asked once"


def test_an_older_exporter_behind_a_wrapper_is_asked_again():
    class Wrapped(Exporter):
        def __dlpack__(self, *args, **options):
            return Exporter.__dlpack__(self, *args, **options)

    q, *rest = small.inputs()
    small.check(*flashmla.dense_decode(q, Wrapped(rest[0]), *rest[1:]), (q, *rest))


def test_what_dlpack_cannot_carry_is_an_invalid_argument():
    q, *rest = small.inputs()
    for wrong in (q.astype(">f4"), q.astype(object)):
        with pytest.raises(flashmla.InvalidArgumentError, match=r"^q: ") as caught:
            flashmla.dense_decode(wrong, *rest)
        assert caught.value.status_name == "FLASHMLA_ERROR_DTYPE"


def made_wrong(owner):
    """What is wrong with an argument, what it becomes, and how that is mended, by framework."""
    array = pytest.importorskip({"numpy": "numpy", "torch": "torch", "jax": "jax.numpy"}[owner])
    if owner == "torch":
        yield (
            "q",
            lambda q: q.transpose(0, 3).contiguous().transpose(0, 3),
            r"q\.contiguous\(\)",
            lambda q: q.contiguous(),
        )
        yield "block_table", lambda t: t.long(), r"block_table\.to\(torch\.int32\)", lambda t: t.to(array.int32)
        return
    if owner == "numpy":  # JAX arrays are compact
        yield "q", np.asfortranarray, r"numpy\.ascontiguousarray\(q\)", np.ascontiguousarray
    yield "block_table", lambda t: t.astype(np.int16), r'block_table\.astype\("int32"\)', lambda t: t.astype("int32")


@pytest.mark.parametrize("owner", ["numpy", "torch", "jax"])
def test_a_copy_that_helps_is_named_in_the_words_of_the_framework(owner):
    arrays = small.inputs()
    convert = {"numpy": lambda x: x, "torch": lambda x: pytest.importorskip("torch").from_numpy(x)}
    convert["jax"] = lambda x: pytest.importorskip("jax.numpy").asarray(x)
    for name, spoil, words, mend in made_wrong(owner):
        given = dict(zip(("q", "kv_cache", "block_table", "cache_seqlens"), map(convert[owner], arrays), strict=True))
        given[name] = spoil(given[name])
        with pytest.raises(flashmla.InvalidArgumentError, match=f"^{name}.*, as in {words}$"):
            flashmla.dense_decode(**given)
        given[name] = mend(given[name])
        small.check(*map(np.asarray, flashmla.dense_decode(**given)), arrays)


def test_a_copy_of_an_output_helps_nobody():
    arrays = small.inputs()
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^lse\.dtype is \w+; it must be float32$"):
        flashmla.dense_decode(*arrays, lse=np.zeros((2, 4, 2), np.float16))


def test_views_with_strides_are_read_in_place():
    q, kv_cache, block_table, cache_seqlens = small.inputs()
    wide = np.full((2, 2, 8, 640), np.nan, np.float32)
    wide[:, :, ::2, 32:608] = q
    view = wide[:, :, ::2, 32:608]
    out, lse = flashmla.dense_decode(view, kv_cache, block_table, cache_seqlens)
    small.check(out, lse, (q, kv_cache, block_table, cache_seqlens))
    bad = np.zeros((2, 2, 4, 1152), np.float32)[..., ::2]
    with pytest.raises(flashmla.InvalidArgumentError) as caught:
        flashmla.dense_decode(bad, kv_cache, block_table, cache_seqlens)
    assert caught.value.status_name == "FLASHMLA_ERROR_STRIDE"


def test_inputs_live_through_the_call_and_not_longer():
    arrays = small.inputs()
    before = [sys.getrefcount(array) for array in arrays]
    exporters = [Exporter(array) for array in arrays]
    q = weakref.ref(exporters[0])
    workspace = np.zeros(1 << 20, np.uint8)
    out, lse = np.zeros((2, 2, 4, 512), np.float32), np.zeros((2, 4, 2), np.float32)
    flashmla.dense_decode(*exporters, out=out, lse=lse, workspace=workspace)
    plan = flashmla.plan_decode(*exporters, buffer=np.zeros(1 << 16, np.uint8))
    del exporters
    gc.collect()
    assert q() is None, "neither the call nor the plan may keep an input"
    assert [sys.getrefcount(array) for array in arrays] == before
    assert "q=(2, 2, 4, 576)" in repr(plan)
    other = flashmla.plan_decode(*arrays, causal=1, batch_invariant=np.True_)
    assert "causal=True, batch_invariant=True" in repr(other)
    assert "causal=False, batch_invariant=False" in repr(flashmla.plan_decode(*arrays, causal=0))


def test_a_refused_call_releases_its_inputs():
    q, *rest = small.inputs()
    before = sys.getrefcount(q)
    with pytest.raises(flashmla.InvalidArgumentError):
        flashmla.dense_decode(q[0], *rest)
    gc.collect()
    assert sys.getrefcount(q) == before


def test_bfloat16_arrays_are_read_without_a_copy():
    q = small.inputs("bfloat16")[0]
    capsule = _frameworks.framework_of(q).export(q, "q", None)
    found = _tensor.pointer(capsule, "q")
    assert int(_tensor.ffi.cast("uintptr_t", found.data)) + found.byte_offset == q.ctypes.data
    assert (found.dtype.code, found.dtype.bits) == (4, 16)
    assert _tensor.shape(found) == q.shape


def test_a_subclass_belongs_to_its_framework():
    class Mine(np.ndarray):
        pass

    arrays = small.inputs()
    out, lse = flashmla.dense_decode(arrays[0].view(Mine), *arrays[1:])
    small.check(out, lse, arrays)


def masked(array):
    return np.ma.masked_array(array, mask=np.arange(array.size).reshape(array.shape) % 2)


def test_a_mask_is_not_ignored():
    given = dict(zip(("q", "kv_cache", "block_table", "cache_seqlens"), small.inputs(), strict=True))
    out, lse = flashmla.dense_decode(**given)
    given |= {"out": out, "lse": lse, "workspace": np.zeros(1 << 20, np.uint8)}
    prepared = flashmla.prepare(flashmla.dense_decode, **given)
    for call in (lambda **changed: flashmla.dense_decode(**given | changed), prepared):
        for name, array in given.items():
            with pytest.raises(TypeError) as caught:
                call(**{name: masked(array)})
            assert str(caught.value) == (
                f"{name} is a MaskedArray, whose mask does not count here: pass {name}.filled(value), or "
                f"{name}.data for the array without its mask"
            )
    with pytest.raises(TypeError, match=r"^outs\[1\] is a MaskedArray, whose mask"):
        flashmla.merge_states([out, masked(out)], [lse, lse])
    for operation in (flashmla.plan_decode, flashmla.dense_decode_workspace_size):
        with pytest.raises(TypeError, match=r"^kv_cache is a MaskedArray, whose mask"):
            operation(given["q"], masked(given["kv_cache"]), given["block_table"], given["cache_seqlens"])


def test_torchs_current_stream(monkeypatch):
    """Its bare handle where PyTorch shows it, else that of the stream object."""
    torch = pytest.importorskip("torch")

    class OnDevice:
        is_cuda = True
        device = "the device"

        def get_device(self):
            return 3

    framework = _frameworks.Torch()
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 1000 + index, raising=False)
    assert framework.current_stream(OnDevice()) == 1003
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream")
    stream = type("Stream", (), {"cuda_stream": 77})
    monkeypatch.setattr(torch.cuda, "current_stream", {"the device": stream}.__getitem__)
    assert framework.current_stream(OnDevice()) == 77
    assert framework.current_stream(torch.zeros(1)) == 0


def test_an_object_whose_type_names_no_module():
    nameless = type("Nameless", (), {"__module__": None})()
    with pytest.raises(TypeError, match=r"^kv_cache is a Nameless: a tensor that supports DLPack is needed$"):
        flashmla.dense_decode(small.inputs()[0], nameless, *small.inputs()[2:])
    with pytest.raises(TypeError, match=r"^q is a Nameless: a tensor that supports DLPack is needed$"):
        flashmla.dense_decode(nameless, *small.inputs()[1:])


class Halved(np.ndarray):
    """float32 when it is exported, float16 when something is made like it, as if another thread changed it between."""

    @property
    def dtype(self):
        return np.dtype(np.float16)


@pytest.mark.parametrize("operation", ["dense_decode", "merge_states"])
def test_an_output_made_like_what_changed_its_dtype(operation):
    q, *others = small.inputs()
    if operation == "merge_states":
        q, others = np.zeros((2, 1, 1, 8, 4096), np.float32), [np.zeros((2, 1, 8, 1), np.float32)]
    with pytest.raises(flashmla.InvalidArgumentError, match=r"^(q|outs).dtype is float16, had 32 bits when") as caught:
        getattr(flashmla, operation)(q.view(Halved), *others)
    assert caught.value.status_name == "FLASHMLA_ERROR_DTYPE"
