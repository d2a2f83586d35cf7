/* flashmla.hpp - flashmla.h for C++17: objects that free what they own, and failures as exceptions or as statuses.
 *
 * Header only, and thin: names, arguments, rules and sentences are those of flashmla.h, and whatever has no wrapper
 * here is called as there. Params structs are the C ones, begun with their FLASHMLA_<STRUCT>_INIT.
 *
 * Example: a decode step on tensors in host memory
 *
 *   #include <flashmla/flashmla.hpp>
 *
 *   void decode_step(const float *q, const float *kv_cache, const int32_t *table, const int32_t *lengths, float *out) {
 *     const flashmla::tensor queries(q, {2, 1, 16, 576}), cache(kv_cache, {8, 64, 1, 576}), pages(table, {2, 3}),
 *         seqlens(lengths, {2}), result(out, {2, 1, 16, 512});
 *     flashmla_dense_decode_params p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
 *     p.flags = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE;
 *     p.q = queries, p.kv_cache = cache, p.block_table = pages, p.cache_seqlens = seqlens, p.out = result;
 *     flashmla::workspace_size(p, p.workspace_size);
 *     const flashmla::buffer scratch = flashmla::host_buffer(p.workspace_size);
 *     p.workspace = scratch.data();
 *     flashmla::dense_decode(p); // throws flashmla::error: what() says what is wrong
 *   }
 *
 * Failures: every call returns a flashmla::status. With exceptions a call that fails throws a flashmla::error instead
 * of returning; without (-fno-exceptions, or FLASHMLA_EXCEPTIONS defined as 0 before) the status has to be looked at.
 * flashmla::attempt makes a call and gives its status either way. Source files of both forms may be linked together.
 *
 * Objects: those that own something can be moved and not copied. One that was moved from, or never filled, owns
 * nothing; it may be filled, moved to or destroyed, and any other call with it is refused like one with NULL. Filling
 * an object lets what it had go, once the new is there. A thread that uses an object while another one changes it has
 * to lock.
 */
#ifndef FLASHMLA_HPP_
#define FLASHMLA_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "flashmla.h"

#ifndef FLASHMLA_EXCEPTIONS
#ifdef __cpp_exceptions
#define FLASHMLA_EXCEPTIONS 1
#else
#define FLASHMLA_EXCEPTIONS 0
#endif
#endif
#if FLASHMLA_EXCEPTIONS
#include <stdexcept>
#endif

namespace flashmla {

/* ---- Tensors and memory ---- */

/* Element types. */
inline constexpr DLDataType bfloat16 = {kDLBfloat, 16, 1}, float16 = {kDLFloat, 16, 1}, float32 = {kDLFloat, 32, 1},
                            int32 = {kDLInt, 32, 1}, int64 = {kDLInt, 64, 1}, uint8 = {kDLUInt, 8, 1};

/* The element type of C++ types that are one. Those of 16 bits are none: say which it is. */
template <class T>
inline constexpr DLDataType dtype_of = [] {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, int32_t> || std::is_same_v<T, int64_t> ||
                    std::is_same_v<T, uint8_t>,
                "give the dtype of this element type");
  return std::is_same_v<T, float> ? float32
                                  : DLDataType{std::is_same_v<T, uint8_t> ? kDLUInt : kDLInt, 8 * sizeof(T), 1};
}();

/* Devices. */
inline constexpr DLDevice cpu = {kDLCPU, 0};
constexpr DLDevice cuda(int32_t id) { return {kDLCUDA, id}; }

/* A view of memory that the caller owns, with room for its own shape and strides. It is a DLTensor wherever the library
 * takes one, and has to live as long as one there: to the end of the call that reads it. Copies view the same memory.
 */
class tensor {
 public:
  static constexpr int32_t max_rank = 8;

  tensor() noexcept = default;
  /* A compact tensor. */
  template <std::size_t N>
  tensor(const void *data, DLDataType dtype, const int64_t (&shape)[N], DLDevice device = cpu) noexcept
      : view_{const_cast<void *>(data), device, static_cast<int32_t>(N), dtype, shape_, nullptr, 0} {
    static_assert(N <= max_rank);
    for (std::size_t i = 0; i < N; ++i) shape_[i] = shape[i];
  }
  /* With strides, in elements. */
  template <std::size_t N>
  tensor(const void *data, DLDataType dtype, const int64_t (&shape)[N], const int64_t (&strides)[N],
         DLDevice device = cpu) noexcept
      : tensor(data, dtype, shape, device) {
    for (std::size_t i = 0; i < N; ++i) strides_[i] = strides[i];
    view_.strides = strides_;
  }
  /* In host memory, of an element type that its C++ type tells. */
  template <class T, std::size_t N, class = std::enable_if_t<!std::is_void_v<T>>>
  tensor(T *data, const int64_t (&shape)[N]) noexcept : tensor(data, dtype_of<std::remove_cv_t<T>>, shape) {}
  tensor(const tensor &other) noexcept { *this = other; }
  tensor &operator=(const tensor &other) noexcept {
    view_ = other.view_;
    for (int32_t i = 0; i < max_rank; ++i) shape_[i] = other.shape_[i], strides_[i] = other.strides_[i];
    if (view_.shape != nullptr) view_.shape = shape_;
    if (view_.strides != nullptr) view_.strides = strides_;
    return *this;
  }

  /* The first `extent` of its first axis. */
  tensor first(int64_t extent) const noexcept {
    tensor part = *this;
    part.shape_[0] = extent;
    return part;
  }
  /* The same view of other memory. */
  tensor of(const void *data) const noexcept {
    tensor moved = *this;
    moved.view_.data = const_cast<void *>(data);
    return moved;
  }

  const DLTensor *get() const & noexcept { return &view_; }
  operator const DLTensor *() const & noexcept { return &view_; }
  /* A params struct would name what is gone by the call. */
  const DLTensor *get() const && = delete;
  operator const DLTensor *() const && = delete;

 private:
  DLTensor view_ = {};
  int64_t shape_[max_rank] = {}, strides_[max_rank] = {};
};

/* Memory and how it is freed: scratch of calls and of plans, on any device. */
class buffer {
 public:
  using free_function = void (*)(void *);
  buffer() noexcept = default;
  buffer(void *data, uint64_t size, free_function free) noexcept : data_(data, free), size_(size) {}
  buffer(buffer &&other) noexcept : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  buffer &operator=(buffer &&other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  void *data() const noexcept { return data_.get(); }
  uint64_t size() const noexcept { return size_; }

 private:
  std::unique_ptr<void, free_function> data_{nullptr, nullptr};
  uint64_t size_ = 0;
};

/* Host memory from operator new, as aligned as the library wants it. */
inline buffer host_buffer(uint64_t size) {
  constexpr std::align_val_t cache_line{64};
  return buffer(::operator new(static_cast<std::size_t>(size), cache_line), size,
                [](void *data) { ::operator delete(data, cache_line); });
}

/* ---- Failures ---- */

#if FLASHMLA_EXCEPTIONS
inline namespace throwing {
class status;
#else
inline namespace returning {
class [[nodiscard]] status;
#endif

/* What a call returned: flashmla_status, and the sentence about a failure. */
class status {
 public:
  status() noexcept = default;
  status(flashmla_status code, const char *sentence) : code_(code), sentence_(sentence) {}

  bool ok() const noexcept { return code_ == FLASHMLA_OK; }
  explicit operator bool() const noexcept { return ok(); }
  flashmla_status code() const noexcept { return code_; }
  /* "" where it is ok. */
  const char *sentence() const noexcept { return sentence_.c_str(); }

 private:
  flashmla_status code_ = FLASHMLA_OK;
  std::string sentence_;
};

#if FLASHMLA_EXCEPTIONS
/* A call that failed; what() is the sentence. */
class error : public std::runtime_error {
 public:
  error(flashmla_status code, const char *sentence) : std::runtime_error(sentence), code_(code) {}
  flashmla_status code() const noexcept { return code_; }

 private:
  flashmla_status code_;
};
#endif

/* What a C function returned, on the thread that called it: throws, or returns it with its sentence. */
inline status checked(flashmla_status code) {
  if (code == FLASHMLA_OK) return {};
#if FLASHMLA_EXCEPTIONS
  throw error(code, flashmla_last_error());
#else
  return {code, flashmla_last_error()};
#endif
}

/* The status of what `call` does, a function that returns one: for failures that are expected, such as a full pool. */
template <class Call>
status attempt(Call &&call) {
#if FLASHMLA_EXCEPTIONS
  try {
    return std::forward<Call>(call)();
  } catch (const error &failure) {
    return {failure.code(), failure.what()};
  }
#else
  return std::forward<Call>(call)();
#endif
}

/* ---- Operations ---- */

/* flashmla_<operation>, and its two halves for prepared calls. */
#define FLASHMLA_OPERATION(name)                                                                           \
  inline status name(const flashmla_##name##_params &params) { return checked(flashmla_##name(&params)); } \
  namespace overloads {                                                                                    \
  inline flashmla_status prepare(const flashmla_##name##_params &params, flashmla_prepared **made) {       \
    return flashmla_##name##_prepare(&params, made);                                                       \
  }                                                                                                        \
  inline flashmla_status run(const flashmla_prepared *prepared, const flashmla_##name##_params &params) {  \
    return flashmla_##name##_run(prepared, &params);                                                       \
  }                                                                                                        \
  }
FLASHMLA_OPERATION(dense_decode)
FLASHMLA_OPERATION(sparse_decode)
FLASHMLA_OPERATION(merge_states)
FLASHMLA_OPERATION(append_kv)
FLASHMLA_OPERATION(quantize_kv)
FLASHMLA_OPERATION(dequantize_kv)
FLASHMLA_OPERATION(gather_kv)
#undef FLASHMLA_OPERATION

/* flashmla_<operation>_workspace_size. */
inline status workspace_size(const flashmla_dense_decode_params &params, uint64_t &bytes) {
  return checked(flashmla_dense_decode_workspace_size(&params, &bytes));
}
inline status workspace_size(const flashmla_sparse_decode_params &params, uint64_t &bytes) {
  return checked(flashmla_sparse_decode_workspace_size(&params, &bytes));
}

/* flashmla_plan_decode_size, flashmla_plan_sparse_decode_size. */
inline status plan_size(const flashmla_plan_decode_params &params, uint64_t &bytes) {
  return checked(flashmla_plan_decode_size(&params, &bytes));
}
inline status plan_size(const flashmla_plan_sparse_decode_params &params, uint64_t &bytes) {
  return checked(flashmla_plan_sparse_decode_size(&params, &bytes));
}

/* A plan with the memory that its schedule lies in, which must outlive the work that uses it. */
class plan {
 public:
  plan() noexcept = default;
  plan(plan &&other) noexcept : plan_(std::exchange(other.plan_, {})), memory_(std::move(other.memory_)) {}
  plan &operator=(plan &&other) noexcept {
    plan_ = std::exchange(other.plan_, {});
    memory_ = std::move(other.memory_);
    return *this;
  }

  /* Makes it in `memory`, of plan_size bytes on the tensors' device; params.buffer and buffer_size are not looked at.
   */
  status make(flashmla_plan_decode_params params, buffer memory) {
    return make_with(flashmla_plan_decode, params, std::move(memory));
  }
  status make(flashmla_plan_sparse_decode_params params, buffer memory) {
    return make_with(flashmla_plan_sparse_decode, params, std::move(memory));
  }

  /* For params.plan; it moves with the object. */
  const flashmla_plan *get() const noexcept { return &plan_; }

 private:
  template <class Params>
  status make_with(flashmla_status (*function)(const Params *, flashmla_plan *), Params &params, buffer memory) {
    flashmla_plan made;
    params.buffer = memory.data(), params.buffer_size = memory.size();
    status done = checked(function(&params, &made));
    if (done) plan_ = made, memory_ = std::move(memory);
    return done;
  }

  flashmla_plan plan_ = {};
  buffer memory_;
};

/* A prepared call of the operation that Params are of: prepared<flashmla_dense_decode_params>. */
template <class Params>
class prepared {
 public:
  /* flashmla_<operation>_prepare. */
  status make(const Params &params) {
    flashmla_prepared *made = nullptr;
    status done = checked(overloads::prepare(params, &made));
    if (done) call_.reset(made);
    return done;
  }
  /* flashmla_<operation>_run. */
  status run(const Params &params) const { return checked(overloads::run(call_.get(), params)); }

  explicit operator bool() const noexcept { return call_ != nullptr; }
  const flashmla_prepared *get() const noexcept { return call_.get(); }

 private:
  struct freed {
    void operator()(flashmla_prepared *call) const noexcept { flashmla_prepared_free(call); }
  };
  std::unique_ptr<flashmla_prepared, freed> call_;
};

/* ---- Pools ---- */

/* A sequence of a pool, from pool::allocate or sequence::fork, which ends with this object. It keeps the books of its
 * pool alive, but not the memory of the pool's tensors. */
class sequence {
 public:
  sequence() noexcept = default;
  /* Takes over a sequence that there is, such as one that flashmla_pool_load brought back. */
  sequence(std::shared_ptr<flashmla_pool> pool, flashmla_sequence name) noexcept
      : pool_(std::move(pool)), name_(name) {}
  sequence(sequence &&other) noexcept : pool_(std::move(other.pool_)), name_(std::exchange(other.name_, 0)) {}
  sequence &operator=(sequence &&other) noexcept {
    sequence taken(std::move(other)); /* so that one may be moved to itself */
    std::swap(pool_, taken.pool_);
    std::swap(name_, taken.name_);
    return *this;
  }
  ~sequence() {
    /* A sequence that someone else freed by its name is gone already; nobody could be told here. */
    if (name_ != 0) static_cast<void>(flashmla_pool_free(pool_.get(), name_) == FLASHMLA_OK);
  }

  explicit operator bool() const noexcept { return name_ != 0; }
  /* For calls that take several sequences; 0 where it is none. */
  flashmla_sequence name() const noexcept { return name_; }
  /* Its name, of a sequence that does not end with this object any more. */
  flashmla_sequence release() noexcept {
    pool_.reset();
    return std::exchange(name_, 0);
  }

  /* flashmla_pool_append of it alone. */
  status append(int32_t count, int64_t &total, void *stream = nullptr) {
    return checked(flashmla_pool_append(pool_.get(), &name_, &count, 1, stream, &total));
  }
  status commit(const int64_t *tokens, int64_t num_tokens) {
    return checked(flashmla_pool_commit(pool_.get(), name_, tokens, num_tokens));
  }
  status fork(sequence &child) const {
    flashmla_sequence made = 0;
    status done = checked(flashmla_pool_fork(pool_.get(), name_, &made));
    if (done) child = sequence(pool_, made);
    return done;
  }
  status truncate(int64_t length) { return checked(flashmla_pool_truncate(pool_.get(), name_, length)); }
  status free_head(int64_t first) { return checked(flashmla_pool_free_head(pool_.get(), name_, first)); }
  /* Ends it before this object does. */
  status free() {
    status done = checked(flashmla_pool_free(pool_.get(), name_));
    if (done) release();
    return done;
  }
  status swap_out(void *stream = nullptr) { return checked(flashmla_pool_swap_out(pool_.get(), name_, stream)); }
  status swap_in(void *stream = nullptr) { return checked(flashmla_pool_swap_in(pool_.get(), name_, stream)); }
  /* flashmla_pool_get_sequence. */
  status get(flashmla_pool_sequence &about) const {
    about.struct_size = sizeof about;
    return checked(flashmla_pool_get_sequence(pool_.get(), name_, &about));
  }
  status get_blocks(int32_t *blocks, int32_t capacity) const {
    return checked(flashmla_pool_get_blocks(pool_.get(), name_, blocks, capacity));
  }

 private:
  std::shared_ptr<flashmla_pool> pool_;
  flashmla_sequence name_ = 0;
};

/* A pool, whose books end with this object and the last of its sequences. */
class pool {
 public:
  pool() noexcept = default;
  pool(pool &&other) noexcept = default;
  pool &operator=(pool &&other) noexcept = default;

  status create(const flashmla_pool_params &params) {
    flashmla_pool *made = nullptr;
    status done = checked(flashmla_pool_create(&params, &made));
    if (done) pool_.reset(made, flashmla_pool_destroy);
    return done;
  }

  /* `made` begins with *cached of the tokens. */
  status allocate(const int64_t *tokens, int64_t num_tokens, sequence &made, int64_t &cached) {
    flashmla_sequence name = 0;
    status done = checked(flashmla_pool_allocate(pool_.get(), tokens, num_tokens, &name, &cached));
    if (done) made = sequence(pool_, name);
    return done;
  }
  status match(const int64_t *tokens, int64_t num_tokens, int64_t &cached) const {
    return checked(flashmla_pool_match(pool_.get(), tokens, num_tokens, &cached));
  }
  status append(const flashmla_sequence *sequences, const int32_t *counts, int32_t num_sequences, int64_t &total,
                void *stream = nullptr) {
    return checked(flashmla_pool_append(pool_.get(), sequences, counts, num_sequences, stream, &total));
  }
  status update(void *stream = nullptr) { return checked(flashmla_pool_update(pool_.get(), stream)); }
  status hold(int32_t block) { return checked(flashmla_pool_hold(pool_.get(), block)); }
  status release(int32_t block) { return checked(flashmla_pool_release(pool_.get(), block)); }
  status get_usage(flashmla_pool_usage &usage) const {
    usage.struct_size = sizeof usage;
    return checked(flashmla_pool_get_usage(pool_.get(), &usage));
  }
  status save_size(uint64_t &bytes) const { return checked(flashmla_pool_save_size(pool_.get(), &bytes)); }
  status save(void *data, uint64_t bytes) const { return checked(flashmla_pool_save(pool_.get(), data, bytes)); }
  status load(const void *data, uint64_t bytes) { return checked(flashmla_pool_load(pool_.get(), data, bytes)); }
  /* Takes over a sequence that `load` brought back. */
  sequence own(flashmla_sequence name) const { return sequence(pool_, name); }

  explicit operator bool() const noexcept { return pool_ != nullptr; }
  flashmla_pool *get() const noexcept { return pool_.get(); }

 private:
  std::shared_ptr<flashmla_pool> pool_;
};

}  // inline namespace
}  // namespace flashmla

#endif /* FLASHMLA_HPP_ */
