/* log.h - what the files of the stub driver share: a line of the log for each call, and the context that it needs. */
#ifndef LOG_H_
#define LOG_H_

#include <stdbool.h>
#include <stdio.h>

#include "cuda/driver_types.h"

enum {
  INVALID_VALUE = 1,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  OUT_OF_RESOURCES = 701,
  CAPTURE_UNSUPPORTED = 900,
};

/* Begins a line, which close_line ends; other threads wait meanwhile. */
FILE *open_line(const char *call);
int close_line(FILE *log, const char *call, int result);
/* Whether this thread has a context, and of which device; -1: none. */
bool has_context(void);
int current_device(void);
int setting(const char *name, int otherwise);
/* The launch of the kernel that brings pieces of staging. */
void enqueue_upload(struct CUstream_st *stream, void **parameters);

#endif /* LOG_H_ */
