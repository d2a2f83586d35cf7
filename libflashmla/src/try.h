/* try.h - passes a failure on to the caller. */
#ifndef FLASHMLA_TRY_H_
#define FLASHMLA_TRY_H_

#define FM_TRY(call)                                        \
  do {                                                      \
    const flashmla_status fm_try_status = (call);           \
    if (fm_try_status != FLASHMLA_OK) return fm_try_status; \
  } while (0)

#endif /* FLASHMLA_TRY_H_ */
