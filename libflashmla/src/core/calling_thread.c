/* calling_thread.c - see calling_thread.h. */
#include "core/calling_thread.h"

#include <pthread.h>

/* A cancelled caller would leave workers with a job that is gone, and a driver with its locks held. */
fm_calling_thread fm_enter_call(void) {
  fm_calling_thread before;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before.cancel_state);
  before.float_mode = fm_set_float_mode(false);
  return before;
}

void fm_leave_call(fm_calling_thread before) {
  fm_restore_float_mode(before.float_mode);
  pthread_setcancelstate(before.cancel_state, NULL);
}
