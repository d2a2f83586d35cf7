/* status.hpp - what calls return, as statuses or as exceptions; what holds for all of it: flashmla.hpp. */
#ifndef FLASHMLA_STATUS_HPP_
#define FLASHMLA_STATUS_HPP_

#include <string>
#include <utility>

#include "core.h"

#ifndef FLASHMLA_EXCEPTIONS
#ifdef __cpp_exceptions
#define FLASHMLA_EXCEPTIONS 1
#else
#define FLASHMLA_EXCEPTIONS 0
#endif
#endif
/* The two forms are in namespaces of their own, so that one program may have both. */
#if FLASHMLA_EXCEPTIONS
#define FLASHMLA_FORM throwing
#include <stdexcept>
#else
#define FLASHMLA_FORM returning
#endif

namespace flashmla {
inline namespace FLASHMLA_FORM {

#if FLASHMLA_EXCEPTIONS
class status;
#else
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

}  // namespace FLASHMLA_FORM
}  // namespace flashmla

#endif /* FLASHMLA_STATUS_HPP_ */
