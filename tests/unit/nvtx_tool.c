/* A tool of NVTX 3, as a test writes one: it tells into the file $TOOL_LOG what it is called with, a line a call, which
 * begins with the number of the thread. $TOOL_REFUSES: it does not start. $TOOL_WANTS_NOTHING: it takes no calls. Where
 * `tool_calls` is set before it starts, the tool calls that wherever it is called. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  uint64_t payload;
  int32_t message_type;
  const char *message;
} event;
typedef struct {
  size_t struct_size;
  int (*functions_of)(int module, void ***table, unsigned *size);
} callbacks;
typedef struct {
  size_t struct_size;
  uint32_t version, reserved;
  void (*set_version)(uint32_t version);
} version_info;

static FILE *log_file;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int threads;
static _Thread_local int thread = -1, depth;

static void tell(const char *what, const char *domain, const char *name) {
  pthread_mutex_lock(&lock);
  if (thread < 0) thread = threads++;
  fprintf(log_file, "%d %s %d %s %s\n", thread, what, depth, domain, name);
  fflush(log_file);
  pthread_mutex_unlock(&lock);
}

/* What a tool calls may be the library itself. */
void (*tool_calls)(void);
static void call_back(void) {
  if (tool_calls != NULL) tool_calls();
}

static void *create(const char *name) {
  tell("create", name, "-");
  call_back();
  char *copy = malloc(64);
  snprintf(copy, 64, "%s", name);
  return copy;
}

static int push(void *domain, const event *given) {
  if (given->version != 3 || given->size != sizeof *given || given->message_type != 1) abort();
  tell("push", domain, given->message);
  call_back();
  return depth++;
}

static int pop(void *domain) {
  --depth;
  call_back();
  tell("pop", domain, "-");
  return depth;
}

/* A range of the process's own, as another library of NVTX would open it. */
void open_range(void) {
  tell("push", "own", "own");
  ++depth;
}
void close_range(void) {
  --depth;
  tell("pop", "own", "-");
}

int InitializeInjectionNvtx2(const void *(*tables)(uint32_t)) {
  static const unsigned sizes[] = {0, 16, 9, 15, 7, 16, 7};
  log_file = fopen(getenv("TOOL_LOG"), "a");
  const callbacks *found = tables(1);
  const version_info *version = tables(3);
  if (tables(2) != NULL || found->struct_size != sizeof *found || version->version != 3) abort();
  version->set_version(3);
  void **table = NULL;
  unsigned size = 0;
  if (found->functions_of(0, &table, &size) || found->functions_of(7, &table, &size)) abort();
  for (int module = 1; module < 7; ++module) {
    if (!found->functions_of(module, &table, &size) || size != sizes[module] || table[size] != NULL) abort();
    for (unsigned place = 1; place < size; ++place)
      if (table[place] == NULL) abort();
  }
  tell("start", "-", "-");
  call_back();
  if (getenv("TOOL_REFUSES")) return 0;
  if (getenv("TOOL_WANTS_NOTHING")) return 1;
  found->functions_of(5, &table, &size);
  *(void **)table[4] = (void *)push;
  *(void **)table[5] = (void *)pop;
  *(void **)table[12] = (void *)create;
  return 1;
}
