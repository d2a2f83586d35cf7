/* stack.h - entry points work on a thread with a small stack: a call keeps there what it checked, and no more. */
#ifndef STACK_H_
#define STACK_H_

#include <pthread.h>
#include <stdio.h>

#include "check.h"

enum {
  STACK = 32 << 10, /* twice what POSIX threads have at least on Linux */
  UNUSED = 0x5c,    /* fills it before a thread runs */
  MOST_BYTES = 16 << 10
};

typedef struct entry {
  const char *name;
  void (*call)(void);
} entry;

static void *run(void *given) {
  const entry *called = given;
  if (called->call != NULL) called->call();
  return NULL;
}

/* Bytes that a thread has used of its stack. */
static size_t bytes_of(const entry *called) {
  static _Alignas(64) unsigned char stack[STACK];
  pthread_attr_t attributes;
  pthread_t thread;
  memset(stack, UNUSED, STACK);
  CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, STACK) == 0);
  CHECK(pthread_create(&thread, &attributes, run, (void *)(uintptr_t)called) == 0);
  CHECK(pthread_join(thread, NULL) == 0 && pthread_attr_destroy(&attributes) == 0);
  size_t unused = 0;
  while (unused < STACK && stack[unused] == UNUSED) ++unused;
  return STACK - unused;
}

/* Calls them one after another. */
static void check_stack_of(const entry *entries, size_t count) {
  static const entry nothing = {"nothing", NULL};
  const size_t of_a_thread = bytes_of(&nothing);
  for (size_t i = 0; i < count; ++i) {
    const size_t used = bytes_of(&entries[i]) - of_a_thread;
    printf("%-28s %5zu bytes\n", entries[i].name, used);
    CHECK(used < MOST_BYTES);
  }
}

#endif /* STACK_H_ */
