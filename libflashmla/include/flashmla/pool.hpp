/* pool.hpp - pools of pages and their sequences; what holds for all of it: flashmla.hpp. */
#ifndef FLASHMLA_POOL_HPP_
#define FLASHMLA_POOL_HPP_

#include <cstdint>
#include <memory>
#include <utility>

#include "pool.h"
#include "status.hpp"
#include "tensor.hpp"

namespace flashmla {
inline namespace FLASHMLA_FORM {

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

}  // namespace FLASHMLA_FORM
}  // namespace flashmla

#endif /* FLASHMLA_POOL_HPP_ */
