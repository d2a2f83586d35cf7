/* other_form.cpp - is linked with test_calls.cpp of the other form: inline functions of both must not be mixed up. */
#include "fixture.hpp"

flashmla_status refused_in_the_other_form();
flashmla_status refused_in_the_other_form() {
  const flashmla_dense_decode_params nothing = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
#if FLASHMLA_EXCEPTIONS
  try {
    flashmla::dense_decode(nothing);
  } catch (const flashmla::error &failure) {
    return failure.code();
  }
  return FLASHMLA_OK;
#else
  return flashmla::dense_decode(nothing).code();
#endif
}
