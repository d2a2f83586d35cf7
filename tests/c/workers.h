/* workers.h - how many threads the library keeps now. */
#ifndef WORKERS_H_
#define WORKERS_H_

#include <dirent.h>

#include "check.h"

static inline int workers(void) {
  int found = 0;
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks != NULL);
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
    FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
    if (file == NULL) continue;
    if (fgets(name, sizeof name, file) != NULL) found += strcmp(name, "flashmla\n") == 0;
    fclose(file);
  }
  closedir(tasks);
  return found;
}

#endif /* WORKERS_H_ */
