/* flashmla.h - Multi-head Latent Attention (MLA) kernels behind a plain C ABI.
 *
 * The library computes paged MLA decode attention (DeepSeek V2 / V3 / V3.2 style), and writes and reads the KV cache,
 * on NVIDIA Hopper GPUs, with kernels compiled ahead of time, and on any x86-64 or AArch64 CPU through the same entry
 * points. It needs the C library only: the CUDA driver is opened when the first CUDA tensor arrives, and never needed
 * for CPU tensors.
 *
 * Contents
 *   in this comment: an example; how a call works; rules that hold for every function; what has to live how long;
 *   limits; environment variables
 *   in the headers that this one includes, each of which may be included alone:
 *   core.h       versions; statuses and errors; flags; environment and checking mode; prepared calls; streams, kernels,
 *                driver, CPU
 *   kv_cache.h   formats of the KV cache; its writers; its readers
 *   plan.h       plans of dense decode; plans of sparse decode
 *   attention.h  dense decode; sparse decode; merges
 *   pool.h       pools; sequences; holds of blocks; usage; saved states
 *   profile.h    profiles; limits of devices; counters; failures on request
 *   tuning.h     tuning files
 *   exchange.h   calls on tensor objects, for bindings
 *
 * Example: a decode step on tensors in host memory, in C99 and C++11
 *
 *   #include <flashmla/flashmla.h>
 *   #include <stdlib.h>
 *
 *   flashmla_status decode_step(const DLTensor *q, const DLTensor *kv_cache, const DLTensor *block_table,
 *                               const DLTensor *cache_seqlens, const DLTensor *out) {
 *     flashmla_dense_decode_params p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
 *     p.flags = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE;
 *     p.q = q, p.kv_cache = kv_cache, p.block_table = block_table, p.cache_seqlens = cache_seqlens, p.out = out;
 *     flashmla_status status = flashmla_dense_decode_workspace_size(&p, &p.workspace_size);
 *     if (p.workspace_size > 0) p.workspace = malloc((size_t)p.workspace_size);
 *     if (status == FLASHMLA_OK) status = flashmla_dense_decode(&p);
 *     free(p.workspace);
 *     return status; // flashmla_last_error() says what is wrong
 *   }
 *
 * How a call works
 *   1. Describe your tensors as DLTensor (DLPack). The library never owns, copies or resizes them.
 *   2. Fill the params struct of the operation: begin with its initialiser, FLASHMLA_<OPERATION>_PARAMS_INIT, or zero
 *      it and set struct_size = sizeof(it); then set the fields you use.
 *   3. Ask for the scratch size (flashmla_*_size), allocate that much on the tensors' device, and call. Where the size
 *      is 0, the buffer may be NULL.
 *
 * Rules that hold for every function
 *   - What can fail returns a flashmla_status. On failure flashmla_last_error() is one sentence for this thread that
 *     names the argument, its value and the rule it breaks. After a status of 1xx or 2xx nothing was written and
 *     nothing was launched; when the driver refuses a launch (3xx), work that the call enqueued before it may run.
 *     Where a function has a result beside its status, that is written on success alone.
 *   - On CUDA tensors it enqueues work on `stream` and returns at once: it never waits for the device, never allocates
 *     device memory, and may be captured in a CUDA graph (but for those of pools) once the kernels are loaded, by a
 *     first call on the device or by a prepared one. On CPU tensors it returns when the result is there.
 *   - It never prints (but with FLASHMLA_LOG=1), aborts or exits. Values that live on the device (page numbers,
 *     lengths) can be anything: they are clamped as documented and never cause an access outside the given tensors.
 *     Where they change while a call reads them its rows are unspecified, and it ends all the same.
 *   - Every function may be called from any thread at any time, but for what is said at flashmla_read_environment,
 *     flashmla_prepared_free, flashmla_pool_destroy and flashmla_exchange_host. Two calls in flight must not share a
 *     workspace or outputs; plans, prepared calls and inputs may be shared. A pool's calls wait for one another.
 *   - Outputs, workspace and plan buffer must not overlap the inputs or each other. This is not checked.
 *   - Every extent is > 0 except that batch == 0, s_q == 0, total_q == 0 and num_tokens == 0 succeed and write nothing,
 *     and that a page table may have no columns: then every length counts as 0. Strides count elements, must be > 0
 *     where the extent is > 1, and are ignored where it is 1. Of what is only read they may be 0 too, rows repeated or
 *     overlapping, but of q and kv_cache of attention on CUDA. A NULL strides pointer means compact row-major.
 *
 * What has to live how long
 *   - The params struct, its DLTensors with their shapes and strides, lists of tensors and the flashmla_plan are read
 *     before the function returns, on CUDA tensors too. They may be changed or freed then.
 *   - The memory that they name (elements, workspace, plan buffer) must live until the enqueued work is done; with a
 *     captured graph, as long as the graph. A plan buffer lives until the last work with the plan is done.
 *   - A prepared call needs nothing of what it was made from; see flashmla_prepared.
 *   - A text that a function returns is not to be freed and stays as it is, but for flashmla_last_error.
 *
 * Limits
 *   - Extents are below 2^31, and byte offsets in a tensor below 2^63; on CUDA an axis of attention's q and of
 *     dense_decode's kv_cache (its extent times its stride) spans less than 2^40 bytes, and the rows of a page of
 *     sparse_decode's caches are less than 2^31 bytes apart. A request has at most 2^31 - 1 tokens, however much its
 *     page table could hold. Tiles of query rows are numbered in 32 bits: batch * s_q * h_q * num_splits
 *     below 2^30, on CUDA with two formats 2^27 (s_q: max_seqlen_q, but at most total_q) never make too many. A merge
 *     has fewer than 2^31 rows. What is beyond these is FLASHMLA_ERROR_OVERFLOW.
 *   - A pool has at most 4096 layers and 16777215 sequences.
 *   - num_splits is at most 1024, struct_size at most 4096 bytes, a CUDA device's number below 64. A sentence is cut
 *     off at 319 bytes.
 *   - Stack: a function needs less than 16 KB of the calling thread's, beside what the CUDA driver needs. Worker
 *     threads have stacks of the process' default size.
 *   - Threads: a CPU call uses the caller's thread and workers, as many in all as num_threads, FLASHMLA_NUM_THREADS or
 *     the affinity mask says, fewer where there is little to do. Workers are kept for a second after a call, and no
 *     call waits for those of another. Where the system refuses threads, a call does with fewer. The shared library
 *     stays mapped after dlclose, since they run its code. Calls on CUDA tensors start no threads.
 *   - Signals: workers block all but those of a thread's own faults (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS)
 *     and SIGPROF, so a host may page memory in by a handler, or profile. They have no alternative signal stack. The
 *     library installs no handler. One that interrupts a call must return, not leave by longjmp or an exception, and no
 *     function of the library may be called from a handler.
 *   - Cancellation (pthread_cancel) of a thread waits for the end of the operation, size query or preparation it is in.
 *   - fork: the child may use the CPU backend. CUDA itself does not survive a fork.
 *   - Floating point: an operation computes in a mode of its own, to nearest and without traps, and leaves the caller's
 *     mode and exception flags as they were. On CPU tensors subnormal numbers of bfloat16 and float32 count as 0.
 *
 * Environment variables
 *   They are read when the library is loaded, in no call, so that calls may run beside setenv, and again by
 *   flashmla_read_environment. An empty one counts as not set. flashmla_environment_error tells which make no sense.
 *   - FLASHMLA_NUM_THREADS: threads of CPU calls whose num_threads is 0, in [1, 2^31). Anything else is ignored: the
 *     affinity mask counts.
 *   - FLASHMLA_CPU_ISA: instruction set of the CPU backend, one of those that flashmla_cpu_isa names. Another word, or
 *     a set that the machine lacks, is ignored: the best one counts.
 *   - FLASHMLA_FORCE_KERNEL: name of the dense_decode or sparse_decode kernel that must run on CUDA devices. Calls of
 *     both that it does not fit fail with FLASHMLA_ERROR_UNSUPPORTED: all of them, if there is no such kernel.
 *   - FLASHMLA_LOG: 1: each kernel that is chosen on CUDA devices is told on stderr with the reason, every such line
 *     once; 0 is nothing. Anything else is ignored.
 *   - FLASHMLA_TUNING: name of a tuning file for calls on CUDA devices, see tuning.h. One that is refused is ignored:
 *     calls are as without it.
 *   - FLASHMLA_NVTX: 1: the launches of each call are an NVTX range of the domain "flashmla", named by operation and
 *     shape, where the process runs under a tool that wants some (NVTX_INJECTION64_PATH, which tools set); 0 is
 *     nothing. Anything else is ignored.
 *   - FLASHMLA_CHECK: 1 is the checking mode, see flashmla_check_report; 0 or anything else is not.
 */
#ifndef FLASHMLA_H_
#define FLASHMLA_H_

#include "core.h"
#include "kv_cache.h"
#include "plan.h"
#include "attention.h"
#include "pool.h"
#include "profile.h"
#include "tuning.h"
#include "exchange.h"

#endif /* FLASHMLA_H_ */
