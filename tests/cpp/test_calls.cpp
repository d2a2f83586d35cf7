/* test_calls.cpp - tensors, buffers, plans, prepared calls and failures, in both forms of the header. */
#include "fixture.hpp"

static_assert(moves_alone<flashmla::buffer> && moves_alone<flashmla::plan>);
static_assert(moves_alone<flashmla::prepared<flashmla_dense_decode_params>>);
static_assert(std::is_convertible_v<const flashmla::tensor &, const DLTensor *>);
static_assert(!std::is_convertible_v<flashmla::tensor, const DLTensor *>); /* a params struct would name what is gone */
static_assert(flashmla::dtype_of<float>.code == kDLFloat && flashmla::dtype_of<float>.bits == 32);
static_assert(flashmla::dtype_of<int32_t>.code == kDLInt && flashmla::dtype_of<int32_t>.bits == 32);
static_assert(flashmla::dtype_of<int64_t>.code == kDLInt && flashmla::dtype_of<int64_t>.bits == 64);
static_assert(flashmla::dtype_of<uint8_t>.code == kDLUInt && flashmla::dtype_of<uint8_t>.bits == 8);

/* A decode call of ROWS requests, whose right results the test of the server looks at. */
struct decode : memory {
  std::vector<float> q = std::vector<float>(ROWS * HEADS * D_QK), out = std::vector<float>(ROWS * HEADS * D_V);
  flashmla::tensor queries{q.data(), {ROWS, 1, HEADS, D_QK}}, result{out.data(), {ROWS, 1, HEADS, D_V}};
  flashmla::buffer scratch;
  flashmla_dense_decode_params params = FLASHMLA_DENSE_DECODE_PARAMS_INIT;

  decode() {
    for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::sin(static_cast<float>(i));
    for (std::size_t i = 0; i < cache.size(); ++i) cache[i] = std::cos(static_cast<float>(i) * 0.3f);
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i) % BLOCKS;
    lengths = {16, 3, 9};
    params.flags = FLASHMLA_DEFAULT_SCALE;
    params.q = queries, params.kv_cache = kv_cache, params.out = result;
    params.block_table = block_table, params.cache_seqlens = cache_seqlens;
    CHECK_OK(flashmla::workspace_size(params, params.workspace_size));
    scratch = flashmla::host_buffer(params.workspace_size);
    params.workspace = scratch.data();
  }
  std::vector<float> expected() {
    CHECK_OK(flashmla::dense_decode(params));
    std::vector<float> made(out.size(), std::nanf(""));
    std::swap(made, out);
    params.out = result = result.of(out.data());
    return made;
  }
};

static bool equal(const DLTensor *a, const DLTensor *b) {
  if (a->ndim != b->ndim || a->data != b->data || (a->strides == nullptr) != (b->strides == nullptr)) return false;
  for (int32_t i = 0; i < a->ndim; ++i)
    if (a->shape[i] != b->shape[i] || (a->strides != nullptr && a->strides[i] != b->strides[i])) return false;
  return a->dtype.code == b->dtype.code && a->dtype.bits == b->dtype.bits && a->dtype.lanes == b->dtype.lanes &&
         a->device.device_type == b->device.device_type && a->device.device_id == b->device.device_id;
}

static void tensors_describe_memory() {
  float data[24] = {};
  int64_t shape[] = {2, 3, 4}, strides[] = {16, 4, 1};
  const DLTensor compact = {data, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, shape, nullptr, 0};
  const DLTensor strided = {data, {kDLCUDA, 5}, 3, {kDLBfloat, 16, 1}, shape, strides, 0};
  const flashmla::tensor one(data, {2, 3, 4}), other(data, flashmla::bfloat16, shape, strides, flashmla::cuda(5));
  CHECK(equal(one, &compact) && equal(other, &strided) && !equal(one, other));
  flashmla::tensor copy = other, empty;
  CHECK(equal(copy, other) && copy.get()->shape != other.get()->shape && copy.get()->strides != other.get()->strides);
  copy = one;
  CHECK(equal(copy, one) && copy.get()->strides == nullptr);
  CHECK(empty.get()->ndim == 0 && empty.get()->data == nullptr);
  copy = other.first(1);
  CHECK(copy.get()->shape[0] == 1 && copy.get()->shape[1] == 3 && copy.get()->strides[0] == 16);
  copy = one.of(data + 1);
  CHECK(copy.get()->data == data + 1 && copy.get()->shape[2] == 4 && one.get()->data == data);
  copy = empty;
  CHECK(equal(copy, empty));
}

static int freed = 0;

static void buffers_free_once() {
  int memory[2] = {};
  const auto free = [](void *) { ++freed; };
  {
    flashmla::buffer first(&memory[0], 4, free), second(&memory[1], 8, free), none;
    flashmla::buffer moved = std::move(first);
    CHECK(moved.data() == &memory[0] && moved.size() == 4 && first.data() == nullptr && first.size() == 0);
    moved = std::move(second);
    CHECK(freed == 1 && moved.data() == &memory[1] && moved.size() == 8 && second.size() == 0);
    none = std::move(moved);
    CHECK(freed == 1 && none.size() == 8);
  }
  CHECK(freed == 2);
  const flashmla::buffer host = flashmla::host_buffer(100);
  CHECK(host.size() == 100 && reinterpret_cast<uintptr_t>(host.data()) % 16 == 0);
  std::memset(host.data(), 1, 100);
}

static void plans_keep_their_memory() {
  decode call;
  const std::vector<float> expected = call.expected();
  flashmla_plan_decode_params step = FLASHMLA_PLAN_DECODE_PARAMS_INIT;
  step.flags = call.params.flags;
  step.q = call.queries, step.kv_cache = call.kv_cache;
  step.block_table = call.block_table, step.cache_seqlens = call.cache_seqlens;
  uint64_t bytes = 0;
  CHECK_OK(flashmla::plan_size(step, bytes));
  CHECK(bytes > 0);
  flashmla::plan made, plan;
  CHECK(CODE_OF(made.make(step, flashmla::buffer())) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK_OK(made.make(step, flashmla::host_buffer(bytes)));
  plan = std::move(made);
  call.params.plan = plan.get();
  CHECK(call.expected() == expected);
  CHECK(CODE_OF(plan.make(step, flashmla::host_buffer(16))) == FLASHMLA_ERROR_WORKSPACE_TOO_SMALL);
  CHECK(call.expected() == expected); /* it is still the one that was made */
  CHECK_OK(plan.make(step, flashmla::host_buffer(bytes)));
  CHECK(call.expected() == expected);
  call.params.plan = made.get();
  CHECK(CODE_OF(flashmla::dense_decode(call.params)) == FLASHMLA_ERROR_PLAN_MISMATCH);
}

static void prepared_calls_run() {
  decode call;
  const std::vector<float> expected = call.expected();
  flashmla::prepared<flashmla_dense_decode_params> made;
  CHECK(!made && CODE_OF(made.run(call.params)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK_OK(made.make(call.params));
  flashmla::prepared<flashmla_dense_decode_params> prepared = std::move(made);
  CHECK(prepared && !made && CODE_OF(made.run(call.params)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK_OK(prepared.run(call.params));
  CHECK(call.out == expected);
  const flashmla_prepared *before = prepared.get();
  flashmla_dense_decode_params wrong = call.params;
  wrong.window = -1;
  CHECK(CODE_OF(prepared.make(wrong)) == FLASHMLA_ERROR_VALUE && prepared.get() == before);
  CHECK_OK(prepared.make(call.params));
  CHECK_OK(prepared.run(call.params));
}

static void rows_are_written_where_slots_say() {
  memory memory;
  std::vector<float> rows(2 * D_QK, 2.5f);
  memory.slots = {5, 9};
  const flashmla::tensor latent(rows.data(), {2, D_QK}), slots(memory.slots.data(), {2});
  flashmla_append_kv_params write = FLASHMLA_APPEND_KV_PARAMS_INIT;
  write.kv_cache = memory.kv_cache, write.latent = latent, write.slot_mapping = slots;
  CHECK_OK(flashmla::append_kv(write));
  flashmla::prepared<flashmla_append_kv_params> prepared;
  CHECK_OK(prepared.make(write));
  CHECK_OK(prepared.run(write));
  for (std::size_t i = 0; i < memory.cache.size(); ++i)
    CHECK(memory.cache[i] == (i / D_QK == 5 || i / D_QK == 9 ? 2.5f : 0.0f));
}

/* A call that is refused, as a program of this form sees it. */
static void failures_tell_the_status_and_the_sentence() {
  decode call;
  flashmla_dense_decode_params wrong = call.params;
  wrong.q = nullptr;
#if FLASHMLA_EXCEPTIONS
  bool caught = false;
  try {
    flashmla::dense_decode(wrong);
  } catch (const flashmla::error &failure) {
    caught = failure.code() == FLASHMLA_ERROR_NULL_POINTER && std::strstr(failure.what(), "q is NULL") != nullptr;
    CHECK(std::strcmp(failure.what(), flashmla_last_error()) == 0);
  }
  CHECK(caught);
  flashmla::dense_decode(call.params); /* nothing to look at */
#else
  const flashmla::status status = flashmla::dense_decode(wrong);
  CHECK(!status && !status.ok() && status.code() == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(std::strcmp(status.sentence(), flashmla_last_error()) == 0);
#endif
  const flashmla::status attempted = flashmla::attempt([&] { return flashmla::dense_decode(wrong); });
  CHECK(!attempted && attempted.code() == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(flashmla::checked(flashmla_stream_synchronize(-1, nullptr))) != FLASHMLA_OK);
  CHECK(std::strstr(attempted.sentence(), "q is NULL") != nullptr); /* later failures leave it */
  const flashmla::status fine = flashmla::attempt([&] { return flashmla::dense_decode(call.params); });
  CHECK(fine && fine.ok() && fine.code() == FLASHMLA_OK && std::strcmp(fine.sentence(), "") == 0);
}

/* Defined in other_form.cpp: the status of a call that is refused. */
flashmla_status refused_in_the_other_form();

int main() {
  tensors_describe_memory();
  buffers_free_once();
  plans_keep_their_memory();
  prepared_calls_run();
  rows_are_written_where_slots_say();
  failures_tell_the_status_and_the_sentence();
  CHECK(refused_in_the_other_form() == FLASHMLA_ERROR_NULL_POINTER);
  failures_tell_the_status_and_the_sentence();
  return 0;
}
