/* log.h - the log, FLASHMLA_LOG=1: lines on stderr, each once a process. */
#ifndef FLASHMLA_CORE_LOG_H_
#define FLASHMLA_CORE_LOG_H_

#include <stdbool.h>

/* Whether lines are wanted: asked before one is made. */
bool fm_logs(void);
__attribute__((format(printf, 1, 2))) void fm_log_once(const char *format, ...);

#endif /* FLASHMLA_CORE_LOG_H_ */
