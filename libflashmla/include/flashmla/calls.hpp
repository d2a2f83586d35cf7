/* calls.hpp - operations, plans and prepared calls; what holds for all of it: flashmla.hpp. */
#ifndef FLASHMLA_CALLS_HPP_
#define FLASHMLA_CALLS_HPP_

#include <cstdint>
#include <memory>
#include <utility>

#include "attention.h"
#include "kv_cache.h"
#include "plan.h"
#include "status.hpp"
#include "tensor.hpp"

namespace flashmla {
inline namespace FLASHMLA_FORM {

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

}  // namespace FLASHMLA_FORM
}  // namespace flashmla

#endif /* FLASHMLA_CALLS_HPP_ */
