/* tensor.hpp - views of tensors, and memory that frees itself; what holds for all of it: flashmla.hpp. */
#ifndef FLASHMLA_TENSOR_HPP_
#define FLASHMLA_TENSOR_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "core.h"

namespace flashmla {

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

}  // namespace flashmla

#endif /* FLASHMLA_TENSOR_HPP_ */
