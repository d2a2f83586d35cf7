/* calling_thread.h - what a call changes of the thread it runs on, and gives back when it ends. */
#ifndef FLASHMLA_CORE_CALLING_THREAD_H_
#define FLASHMLA_CORE_CALLING_THREAD_H_

#include "core/float_mode.h"

typedef struct fm_calling_thread {
  int cancel_state;
  fm_float_mode float_mode;
} fm_calling_thread;

/* Around the whole of a call: cancellation waits for its end, and it computes in its own floating-point mode. */
fm_calling_thread fm_enter_call(void);
void fm_leave_call(fm_calling_thread before);

#endif /* FLASHMLA_CORE_CALLING_THREAD_H_ */
