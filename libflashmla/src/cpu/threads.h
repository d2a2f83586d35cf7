/* threads.h - how many threads a call gets, and the workers that share its work. */
#ifndef FLASHMLA_CPU_THREADS_H_
#define FLASHMLA_CPU_THREADS_H_

#include <stdatomic.h>
#include <stdint.h>

/* threads.c: at most `most` and as many as are allowed: `requested` if > 0, else FLASHMLA_NUM_THREADS, else the CPUs of
 * the affinity mask; but so few that each has something to do: `work` is in units of what a thread should have at
 * least. */
int32_t fm_cpu_threads_for(int32_t requested, int32_t most, double work);
/* workers.c. Calls work(context, thread) for the threads 0 ... threads - 1 at the same time and returns when all are
 * done. 0 is the caller's thread. Another one is not called where the system refuses threads, or where it has not begun
 * when work(context, 0) returns: what there is to do must be shared out as threads come for it. */
void fm_cpu_parallel(int32_t threads, void (*work)(void *context, int32_t thread), void *context);
/* Within such work: threads wait until one of them opens the gate, which begins as {0}. */
typedef struct fm_cpu_gate {
  atomic_uint state;
} fm_cpu_gate;
void fm_cpu_gate_wait(fm_cpu_gate *gate);
void fm_cpu_gate_open(fm_cpu_gate *gate);

#endif /* FLASHMLA_CPU_THREADS_H_ */
