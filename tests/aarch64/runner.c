/* Calls functions of an AArch64 libflashmla for a test program of another architecture, in a process of its own.
 * Both have one memory mapped at the same address, in which all arguments lie; structs are laid out alike.
 *   runner LIBRARY FILE ADDRESS BYTES
 * reads lines `name argument argument ...`, arguments as addresses, and answers each with the returned number. A call
 * of flashmla_last_error or flashmla_last_kernel copies the text to its argument. */
#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MOST_ARGUMENTS = 4, NAME_BYTES = 64, TEXT_BYTES = 1024 };

static void *library;

static int64_t call(const char *name, const uintptr_t a[MOST_ARGUMENTS]) {
  void *found = dlsym(library, name);
  if (found == NULL) return -1;
  if (strcmp(name, "flashmla_last_error") == 0 || strcmp(name, "flashmla_last_kernel") == 0) {
    const char *(*text)(void);
    memcpy(&text, &found, sizeof text);
    snprintf((char *)a[0], TEXT_BYTES, "%s", text());
    return 0;
  }
  int32_t (*function)(uintptr_t, uintptr_t, uintptr_t, uintptr_t);
  memcpy(&function, &found, sizeof function);
  return function(a[0], a[1], a[2], a[3]);
}

int main(int count, char **arguments) {
  if (count != 5) return 2;
  library = dlopen(arguments[1], RTLD_NOW);
  const int file = open(arguments[2], O_RDWR);
  void *wanted = (void *)(uintptr_t)strtoull(arguments[3], NULL, 0);
  const size_t bytes = strtoull(arguments[4], NULL, 0);
  const void *memory = mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
  if (library == NULL || memory != wanted) {
    fprintf(stderr, "%s, memory at %p\n", library == NULL ? dlerror() : "loaded", memory);
    return 3;
  }
  char line[256], name[NAME_BYTES];
  puts("ready");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin) != NULL) {
    uintptr_t a[MOST_ARGUMENTS] = {0};
    if (sscanf(line, "%63s %" SCNuPTR " %" SCNuPTR " %" SCNuPTR " %" SCNuPTR, name, &a[0], &a[1], &a[2], &a[3]) < 1)
      return 4;
    printf("%" PRId64 "\n", call(name, a));
    fflush(stdout);
  }
  return 0;
}
