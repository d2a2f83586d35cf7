/* streams.c - streams, events, copies and uploads of the stub driver, which are done for real, in host memory.
 *
 * On streams of the kinds in STUB_LAZY (1: those that were created, 2: others, 3: both) work is done as late as it may
 * be: when an event behind it is waited for by work that is done, or when the stream is synchronised. So what lacks a
 * wait finds memory as it was before. Elsewhere it is done at once. With STUB_BUSY 1 no event is ever reached; between
 * two events are 250 us. With STUB_COPIED copies bring that word, whatever is where they come from. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernel_params.h"
#include "log.h"

enum { CREATED = 1, GIVEN = 2 };

struct CUevent_st {
  struct CUstream_st *stream; /* NULL: was not recorded */
  uint64_t behind;            /* so much work of it */
  bool untimed;
};

typedef struct work {
  char *to;
  const char *from; /* NULL: `value` is put there */
  size_t bytes;
  uint32_t value;
  int32_t num_pieces;     /* of an upload, with records before `to` of what lies behind `from` */
  struct CUevent_st wait; /* without a stream: there is none */
} work;

struct CUstream_st {
  CUstream handle;
  bool created;
  work *queue;
  uint64_t queued, done, room;
  struct CUstream_st *next; /* the one before it */
};

static _Thread_local int capture_mode;
/* What STUB_CAPTURING, of any thread, forbids to those in the mode that they begin with. */
static int forbidden(void) {
  return setting("STUB_CAPTURING", 0) && capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED ? CAPTURE_UNSUPPORTED : 0;
}

static struct CUstream_st *last; /* of all that there were, since events may name them */

static struct CUstream_st *add(bool created) {
  struct CUstream_st *made = calloc(1, sizeof *made);
  if (!made) abort();
  made->created = created;
  made->next = last;
  return last = made;
}

/* One that was created is its own handle; others are numbers that the test has made up. */
static struct CUstream_st *stream_of(CUstream handle) {
  for (struct CUstream_st *stream = last; stream; stream = stream->next)
    if (stream->created ? stream == handle : stream->handle == handle) return stream;
  add(false)->handle = handle;
  return last;
}

/* As dsl_kernels/upload does it. */
static void bring(const char *records, const char *staged, int32_t num_pieces) {
  struct {
    char *to;
    int32_t bytes, place;
  } piece;
  for (int32_t i = 0; i < num_pieces; ++i) {
    memcpy(&piece, records -= sizeof piece, sizeof piece);
    if (piece.bytes <= 0 || piece.bytes > FM_KERNEL_UPLOAD_BYTES || piece.bytes % 4 != 0) abort();
    memcpy(piece.to, staged + 16 * (int64_t)piece.place, (size_t)piece.bytes);
  }
}

static void finish(struct CUstream_st *stream, uint64_t until) {
  while (stream->done < until) {
    const work *next = &stream->queue[stream->done++];
    if (next->wait.stream) finish(next->wait.stream, next->wait.behind);
    bring(next->to, next->from, next->num_pieces);
    if (next->bytes && next->from) memmove(next->to, next->from, next->bytes);
    for (size_t i = 0; next->bytes && !next->from && i < next->bytes; i += 4) memcpy(next->to + i, &next->value, 4);
  }
}

static void enqueue(CUstream handle, work made) {
  struct CUstream_st *stream = stream_of(handle);
  if (stream->queued == stream->room) {
    stream->room = 2 * stream->room + 64;
    stream->queue = realloc(stream->queue, stream->room * sizeof *stream->queue);
    if (!stream->queue) abort();
  }
  stream->queue[stream->queued++] = made;
  if (!(setting("STUB_LAZY", 0) & (stream->created ? CREATED : GIVEN))) finish(stream, stream->queued);
}

void enqueue_upload(CUstream stream, void **parameters) {
  char *staged, *end;
  work made = {.bytes = 0};
  memcpy(&staged, parameters[0], sizeof staged);
  memcpy(&end, parameters[1], sizeof end);
  memcpy(&made.num_pieces, parameters[2], sizeof made.num_pieces);
  made.from = staged;
  made.to = end;
  enqueue(stream, made);
}

int cuStreamCreate(CUstream *stream, unsigned flags) {
  FILE *log = open_line("cuStreamCreate");
  fprintf(log, ", \"flags\": %u", flags);
  int result = close_line(log, "cuStreamCreate", has_context() ? 0 : INVALID_CONTEXT);
  if (result == 0) *stream = add(true);
  return result;
}

int cuStreamDestroy_v2(CUstream stream) {
  FILE *log = open_line("cuStreamDestroy_v2"); /* what is queued is done all the same, some time later */
  fprintf(log, ", \"stream\": %zu", (size_t)stream);
  return close_line(log, "cuStreamDestroy_v2", has_context() ? 0 : INVALID_CONTEXT);
}

int cuStreamSynchronize(CUstream stream) {
  FILE *log = open_line("cuStreamSynchronize");
  fprintf(log, ", \"stream\": %zu", (size_t)stream);
  finish(stream_of(stream), stream_of(stream)->queued);
  return close_line(log, "cuStreamSynchronize", has_context() ? forbidden() : INVALID_CONTEXT);
}

/* For the test: does all work of all streams. */
void stub_finish(void) {
  for (struct CUstream_st *stream = last; stream; stream = stream->next) finish(stream, stream->queued);
}

int cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  FILE *log = open_line("cuStreamWaitEvent");
  fprintf(log, ", \"stream\": %zu, \"event\": %zu", (size_t)stream, (size_t)event);
  int result = close_line(log, "cuStreamWaitEvent", !has_context() ? INVALID_CONTEXT : flags ? INVALID_VALUE : 0);
  if (result == 0) enqueue(stream, (work){.wait = *event});
  return result;
}

int cuEventCreate(CUevent *event, unsigned flags) {
  FILE *log = open_line("cuEventCreate");
  fprintf(log, ", \"flags\": %u", flags);
  int result = close_line(log, "cuEventCreate", has_context() ? 0 : INVALID_CONTEXT);
  if (result == 0) *event = calloc(1, sizeof **event);
  if (result == 0) (*event)->untimed = (flags & CU_EVENT_DISABLE_TIMING) != 0;
  return result;
}

int cuEventDestroy_v2(CUevent event) {
  int result = close_line(open_line("cuEventDestroy_v2"), "cuEventDestroy_v2", has_context() ? 0 : INVALID_CONTEXT);
  if (result == 0) free(event);
  return result;
}

int cuEventRecord(CUevent event, CUstream stream) {
  FILE *log = open_line("cuEventRecord");
  fprintf(log, ", \"stream\": %zu, \"event\": %zu", (size_t)stream, (size_t)event);
  int result = close_line(log, "cuEventRecord", has_context() ? 0 : INVALID_CONTEXT);
  if (result == 0) *event = (struct CUevent_st){stream_of(stream), stream_of(stream)->queued, event->untimed};
  return result;
}

int cuThreadExchangeStreamCaptureMode(int *mode) {
  const int before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return close_line(open_line("cuThreadExchangeStreamCaptureMode"), "cuThreadExchangeStreamCaptureMode", 0);
}

int cuEventElapsedTime(float *ms, CUevent begin, CUevent end) {
  const bool good = begin->stream && end->stream && !begin->untimed && !end->untimed;
  *ms = 0.25f;
  return close_line(open_line("cuEventElapsedTime"), "cuEventElapsedTime", good ? forbidden() : INVALID_HANDLE);
}

int cuEventQuery(CUevent event) {
  bool done = (!event->stream || event->stream->done >= event->behind) && !setting("STUB_BUSY", 0);
  return close_line(open_line("cuEventQuery"), "cuEventQuery", !has_context() ? INVALID_CONTEXT : done ? 0 : NOT_READY);
}

int cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  FILE *log = open_line("cuMemcpyAsync");
  fprintf(log, ", \"to\": %llu, \"from\": %llu, \"bytes\": %zu, \"stream\": %zu", to, from, bytes, (size_t)stream);
  int result = close_line(log, "cuMemcpyAsync",
                          !has_context()        ? INVALID_CONTEXT
                          : bytes && to && from ? 0
                                                : INVALID_VALUE);
  if (result == 0)
    enqueue(stream, (work){.to = (char *)(uintptr_t)to,
                           .from = setting("STUB_COPIED", 0) ? NULL : (const char *)(uintptr_t)from,
                           .bytes = bytes,
                           .value = (uint32_t)setting("STUB_COPIED", 0)});
  return result;
}

int cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t words, CUstream stream) {
  FILE *log = open_line("cuMemsetD32Async");
  fprintf(log, ", \"to\": %llu, \"value\": %u, \"words\": %zu, \"stream\": %zu", to, value, words, (size_t)stream);
  int result = close_line(log, "cuMemsetD32Async",
                          !has_context()      ? INVALID_CONTEXT
                          : to && to % 4 == 0 ? 0
                                              : INVALID_VALUE);
  if (result == 0) enqueue(stream, (work){.to = (char *)(uintptr_t)to, .bytes = 4 * words, .value = value});
  return result;
}
